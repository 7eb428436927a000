"""Save the predictions of a run, and load those of all runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from flowerlib.config import MINOR_SUFFIXES, FlowersError, atomic_write, find_files, kaggle_input, read_record
from flowerlib.predictions.inference import Predictions


@dataclass(frozen=True)
class RunResult:
    """The results of a run in `runs/<name>/`: its record (`run.json`), its val and test predictions, its classes."""

    record: dict
    val: Predictions
    test: Predictions
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name, such as `10_densenet201`."""
        return self.record["name"]


def save(path: Path, val: Predictions, test: Predictions, classes: tuple[str, ...]) -> None:
    """Write `predictions.npz`: `val_*` and `test_*` arrays of `Predictions`, and `classes`."""
    arrays: dict[str, Any] = {"classes": np.array(classes)}
    for split, predictions in (("val", val), ("test", test)):
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
            val, test = (
                Predictions(*(arrays[f"{split}_{name}"] for name in ("probabilities", "labels", "ids")))
                for split in ("val", "test")
            )
            classes = tuple(str(name) for name in arrays["classes"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise FlowersError(f"`{folder}` is not what a run leaves ({error}); run its notebook again") from None
    return RunResult(record, val, test, classes)


def find_runs(names: Sequence[str] = ()) -> list[RunResult]:
    """Load the runs in `runs/` and wherever Kaggle mounted the outputs of other notebooks, sorted by name.

    Smoke tests are left out where there is any other run, and a run that was stopped where the whole one is there.

    Args:
        names: the runs to load; all unless given.

    Raises:
        FlowersError: there is none, none of a name that is given, or two of one name.
    """
    places = (Path("runs"), kaggle_input())
    folders = [path.parent for place in places for path in find_files(place, "predictions.npz")]
    if not folders:
        searched = ", ".join(f"`{place}`" for place in places)
        raise FlowersError(f"no run (a folder with predictions.npz) below {searched}; run a backbone notebook first")
    runs = sorted((load(folder) for folder in folders), key=lambda run: run.name)
    found = [run.name for run in runs]
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise FlowersError(f"run {twice[0]} is there twice, in {[str(f) for f in folders]}; remove one of them")
    if missing := sorted(set(names) - set(found)):
        raise FlowersError(f"no run {missing[0]}; there are {', '.join(found)}")
    return [run for run in runs if run.name in names] if names else _without_minor(runs)


def _without_minor(runs: list[RunResult]) -> list[RunResult]:
    """The runs without smoke tests, where there are others, and without those left beside a longer one."""
    names = {run.name for run in runs}
    minor = {f"{name}{suffix}" for name in names for suffix in MINOR_SUFFIXES}
    if not all(run.record["smoke_test"] for run in runs):
        minor |= {run.name for run in runs if run.record["smoke_test"]}
    for name in sorted(names & minor):
        print(f"{name} is left out: there is a whole run.")
    return [run for run in runs if run.name not in minor]
