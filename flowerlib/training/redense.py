"""ReDense: a fixed ReLU layer in front of a trained head's last layer, which convex minimization then trains anew.

Source: Javid, Das, Skoglund and Chatterjee, "A ReLU Dense Layer to Improve the Performance of Neural Networks",
arXiv 2010.13572. In the authors' code the random matrix has uniform entries and its pseudo-inverse is computed; here it
is a rotation, whose inverse is its transpose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowerlib.accelerator import keras
from flowerlib.networks.heads import head as new_head
from flowerlib.training.features import Features
from flowerlib.training.run import Run

STEPS = 100  # of the minimization, over all training images each
SMALLEST_FALL = 1e-7  # of the loss in one step, relative: below it, the minimum is as near as float32 comes


def add_redense_layer(
    run: Run, head: keras.Sequential, train: Features, steps: int = STEPS
) -> tuple[keras.Sequential, list[float]]:
    """Return a head with one more ReLU layer; call it again for the next layer on top of it.

    The layer multiplies its inputs x `(B, d)` by a fixed random rotation R and keeps both signs: [ReLU(Rx), ReLU(-Rx)],
    `(B, 2d)`. Nothing is lost (the lossless flow property): ReLU(Rx) - ReLU(-Rx) is Rx, and R's transpose turns it
    back. So there are weights of the last layer with which the head predicts what it did before. From these, all
    weights of the last layer, with its bias, are trained: the loss is convex in them, and their Frobenius norm may not
    exceed what it is at first, against overfitting. As the old solution is within that bound, the training loss does
    not rise.

    The loss is the run's, cross-entropy with its label smoothing, over the original views of train; computed in float32
    by NumPy, so that neither device nor policy changes the result.

    Args:
        run: gives label smoothing and the seed of R, which differs from layer to layer.
        head: as `train_head` or this function returns it. It is not changed; the deeper one shares its first layers.
        train: the features that the head was trained on.
        steps: the most steps of the minimization.

    Returns:
        The deeper head, features `(B, d)` -> probabilities `(B, num_classes)`; and the training loss, at first with the
        old solution, then after each step.
    """
    *before, last = head.layers
    kernel, bias = last.get_weights()
    rotation = random_rotation(len(kernel), [run.config.seed, len(before)])
    inputs = both_signs(_inputs_of_last(head, train) @ rotation.T)
    targets = _targets(train, len(bias), run.config.label_smoothing)
    start = np.concatenate([rotation @ kernel, -rotation @ kernel, bias[None]])
    weights, losses = minimize(np.column_stack([inputs, np.ones_like(inputs[:, 0])]), targets, start, steps)
    with run.device.scope():
        layer = keras.layers.Dense(2 * len(rotation), "relu", use_bias=False, trainable=False, dtype="float32")
        deeper = keras.Sequential([keras.Input(head.input_shape[1:]), *before, layer, new_head(len(bias))])
    layer.set_weights([np.concatenate([rotation.T, -rotation.T], axis=1)])
    deeper.layers[-1].set_weights([weights[:-1], weights[-1]])
    return deeper, losses


def random_rotation(size: int, seed: Sequence[int]) -> np.ndarray:
    """Return an orthogonal matrix `(size, size)`, float32."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return rotation.astype(np.float32)


def both_signs(rotated: np.ndarray) -> np.ndarray:
    """Return the positive and the negative parts of `(n, d)` side by side, `(n, 2d)`."""
    return np.concatenate([np.maximum(rotated, 0), np.maximum(-rotated, 0)], axis=1)


def _inputs_of_last(head: keras.Sequential, train: Features) -> np.ndarray:
    """Return what the head's last layer receives, `(num_original * n, d)` float32, for the original views of train."""
    standardization, *layers, _ = head.layers
    values = np.concatenate(train.values[: train.num_original]).astype(np.float32)
    hidden = keras.ops.convert_to_numpy(standardization(values))
    for layer in layers:
        [kernel] = layer.get_weights()
        hidden = both_signs(hidden @ kernel[:, : len(kernel)])
    return hidden


