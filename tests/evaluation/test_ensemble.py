from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import f1_score

from flowerlib.config import FlowersError
from flowerlib.evaluation import ensemble
from flowerlib.predictions import Predictions, RunResult, metrics


def random_probabilities(runs, count, num_classes, seed=0):
    logits = 2 * np.random.default_rng(seed).standard_normal((runs, count, num_classes))
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def split(ids, labels, seed):
    return Predictions(random_probabilities(1, len(ids), 3, seed)[0], np.array(labels), np.array(ids))


def run(name, seed, val_ids=("a", "b", "c"), val_labels=(0, 1, 2), test_ids=("t", "u"), classes=("x", "y", "z")):
    test_labels = [-1] * len(test_ids)
    return RunResult({"name": name}, split(val_ids, val_labels, seed), split(test_ids, test_labels, seed), classes)


def test_weights_are_those_that_a_general_optimizer_finds():
    probabilities, labels = random_probabilities(3, 400, 5), np.random.default_rng(1).integers(0, 5, 400)
    probabilities[1, np.arange(400), labels] += 0.3  # the second run knows something
    probabilities /= probabilities.sum(axis=2, keepdims=True)

    def loss(free):
        weights = np.exp(free) / np.exp(free).sum()
        return -np.log(np.tensordot(weights, probabilities, 1)[np.arange(400), labels]).mean()

    free = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12}).x
    weights = ensemble.fit_weights(probabilities, labels, steps=3000)
    np.testing.assert_allclose(weights, np.exp(free) / np.exp(free).sum(), atol=2e-3)
    assert weights.sum() == pytest.approx(1)


def test_a_run_that_knows_the_truth_gets_all_the_weight():
    probabilities, labels = random_probabilities(2, 300, 4), np.random.default_rng(1).integers(0, 4, 300)
    probabilities[1] = np.eye(4)[labels]
    np.testing.assert_allclose(ensemble.fit_weights(probabilities, labels), [0, 1], atol=1e-6)


def test_equal_and_weighted_averages_by_hand():
    probabilities = np.array([[[1.0, 0.0]], [[0.2, 0.8]]])
    np.testing.assert_allclose(ensemble.weighted_average(probabilities), [[0.6, 0.4]])
    np.testing.assert_allclose(ensemble.weighted_average(probabilities, np.array([0.25, 0.75])), [[0.4, 0.6]])


def test_cross_fitting_never_uses_an_images_own_label():
    """Changing one label must not change that image's own average, and must change some other one's."""
    probabilities, labels = random_probabilities(3, 50, 4), np.random.default_rng(1).integers(0, 4, 50)
    before = ensemble.cross_fitted(probabilities, labels)
    for image in range(50):
        altered = labels.copy()
        altered[image] = (labels[image] + 1) % 4
        after = ensemble.cross_fitted(probabilities, altered)
        np.testing.assert_array_equal(after[image], before[image])
        assert not np.array_equal(after, before)


def test_cross_fitted_score_is_not_flattered_where_there_is_nothing_to_learn():
    """Many runs of pure noise: weights fitted on the very labels beat chance, cross-fitted ones must not."""
    labels = np.random.default_rng(1).integers(0, 2, 60)
    probabilities = random_probabilities(30, 60, 2)

    def loss(averaged):
        return -np.log(averaged[np.arange(60), labels]).mean()

    flattered = loss(ensemble.weighted_average(probabilities, ensemble.fit_weights(probabilities, labels)))
    assert flattered < 0.95 * np.log(2)
    assert loss(ensemble.cross_fitted(probabilities, labels)) > np.log(2)


def guesses(rng, labels, num_classes, accuracies):
    """Rows, each right with a probability of its own, independently, and otherwise any class but the true one."""
    wrong = (labels + rng.integers(1, num_classes, (len(accuracies), len(labels)))) % num_classes
    right = rng.random(wrong.shape) < np.array(accuracies)[:, None]
    return np.eye(num_classes)[np.where(right, labels, wrong)]


def optimism(rng, accuracies, count=600, num_classes=10):
    """What choosing the best of rows on one split adds, as fresh splits tell it and as the bootstrap does."""

    def scored(chosen):
        labels = rng.integers(0, num_classes, count)
        rows = guesses(rng, labels, num_classes, chosen)
        return labels, rows, [metrics.macro_f1(labels, row.argmax(axis=1), num_classes) for row in rows]

    labels, rows, scores = scored(accuracies)
    best = int(np.argmax(scores))
    added = scores[best] - np.mean([scored(accuracies[best : best + 1])[2] for _ in range(40)])
    return added, ensemble.selection_optimism(rows, labels, resamples=200, seed=int(rng.integers(1 << 30))).optimism


@pytest.mark.parametrize(("count", "num_classes"), [(600, 10), (300, 104)])
def test_of_rows_that_are_equally_good_the_bootstrap_finds_seven_tenths_of_what_choosing_adds(count, num_classes):
    """As its rows already differ by chance once, the rest is 1 / sqrt(2), for errors that are normally distributed."""
    rng = np.random.default_rng(0)
    added, found = np.mean([optimism(rng, [0.8] * 8, count, num_classes) for _ in range(60)], axis=0)
    assert added > 0.015
    assert 0.58 < found / added < 0.82


