"""The record of a run and the files it leaves in `runs/<name>/`."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd

from flowerlib import figures, predictions
from flowerlib.accelerator import Device, keras
from flowerlib.config import kaggle_input, search, written_whole
from flowerlib.data import Flowers
from flowerlib.networks import folding
from flowerlib.predictions import Predictions
from flowerlib.training import History, Run, best_epoch, forced, gallery, longer_run, resume_file
from flowerlib.training.features import Features


def save_run(
    run: Run,
    model: keras.Model,
    history: History,
    *,
    flowers: Flowers,
    device: Device,
    weights: str,
    val: Predictions,
    test: Predictions,
    seen: Features | None = None,
) -> dict:
    """Leave `runs/<name>/`: `predictions.npz`, `model/`, `run.json` and `curves.png`, in that order; return the record.

    What took longest to make is written first, so that no later trouble can cost it.

    Args:
        run: the choices.
        model: pixels `(B, S, S, 3)` in [0, 255] -> probabilities; saved in float32, without its optimiser.
        history: as `fit` returns it.
        flowers: the dataset.
        device: what it ran on.
        weights: what the backbone began from, `pretrained` or `random`.
        val: the final predictions for val.
        test: the final predictions for test.
        seen: what the frozen network saw in train; kept with the model, with thumbnails, to show what looks alike.
    """
    run = _beside_longer(run, len(history["loss"]) * flowers.count("train"))
    (run.folder / "run.json").unlink(missing_ok=True)  # it tells of what is replaced now
    predictions.save(run.folder / "predictions.npz", val, test, flowers.classes)
    record = _record(run, model, history, flowers, device, weights) | {
        f"val_{name}": value for name, value in val.scores().items()
    }
    with written_whole(run.folder / "model") as temporary:
        _save_model(model, temporary, record, flowers)
    with written_whole(run.folder / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2))
    with written_whole(run.folder / "curves.png") as temporary:
        figures.curves(history, best_epoch=record["best_epoch"], rehearsal=run.rehearsal).savefig(temporary)
    if seen:
        with written_whole(run.folder / "model" / gallery.FILE) as temporary:
            gallery.save(temporary, seen, flowers)
    if record["complete"]:
        resume_file(run).unlink(missing_ok=True)
    return record


def _beside_longer(run: Run, images: int) -> Run:
    """The run, under another name where it was stopped and one that was not is there already."""
    longer = longer_run(run, images)
    if not longer or forced():
        return run
    beside = replace(run, name=f"{run.name}-unfinished")
    print(f"`{run.folder}` holds a longer run ({longer}) and stays; this one is left in `{beside.folder}`.")
    return beside


def _save_model(model: keras.Model, folder: Path, record: dict, flowers: Flowers) -> None:
    """A folder that can be moved: the network, the class names, what to do to an image, and where it comes from."""
    folder.mkdir()
    plain = folding.in_float32(model)
    keras.Model(plain.inputs, plain.outputs).save(folder / "model.keras")
    choices = record["choices"]
    seen = {"stored_size": flowers.image_size, "image_size": choices["eval_size"] or choices["image_size"]}
    preprocessing = {**seen, "fit": flowers.fit, "channels": "RGB", "pixels": [0, 255]}
    for name, content in (("classes", flowers.classes), ("preprocessing", preprocessing), ("run", record)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2))


def _record(run: Run, model: keras.Model, history: History, flowers: Flowers, device: Device, weights: str) -> dict:
    return {
        "name": run.name,
        "rehearsal": run.rehearsal,
        "backbone": run.backbone,
        "weights": weights,
        "retrained": run.retrain,
        "choices": asdict(run),
        "data": {
            "fingerprint": flowers.fingerprint,
            "image_size": flowers.image_size,
            "num_classes": len(flowers.classes),
            **{split: flowers.count(split) for split in flowers.shards},
        },
        **device_record(device),
        "parameters": model.count_params(),
        "trainable_parameters": count_trainable(model),
        "layers": count_layers(model),
        **timing(history["seconds"], history["compiled"]),
        "complete": len(history["loss"]) == run.epochs,
        "submission": str(run.submission),
        "best_epoch": best_epoch(history),
        "history": history,
    }


def headline(record: dict) -> str:
    """Return a record's result in one line."""
    mark = "REHEARSAL, no result: " if record["rehearsal"] else ""
    scores = "macro F1 {val_macro_f1:.4f}, accuracy {val_accuracy:.4f}, log loss {val_loss:.4f} on val"
    stopped = "" if record["complete"] else f" of {record['choices']['epochs']}: it was stopped"
    return f"{mark}{record['name']}: {scores.format(**record)} after {record['epochs']} epochs{stopped}"


