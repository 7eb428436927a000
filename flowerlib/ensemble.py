"""Average the outputs of several runs, and tell how good each and their averages are."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from flowerlib.config import FlowersError
from flowerlib.predictions import Predictions, RunOutput


def aligned(runs: Sequence[RunOutput]) -> list[RunOutput]:
    """Return the runs with their images in the first one's order.

    Raises:
        FlowersError: a run has other images, other labels or other classes; it is named, and what differs.
    """
    return [_aligned(run, runs[0]) for run in runs]


def _aligned(run: RunOutput, first: RunOutput) -> RunOutput:
    if run.classes != first.classes:
        raise FlowersError(f"run {run.name} has other classes than {first.name}; run both on the same data")
    splits = {}
    for split in ("val", "test"):
        mine, theirs = getattr(run, split), getattr(first, split)
        if set(mine.ids) != set(theirs.ids) or len(mine.ids) != len(theirs.ids):
            raise FlowersError(f"run {run.name} has other {split} ids than {first.name}; run both on the same data")
        order = np.argsort(mine.ids)[np.argsort(np.argsort(theirs.ids))]
        splits[split] = Predictions(mine.probabilities[order], mine.labels[order], mine.ids[order])
        if not np.array_equal(splits[split].labels, theirs.labels):
            raise FlowersError(f"run {run.name} has other {split} labels than {first.name}; run both on the same data")
    return replace(run, **splits)


def average(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average `(runs, n, num_classes)` to `(n, num_classes)`, equally or with weights `(runs,)` that sum to one."""
    return np.average(probabilities, axis=0, weights=weights)


def fit_weights(probabilities: np.ndarray, labels: np.ndarray, steps: int = 200) -> np.ndarray:
    """Return the weights of the average that make the labels most likely.

    The likelihood of a weighted average has one maximum over the weights, and expectation maximisation climbs to it
    without a step size: each run's new weight is its mean share of the probability given to the true class.

    Args:
        probabilities: `(runs, n, num_classes)`.
        labels: `(n,)`.
        steps: of expectation maximisation.

    Returns:
        Weights `(runs,)`, not negative, that sum to one.
    """
    true = np.maximum(probabilities[:, np.arange(len(labels)), labels], 1e-7)
    weights = np.full(len(true), 1.0 / len(true))
    for _ in range(steps):
        shares = weights[:, None] * true
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return weights


def cross_fitted(probabilities: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Average `(runs, n, num_classes)` with fitted weights, each image with weights that were fitted without it.

    So the score of the result `(n, num_classes)` is as honest as that of a single run.
    """
    fold = np.random.default_rng(seed).permutation(len(labels)) % folds
    averaged = np.empty(probabilities.shape[1:], probabilities.dtype)
    for held_out in (fold == index for index in range(folds)):
        weights = fit_weights(probabilities[:, ~held_out], labels[~held_out])
        averaged[held_out] = average(probabilities[:, held_out], weights)
    return averaged


def recap(runs: Sequence[RunOutput]) -> pd.DataFrame:
    """Return one row a run: what it is, how good on val, what it cost.

    `seconds_per_epoch` are of training alone, `trained` is the share of the parameters that training changed,
    `image_size` the side in pixels in training.
    """
    return pd.DataFrame([_recap_row(run) for run in runs])


def _recap_row(run: RunOutput) -> dict:
    fields = ("name", "rehearsal", "val_macro_f1", "val_accuracy", "val_loss", "seconds_per_epoch", "epochs")
    device = run.record["device"]
    return {
        **{field: run.record[field] for field in (*fields, "weights", "parameters", "layers")},
        "trained": run.record["trainable_parameters"] / run.record["parameters"],
        "image_size": run.record["choices"]["image_size"],
        "device": f"{device['num_replicas']} x {device['kind']}",
    }


def average_row(name: str, said: Predictions, runs: Sequence[RunOutput]) -> dict:
    """Return a recap row for an average; it is a rehearsal's where any of its runs is."""
    scores = {f"val_{metric}": value for metric, value in said.scores().items()}
    return {"name": name, "rehearsal": any(run.record["rehearsal"] for run in runs), **scores}
