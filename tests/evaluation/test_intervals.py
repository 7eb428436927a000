"""Bootstrap intervals of the scores."""

import numpy as np
import pytest

from flowerlib import evaluation
from flowerlib.evaluation import intervals
from flowerlib.predictions import Predictions


def answers(count, share, num_classes=4, seed=0):
    """Predictions of which a share is right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, count)
    predicted = np.where(rng.random(count) < share, labels, (labels + 1) % num_classes)
    return Predictions(np.eye(num_classes, dtype=np.float32)[predicted], labels, np.arange(count).astype(str))


def test_the_interval_of_accuracy_is_that_of_a_binomial_share():
    predicted = answers(400, 0.8)
    accuracy = predicted.scores()["accuracy"]
    low, high = evaluation.bootstrap_intervals(predicted, resamples=4000)["accuracy"]
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 400)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.004)


def test_the_interval_of_macro_f1_contains_it_and_a_perfect_model_has_no_width():
    predicted = answers(300, 0.7)
    low, high = evaluation.bootstrap_intervals(predicted)["macro_f1"]
    assert low < predicted.scores()["macro_f1"] < high
    assert evaluation.bootstrap_intervals(answers(50, 1.1)) == {"accuracy": (1, 1), "macro_f1": (1, 1)}


def test_the_interval_is_the_same_in_several_parts(monkeypatch):
    predicted = answers(100, 0.7)
    whole = evaluation.bootstrap_intervals(predicted)
    monkeypatch.setattr(intervals, "MAX_COUNTS", 3000)
    assert evaluation.bootstrap_intervals(predicted) == whole