def device_record(device: Device) -> dict:
    """Return what ran and on what: `device`, `precision` (Keras' policy) and `versions`."""
    packages = ("keras", "tensorflow", "tensorflow-cpu", "jax", "keras-efficientnet-v2", "numpy")
    found = {name: version for name in packages if (version := _version(name))}
    return {
        "device": {name: getattr(device, name) for name in ("kind", "name", "num_replicas", "backend")},
        "precision": keras.config.dtype_policy().name,
        "versions": {"python": platform.python_version(), **found},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def timing(seconds: Sequence[float], compiled: Sequence[float]) -> dict:
    """Return epochs done, seconds of the first, mean seconds of those that did not compile (None if none)."""
    others = [value for value, slower in zip(seconds, compiled, strict=True) if not slower]
    return {
        "epochs": len(seconds),
        "first_epoch_seconds": seconds[0],
        "seconds_per_epoch": float(np.mean(others)) if others else None,
    }


def save_timing(run: Run, seconds: Sequence[float], *, flowers: Flowers, device: Device) -> dict:
    """Leave `runs/<name>/timing.json`: what a device makes of a training whose epochs took `seconds`, at least two.

    Returns:
        The record: device, versions, choices, and `seconds_per_epoch`, `compile_seconds` (what the first epoch took
        longer), `images_per_second`.
    """
    record = {"name": run.name, "rehearsal": run.rehearsal, "choices": asdict(run), **device_record(device)}
    record |= timing(seconds, [1, *[0] * (len(seconds) - 1)])
    record["data"] = {"fingerprint": flowers.fingerprint, "train": flowers.count("train")}
    images = run.steps_per_epoch(flowers) * run.batch_size
    record["compile_seconds"] = record["first_epoch_seconds"] - record["seconds_per_epoch"]
    record["images_per_second"] = images / record["seconds_per_epoch"]
    with written_whole(run.folder / "timing.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2))
    return record


def find_timings() -> pd.DataFrame:
    """Return a row for each `timing.json` in `runs/` and wherever Kaggle mounted the outputs of other notebooks.

    Columns `device`, `seconds_per_epoch`, `compile_seconds`, `images_per_second`, `rehearsal`; and what was timed,
    `image_size`, `batch_size` (global) and `train` (images): an epoch compares only where these are the same.
    """
    rows = []
    for path in (path for place in (Path("runs"), kaggle_input()) for path in search(place, "timing.json")):
        timed = json.loads(path.read_text())
        device = timed["device"]
        name = f"{device['num_replicas']} x {device['kind'].upper()} ({device['name']}), {device['backend']}"
        columns = ("seconds_per_epoch", "compile_seconds", "images_per_second", "rehearsal")
        what = {"train": timed["data"]["train"]} | {key: timed["choices"][key] for key in ("image_size", "batch_size")}
        rows.append({"device": name} | {column: timed[column] for column in columns} | what)
    return pd.DataFrame(rows)


def count_trainable(model: keras.Model) -> int:
    """Count the numbers that training changes."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_layers(model: keras.Model) -> int:
    """Count the layers that hold weights, within nested models too."""
    return sum(count_layers(layer) if isinstance(layer, keras.Model) else bool(layer.weights) for layer in model.layers)
