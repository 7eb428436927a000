from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from flowerlib.config import FlowersError
from flowerlib.evaluation import ensemble
from flowerlib.predictions import Predictions, RunResult, metrics


def split(ids, labels, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), len(ids))
    return Predictions(probabilities, np.array(labels), np.array(ids))


def run(name, seed, val_ids=("a", "b", "c"), val_labels=(0, 1, 2), test_ids=("t", "u"), classes=("x", "y", "z")):
    test_labels = [-1] * len(test_ids)
    return RunResult({"name": name}, split(val_ids, val_labels, seed), split(test_ids, test_labels, seed), classes)


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


def test_correlation_of_errors_is_that_of_scikit_learn():
    """The phi coefficient of two binary variables is Matthews' coefficient."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    predicted = [Predictions(row, labels, labels) for row in guesses(rng, labels, 4, [0.9, 0.6, 0.7])]
    predicted.append(predicted[0])
    wrong = [each.predicted != labels for each in predicted]
    expected = [[matthews_corrcoef(one, other) for other in wrong] for one in wrong]
    np.testing.assert_allclose(ensemble.error_correlation(predicted), expected, atol=1e-12)
    assert expected[0][3] == 1


def test_a_model_without_errors_correlates_with_none():
    labels = np.array([0, 1, 0])
    predicted = [Predictions(np.eye(2)[classes], labels, labels) for classes in ([0, 1, 0], [0, 0, 0])]
    np.testing.assert_array_equal(ensemble.error_correlation(predicted), np.eye(2))


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
