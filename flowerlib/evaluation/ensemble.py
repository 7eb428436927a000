"""Several runs side by side: the same images in the same order, how alike their errors are, what each is and scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from flowerlib.config import FlowersError
from flowerlib.predictions import Predictions, RunResult


def aligned(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs with their images in the first one's order.

    Raises:
        FlowersError: a run has other images, other labels or other classes, or no score; it is named, and what differs.
    """
    for run in runs:
        if not run.has_score:
            raise FlowersError(
                f"run {run.name} was trained on val too, so it has no score to compare it or weight it by; submit its "
                f"{run.record['submission']}, or leave it out"
            )
    return [_aligned(run, runs[0]) for run in runs]


def _aligned(run: RunResult, first: RunResult) -> RunResult:
    if run.classes != first.classes:
        raise FlowersError(f"run {run.name} has other classes than {first.name}; run both on the same data")
    splits = {}
    for split in ("val", "test"):
        mine, theirs = getattr(run, split), getattr(first, split)
        if set(mine.ids) != set(theirs.ids) or len(mine.ids) != len(theirs.ids):
            raise FlowersError(
                f"run {run.name} has other {split} ids than {first.name}; run both on the same data, "
                "and either both in folds, with all of them, or neither"
            )
        order = np.argsort(mine.ids)[np.argsort(np.argsort(theirs.ids))]
        splits[split] = Predictions(mine.probabilities[order], mine.labels[order], mine.ids[order])
        if not np.array_equal(splits[split].labels, theirs.labels):
            raise FlowersError(f"run {run.name} has other {split} labels than {first.name}; run both on the same data")
    return replace(run, val=splits["val"], test=splits["test"])


@dataclass(frozen=True)
class SelectionOptimism:
    """How much selecting the best of several rows by their own score biases that score upwards.

    Attributes:
        optimism: how much of the selected row's macro F1 is due to the selection.
        low: of the 95 % interval of the difference between the best row and the next; 0 where there is none.
        high: its other end.
    """

    optimism: float
    low: float
    high: float


def selection_optimism(
    probabilities: np.ndarray, labels: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> SelectionOptimism:
    """Estimate by a paired bootstrap the optimism of selecting the best of several rows by macro F1.

    The images are drawn again with replacement, the same for every row. Each time one row is best; the optimism is how
    much better it is there than over all resamples, in the mean (Efron compares with its score on the original, which
    is another one: in resamples small classes are missing). What rows differ by in truth and by chance is one to the
    bootstrap, so it tells too little: seven tenths, 1 / sqrt(2), where all are equally good.
    Source: Efron, Estimating the error rate of a prediction rule, https://doi.org/10.1080/01621459.1983.10477973.

    Args:
        probabilities: `(rows, n, num_classes)`.
        labels: `(n,)`.
        resamples: how often.
        seed: of the draws.
    """
    count = len(labels)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)  # each is drawn
    original = resampled_macro_f1(probabilities, labels, np.ones((1, count)))[:, 0]  # (rows,)
    drawn = resampled_macro_f1(probabilities, labels, times)  # (rows, resamples)
    chosen = drawn.argmax(axis=0)
    best, *others = np.argsort(-original, kind="stable")
    gap = drawn[best] - drawn[others[0] if others else best]
    low, high = np.percentile(gap, [2.5, 97.5])
    optimism = (drawn.max(axis=0) - drawn.mean(axis=1)[chosen]).mean()
    return SelectionOptimism(max(float(optimism), 0.0), float(low), float(high))  # below 0 it is rounding


def resampled_macro_f1(probabilities: np.ndarray, labels: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the macro F1 of each row with each image counted so many `times` (resamples, n): (rows, resamples)."""
    classes, times = np.eye(probabilities.shape[2], dtype=np.float32), times.astype(np.float32)
    truth = classes[labels]  # (n, num_classes)
    actual = times @ truth  # (resamples, num_classes)
    scores = []
    for predicted in classes[probabilities.argmax(axis=2)]:
        right, involved = times @ (predicted * truth), actual + times @ predicted
        f1 = np.divide(2 * right, involved, out=np.full_like(right, np.nan), where=involved > 0)
        scores.append(np.nanmean(f1, axis=1))
    return np.array(scores, np.float64)


def agreement(predicted: Sequence[Predictions]) -> np.ndarray:
    """Return the fraction of images for which two models predict the same class, `(runs, runs)`."""
    classes = np.stack([each.predicted for each in predicted])  # (runs, n)
    return (classes[:, None] == classes).mean(axis=2)


def error_correlation(predicted: Sequence[Predictions]) -> np.ndarray:
    """Return the correlation of two models' errors (phi coefficient), `(runs, runs)` in [-1, 1].

    1 where they err on the same images, 0 where one's errors say nothing of the other's, as with a model without any.
    Source: Kuncheva and Whitaker, Measures of diversity in classifier ensembles, 2003,
    https://doi.org/10.1023/A:1022859003006.
    """
    wrong = np.stack([each.predicted != each.labels for each in predicted]).astype(np.float64)  # (runs, n)
    centred = wrong - wrong.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T
    scale = np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal()))
    return np.divide(covariance, scale, out=np.eye(len(wrong)), where=scale > 0)


def recap_table(runs: Sequence[RunResult]) -> pd.DataFrame:
    """Return one row a run: what it is, how good on val, what it cost.

    `seconds_per_epoch` are of training alone, `trained` is the fraction of the parameters that training changed,
    `image_size` the side in pixels in training.
    """
    return pd.DataFrame([_recap_row(run) for run in runs])


def _recap_row(run: RunResult) -> dict:
    fields = ("name", "smoke_test", "val_macro_f1", "val_accuracy", "val_loss", "seconds_per_epoch", "epochs")
    device = run.record["device"]
    return {
        **{field: run.record[field] for field in (*fields, "weights", "parameters", "layers")},
        "trained": run.record["trainable_parameters"] / run.record["parameters"],
        "image_size": run.record["config"]["image_size"],
        "device": f"{device['num_replicas']} x {device['kind']}",
    }


def average_row(name: str, average: Predictions, runs: Sequence[RunResult]) -> dict:
    """Return a recap row for an average; it is a smoke test's where any of its runs is."""
    scores = {f"val_{metric}": value for metric, value in average.scores().items()}
    return {"name": name, "smoke_test": any(run.record["smoke_test"] for run in runs), **scores}
