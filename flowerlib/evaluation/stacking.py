"""Stacking: a regularised multinomial logistic regression on the log-probabilities of several models."""

import numpy as np

SMALLEST = 1e-7  # a smaller probability counts as this one, as in Keras, so that its logarithm is finite
DECREMENT = 1e-8  # Newton's method ends where a step would lower the loss by less


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Return the natural logarithms, float64, of probabilities of at least `SMALLEST`."""
    return np.log(np.maximum(probabilities, SMALLEST, dtype=np.float64))


def normalised(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of logits over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def stacked_average(probabilities: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return the softmax of the logarithms of `(runs, n, num_classes)`, weighted `(runs,)`, plus a `bias` a class."""
    return normalised(np.tensordot(weights, logarithms(probabilities), 1) + bias)


def fit_stacking(
    probabilities: np.ndarray, labels: np.ndarray, *, penalty: float = 1.0, steps: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """Fit `stacked_average`: one weight a run, shared by all classes, and one bias a class.

    Newton's method, its steps halved until the loss falls, finds the one minimum of the log loss with an L2 penalty,
    which pulls towards the geometric average: equal weights that sum to one, no bias. With a single run it calibrates
    that run, so it may predict another class.
    Source: Wolpert, Stacked generalization, 1992, https://doi.org/10.1016/S0893-6080(05)80023-1.

    Args:
        probabilities: `(runs, n, num_classes)`.
        labels: `(n,)`.
        penalty: on half the sum of squares, where the log losses are summed; 1 as scikit-learn's default.
        steps: at most.

    Returns:
        Weights `(runs,)`, which may be negative, and the bias `(num_classes,)`.
    """
    logs, runs = logarithms(probabilities), len(probabilities)
    start = np.concatenate([np.full(runs, 1 / runs), np.zeros(logs.shape[2])])

    def loss(at: np.ndarray) -> float:
        predicted = normalised(np.tensordot(at[:runs], logs, 1) + at[runs:])[np.arange(len(labels)), labels]
        return -np.log(np.maximum(predicted, np.finfo(float).tiny)).sum() + penalty / 2 * ((at - start) ** 2).sum()

    found = start
    for _ in range(steps):
        gradient, hessian = _derivatives(logs, labels, found)
        gradient, hessian = gradient + penalty * (found - start), hessian + penalty * np.eye(len(found))
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < DECREMENT:
            break
        before = loss(found)
        while loss(found - step) > before:
            step = step / 2
        found = found - step
    return found[:runs], found[runs:]


def _derivatives(logs: np.ndarray, labels: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of the summed log loss by the weights and biases `(runs + num_classes,)`."""
    runs, _, num_classes = logs.shape
    predicted = normalised(np.tensordot(at[:runs], logs, 1) + at[runs:])  # (n, num_classes)
    error = predicted - np.eye(num_classes)[labels]
    means = (logs * predicted).sum(axis=2)  # (runs, n)
    spread = (logs - means[:, :, None]) * np.sqrt(predicted)  # (runs, n, num_classes)
    mixed = (spread * np.sqrt(predicted)).sum(axis=1)  # (runs, num_classes)
    flat = spread.reshape(runs, -1)
    biases = np.diag(predicted.sum(axis=0)) - predicted.T @ predicted
    gradient = np.concatenate([(logs * error).sum(axis=(1, 2)), error.sum(axis=0)])
    return gradient, np.block([[flat @ flat.T, mixed], [mixed.T, biases]])
