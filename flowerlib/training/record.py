"""The record of a run and the files it leaves in `runs/<name>/`."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flowerlib import figures, machine, predictions
from flowerlib.accelerator import Device, keras
from flowerlib.config import UNFINISHED, atomic_write, exclusive_lock, find_files, kaggle_input, read_record
from flowerlib.data import Flowers
from flowerlib.networks import folding
from flowerlib.predictions import Predictions, metrics
from flowerlib.training import gallery
from flowerlib.training.checkpoints import History, resume_file
from flowerlib.training.features import Features
from flowerlib.training.loop import best_epoch, forced, longer_run, planned_epochs
from flowerlib.training.run import Run


def save(
    run: Run,
    model: keras.Model,
    history: History,
    val: Predictions,
    test: Predictions,
    features: Features | None = None,
) -> dict:
    """Write what a run leaves, print its scores, and return its record.

    In `runs/<name>/` are `predictions.npz`, `model/`, `run.json` and `curves.png`, in that order; beside `runs` is the
    submission. What took longest to make is written first, so that no later trouble can cost it.

    Args:
        run: as `training.start` returns it.
        model: pixels `(B, S, S, 3)` in [0, 255] -> probabilities; saved in float32, without its optimizer.
        history: as `fit` returns it.
        val: the final predictions for val; none where it was trained on, and then no score is left anywhere.
        test: the final predictions for test.
        features: of train, where the network is frozen; kept with the model, with thumbnails, to find similar images.
    """
    with exclusive_lock(run.config.folder / ".saving.lock", partial(_tell_to_wait, run)):
        return _save(run, model, history, val, test, features)


def _tell_to_wait(run: Run, process: str) -> None:
    print(f"Process {process} saves a run in `{run.config.folder}`; waiting for it.")


def _save(
    run: Run, model: keras.Model, history: History, val: Predictions, test: Predictions, features: Features | None
) -> dict:
    num_images = len(history["loss"]) * run.flowers.count("train")
    run = run.with_config(name=_free_name(run, num_images))
    folder = run.config.folder
    with atomic_write(folder / "predictions.npz") as temporary:
        predictions.save(temporary, val, test, run.classes)
        (folder / "run.json").unlink(missing_ok=True)  # it tells of what is replaced now
    scores = {f"val_{name}": value for name, value in val.scores().items()}
    record = _record(run, model, history) | scores | _calibration(val, run.config.smoke_test)
    with atomic_write(folder / "model") as temporary:
        _save_model(model, temporary, record, run.flowers)
    _write_json(folder / "run.json", record)
    predictions.write_submission(test, run.config.submission, count=run.flowers.count("test"))
    with atomic_write(folder / "curves.png") as temporary:
        figures.curves(history).savefig(temporary)
    if features:
        with atomic_write(folder / "model" / gallery.FILE) as temporary:
            gallery.save(temporary, features, run.flowers)
    if record["complete"]:
        resume_file(run.config).unlink(missing_ok=True)
    print(headline(record))
    return record


def _free_name(run: Run, num_images: int) -> str:
    """The run's name; another one where it was stopped and one that was not, or later, is there already."""

    def is_taken(name: str) -> bool:
        longer = longer_run(run.with_config(name=name), num_images)
        if longer and not forced():
            print(f"`runs/{name}` holds a longer run ({longer}) and stays; this one gets another name.")
        return bool(longer) and not forced()

    beside = f"{run.config.name}{UNFINISHED}"
    names = chain((run.config.name, beside), (f"{beside}-{number}" for number in count(2)))
    return next(name for name in names if not is_taken(name))


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")