def _targets(train: Features, num_classes: int, label_smoothing: float) -> np.ndarray:
    """Return smoothed labels `(num_original * n, num_classes)`, float32."""
    labels = np.eye(num_classes, dtype=np.float32)[np.tile(train.labels, train.num_original)]
    return labels * (1 - label_smoothing) + label_smoothing / num_classes


@dataclass(frozen=True)
class _Point:
    """Weights `(p, C)`, and the logits `(n, C)` they make of the inputs, which are linear in them."""

    weights: np.ndarray
    logits: np.ndarray

    def plus(self, factor: float, other: "_Point") -> "_Point":
        return _Point(self.weights + factor * other.weights, self.logits + factor * other.logits)

    def within(self, bound: float) -> "_Point":
        """Return the nearest point whose weights have at most this Frobenius norm."""
        factor = bound / max(bound, float(np.linalg.norm(self.weights)))
        return _Point(factor * self.weights, factor * self.logits)


def minimize(inputs: np.ndarray, targets: np.ndarray, start: np.ndarray, steps: int) -> tuple[np.ndarray, list[float]]:
    """Minimize cross-entropy over the weights of a softmax layer whose Frobenius norm is at most that of `start`.

    Accelerated projected gradient descent with backtracking (Beck and Teboulle 2009, FISTA); where a step would raise
    the loss, the momentum begins anew from the best weights (O'Donoghue and Candes 2015). As logits are linear in the
    weights, a step costs two products with the inputs, however many lengths it tries.

    Args:
        inputs: `(n, p)`, float32.
        targets: `(n, C)`, float32; each row sums to 1.
        start: weights `(p, C)`, float32.
        steps: at most so many; fewer, where the loss hardly falls any more.

    Returns:
        The weights, and the loss before the first step and after each: it never rises.
    """
    bound = float(np.linalg.norm(start))
    best = previous = _Point(start, inputs @ start)
    losses, momentum = [_loss(best, targets)], 1.0
    curvature = float(np.mean(np.sum(inputs**2, axis=1))) / 2  # no direction of the loss has more
    while len(losses) <= steps:
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        point = best.plus((momentum - 1) / following, best.plus(-1, previous))
        candidate, loss, curvature = _descend(point, inputs, targets, bound, curvature / 2)
        if loss < losses[-1] * (1 - SMALLEST_FALL):
            best, previous, momentum = candidate, best, following
            losses.append(loss)
        elif momentum > 1:
            previous, momentum = best, 1.0
        else:
            break
    return best.weights, losses


def _descend(
    point: _Point, inputs: np.ndarray, targets: np.ndarray, bound: float, curvature: float
) -> tuple[_Point, float, float]:
    """Return the point one projected gradient step away, its loss, and the curvature that bounds the loss between."""
    loss = _loss(point, targets)
    slope = inputs.T @ (_softmax(point.logits) - targets) / len(inputs)
    gradient = _Point(slope, inputs @ slope)
    while True:
        candidate = point.plus(-1 / curvature, gradient).within(bound)
        step = candidate.weights - point.weights
        promised = loss + np.vdot(slope, step) + curvature / 2 * np.vdot(step, step)
        reached = _loss(candidate, targets)
        if not reached > promised + SMALLEST_FALL * loss:  # a loss that is not a number ends it too
            return candidate, reached, curvature
        curvature *= 2


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _loss(point: _Point, targets: np.ndarray) -> float:
    """Return the mean cross-entropy of the softmax of a point's logits."""
    shifted = point.logits - point.logits.max(axis=1, keepdims=True)
    each = np.log(np.exp(shifted).sum(axis=1)) - (targets * shifted).sum(axis=1)
    return float(each.mean(dtype=np.float64))
