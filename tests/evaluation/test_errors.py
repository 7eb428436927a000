import numpy as np
import pytest
from sklearn.metrics import classification_report

from flowerlib.evaluation import errors
from flowerlib.predictions import Predictions

NAMES = ("rose", "iris", "daisy")


def predictions_of(labels, predicted, confidence):
    probabilities = np.full((len(labels), 3), 0.0)
    for row, (label, probability) in enumerate(zip(predicted, confidence, strict=True)):
        probabilities[row] = (1 - probability) / 2
        probabilities[row, label] = probability
    return Predictions(probabilities, np.array(labels), np.arange(len(labels)).astype(str))


@pytest.mark.parametrize("seed", range(4))
def test_the_report_is_that_of_scikit_learn_with_the_worst_class_first(seed):
    """Of 104 classes and 300 images some are never predicted, some have no image, some neither."""
    rng = np.random.default_rng(seed)
    names = [f"class {label}" for label in range(104)]
    labels = rng.choice(104, 300, p=rng.dirichlet(np.full(104, 0.5)))
    predicted = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 104, 300))
    report = errors.class_report(Predictions(np.eye(104)[predicted], labels, np.arange(300).astype(str)), names)
    expected = classification_report(
        labels, predicted, labels=range(104), target_names=names, output_dict=True, zero_division=np.nan
    )
    involved = set(labels) | set(predicted)
    assert set(report["class"]) == {names[label] for label in involved}
    assert 0 < len(involved) < 104
    columns = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}
    for row in report.to_dict("records"):
        theirs = expected[row["class"]]
        np.testing.assert_allclose([row[name] for name in columns], [theirs[name] for name in columns.values()])
    assert report["f1"].is_monotonic_increasing
    assert report["precision"].isna().any()  # images, but never predicted
    assert report["recall"].isna().any()  # predicted, but no images
    assert report["f1"].notna().all()


def test_the_report_by_hand():
    predicted = predictions_of([0, 0, 0, 1], [0, 0, 1, 1], [0.9] * 4)
    assert errors.class_report(predicted, NAMES).to_dict("records") == [
        {"class": "iris", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"class": "rose", "precision": 1.0, "recall": pytest.approx(2 / 3), "f1": 0.8, "support": 3},
    ]


def test_confused_pairs_by_hand():
    table = errors.confused_pairs(predictions_of([0, 0, 0, 1, 2, 2], [1, 1, 0, 0, 2, 2], [0.9] * 6), NAMES)
    assert table.to_dict("records") == [
        {"true": "rose", "predicted": "iris", "count": 2},
        {"true": "iris", "predicted": "rose", "count": 1},
    ]


def test_no_errors_no_rows():
    perfect = predictions_of([0, 1, 2], [0, 1, 2], [0.9] * 3)
    assert errors.confused_pairs(perfect, NAMES).empty
    assert errors.most_confident_errors(perfect, NAMES).empty


def test_the_most_confident_errors_come_first_and_name_their_place():
    predicted = predictions_of([0, 1, 2, 0], [1, 1, 0, 2], [0.5, 0.99, 0.8, 0.6])
    assert errors.most_confident_errors(predicted, NAMES, most=2).to_dict("records") == [
        {"split": "val", "position": 2, "true": "daisy", "predicted": "rose", "label": 0, "probability": 0.8},
        {"split": "val", "position": 3, "true": "rose", "predicted": "daisy", "label": 2, "probability": 0.6},
    ]
