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
from flowerlib.config import atomic_write, find_files, kaggle_input, read_record
from flowerlib.data import Flowers
from flowerlib.networks import folding
from flowerlib.predictions import Predictions
from flowerlib.training import History, TrainConfig, best_epoch, forced, gallery, longer_run, resume_file
from flowerlib.training.features import Features


def save_run(
    config: TrainConfig,
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
        config: as `training.configure` returns it.
        model: pixels `(B, S, S, 3)` in [0, 255] -> probabilities; saved in float32, without its optimiser.
        history: as `fit` returns it.
        flowers: the dataset.
        device: what it ran on.
        weights: what the backbone began from, `pretrained` or `random`.
        val: the final predictions for val.
        test: the final predictions for test.
        seen: what the frozen network saw in train; kept with the model, with thumbnails, to show what looks alike.
    """
    config = _beside_longer(config, len(history["loss"]) * flowers.count("train"))
    (config.folder / "run.json").unlink(missing_ok=True)  # it tells of what is replaced now
    predictions.save(config.folder / "predictions.npz", val, test, flowers.classes)
    record = _record(config, model, history, flowers, device, weights) | {
        f"val_{name}": value for name, value in val.scores().items()
    }
    with atomic_write(config.folder / "model") as temporary:
        _save_model(model, temporary, record, flowers)
    with atomic_write(config.folder / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2))
    with atomic_write(config.folder / "curves.png") as temporary:
        figures.curves(history, best_epoch=record["best_epoch"], smoke_test=config.smoke_test).savefig(temporary)
    if seen:
        with atomic_write(config.folder / "model" / gallery.FILE) as temporary:
            gallery.save(temporary, seen, flowers)
    if record["complete"]:
        resume_file(config).unlink(missing_ok=True)
    return record


def _beside_longer(config: TrainConfig, images: int) -> TrainConfig:
    """The run, under another name where it was stopped and one that was not is there already."""
    longer = longer_run(config, images)
    if not longer or forced():
        return config
    beside = replace(config, name=f"{config.name}-unfinished")
    print(f"`{config.folder}` holds a longer run ({longer}) and stays; this one is left in `{beside.folder}`.")
    return beside


def _save_model(model: keras.Model, folder: Path, record: dict, flowers: Flowers) -> None:
    """A folder that can be moved: the network, the class names, what to do to an image, and where it comes from."""
    folder.mkdir()
    plain = folding.to_float32(model)
    keras.Model(plain.inputs, plain.outputs).save(folder / "model.keras")
    sizes = {
        "stored_size": flowers.image_size,
        "image_size": record["config"]["eval_size"] or record["config"]["image_size"],
    }
    preprocessing = {**sizes, "fit": flowers.fit, "channels": "RGB", "pixels": [0, 255]}
    for name, content in (("classes", flowers.classes), ("preprocessing", preprocessing), ("run", record)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2))


def _record(
    config: TrainConfig, model: keras.Model, history: History, flowers: Flowers, device: Device, weights: str
) -> dict:
    return {
        "name": config.name,
        "smoke_test": config.smoke_test,
        "backbone": config.backbone,
        "weights": weights,
        "fine_tuned": config.fine_tune,
        "config": asdict(config),
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
        "complete": len(history["loss"]) == config.epochs,
        "submission": str(config.submission),
        "best_epoch": best_epoch(history),
        "history": history,
    }


def headline(record: dict) -> str:
    """Return a record's result in one line."""
    mark = "SMOKE TEST, no result: " if record["smoke_test"] else ""
    scores = "macro F1 {val_macro_f1:.4f}, accuracy {val_accuracy:.4f}, log loss {val_loss:.4f} on val"
    stopped = "" if record["complete"] else f" of {record['config']['epochs']}: it was stopped"
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


def save_timing(config: TrainConfig, seconds: Sequence[float], *, flowers: Flowers, device: Device) -> dict:
    """Leave `runs/<name>/timing.json`: what a device makes of a training whose epochs took `seconds`, at least two.

    Returns:
        The record: device, versions, configuration, and `seconds_per_epoch`, `compile_seconds` (what the first epoch
        took longer), `images_per_second`.
    """
    record = {"name": config.name, "smoke_test": config.smoke_test, "config": asdict(config), **device_record(device)}
    record |= timing(seconds, [1, *[0] * (len(seconds) - 1)])
    record["data"] = {"fingerprint": flowers.fingerprint, "train": flowers.count("train")}
    images = config.steps_per_epoch(flowers) * config.batch_size
    record["compile_seconds"] = record["first_epoch_seconds"] - record["seconds_per_epoch"]
    record["images_per_second"] = images / record["seconds_per_epoch"]
    with atomic_write(config.folder / "timing.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2))
    return record


def find_timings() -> pd.DataFrame:
    """Return a row for each `timing.json` in `runs/` and wherever Kaggle mounted the outputs of other notebooks.

    Columns `device`, `seconds_per_epoch`, `compile_seconds`, `images_per_second`, `smoke_test`; and what was timed,
    `image_size`, `batch_size` (global) and `train` (images): an epoch compares only where these are the same.
    """
    rows = []
    for path in (path for place in (Path("runs"), kaggle_input()) for path in find_files(place, "timing.json")):
        timed = read_record(path)
        device = timed["device"]
        name = f"{device['num_replicas']} x {device['kind'].upper()} ({device['name']}), {device['backend']}"
        columns = ("seconds_per_epoch", "compile_seconds", "images_per_second", "smoke_test")
        what = {"train": timed["data"]["train"]} | {key: timed["config"][key] for key in ("image_size", "batch_size")}
        rows.append({"device": name} | {column: timed[column] for column in columns} | what)
    return pd.DataFrame(rows)


def count_trainable(model: keras.Model) -> int:
    """Count the numbers that training changes."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_layers(model: keras.Model) -> int:
    """Count the layers that hold weights, within nested models too."""
    return sum(count_layers(layer) if isinstance(layer, keras.Model) else bool(layer.weights) for layer in model.layers)