def _save_model(model: keras.Model, folder: Path, record: dict, flowers: Flowers) -> None:
    """A folder that can be moved: the network, the class names, what to do to an image, and where it comes from."""
    folder.mkdir()
    plain = folding.to_float32(model)
    keras.Model(plain.inputs, plain.outputs).save(folder / "model.keras")
    image_size = record["config"]["eval_size"] or record["config"]["image_size"]
    sizes = {"stored_size": flowers.image_size, "image_size": image_size}
    preprocessing = {**sizes, "fit": flowers.fit, "channels": "RGB", "pixels": [0, 255]}
    preprocessing["temperature"] = record["temperature"]
    for name, content in (("classes", flowers.classes), ("preprocessing", preprocessing), ("run", record)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def _record(run: Run, model: keras.Model, history: History) -> dict:
    config, flowers = run.config, run.flowers
    return {
        "name": config.name,
        "smoke_test": config.smoke_test,
        "backbone": config.backbone,
        "weights": run.weights,
        "fine_tuned": config.fine_tune,
        "config": asdict(config),
        "data": {
            "fingerprint": flowers.fingerprint,
            "image_size": flowers.image_size,
            "num_classes": len(flowers.classes),
            **{split: flowers.count(split) for split in flowers.shards},
        },
        **device_record(run.device),
        "parameters": model.count_params(),
        "trainable_parameters": count_trainable(model),
        "layers": count_layers(model),
        **timing(history["seconds"], history["compiled"]),
        "complete": len(history["loss"]) == planned_epochs(run, history),
        "submission": str(config.submission),
        "best_epoch": best_epoch(history),
        "history": history,
    }


def _calibration(val: Predictions, smoke_test: bool) -> dict[str, float]:
    """Return the temperature, 1 for a smoke test, and the expected calibration error (ECE) before and after it.

    Where val was trained on there is nothing to fit it to, and no error.
    """
    raw, labels = val.probabilities, val.labels
    if not len(labels):
        return {"temperature": 1.0}
    calibrated = raw if smoke_test else predictions.cross_calibrated(raw, labels)
    return {
        "temperature": 1.0 if smoke_test else predictions.fit_temperature(raw, labels),
        "val_ece": metrics.expected_calibration_error(labels, raw),
        "val_ece_calibrated": metrics.expected_calibration_error(labels, calibrated),
    }


def headline(record: dict) -> str:
    """Return a record's result in one line."""
    mark = "SMOKE TEST, ignore: " if record["smoke_test"] else ""
    scores = "macro F1 {val_macro_f1:.4f}, accuracy {val_accuracy:.4f}, log loss {val_loss:.4f} on val"
    if "val_macro_f1" not in record:
        scores = "trained on train and val, so without a score,"
    of_all = "" if record["epochs"] == (planned := record["config"]["epochs"]) else f" of {planned}"
    why = "" if not of_all else ", for which there was time" if record["complete"] else ": it was stopped"
    return f"{mark}{record['name']}: {scores.format(**record)} after {record['epochs']} epochs{of_all}{why}"


def device_record(device: Device) -> dict:
    """Return what ran and on what: `device`, `precision` (Keras' policy), `versions` and `machine`."""
    return {
        "device": {name: getattr(device, name) for name in ("kind", "name", "num_replicas", "backend")},
        "precision": keras.config.dtype_policy().name,
        "versions": machine.versions(),
        "machine": machine.facts(),
    }


def timing(seconds: Sequence[float], compiled: Sequence[float]) -> dict[str, Any]:
    """Return epochs done, seconds of the first, mean seconds of those that did not compile (None if none)."""
    others = [value for value, slower in zip(seconds, compiled, strict=True) if not slower]
    return {
        "epochs": len(seconds),
        "first_epoch_seconds": seconds[0],
        "seconds_per_epoch": float(np.mean(others)) if others else None,
    }


def save_timing(run: Run, seconds: Sequence[float]) -> dict:
    """Write `runs/<name>/timing.json`: how fast a device trains, from the seconds of each epoch, at least two.

    Returns:
        The record: device, versions, configuration, and `seconds_per_epoch`, `compile_seconds` (what the first epoch
        took longer), `images_per_second`.
    """
    config = run.config
    record: dict[str, Any] = {"name": config.name, "smoke_test": config.smoke_test, "config": asdict(config)}
    record |= device_record(run.device) | timing(seconds, [1, *[0] * (len(seconds) - 1)])
    record["data"] = {"fingerprint": run.flowers.fingerprint, "train": run.flowers.count("train")}
    record["compile_seconds"] = record["first_epoch_seconds"] - record["seconds_per_epoch"]
    record["images_per_second"] = run.steps_per_epoch * config.batch_size / record["seconds_per_epoch"]
    _write_json(config.folder / "timing.json", record)
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
