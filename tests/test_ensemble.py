from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from flowerlib import ensemble
from flowerlib.config import FlowersError
from flowerlib.predictions import Predictions, RunOutput


def random_probabilities(runs, count, num_classes, seed=0):
    logits = 2 * np.random.default_rng(seed).standard_normal((runs, count, num_classes))
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def split(ids, labels, seed):
    return Predictions(random_probabilities(1, len(ids), 3, seed)[0], np.array(labels), np.array(ids))


def run(name, seed, val_ids=("a", "b", "c"), val_labels=(0, 1, 2), test_ids=("t", "u"), classes=("x", "y", "z")):
    test_labels = [-1] * len(test_ids)
    return RunOutput({"name": name}, split(val_ids, val_labels, seed), split(test_ids, test_labels, seed), classes)


def test_weights_are_those_that_a_general_optimiser_finds():
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
    np.testing.assert_allclose(ensemble.average(probabilities), [[0.6, 0.4]])
    np.testing.assert_allclose(ensemble.average(probabilities, np.array([0.25, 0.75])), [[0.4, 0.6]])


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

    flattered = loss(ensemble.average(probabilities, ensemble.fit_weights(probabilities, labels)))
    assert flattered < 0.95 * np.log(2)
    assert loss(ensemble.cross_fitted(probabilities, labels)) > np.log(2)


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
        "name": "00_quickstart", "rehearsal": False, "val_macro_f1": 0.9, "val_accuracy": 0.8, "val_loss": 0.7,
        "seconds_per_epoch": 1.5, "epochs": 60, "weights": "pretrained", "parameters": 1000, "layers": 9,
        "trainable_parameters": 25, "choices": {"image_size": 192, "eval_size": 224},
        "device": {"num_replicas": 8, "kind": "tpu"},
    }  # fmt: skip
    (row,) = ensemble.recap([replace(run("any", 0), record=record)]).to_dict("records")
    kept = record.keys() - {"trainable_parameters", "choices", "device"}
    assert {name: row.pop(name) for name in kept} == {name: record[name] for name in kept}
    assert row == {"trained": 0.025, "image_size": 192, "device": "8 x tpu"}
