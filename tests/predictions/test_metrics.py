"""Metrics against numbers worked by hand, scikit-learn, and the published figures of two models."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from flowerlib.config import FlowersError
from flowerlib.predictions.metrics import (
    accuracy,
    calibration_bins,
    confusion,
    expected_calibration_error,
    f1_scores,
    log_loss,
    macro_f1,
)

COMPETITION_SAMPLE = os.environ.get("FLOWERS_COMPETITION_SAMPLE")  # read before the fixture clears the environment

# Four classes; 2 is never predicted, 3 is neither a label nor predicted.
LABELS = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 0, 1, 1, 1, 0]


def test_confusion_counts_true_classes_in_rows():
    assert confusion(LABELS, PREDICTED, 4).tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_f1_of_the_worked_example():
    # 0: precision 2/3, recall 2/3. 1: precision 2/3, recall 1, so 4/5. 2: recall 0. 3: nothing to go by.
    np.testing.assert_allclose(f1_scores(LABELS, PREDICTED, 4), [2 / 3, 4 / 5, 0, np.nan])


def test_macro_f1_leaves_out_only_what_is_neither_label_nor_predicted():
    assert macro_f1(LABELS, PREDICTED, 4) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert macro_f1([0, 0], [0, 1], 4) == pytest.approx((2 / 3 + 0) / 2)  # 1 is only predicted, and counts as 0


def test_a_rare_class_counts_as_much_as_a_common_one():
    labels = [0] * 99 + [1]
    assert accuracy(labels, [0] * 100) == 0.99
    assert macro_f1(labels, [0] * 100, 2) == pytest.approx((2 * 99 / 199 + 0) / 2)


@pytest.mark.parametrize(("predicted", "worth"), [([0, 1, 2], 1.0), ([1, 2, 0], 0.0)])
def test_all_right_is_one_and_all_wrong_is_zero(predicted, worth):
    assert accuracy([0, 1, 2], predicted) == macro_f1([0, 1, 2], predicted, 3) == worth


def test_log_loss_of_the_worked_example():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    expected = (np.log(2) + 0 - np.log(1e-7)) / 3  # sure and wrong costs ln 10^7, not infinity
    assert log_loss([0, 1, 2], probabilities) == pytest.approx(expected)


def test_calibration_error_of_the_worked_example():
    """Half of the images say 0.6 and are half right, a quarter says 0.75 and a quarter 1, and they are right."""
    probabilities = np.array([[0.6, 0.4], [0.6, 0.4], [0.25, 0.75], [0.0, 1.0]])
    share, confidence, right = calibration_bins([0, 1, 1, 1], probabilities)
    assert {
        index: tuple(column[index] for column in (share, confidence, right)) for index in np.flatnonzero(share)
    } == {
        8: (0.5, 0.6, 0.5),  # from 8/15 to 9/15, which it holds
        11: (0.25, 0.75, 1.0),
        14: (0.25, 1.0, 1.0),
    }
    assert np.isnan(right[share == 0]).all()
    assert expected_calibration_error([0, 1, 1, 1], probabilities) == pytest.approx(0.5 * 0.1 + 0.25 * 0.25)


@pytest.mark.parametrize("seed", range(8))
def test_scikit_learn_agrees_where_classes_are_absent(seed):
    rng = np.random.default_rng(seed)
    num_classes, size = 12, 20  # with 20 draws from a skewed distribution some of the 12 are always absent
    weights = rng.dirichlet(np.full(num_classes, 0.4))
    labels, guesses = rng.choice(num_classes, (2, size), p=weights)
    predicted = np.where(rng.random(size) < 0.6, labels, guesses)
    assert len(set(labels) | set(predicted)) < num_classes
    every = np.arange(num_classes)

    table = sklearn_metrics.confusion_matrix(labels, predicted, labels=every)
    np.testing.assert_array_equal(confusion(labels, predicted, num_classes), table)
    scores = sklearn_metrics.f1_score(labels, predicted, labels=every, average=None, zero_division=np.nan)
    np.testing.assert_allclose(f1_scores(labels, predicted, num_classes), scores)
    macro = sklearn_metrics.f1_score(labels, predicted, average="macro")
    assert macro_f1(labels, predicted, num_classes) == pytest.approx(macro)
    assert accuracy(labels, predicted) == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    probabilities = rng.dirichlet(np.ones(num_classes), size)
    loss = sklearn_metrics.log_loss(labels, probabilities, labels=every)
    assert log_loss(labels, probabilities) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64])
def test_any_integer_type_that_holds_the_labels_will_do(dtype):
    labels = np.arange(104, dtype=dtype)
    np.testing.assert_array_equal(confusion(labels, labels, 104), np.eye(104))


@pytest.mark.parametrize(
    ("labels", "predicted", "complaint"),
    [
        ([0, 1], [0], r"labels \(2,\) and predictions \(1,\)"),
        ([], [], r"labels \(0,\) and predictions \(0,\)"),
        ([[0, 1]], [[0, 1]], r"labels \(1, 2\)"),
        ([0, 3], [0, 1], "labels 0 to 3 must be within 0 to 2"),
        ([0, 1], [0, -1], "predictions -1 to 0 must be within 0 to 2"),
    ],
)
def test_what_cannot_be_counted_is_refused(labels, predicted, complaint):
    for metric in (confusion, f1_scores, macro_f1):
        with pytest.raises(FlowersError, match=complaint):
            metric(labels, predicted, 3)


@pytest.mark.parametrize("predicted", [[1], [1, 1, 1, 1]])  # NumPy would stretch the first to three right answers
def test_accuracy_refuses_lists_of_different_length(predicted):
    with pytest.raises(FlowersError, match="label"):
        accuracy([1, 1, 1], predicted)


def test_log_loss_refuses_the_label_of_a_test_image():
    with pytest.raises(FlowersError, match="-1"):
        log_loss([0, -1], np.full((2, 4), 0.25))


@pytest.mark.skipif(not COMPETITION_SAMPLE, reason="FLOWERS_COMPETITION_SAMPLE does not name the folder")
@pytest.mark.parametrize(
    ("model", "right", "f1"), [("wide_resnet50_2", 0.9054, 0.8865), ("wrn16_8_e2cnn", 0.8666, 0.8599)]
)
def test_published_figures_on_the_competitions_validation_images(model, right, f1):
    with open(Path(COMPETITION_SAMPLE) / "val_predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels, predicted = (np.array([int(row[column]) for row in rows]) for column in ("label", model))
    assert len(rows) == 3712
    assert round(accuracy(labels, predicted), 4) == right
    assert round(macro_f1(labels, predicted, 104), 4) == f1
