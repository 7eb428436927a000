"""The choice among the ways of averaging: what it reports on noise, on a known gain, and against a slow loop."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from flowerlib.config import FlowersError
from flowerlib.evaluation import averages, choice
from flowerlib.predictions.metrics import macro_f1

COMPETITION_SAMPLE = os.environ.get("FLOWERS_COMPETITION_SAMPLE")  # read before the fixture clears the environment


def random_probabilities(rng, runs, count, num_classes):
    logits = 2 * rng.standard_normal((runs, count, num_classes))
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def seeing(rng, labels, num_classes, signals):
    """Runs that see the truth, each with noise of its own: the logit of the true class is higher by a signal."""
    logits = rng.standard_normal((len(signals), len(labels), num_classes))
    logits[:, np.arange(len(labels)), labels] += np.array(signals)[:, None]
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)


def test_the_order_is_that_of_simplicity():
    assert list(averages.WAYS) == [
        "best single run", "equal average", "geometric average", "fitted average", "greedy average", "stacked average",
        "corrected average",
    ]  # fmt: skip


@pytest.mark.parametrize("name", averages.WAYS)
def test_cross_fitting_never_uses_an_images_own_label(name):
    """Changing one label must not change that image's own average; where weights are fitted, it changes others."""
    rng = np.random.default_rng(0)
    probabilities, labels = random_probabilities(rng, 3, 15, 4), rng.integers(0, 4, 15)
    before = choice.cross_fitted(probabilities, labels, averages.WAYS[name])
    for image in range(15):
        altered = labels.copy()
        altered[image] = (labels[image] + 1) % 4
        after = choice.cross_fitted(probabilities, altered, averages.WAYS[name])
        np.testing.assert_array_equal(after[image], before[image])
        assert name not in {"fitted average", "stacked average"} or not np.array_equal(after, before)


def test_cross_fitted_score_is_not_flattered_where_there_is_nothing_to_learn():
    """Many runs of pure noise: weights fitted on the very labels beat chance, cross-fitted ones must not."""
    rng = np.random.default_rng(1)
    labels, probabilities = rng.integers(0, 2, 60), random_probabilities(rng, 30, 60, 2)
    way = averages.WAYS["fitted average"]

    def loss(averaged):
        return -np.log(averaged[np.arange(60), labels]).mean()

    assert loss(way(probabilities, labels)(probabilities)) < 0.95 * np.log(2)
    assert loss(choice.cross_fitted(probabilities, labels, way)) > np.log(2)


def test_the_best_run_is_picked_on_other_images_than_it_is_scored_on():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 40)
    probabilities = seeing(rng, labels, 3, [1.0, 1.0, 1.0])
    predicted = probabilities.argmax(axis=2)
    fold = np.random.default_rng(5).permutation(40) % 4
    picked = choice.cross_fitted(probabilities, labels, averages.WAYS["best single run"], folds=4, seed=5)
    best = [
        np.argmax([f1_score(labels[fold != held], row[fold != held], average="macro") for row in predicted])
        for held in range(4)
    ]
    assert len(set(best)) > 1  # else it would show nothing
    np.testing.assert_array_equal(picked, [probabilities[best[held], image] for image, held in enumerate(fold)])


def test_fewer_than_two_folds_are_refused():
    with pytest.raises(FlowersError, match=r"folds \(=1\) must be at least 2"):
        choice.choose(np.full((2, 4, 2), 0.5), np.array([0, 1, 0, 1]), folds=1)


def test_the_table_is_that_of_a_slow_loop_with_scikit_learn():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 30)
    found = choice.choose(seeing(rng, labels, 4, [1.5, 1.0, 1.0]), labels, seed=7, resamples=40)
    predicted = [average.argmax(axis=1) for average in found.averages.values()]
    drawn = []
    for counts in np.random.default_rng(7).multinomial(30, [1 / 30] * 30, 40):
        images = np.repeat(np.arange(30), counts)
        drawn.append([f1_score(labels[images], row[images], average="macro") for row in predicted])
    for row, each in found.table.iterrows():
        score, first = (f1_score(labels, predicted[which], average="macro") for which in (row, 0))
        reach = 3.0381 * np.std(np.subtract(drawn, np.array(drawn)[:, :1])[:, row])  # normal: 1 - 0.025 / 21
        assert each["macro_f1"] == pytest.approx(score)
        expected = score - first, score - first - reach, score - first + reach
        assert (each["difference"], each["low"], each["high"]) == pytest.approx(expected, abs=1e-4)