def test_where_one_row_is_best_beyond_doubt_choosing_it_adds_nothing():
    rng = np.random.default_rng(0)
    added, found = np.mean([optimism(rng, [0.6] * 7 + [0.9]) for _ in range(60)], axis=0)
    assert abs(added) < 0.003
    assert abs(found) < 0.003


def test_a_single_row_has_nothing_to_be_chosen_from():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    only = ensemble.selection_optimism(guesses(rng, labels, 10, [0.8]), labels)
    assert abs(only.optimism) < 1e-9
    assert (only.low, only.high) == (0.0, 0.0)


def test_the_optimism_and_the_interval_are_those_of_a_slow_loop_with_scikit_learn():
    """Twenty images of five classes out of seven, so that classes are missing from many a resample."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 5, 20)
    rows = guesses(rng, labels, 7, [0.5, 0.7, 0.6])
    predicted = rows.argmax(axis=2)

    def score(row, images):
        return f1_score(labels[images], predicted[row][images], average="macro")

    original = [score(row, np.arange(20)) for row in range(3)]
    best, second = np.argsort(original)[::-1][:2]
    scores = []
    for weights in np.random.default_rng(5).multinomial(20, [1 / 20] * 20, 50):
        images = np.repeat(np.arange(20), weights)
        scores.append([score(row, images) for row in range(3)])
    gains = [max(drawn) - np.mean(scores, axis=0)[np.argmax(drawn)] for drawn in scores]
    gaps = [drawn[best] - drawn[second] for drawn in scores]
    found = ensemble.selection_optimism(rows, labels, resamples=50, seed=5)
    assert found.optimism == pytest.approx(np.mean(gains), abs=1e-6)
    assert [found.low, found.high] == pytest.approx(np.percentile(gaps, [2.5, 97.5]).tolist(), abs=1e-6)


def test_runs_in_another_order_are_brought_into_the_first_ones():
    first, other = run("first", 0), run("other", 1)
    order = [2, 0, 1]
    shuffled = replace(other, val=Predictions(*(value[order] for value in vars(other.val).values())))
    _, back = ensemble.aligned([first, shuffled])
    for name, value in vars(other.val).items():
        np.testing.assert_array_equal(getattr(back.val, name), value)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"val_ids": ("a", "b", "d")}, "val ids"),
        ({"val_labels": (0, 1, 1)}, "val labels"),
        ({"test_ids": ("t", "v")}, "test ids"),
        ({"test_ids": ("t", "u", "v")}, "test ids"),
        ({"classes": ("x", "z", "y")}, "classes"),
    ],
)
def test_runs_that_do_not_fit_together_are_refused(other, what):
    with pytest.raises(FlowersError, match=rf"run 11_other has other {what} than 10_first"):
        ensemble.aligned([run("10_first", 0), run("11_other", 1, **other)])


def test_a_recap_tells_of_each_run_what_its_record_holds():
    record = {
        "name": "00_quickstart", "smoke_test": False, "val_macro_f1": 0.9, "val_accuracy": 0.8, "val_loss": 0.7,
        "seconds_per_epoch": 1.5, "epochs": 60, "weights": "pretrained", "parameters": 1000, "layers": 9,
        "trainable_parameters": 25, "config": {"image_size": 192, "eval_size": 224},
        "device": {"num_replicas": 8, "kind": "tpu"},
    }  # fmt: skip
    (row,) = ensemble.recap_table([replace(run("any", 0), record=record)]).to_dict("records")
    kept = record.keys() - {"trainable_parameters", "config", "device"}
    assert {name: row.pop(name) for name in kept} == {name: record[name] for name in kept}
    assert row == {"trained": 0.025, "image_size": 192, "device": "8 x tpu"}


def test_agreement_by_hand():
    """Of four images the first two models agree on three, the third with them on one and two."""
    outputs = {"a": [0, 1, 2, 2], "b": [0, 1, 2, 0], "c": [1, 1, 0, 0]}
    labels, ids = np.zeros(4, int), np.arange(4).astype(str)
    predicted = [Predictions(np.eye(3)[classes], labels, ids) for classes in outputs.values()]
    np.testing.assert_array_equal(
        ensemble.agreement(predicted), [[1, 3 / 4, 1 / 4], [3 / 4, 1, 2 / 4], [1 / 4, 2 / 4, 1]]
    )


def test_a_row_of_an_average_has_its_scores_and_the_mark_of_a_smoke_test():
    average = Predictions(np.array([[0.8, 0.2], [0.4, 0.6], [0.6, 0.4]]), np.array([0, 1, 1]), np.array(list("abc")))
    runs = [replace(run("10_a", 0), record={"smoke_test": marked}) for marked in (False, True)]
    for members, marked in ((runs[:1], False), (runs, True)):
        row = ensemble.average_row("equal", average, members)
        assert row == {
            "name": "equal",
            "smoke_test": marked,
            "val_loss": pytest.approx(-np.log([0.8, 0.6, 0.4]).mean()),
            "val_accuracy": pytest.approx(2 / 3),
            "val_macro_f1": pytest.approx(f1_score([0, 1, 1], [0, 1, 0], average="macro")),
        }
