"""Ways to average the probabilities of several models, each a small function.

`WAYS` has them, the simplest first. A way takes probabilities `(runs, n, num_classes)` with their labels `(n,)`, fits
what it has to fit, and returns the average: a function of other probabilities `(runs, m, num_classes)` to
`(m, num_classes)`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from flowerlib.evaluation.stacking import SMALLEST, fit_stacking, logarithms, normalised, stacked_average
from flowerlib.predictions import metrics

EXPONENTS = np.linspace(0, 1, 11)  # of the class-prior correction: from none to the whole prior

Average = Callable[[np.ndarray], np.ndarray]
Way = Callable[[np.ndarray, np.ndarray], Average]


def weighted_average(probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average `(runs, n, num_classes)` to `(n, num_classes)`, equally or with weights `(runs,)` that sum to one."""
    return np.average(probabilities, axis=0, weights=weights)


def geometric_average(probabilities: np.ndarray) -> np.ndarray:
    """Average the logarithms of `(runs, n, num_classes)`, and normalise to rows `(n, num_classes)` that sum to one.

    Also called a logarithmic opinion pool. A class that one model thinks impossible stays improbable.
    Source: Genest and Zidek, Combining probability distributions, 1986, https://doi.org/10.1214/ss/1177013825.
    """
    return normalised(logarithms(probabilities).mean(axis=0))


def best_run(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return weights `(runs,)` that are 1 for the run of the highest macro F1, of equal ones the lowest log loss."""
    qualities = [_quality(run, labels) for run in probabilities]
    return np.eye(len(qualities))[qualities.index(max(qualities))]


def fit_weights(probabilities: np.ndarray, labels: np.ndarray, steps: int = 200) -> np.ndarray:
    """Return the weights of the average that make the labels most likely.

    The likelihood of a weighted average has one maximum over the weights, and expectation maximisation climbs to it
    without a step size: each run's new weight is its mean fraction of the probability assigned to the true class.

    Args:
        probabilities: `(runs, n, num_classes)`.
        labels: `(n,)`.
        steps: of expectation maximisation.

    Returns:
        Weights `(runs,)`, not negative, that sum to one.
    """
    true = np.maximum(probabilities[:, np.arange(len(labels)), labels], SMALLEST)
    weights = np.full(len(true), 1.0 / len(true))
    for _ in range(steps):
        shares = weights[:, None] * true
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return weights


def select_greedily(probabilities: np.ndarray, labels: np.ndarray, additions: int = 20) -> np.ndarray:
    """Return weights that a greedy selection with replacement finds: how often each run was taken, as a fraction.

    It begins with the best run, and adds the run, one that is in it or another, with which the average has the highest
    macro F1 (of equal ones the lowest log loss), until none raises the macro F1.
    Source: Caruana et al., Ensemble selection from libraries of models, 2004,
    https://doi.org/10.1145/1015330.1015432.

    Args:
        probabilities: `(runs, n, num_classes)`.
        labels: `(n,)`.
        additions: at most.

    Returns:
        Weights `(runs,)`, not negative, that sum to one.
    """
    counts = best_run(probabilities, labels)
    total = probabilities[counts.argmax()]
    reached = _quality(total, labels)
    for size in range(2, additions + 2):
        qualities = [_quality((total + run) / size, labels) for run in probabilities]
        added = qualities.index(max(qualities))
        if qualities[added][0] <= reached[0]:
            break
        counts[added] += 1
        total, reached = total + probabilities[added], qualities[added]
    return counts / counts.sum()


def fit_correction(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class-prior correction `(num_classes,)` of the equal average: what to multiply its probabilities by.

    It is one over the frequency of the class to some power, that of `EXPONENTS` with the highest macro F1 (of equal
    ones the lowest log loss). Rare classes are then predicted more often, as macro F1 counts them as much as common
    ones. With a single run it corrects that run, so it may predict another class.
    Source: Menon et al., Long-tail learning via logit adjustment, https://arxiv.org/abs/2007.07314.

    Args:
        probabilities: `(runs, n, num_classes)`.
        labels: `(n,)`; a class without any counts as one with a single image.
    """
    average = weighted_average(probabilities)
    frequencies = np.maximum(np.bincount(labels, minlength=average.shape[1]), 1) / len(labels)
    factors = [frequencies**-exponent for exponent in EXPONENTS]
    return max(factors, key=lambda each: _quality(corrected_average(probabilities, each), labels))


def corrected_average(probabilities: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Average `(runs, n, num_classes)`, multiply by `factors` `(num_classes,)`, and normalise the rows."""
    corrected = weighted_average(probabilities) * factors
    return corrected / corrected.sum(axis=1, keepdims=True)


def _quality(average: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """What is to be high: macro F1, and of equal ones the negative log loss."""
    f1 = metrics.macro_f1(labels, average.argmax(axis=1), average.shape[1])
    return f1, -metrics.log_loss(labels, average)


def _weighted(fit: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Way:
    """The way of averaging with the weights that are fitted so."""
    return lambda probabilities, labels: partial(weighted_average, weights=fit(probabilities, labels))


def _stacking(probabilities: np.ndarray, labels: np.ndarray) -> Average:
    weights, bias = fit_stacking(probabilities, labels)
    return partial(stacked_average, weights=weights, bias=bias)


def _correction(probabilities: np.ndarray, labels: np.ndarray) -> Average:
    return partial(corrected_average, factors=fit_correction(probabilities, labels))


WAYS: dict[str, Way] = {
    "best single run": _weighted(best_run),
    "equal average": lambda _, __: weighted_average,
    "geometric average": lambda _, __: geometric_average,
    "fitted average": _weighted(fit_weights),
    "greedy average": _weighted(select_greedily),
    "stacked average": _stacking,
    "corrected average": _correction,
}
