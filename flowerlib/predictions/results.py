"""Save the predictions of a run, and load them with its record."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from flowerlib.config import FlowersError, atomic_write, read_record
from flowerlib.predictions.inference import Predictions


@dataclass(frozen=True)
class RunResult:
    """The results of a run in `runs/<name>/`: its record (`run.json`), its val and test predictions, its classes.

    A run that was trained on val too has predictions of no image for it, and no score.
    """

    record: dict
    val: Predictions
    test: Predictions
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name, such as `10_densenet201`."""
        return self.record["name"]

    @property
    def has_score(self) -> bool:
        """Whether it left images of val out of its training."""
        return self.record.get("config", {}).get("train_on", "train") == "train"


def save(path: Path, val: Predictions, test: Predictions, classes: tuple[str, ...]) -> None:
    """Write `predictions.npz`: `val_*` (where there are images) and `test_*` arrays of `Predictions`, and `classes`."""
    arrays: dict[str, Any] = {"classes": np.array(classes)}
    for split, predictions in (("val", val), ("test", test)):
        if len(predictions.ids):
            arrays |= {f"{split}_{name}": value for name, value in vars(predictions).items()}
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load(folder: Path) -> RunResult:
    """Read what a run left in a folder.

    Raises:
        FlowersError: `run.json` or `predictions.npz` is missing or damaged.
    """
    try:
        record = read_record(folder / "run.json")
        with open(folder / "predictions.npz", "rb") as file, np.load(file) as arrays:
            classes = tuple(str(name) for name in arrays["classes"])
            result = RunResult(record, Predictions.of_no_images(len(classes)), _predictions(arrays, "test"), classes)
            return replace(result, val=_predictions(arrays, "val")) if result.has_score else result
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise FlowersError(f"`{folder}` is not what a run leaves ({error}); run its notebook again") from None


def _predictions(arrays: Mapping[str, np.ndarray], split: str) -> Predictions:
    return Predictions(*(arrays[f"{split}_{name}"] for name in ("probabilities", "labels", "ids")))
