"""Bootstrap intervals of the scores: how much they would vary with other images of the same kind."""

import numpy as np

from flowerlib.evaluation.ensemble import resampled_macro_f1
from flowerlib.predictions import Predictions

MAX_COUNTS = 10_000_000  # how often each image is drawn, held at once: 80 MB


def bootstrap_intervals(
    predicted: Predictions, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of `accuracy` and `macro_f1`, each as low and high, in [0, 1].

    The images are drawn again with replacement; the interval holds the middle 95 % of the scores (percentiles).
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.

    Args:
        predicted: probabilities with known labels.
        resamples: how often the images are drawn.
        seed: of the draws.
    """
    count, rng = len(predicted.labels), np.random.default_rng(seed)
    right = (predicted.predicted == predicted.labels).astype(np.float64)
    at_once = max(1, MAX_COUNTS // count)
    accuracies, macro_f1s = [], []
    for start in range(0, resamples, at_once):
        times = rng.multinomial(count, np.full(count, 1 / count), min(at_once, resamples - start))
        accuracies.append(times @ right / count)
        macro_f1s.append(resampled_macro_f1(predicted.probabilities[np.newaxis], predicted.labels, times)[0])
    return {"accuracy": _middle(accuracies), "macro_f1": _middle(macro_f1s)}


def _middle(parts: list[np.ndarray]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
    return float(low), float(high)