def test_random_predictions_seem_better_than_the_best_run_in_at_most_one_case_of_twenty():
    """Two hundred sets of runs that know nothing: no way has anything to gain."""
    rng, reported = np.random.default_rng(0), 0
    for seed in range(200):
        labels = rng.integers(0, 4, 80)
        found = choice.choose(random_probabilities(rng, 3, 80, 4), labels, seed=seed, resamples=100)
        gained = found.table["verdict"].str.startswith("better").any()
        assert gained or found.name == "best single run"
        reported += gained
    assert reported <= 10


def test_the_equal_average_of_runs_that_err_independently_is_better_and_chosen():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 5, 800)
    found = choice.choose(seeing(rng, labels, 5, [1.5] * 4), labels, resamples=200)
    row = found.table.set_index("name").loc["equal average"]
    assert row["verdict"] == f"better by {row['difference']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    assert found.name == "equal average"  # what is fitted adds nothing to it
    fresh = rng.integers(0, 5, 20_000)
    again = seeing(rng, fresh, 5, [1.5] * 4)
    truth = macro_f1(fresh, again.mean(axis=0).argmax(axis=1), 5) - macro_f1(fresh, again[0].argmax(axis=1), 5)
    assert row["low"] < truth < row["high"]


def test_one_good_run_among_many_that_know_nothing_is_submitted_alone():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 5, 400)
    probabilities = np.concatenate([seeing(rng, labels, 5, [2.0]), random_probabilities(rng, 5, 400, 5)])
    found = choice.choose(probabilities, labels, resamples=200)
    assert found.name == "best single run"
    assert found.table.set_index("name")["verdict"]["equal average"].startswith("worse by")


def test_what_is_fitted_is_chosen_where_it_mends_what_all_runs_have_in_common():
    """All runs take images of the last class for others: only the two that correct classes can know."""
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 600)
    probabilities = seeing(rng, labels, 3, [2.0, 2.0]) * [1, 1, 0.02]
    found = choice.choose(probabilities / probabilities.sum(axis=2, keepdims=True), labels, resamples=200)
    assert found.name == "stacked average"


def test_of_one_run_nothing_is_better():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 4, 100)
    probabilities = seeing(rng, labels, 4, [1.5])
    found = choice.choose(probabilities, labels, resamples=50)
    own = macro_f1(labels, probabilities[0].argmax(axis=1), 4)
    assert found.name == "best single run"
    assert found.table["macro_f1"][:5].tolist() == pytest.approx([own] * 5)
    assert set(found.table["verdict"][1:5]) == {"no evidence of a difference (0.000 to 0.000)"}


def test_more_folds_than_images_leave_out_one_at_a_time():
    rng = np.random.default_rng(8)
    probabilities, labels = random_probabilities(rng, 2, 3, 3), np.arange(3)
    for name, way in averages.WAYS.items():
        five, three = (choice.cross_fitted(probabilities, labels, way, folds=folds) for folds in (5, 3))
        np.testing.assert_array_equal(five, three, err_msg=name)


@pytest.mark.skipif(not COMPETITION_SAMPLE, reason="FLOWERS_COMPETITION_SAMPLE names no folder")
@pytest.mark.parametrize(("model", "score"), [("wide_resnet50_2", 0.8865), ("wrn16_8_e2cnn", 0.8599)])
def test_of_one_published_model_every_average_has_its_macro_f1(model, score):
    with open(Path(COMPETITION_SAMPLE) / "val_predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels, predicted = (np.array([int(row[column]) for row in rows]) for column in ("label", model))
    outputs = np.eye(104, dtype=np.float32)[predicted][np.newaxis]
    for name, way in list(averages.WAYS.items())[:5]:
        average = choice.cross_fitted(outputs, labels, way)
        assert macro_f1(labels, average.argmax(axis=1), 104) == pytest.approx(score, abs=5e-5), name
