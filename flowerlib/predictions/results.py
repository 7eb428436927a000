"""Save the predictions of a run, and load those of all runs."""

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from flowerlib.config import MINOR_SUFFIXES, FlowersError, atomic_write, find_files, kaggle_input, read_record
from flowerlib.predictions.inference import Predictions


@dataclass(frozen=True)
class RunResult:
    """What a run left in `runs/<name>/`: its record (`run.json`), its val and test predictions, its classes."""

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
    arrays = {"classes": np.array(classes)}
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


def find_runs() -> list[RunResult]:
    """Load every run in `runs/` and wherever Kaggle mounted the outputs of other notebooks, sorted by name.

    Smoke tests, and runs that were left beside a longer one, are left out where the run itself is there.

    Raises:
        FlowersError: there is none, or two go by one name.
    """
    places = (Path("runs"), kaggle_input())
    folders = [path.parent for place in places for path in find_files(place, "predictions.npz")]
    if not folders:
        looked = ", ".join(f"`{place}`" for place in places)
        raise FlowersError(f"no run (a folder with predictions.npz) below {looked}; run a backbone notebook first")
    runs = _without_lesser(sorted((load(folder) for folder in folders), key=lambda run: run.name))
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FlowersError(f"run {twice[0]} is there twice, in {[str(f) for f in folders]}; remove one of them")
    return runs


def _without_lesser(runs: list[RunResult]) -> list[RunResult]:
    """The runs without smoke tests, and without those left beside a longer one, of what is there itself too."""
    names = {run.name for run in runs}
    lesser = names & {f"{name}{kind}" for name in names for kind in MINOR_SUFFIXES}
    for name in sorted(lesser):
        print(f"{name} is left out: the run without that ending is there.")
    return [run for run in runs if run.name not in lesser]
