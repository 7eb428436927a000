"""Which way of averaging several models to use: the simplest that no later one beats by more than chance."""

from dataclasses import dataclass
from math import comb
from statistics import NormalDist

import numpy as np
import pandas as pd

from flowerlib.config import FlowersError
from flowerlib.evaluation.averages import WAYS, Way
from flowerlib.evaluation.comparison import verdict
from flowerlib.evaluation.ensemble import resampled_macro_f1
from flowerlib.predictions import metrics

# How many standard errors an interval reaches to each side, so that those of all pairs of ways hold together 95 % of
# the time (Bonferroni): 3.04 for 21 pairs, instead of 1.96 for one.
REACH = NormalDist().inv_cdf(1 - 0.025 / comb(len(WAYS), 2))


@dataclass(frozen=True)
class Choice:
    """All ways of averaging, each scored on images that it was not fitted on.

    Attributes:
        averages: of each way, the simplest first, the cross-fitted probabilities `(n, num_classes)`.
        table: a row a way: `name`; `macro_f1`; `difference` to the best single run, in macro F1; `low` and `high`, its
            interval; `verdict`, what it means in words.
        name: of the way that is chosen.
    """

    averages: dict[str, np.ndarray]
    table: pd.DataFrame
    name: str


def choose(
    probabilities: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0, resamples: int = 1000
) -> Choice:
    """Score all `WAYS` by cross-fitting, and choose the simplest that is not beaten.

    We walk from the simplest way on; a later one replaces the chosen one where the interval of the difference in macro
    F1 lies above 0. The best single run is picked within each fold too, so that being picked does not flatter it.
    An interval is `REACH` standard errors to each side, by a paired bootstrap. That is wider than in `compare`: of many
    ways one seems better by chance more easily than one alone. Of the 200 sets of random predictions in the tests, 6
    have a way that seems better than the best single run; with 1.96 standard errors 38 would.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

    Args:
        probabilities: `(runs, n, num_classes)`.
        labels: `(n,)`.
        folds: at least 2, the same for all ways.
        seed: of the folds and of the draws.
        resamples: how often the images are drawn.

    Raises:
        FlowersError: there are fewer than 2 folds.
    """
    averages = {name: cross_fitted(probabilities, labels, way, folds=folds, seed=seed) for name, way in WAYS.items()}
    scores = [metrics.macro_f1(labels, each.argmax(axis=1), each.shape[1]) for each in averages.values()]
    times = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), resamples)
    drawn = resampled_macro_f1(np.stack(list(averages.values())), labels, times)  # (ways, resamples)

    def compared(way: int, other: int) -> tuple[float, float, float]:
        difference, reach = scores[way] - scores[other], REACH * float((drawn[way] - drawn[other]).std())
        return difference, difference - reach, difference + reach

    chosen, rows = 0, []
    for way, name in enumerate(averages):
        difference, low, high = compared(way, 0)
        words = verdict(difference, low, high) if way else ""
        rows.append((name, scores[way], difference, low, high, words))
        if compared(way, chosen)[1] > 0:
            chosen = way
    table = pd.DataFrame(rows, columns=["name", "macro_f1", "difference", "low", "high", "verdict"])
    return Choice(averages, table, rows[chosen][0])


def cross_fitted(
    probabilities: np.ndarray, labels: np.ndarray, way: Way, *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Average `(runs, n, num_classes)`, each image by what was fitted on the folds without it.

    So the score of the result `(n, num_classes)` is as unbiased as that of a single run.

    Raises:
        FlowersError: there are fewer than 2 folds.
    """
    if folds < 2:
        raise FlowersError(f"folds (={folds}) must be at least 2, so that something is fitted without each image")
    fold = np.random.default_rng(seed).permutation(len(labels)) % folds
    averaged = np.empty(probabilities.shape[1:])
    for held_out in (fold == index for index in np.unique(fold)):  # of few images, not every fold has one
        averaged[held_out] = way(probabilities[:, ~held_out], labels[~held_out])(probabilities[:, held_out])
    return averaged
