"""Each way of averaging against a number worked by hand or a second implementation."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.metrics import f1_score
from sklearn.metrics import log_loss as sklearn_log_loss

from flowerlib.evaluation import averages, stacking


def random_probabilities(runs, count, num_classes, seed=0):
    logits = 2 * np.random.default_rng(seed).standard_normal((runs, count, num_classes))
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def informed(runs, count, num_classes, seed=0):
    """Random probabilities that favour the truth, of each run less than of the one before, and the labels."""
    labels = np.random.default_rng(seed + 1).integers(0, num_classes, count)
    probabilities = random_probabilities(runs, count, num_classes, seed)
    for run in range(runs):
        probabilities[run, np.arange(count), labels] += 0.5 / (run + 1)
    return probabilities / probabilities.sum(axis=2, keepdims=True), labels


def test_equal_weighted_and_geometric_averages_by_hand():
    probabilities = np.array([[[0.9, 0.1]], [[0.5, 0.5]]])
    np.testing.assert_allclose(averages.weighted_average(probabilities), [[0.7, 0.3]])
    np.testing.assert_allclose(averages.weighted_average(probabilities, np.array([0.25, 0.75])), [[0.6, 0.4]])
    np.testing.assert_allclose(averages.geometric_average(probabilities), [[0.75, 0.25]])  # sqrt(0.45) : sqrt(0.05)


def test_a_probability_of_zero_does_not_rule_a_class_out_for_good():
    probabilities = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
    np.testing.assert_allclose(averages.geometric_average(probabilities), [[0.5, 0.5]])


def test_the_best_run_is_that_of_the_best_macro_f1_then_that_of_the_lowest_loss():
    labels = np.array([0, 1])
    unsure, sure, wrong = (np.array([[1 - p, p], [p, 1 - p]]) for p in (0.4, 0.2, 0.7))
    np.testing.assert_array_equal(averages.best_run(np.stack([unsure, sure, wrong]), labels), [0, 1, 0])
    np.testing.assert_array_equal(averages.best_run(np.stack([wrong, wrong]), labels), [1, 0])


def test_weights_are_those_that_a_general_optimizer_finds():
    probabilities, labels = random_probabilities(3, 400, 5), np.random.default_rng(1).integers(0, 5, 400)
    probabilities[1, np.arange(400), labels] += 0.3  # the second run knows something
    probabilities /= probabilities.sum(axis=2, keepdims=True)

    def loss(free):
        weights = np.exp(free) / np.exp(free).sum()
        return -np.log(np.tensordot(weights, probabilities, 1)[np.arange(400), labels]).mean()

    free = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12}).x
    weights = averages.fit_weights(probabilities, labels, steps=3000)
    np.testing.assert_allclose(weights, np.exp(free) / np.exp(free).sum(), atol=2e-3)
    assert weights.sum() == pytest.approx(1)


def test_a_run_that_knows_the_truth_gets_all_the_weight():
    probabilities, labels = random_probabilities(2, 300, 4), np.random.default_rng(1).integers(0, 4, 300)
    probabilities[1] = np.eye(4)[labels]
    np.testing.assert_allclose(averages.fit_weights(probabilities, labels), [0, 1], atol=1e-6)


def slow_selection(probabilities, labels, additions):
    """Caruana's selection, written out: every candidate set is averaged anew, and scored by scikit-learn."""

    def quality(members):
        average = np.mean([probabilities[run] for run in members], axis=0)
        f1 = f1_score(labels, average.argmax(axis=1), average="macro")
        return f1, -sklearn_log_loss(labels, average, labels=range(average.shape[1]))

    members = [max(range(len(probabilities)), key=lambda run: quality([run]))]
    for _ in range(additions):
        best = max(range(len(probabilities)), key=lambda run: quality([*members, run]))
        if quality([*members, best])[0] <= quality(members)[0]:
            break
        members.append(best)
    return np.bincount(members, minlength=len(probabilities)) / len(members)


