"""Metrics: macro F1, which the competition is scored by, accuracy, log loss, confusion, calibration. NumPy only."""

import numpy as np

from flowerlib.config import FlowersError


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count `(num_classes, num_classes)` int64: rows are true classes, columns predicted ones.

    Raises:
        FlowersError: lengths differ, or a value is outside `0..num_classes - 1`.
    """
    labels, predicted = _pair(labels, predicted)
    _refuse_outside("label", labels, num_classes)
    _refuse_outside("prediction", predicted, num_classes)
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def _pair(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    if labels.shape != predicted.shape or labels.ndim != 1 or not labels.size:
        raise FlowersError(f"labels {labels.shape} and predictions {predicted.shape} must be 1-D and of equal length")
    return labels, predicted


def _refuse_outside(name: str, values: np.ndarray, num_classes: int) -> None:
    if values.min() < 0 or values.max() >= num_classes:
        raise FlowersError(f"{name}s {values.min()} to {values.max()} must be within 0 to {num_classes - 1}")


def f1_scores(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Return each class's F1 `(num_classes,)` in [0, 1], NaN for a class that is neither a label nor predicted."""
    table = confusion(labels, predicted, num_classes)
    involved = table.sum(axis=0) + table.sum(axis=1)
    return np.divide(2.0 * table.diagonal(), involved, out=np.full(num_classes, np.nan), where=involved > 0)


def macro_f1(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    """Return the plain mean of the classes' F1, in [0, 1]: a class of 5 images counts as much as one of 500.

    Classes that are neither a label nor predicted are left out, as scikit-learn does.
    """
    return float(np.nanmean(f1_scores(labels, predicted, num_classes)))


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the fraction of correct predictions, in [0, 1]."""
    labels, predicted = _pair(labels, predicted)
    return float(np.mean(labels == predicted))


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of -ln of the probability `(n, num_classes)` given to the true class `(n,)`.

    A probability below 1e-7 counts as 1e-7, as in Keras.
    """
    _refuse_outside("label", np.asarray(labels), probabilities.shape[1])
    chosen = np.take_along_axis(probabilities, np.asarray(labels)[:, None], axis=1)
    return float(-np.log(np.clip(chosen, 1e-7, 1.0)).mean())


def calibration_bins(
    labels: np.ndarray, probabilities: np.ndarray, num_bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort images into bins of equal width by their confidence: the probability of the predicted class.

    Args:
        labels: `(n,)`.
        probabilities: `(n, num_classes)`.
        num_bins: how many bins divide [0, 1].

    Returns:
        For each bin, which holds its upper end: its share of the images, their mean confidence and their accuracy,
        `(num_bins,)` in [0, 1]; the latter two NaN where it is empty.
    """
    labels, predicted = _pair(labels, probabilities.argmax(axis=1))
    confidence = probabilities.max(axis=1).astype(np.float64)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64), 1, num_bins) - 1
    counts = np.bincount(bins, minlength=num_bins)
    confidences, accuracies = (
        np.divide(np.bincount(bins, values, num_bins), counts, out=np.full(num_bins, np.nan), where=counts > 0)
        for values in (confidence, labels == predicted)
    )
    return counts / len(labels), confidences, accuracies


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return by how much confidence and accuracy differ, in [0, 1]: the mean over 15 bins, weighted by their images.

    Arguments as in `calibration_bins`. Source: Guo and others, https://arxiv.org/abs/1706.04599, equation 3.
    """
    share, confidence, accuracies = calibration_bins(labels, probabilities)
    return float(np.nansum(share * abs(accuracies - confidence)))
