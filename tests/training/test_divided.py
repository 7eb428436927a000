"""Whole runs on parts of the labelled images, and on all of them: from parameters to files."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny

from flowerlib import augmentation, data, evaluation, figures, predictions, training
from flowerlib.cli import listing
from flowerlib.config import FlowersError
from flowerlib.photos import classification
from flowerlib.series import execution, page
from flowerlib.training import features, loop

PARAMETERS = {"NAME": "03_tiny", "BACKBONE": "EfficientNetLite0", "IMAGE_SIZE": 24, "BATCH_SIZE": 8, "EPOCHS": 2}
SCORE = re.compile(r"\bval_(loss|accuracy|macro_f1|ece)")


def start(**parameters):
    return training.start(PARAMETERS | {"SHRINK": False, "PEAK_LR": 0.05} | parameters)


def fit(run):
    model = tiny.network(4, image_size=None, seed=run.config.seed)
    model.compile(training.optimizer(run), training.loss(run), metrics=["accuracy"])
    return model, training.fit(run, model, training.train_batches(run, augmentation.IDENTITY), verbose=0)


def whole_run(**parameters):
    """What the notebooks that fine-tune do."""
    run = start(**parameters)
    model, history = fit(run)
    val, test = training.predict(run, model)
    record = training.save(run, model, history, val, test)
    report = evaluation.class_report(val, run.classes)
    report.to_csv(run.config.folder / "per_class.csv", index=False)
    figures.class_f1(report)
    figures.confusion_matrix(val.confusion(), run.classes)
    evaluation.error_gallery(run.flowers, val)
    evaluation.error_gallery(run.flowers, val, model)
    return run, model, record


@pytest.fixture(scope="module")
def runs(flowers, tmp_path_factory):
    """A folder with three folds, and their runs, models and records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place := tmp_path_factory.mktemp("folds"))
        patch.setenv("FLOWERS_DATA", flowers.root)
        return place, [whole_run(FOLD=number, FOLDS=3) for number in range(3)]


@pytest.fixture
def place(tmp_path, monkeypatch, flowers):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWERS_DATA", flowers.root)
    return tmp_path


def test_the_folds_lie_side_by_side_and_their_records_say_what_they_are(runs, flowers):
    folder, left = runs
    names = [f"03_tiny-fold-{number}" for number in range(3)]
    assert sorted(path.name for path in (folder / "runs").iterdir()) == names
    for number, (run, _, record) in enumerate(left):
        assert (record["name"], record["config"]["fold"], record["config"]["folds"]) == (names[number], number, 3)
        assert record["data"]["fingerprint"] != flowers.fingerprint
        assert record["data"]["train"] + record["data"]["val"] == 23 + 9
        with np.load(folder / f"runs/{names[number]}/predictions.npz") as arrays:
            assert arrays["val_ids"].tolist() == data.labels_and_ids(run.flowers, "val")[1].tolist()


def test_each_labelled_image_is_predicted_once_by_the_model_that_did_not_train_on_it(runs, flowers, monkeypatch):
    folder, left = runs
    monkeypatch.chdir(folder)
    [joined] = predictions.find_runs()
    place = {record_id: position for position, record_id in enumerate(joined.val.ids.tolist())}
    assert len(place) == len(joined.val.ids) == 32
    tests = []
    for run, model, _ in left:
        trained_on = set(data.labels_and_ids(run.flowers, "train")[1])
        for split in ("train", "val"):  # of the dataset as it is
            for images, labels, ids in data.eval_batches(flowers, split, 9).as_numpy_iterator():
                probabilities = np.asarray(model(images))
                for own, label, record_id in zip(probabilities, labels, ids, strict=True):
                    if record_id.decode() not in trained_on:
                        at = place.pop(record_id.decode())
                        np.testing.assert_allclose(joined.val.probabilities[at], own, atol=1e-5)
                        assert joined.val.labels[at] == label
        [(images, _, ids)] = data.eval_batches(run.flowers, "test", 9).as_numpy_iterator()
        tests.append(np.asarray(model(images)))
    assert place == {}
    np.testing.assert_allclose(joined.test.probabilities, np.mean(tests, axis=0), atol=1e-5)
    assert joined.test.ids.tolist() == [record_id.decode() for record_id in ids]


