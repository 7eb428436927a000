"""Runs of a cross-validation joined to one, of predictions whose every number the test has chosen."""

import json
from pathlib import Path

import numpy as np
import pytest

from flowerlib import evaluation, predictions
from flowerlib.config import FlowersError
from flowerlib.predictions import Predictions, out_of_fold

PARTS = (("a", "d"), ("b",), ("c", "e"))  # ids of val, in three folds
CLASSES = ("x", "y", "z")
LABELS = {"a": 0, "b": 1, "c": 2, "d": 0, "e": 1}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWERS_KAGGLE", str(tmp_path / "kaggle"))


def of(ids, labels, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), len(ids)).astype("float32")
    return Predictions(probabilities, np.array(labels), np.array(ids))


def leave(name, ids, seed=0, test_ids=("t", "u"), **record):
    """Write a run of that name; return its predictions."""
    val, test = of(ids, [LABELS[each] for each in ids], seed), of(test_ids, [-1] * len(test_ids), seed + 100)
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    data = {"train": 5 - len(ids), "val": len(ids), "test": len(test_ids)}
    record = {"name": name, "smoke_test": "smoke" in name, "data": data, "config": {}} | record
    (folder / "run.json").write_text(json.dumps(record))
    predictions.save(folder / "predictions.npz", val, test, CLASSES)
    return val, test


def leave_fold(number, ids=None, base="03_net", last="", folds=3, **options):
    config = {"fold": number, "folds": folds}
    return leave(f"{base}-fold-{number}{last}", ids or PARTS[number], seed=number, config=config, **options)


def test_a_complete_set_is_one_run_that_predicts_each_image_once_and_test_by_the_mean():
    left = [leave_fold(number) for number in (0, 1, 2)]
    [run] = predictions.find_runs()
    assert (run.name, run.classes, run.record["config"]["fold"]) == ("03_net-3-folds", CLASSES, None)
    assert run.val.ids.tolist() == ["a", "d", "b", "c", "e"]
    assert run.val.labels.tolist() == [LABELS[each] for each in run.val.ids]
    np.testing.assert_array_equal(run.val.probabilities, np.concatenate([val.probabilities for val, _ in left]))
    np.testing.assert_allclose(run.test.probabilities, sum(test.probabilities for _, test in left) / 3, rtol=1e-6)
    assert run.test.ids.tolist() == ["t", "u"]
    assert run.record["val_accuracy"] == pytest.approx(np.mean(run.val.predicted == run.val.labels))
    assert evaluation.aligned([run, run])[1].val.ids.tolist() == run.val.ids.tolist()


def test_an_incomplete_set_is_left_out_and_the_missing_folds_are_named(capsys):
    leave("10_net", tuple(LABELS))
    for number in (1, 3):
        leave_fold(number, PARTS[1], folds=5)
    assert [run.name for run in predictions.find_runs()] == ["10_net"]
    assert capsys.readouterr().out == "03_net-5-folds is left out: fold 0, 2, 4 is missing.\n"
    with pytest.raises(FlowersError, match="03_net-5-folds is without fold 0, 2, 4; run it with FOLD=0"):
        predictions.find_runs(["03_net-5-folds"])


def test_where_nothing_is_left_it_is_said():
    leave_fold(0)
    with pytest.raises(FlowersError, match="each of the runs 03_net-fold-0 is left out"):
        predictions.find_runs()
    assert [run.name for run in predictions.find_runs(["03_net-fold-0"])] == ["03_net-fold-0"]


def test_an_image_in_two_folds_is_named_with_both():
    for number, ids in enumerate([("a", "d"), ("b", "d"), ("c", "e")]):
        leave_fold(number, ids)
    with pytest.raises(FlowersError, match=r"image d twice, in 03_net-fold-0 and 03_net-fold-1; .*same FOLDS and SEED"):
        predictions.find_runs()
    assert len(predictions.find_runs(["03_net-fold-0"])) == 1  # one that is named needs no others


def test_an_image_in_no_fold_is_an_error():
    for number, ids in enumerate([("a", "d"), ("b",), ("c",)]):
        leave_fold(number, ids)
    with pytest.raises(FlowersError, match="03_net-3-folds predicts 4 of the 5 labelled images of 03_net-fold-0"):
        predictions.find_runs()


def test_folds_of_other_test_images_are_refused():
    for number in range(3):
        leave_fold(number, test_ids=("t", "v") if number == 1 else ("t", "u"))
    with pytest.raises(FlowersError, match="03_net-fold-1 has other classes or test ids than 03_net-fold-0"):
        predictions.find_runs()


def test_smoke_tests_stopped_folds_and_other_numbers_of_folds_are_sets_of_their_own(capsys):
    for number in range(3):
        leave_fold(number)
        leave_fold(number, last="-smoke-test")
    leave_fold(1, PARTS[1], last="-unfinished")
    leave_fold(0, ("a", "b", "c"), base="04_net", folds=2)
    leave_fold(1, ("d", "e"), base="04_net", folds=2)
    assert [run.name for run in predictions.find_runs()] == ["03_net-3-folds", "04_net-2-folds"]
    assert capsys.readouterr().out.count("there is a whole run") == 4
    [named] = predictions.find_runs(["03_net-3-folds-smoke-test"])
    assert named.record["smoke_test"]


def test_runs_with_and_without_folds_are_not_averaged():
    leave("10_net", ("a", "b"))
    for number in range(3):
        leave_fold(number)
    runs = predictions.find_runs()
    assert [run.name for run in runs] == ["03_net-3-folds", "10_net"]
    with pytest.raises(FlowersError, match=r"10_net has other val ids .*both in folds, with all of them, or neit"):
        evaluation.aligned(runs)


def test_which_folds_are_missing():
    for number in (0, 2):
        leave_fold(number)
    [(name, folds)] = out_of_fold.sets(predictions.find_runs(["03_net-fold-0", "03_net-fold-2"])).items()
    assert (name, out_of_fold.missing(folds)) == ("03_net-3-folds", [1])


def test_a_run_on_train_and_val_has_no_arrays_of_val_is_left_out_and_cannot_be_compared(capsys):
    leave("10_net", tuple(LABELS))
    leave("03_net-train-val", (), config={"train_on": "train+val"}, submission="submission.csv")
    with np.load("runs/03_net-train-val/predictions.npz") as arrays:
        assert sorted(arrays) == ["classes", "test_ids", "test_labels", "test_probabilities"]
    assert [run.name for run in predictions.find_runs()] == ["10_net"]
    told = "03_net-train-val is left out: it was trained on val too, so it cannot be scored.\n"
    assert capsys.readouterr().out == told
    [run] = predictions.find_runs(["03_net-train-val"])
    assert (run.val.probabilities.shape, run.val.scores(), run.test.ids.tolist()) == ((0, 3), {}, ["t", "u"])
    with pytest.raises(FlowersError, match=r"03_net-train-val was trained on val too.*; submit its submission.csv, or"):
        evaluation.compare(run, run)


def test_a_run_that_should_have_a_score_and_has_no_arrays_of_val_is_damaged():
    leave("10_net", ())
    with pytest.raises(FlowersError, match="10_net` is not what a run leaves"):
        predictions.load(Path("runs/10_net"))
