import numpy as np
import pytest

from flowerlib import evaluation
from flowerlib.predictions import Predictions, RunResult


def result(name, labels, predicted, num_classes=3):
    probabilities = np.eye(num_classes, dtype=np.float32)[predicted]
    split = Predictions(probabilities, labels, np.arange(len(labels)).astype(str))
    return RunResult({"name": name}, split, split, tuple("abc"[:num_classes]))


def test_gained_and_lost_images_and_scores_by_hand():
    labels = np.array([0, 0, 1, 1, 2, 2])
    first = result("a", labels, [0, 1, 1, 1, 2, 2])
    second = result("b", labels, [0, 0, 1, 1, 2, 0])
    found = evaluation.compare(first, second)
    assert (found.gained, found.lost) == (1, 1)
    # F1 of a: 2/3, 4/5, 1; of b: 4/5, 1, 2/3.
    assert found.macro_f1 == pytest.approx(((2 / 3 + 4 / 5 + 1) / 3,) * 2)
    assert found.difference == pytest.approx(0)
    assert found.low < 0 < found.high
    assert "no evidence of a difference" in str(found)


def test_a_clear_difference_is_called_by_its_name():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=400)
    bad = np.where(rng.random(400) < 0.4, (labels + 1) % 3, labels)
    found = evaluation.compare(result("a", labels, bad), result("b", labels, labels))
    assert found.low > 0.2
    assert ": better by " in str(found)
    assert ": worse by " in str(evaluation.compare(result("b", labels, labels), result("a", labels, bad)))


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says():
    """Two models that are wrong on one image in five, independently: the true difference is none."""
    rng, covered = np.random.default_rng(1), 0
    for seed in range(60):
        labels = rng.integers(2, size=150)
        wrong = [np.where(rng.random(150) < 0.2, 1 - labels, labels) for _ in range(2)]
        runs = [result(name, labels, predicted, 2) for name, predicted in zip("ab", wrong, strict=True)]
        found = evaluation.compare(*runs, resamples=300, seed=seed)
        covered += found.low <= 0 <= found.high
    assert covered >= 52  # 57 expected; fewer than 52 happens once in a hundred


def test_images_in_another_order_are_put_right():
    labels = np.array([0, 1, 2, 0, 1, 2])
    first, second = result("a", labels, labels), result("b", labels, labels)
    order = np.array([3, 1, 5, 0, 2, 4])
    shuffled = Predictions(*(value[order] for value in vars(second.val).values()))
    other = RunResult(second.record, shuffled, shuffled, second.classes)
    assert (evaluation.compare(first, other).gained, evaluation.compare(first, other).lost) == (0, 0)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((0.0042, 0.0011, 0.0079), "better by 0.004 (0.001 to 0.008)"),
        ((-0.0042, -0.0079, -0.0011), "worse by 0.004 (0.001 to 0.008)"),
        ((0.0005, -0.0021, 0.0031), "no evidence of a difference (-0.002 to 0.003)"),
        ((0.0, -0.0001, 0.0), "no evidence of a difference (0.000 to 0.000)"),
    ],
)
def test_a_difference_in_words(difference, words):
    assert evaluation.verdict(*difference) == words