def test_a_set_of_folds_enters_the_recap(runs, monkeypatch):
    monkeypatch.chdir(runs[0])
    joined = evaluation.aligned(predictions.find_runs())
    [row] = evaluation.recap_table(joined).to_dict("records")
    assert row["name"] == "03_tiny-3-folds"
    assert row["val_accuracy"] == pytest.approx(np.mean(joined[0].val.predicted == joined[0].val.labels))


def test_a_fold_that_was_stopped_resumes_as_if_it_had_not_been(place, capsys, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole, undisturbed = fit(start(NAME="whole", FOLD=1, FOLDS=3))
    assert len(fit(start(FOLD=1, FOLDS=3, HOURS=0))[1]["loss"]) == 1
    resumed, history = fit(start(FOLD=1, FOLDS=3))
    assert "Resuming after epoch 1 (runs/03_tiny-fold-1/resume.npz)" in capsys.readouterr().out
    np.testing.assert_allclose(history["val_loss"], undisturbed["val_loss"], rtol=1e-4)
    for mine, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    (place / "runs/03_tiny-fold-2").mkdir()
    shutil.copy("runs/03_tiny-fold-1/resume.npz", "runs/03_tiny-fold-2/resume.npz")
    fit(start(FOLD=2, FOLDS=3, HOURS=0))
    assert "has other config, data, " in capsys.readouterr().out


def test_features_of_two_folds_do_not_mix(flowers, tmp_path):
    extractor = tiny.feature_extractor()
    extracted = []
    for number in (0, 1, 0):
        folded = data.fold(flowers, number, 3)
        extracted.append(features.extract(extractor, folded, "val", 4, folder=tmp_path, progress=False))
        images = np.concatenate([images for images, *_ in data.eval_batches(folded, "val", 4)])
        np.testing.assert_allclose(extracted[-1].values[0], np.asarray(extractor(images)), rtol=2**-9, atol=1e-2)
        assert extracted[-1].ids.tolist() == data.labels_and_ids(folded, "val")[1].tolist()
    assert extracted[0].values.filename == extracted[2].values.filename != extracted[1].values.filename


def test_the_name_of_a_run_says_its_fold_once():
    named = [
        training.configure(PARAMETERS | {"SHRINK": False} | given, tiny.CPU).name
        for given in ({}, {"FOLD": 4}, {"FOLD": 4, "NAME": "mine-fold-4"}, {"TRAIN_ON": "train+val"})
    ]
    assert named == ["03_tiny", "03_tiny-fold-4", "mine-fold-4", "03_tiny-train-val"]
    smoke = training.configure(PARAMETERS | {"FOLD": 0}, tiny.CPU)
    assert (smoke.name, smoke.submission.name) == ("03_tiny-fold-0-smoke-test", "submission_smoke_test.csv")


def test_the_executed_notebook_is_called_as_its_run(tmp_path):
    def name(given, own=None):
        [job] = execution._jobs(["03_finetune"], tmp_path, given, own)
        return job.name

    assert name(["FOLD=2"]) == "03_finetune-fold-2"
    assert name(["FOLD=2"], "mine") == "mine-fold-2"
    assert name(["TRAIN_ON=train+val"]) == "03_finetune-train-val"
    assert (name([]), name(["FOLDS=3"]), name([], "mine")) == ("03_finetune", "03_finetune", "mine")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"FOLD": 5}, r"`fold` \(=5\) must be one of 0 to `folds` - 1 \(=4\), or None"),
        ({"FOLD": -1}, r"`fold` \(=-1\) must be"),
        ({"FOLD": "two"}, r"`fold` \(=two\) must be"),
        ({"FOLD": 0, "FOLDS": 1}, r"`fold` \(=0\) must be one of 0 to `folds` - 1 \(=0\)"),
        ({"TRAIN_ON": "val"}, r"`train_on` \(='val'\) must be one of train, train\+val"),
        ({"TRAIN_ON": "train+val", "FOLD": 0}, r"`fold` \(=0\) needs `train_on` train"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(FlowersError, match=message):
        training.configure(PARAMETERS | given, tiny.TPU)


# Training on train and val


@pytest.fixture(scope="module")
def on_all(flowers, tmp_path_factory):
    """A folder with a run on train and val, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place := tmp_path_factory.mktemp("on-all"))
        patch.setenv("FLOWERS_DATA", flowers.root)
        run, model, record = whole_run(TRAIN_ON="train+val")
    return place, run, model, record


def test_a_run_on_train_and_val_leaves_no_score_in_any_file(on_all, capsys):
    place, _, _, record = on_all
    folder = place / "runs/03_tiny-train-val"
    (place / "index.html").write_text(page.index(place))
    files = [path for path in place.rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix in (".json", ".csv", ".html")]
    assert {path.name for path in texts} == {
        "run.json", "classes.json", "preprocessing.json", "submission.csv", "per_class.csv", "index.html",
    }  # fmt: skip
    assert [path.name for path in texts if SCORE.search(path.read_text())] == []
    assert "NaN" not in (folder / "run.json").read_text()
    assert SCORE.search(json.dumps(record)) is None
    assert record["best_epoch"] is None
    assert set(record["history"]) == {"loss", "accuracy", "seconds", "compiled", "planned_epochs"}
    with np.load(folder / "predictions.npz") as arrays:
        assert not [name for name in arrays if name.startswith("val")]
    assert (folder / "per_class.csv").read_text() == "class,precision,recall,f1,support\n"
    listing.show(place)
    assert re.search(r"03_tiny-train-val\s+none\s", capsys.readouterr().out)
    assert "<td>03_tiny-train-val</td><td>none</td><td>none</td>" in (place / "index.html").read_text()
    assert execution.score(folder / "run.json") == "   macro F1 on val none"


def test_it_was_trained_on_every_labelled_image_and_predicts_test(on_all, flowers):
    place, run, _, record = on_all
    assert (record["data"]["train"], record["data"]["val"], record["config"]["train_on"]) == (32, 0, "train+val")
    both = [data.labels_and_ids(flowers, split)[1].tolist() for split in ("train", "val")]
    assert data.labels_and_ids(run.flowers, "train")[1].tolist() == both[0] + both[1]
    rows = (place / "submission.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == data.labels_and_ids(flowers, "test")[1].tolist()
    assert classification.load(place / "runs/03_tiny-train-val").record["name"] == "03_tiny-train-val"


def test_its_curves_have_no_line_of_val(on_all):
    scores, losses = figures.curves(on_all[3]["history"]).axes
    labels = [line.get_label() for axes in (scores, losses) for line in axes.lines]
    assert labels == ["train", "kept: epoch 2", "train", "kept: epoch 2"]


def test_its_reliability_diagram_says_that_there_are_no_images(on_all):
    figure = evaluation.reliability_diagram(predictions.load(on_all[0] / "runs/03_tiny-train-val").val)
    assert [text.get_text() for text in figure.texts] == [figures.results.NO_IMAGES]


def test_its_headline_says_that_there_is_no_score(place, capsys):
    _, _, record = whole_run(TRAIN_ON="train+val")
    printed = capsys.readouterr().out.splitlines()
    assert "All labelled images are train, none is val: this run has no score." in printed
    assert printed[-1] == "03_tiny-train-val: trained on train and val, so without a score, after 2 epochs"
    assert record["complete"]


def test_the_time_for_its_final_predictions_is_reckoned_from_that_of_training(place):
    """By hand: two views of size 24 and two of 48 are 10 images of training, of which an epoch has 32 in 16 s."""
    run = start(TRAIN_ON="train+val", TTA_SIZES=(24, 48), TTA_FLIP=True)
    clock = loop._Clock()
    clock.without_compiling = 16.0
    ending = loop._EpochEnd(run, training.eval_batches(run, "val"), None, {}, clock)
    assert ending._final_seconds(validation=0.0) == pytest.approx(16.0 * 10 * 7 / 32)


def test_it_does_not_give_way_to_a_shorter_one(place):
    whole_run(TRAIN_ON="train+val")
    with pytest.raises(FlowersError, match=r"holds a longer run \(2 epochs of 32 images\), which this one of 1 epochs"):
        fit(start(TRAIN_ON="train+val", EPOCHS=1, WARMUP_EPOCHS=0))