@pytest.mark.parametrize("seed", range(5))
def test_greedy_selection_is_that_of_a_slow_one(seed):
    probabilities, labels = informed(4, 80, 5, seed)
    weights = averages.select_greedily(probabilities, labels)
    np.testing.assert_allclose(weights, slow_selection(probabilities, labels, 20))
    np.testing.assert_allclose(
        averages.select_greedily(probabilities, labels, additions=1), slow_selection(probabilities, labels, 1)
    )


def test_greedy_selection_takes_more_than_one_where_that_helps():
    assert max(np.count_nonzero(averages.select_greedily(*informed(4, 80, 5, seed))) for seed in range(5)) > 1


@pytest.mark.parametrize("hard", [False, True])
def test_stacking_is_what_a_general_optimizer_finds(hard):
    """With one-hot outputs too, where whole steps of Newton's method lead nowhere."""
    probabilities, labels = informed(3, 150, 4)
    if hard:
        probabilities = np.eye(4)[probabilities.argmax(axis=2)]
    logs = np.log(np.maximum(probabilities, 1e-7))
    start = np.array([1 / 3] * 3 + [0] * 4)

    def loss(at):
        logits = sum(weight * each for weight, each in zip(at[:3], logs, strict=True)) + at[3:]
        return -log_softmax(logits, axis=1)[np.arange(150), labels].sum() + 0.5 * ((at - start) ** 2).sum()

    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-4}).x
    weights, bias = stacking.fit_stacking(probabilities, labels)
    np.testing.assert_allclose([*weights, *bias], best, atol=1e-3)
    expected = np.exp(log_softmax(np.tensordot(best[:3], logs, 1) + best[3:], axis=1))
    np.testing.assert_allclose(stacking.stacked_average(probabilities, weights, bias), expected, atol=1e-3)


def test_under_a_strong_penalty_stacking_is_the_geometric_average():
    probabilities, labels = informed(3, 50, 4)
    stacked = stacking.stacked_average(probabilities, *stacking.fit_stacking(probabilities, labels, penalty=1e9))
    np.testing.assert_allclose(stacked, averages.geometric_average(probabilities), atol=1e-5)


def test_the_correction_by_hand():
    """Three images of class 0, sure; one of class 1, taken for 0 at 0.6 to 0.4.

    Dividing by the frequencies, 3 to 1, to the power a multiplies the odds of class 1 by s = 3^a. Macro F1 is 1 from
    s > 1.5 on, a = 0.4; among those the log loss 3 ln(1 + s/9) + ln(1 + 1.5/s) is least at s = 1.68, nearest a = 0.5.
    """
    probabilities, labels = np.array([[[0.9, 0.1]] * 3 + [[0.6, 0.4]]]), np.array([0, 0, 0, 1])
    factors = averages.fit_correction(probabilities, labels)
    np.testing.assert_allclose(factors, [0.75**-0.5, 0.25**-0.5])
    corrected = averages.corrected_average(probabilities, factors)
    odds = np.sqrt(3) * 0.4 / 0.6
    np.testing.assert_allclose(corrected[3], [1 / (1 + odds), odds / (1 + odds)])


def test_the_correction_of_classes_that_are_equally_frequent_is_none():
    probabilities, labels = random_probabilities(2, 40, 4), np.arange(40) % 4
    corrected = averages.corrected_average(probabilities, averages.fit_correction(probabilities, labels))
    np.testing.assert_allclose(corrected, probabilities.mean(axis=0))


def test_of_one_run_every_average_is_that_run():
    """But for the two that also correct the classes."""
    probabilities, labels = informed(1, 60, 5)
    others = informed(1, 30, 5, seed=9)[0]
    assert list(averages.WAYS)[5:] == ["stacked average", "corrected average"]
    for name, way in list(averages.WAYS.items())[:5]:
        np.testing.assert_allclose(way(probabilities, labels)(others), others[0], atol=1e-6, err_msg=name)
