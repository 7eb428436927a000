"""Join the runs of a cross-validation: each labelled image is predicted by the network that was not trained on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flowerlib.config import FlowersError
from flowerlib.predictions.inference import Predictions
from flowerlib.predictions.results import RunResult


def number(run: RunResult) -> int | None:
    """Return which fold a run is, None where it is none."""
    return run.record.get("config", {}).get("fold")


def sets(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Return the runs that are folds, in order, by the name that they have together: `03_finetune-5-folds`."""
    found: dict[str, list[RunResult]] = {}
    for run in sorted((run for run in runs if number(run) is not None), key=lambda run: number(run) or 0):
        first, _, last = run.name.rpartition(f"-fold-{number(run)}")
        found.setdefault(f"{first}-{run.record['config']['folds']}-folds{last}", []).append(run)
    return found


def missing(folds: Sequence[RunResult]) -> list[int]:
    """Return which folds a set needs to be complete."""
    return sorted({*range(folds[0].record["config"]["folds"])} - {number(run) for run in folds})


def join(name: str, folds: Sequence[RunResult]) -> RunResult:
    """Return the folds of a training as one run.

    Its predictions for val are the out-of-fold predictions of all labelled images, those for test the mean over the
    folds; its record is the first fold's, but for name and scores.

    Raises:
        FlowersError: a fold is missing, or the folds are of different parts, data or classes.
    """
    first, *others = folds
    if absent := missing(folds):
        raise FlowersError(f"{name} is without fold {_listed(absent)}; run it with FOLD={absent[0]}")
    for other in others:
        if other.classes != first.classes or not np.array_equal(other.test.ids, first.test.ids):
            raise FlowersError(f"{other.name} has other classes or test ids than {first.name}; {_REMEDY}")
    probabilities, labels, ids = (
        np.concatenate([getattr(run.val, column) for run in folds]) for column in ("probabilities", "labels", "ids")
    )
    _require_each_once(name, folds, ids)
    val = Predictions(probabilities, labels, ids)
    test = replace(first.test, probabilities=np.mean([run.test.probabilities for run in folds], axis=0))
    scores = {f"val_{metric}": value for metric, value in val.scores().items()}
    config = first.record["config"] | {"fold": None}
    return RunResult(first.record | scores | {"name": name, "config": config}, val, test, first.classes)


_REMEDY = "run all folds on the same data with the same FOLDS and SEED"


def _require_each_once(name: str, folds: Sequence[RunResult], ids: np.ndarray) -> None:
    """Refuse folds that predict an image twice, or not all of them."""
    if twice := sorted(image for image, times in Counter(ids.tolist()).items() if times > 1):
        both = [run.name for run in folds if twice[0] in run.val.ids]
        raise FlowersError(f"{name} predicts image {twice[0]} twice, in {' and '.join(both)}; {_REMEDY}")
    for run in folds:
        labelled = run.record["data"]["train"] + run.record["data"]["val"]
        if labelled != len(ids):
            raise FlowersError(f"{name} predicts {len(ids)} of the {labelled} labelled images of {run.name}; {_REMEDY}")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def join_complete(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs with each complete set of folds as one; a set that is not is left out, with a line."""
    whole = [run for run in runs if number(run) is None]
    for name, folds in sets(runs).items():
        if absent := missing(folds):
            print(f"{name} is left out: fold {_listed(absent)} is missing.")
        else:
            whole.append(join(name, folds))
    return whole
