"""Temperature scaling: calibrated, a model is right about eight times in ten where it says 0.8. NumPy only.

Source: Guo and others, On Calibration of Modern Neural Networks, https://arxiv.org/abs/1706.04599.
"""

import math

import numpy as np

BOUNDS = 0.05, 20.0  # of the temperature: beyond, probabilities are as good as 0 and 1, or as good as equal
BISECTIONS = 30  # after which it is known to eight digits


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities `(..., num_classes)` raised to `1 / temperature` and divided by their sum, same type.

    Above 1 a temperature makes them more alike, below 1 less; their order stays. For the probabilities of one view this
    is Guo's softmax(logits / temperature), as their logarithms are the logits but for a constant; here they may also be
    the mean over several views.
    """
    likeliest = probabilities.max(axis=-1, keepdims=True)
    powers = (probabilities.astype(np.float64) / likeliest) ** (1 / temperature)
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(probabilities.dtype)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with which the labels are most likely, within `BOUNDS`.

    Log loss is convex in 1 / temperature. Its slope is 0 where the mean logarithm of the true class's probability is
    the one to be expected from the scaled probabilities; bisection finds that.

    Args:
        probabilities: `(n, num_classes)`, as the model gives them.
        labels: `(n,)`.

    Returns:
        1 where all images are right, or none: they do not tell how often to expect an error.
    """
    right = probabilities.argmax(axis=1) == labels
    if right.all() or not right.any():
        return 1.0
    probabilities = probabilities.astype(np.float64)
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    actual = logs[np.arange(len(labels)), labels].mean()
    low, high = BOUNDS
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        expected = (calibrate(probabilities, middle) * logs).sum(axis=1).mean()
        low, high = (low, middle) if expected < actual else (middle, high)
    return math.sqrt(low * high)


def cross_calibrated(probabilities: np.ndarray, labels: np.ndarray, *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Calibrate each image with the temperature that is fitted without its fold, `(n, num_classes)`.

    So their calibration is judged on images that the temperature was not fitted to.
    """
    fold = np.random.default_rng(seed).permutation(len(labels)) % folds
    calibrated = np.empty_like(probabilities)
    for held_out in (fold == index for index in range(folds)):
        temperature = fit_temperature(probabilities[~held_out], labels[~held_out])
        calibrated[held_out] = calibrate(probabilities[held_out], temperature)
    return calibrated
