"""A model scored on labelled photographs, held against scikit-learn and against the record of its run."""

import csv
import html
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from flowerlib.config import FlowersError
from flowerlib.photos import classification, evaluation_page, labelled, matching, scoring
from flowerlib.photos.listing import Reading
from flowerlib.predictions import calibrate, load, metrics


@pytest.fixture(scope="session")
def by_class(photographs_of_val, trained, tmp_path_factory):
    """The photographs of val in a folder for each class."""
    place, run = tmp_path_factory.mktemp("by_class"), load(trained)
    for name, label in zip(run.val.ids, run.val.labels, strict=True):
        (place / run.classes[label]).mkdir(exist_ok=True)
        shutil.copy(photographs_of_val / f"{name}.jpg", place / run.classes[label])
    return place


@pytest.fixture(scope="session")
def model(trained):
    return classification.load(trained)


def scores_of_val(run):
    """As the model gives them, but for the log loss, which is that of the calibrated probabilities."""
    return replace(run.val, probabilities=calibrate(run.val.probabilities, run.record["temperature"])).scores()


@pytest.fixture
def copied(by_class, tmp_path):
    return shutil.copytree(by_class, tmp_path / "photographs")


def test_the_scores_of_photographs_are_those_that_the_run_got_for_their_records(model, trained, by_class):
    found, run = scoring.evaluate(model, by_class), load(trained)
    expected = scores_of_val(run)
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found.split == "all"
    assert found.notes == []
    error = metrics.expected_calibration_error(found.predicted.labels, found.predicted.probabilities)
    assert evaluation_page.as_json(found)["ece"] == error


def test_the_table_of_classes_is_that_of_scikit_learn(model, by_class, tmp_path):
    found = scoring.evaluate(model, by_class)
    evaluation_page.write(found, tmp_path)
    truth, answers = found.predicted.labels, found.predicted.predicted
    expected = sk.precision_recall_fscore_support(truth, answers, labels=range(4), zero_division=0)
    with open(tmp_path / "classes.csv", newline="", encoding="utf-8") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    for label, name in enumerate(model.classes):
        values = [float(rows[name][key] or 0) for key in ("precision", "recall", "f1", "support")]
        assert values == pytest.approx([column[label] for column in expected], abs=1e-6)
    written = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert written["macro_f1"] == pytest.approx(sk.f1_score(truth, answers, average="macro"))
    assert written["confusion_matrix"]["counts"] == sk.confusion_matrix(truth, answers).tolist()
    low, high = written["accuracy_interval"]
    assert low <= written["accuracy"] <= high


def test_the_worst_mistakes_are_the_wrong_photographs_with_the_highest_probability(model, by_class):
    found = scoring.evaluate(model, by_class)
    predicted = found.predicted
    wrong = predicted.predicted != predicted.labels
    order = sorted(zip(-predicted.probabilities.max(axis=1)[wrong], predicted.ids[wrong], strict=True))
    assert [mistake.id for mistake in found.mistakes] == [name for _, name in order]
    for mistake in found.mistakes:
        assert mistake.id.startswith(f"{mistake.true}/")
        assert mistake.jpeg.startswith(b"\xff\xd8")


def test_a_zip_a_csv_and_a_folder_of_the_same_photographs_get_the_same_scores(model, by_class, tmp_path):
    archive = shutil.make_archive(tmp_path / "photographs", "zip", by_class)
    with open(tmp_path / "photographs.csv", "w", newline="", encoding="utf-8") as file:
        rows = [(path, path.parent.name) for path in sorted(by_class.glob("*/*.jpg"))]
        csv.writer(file).writerows([("path", "label"), *rows])
    first, *others = (
        scoring.evaluate(model, source).scores
        for source in (by_class, tmp_path / archive, tmp_path / "photographs.csv")
    )
    assert others == [first, first]


def test_the_test_split_of_a_dataset_has_its_labels_from_files_csv(model, flowers, trained, tmp_path):
    root, run = shutil.copytree(flowers.root, tmp_path / "dataset"), load(trained)
    assert scoring.evaluate(model, root).split == "val"  # no labels of test
    with pytest.raises(FlowersError, match="has labels for val, train only; --split test"):
        scoring.evaluate(model, root, split="test")
    labels = [model.classes[label] for label in run.test.predicted]
    rows = [(name, label, "test", "") for name, label in zip(run.test.ids, labels, strict=True)]
    rows[0] = (rows[0][0], "", "test", "")
    with open(root / "files.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label", "split", "note"), *rows])
    found = scoring.evaluate(model, root)
    assert (found.split, found.scores["accuracy"], len(found.predicted.ids)) == ("test", 1.0, 6)
    assert any("1 images of test have no label" in note for note in found.notes)
    scores = scoring.evaluate(model, root, split="val").scores
    expected = scores_of_val(run)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_photographs_that_the_model_was_trained_on_are_told(model, flowers):
    found = scoring.evaluate(model, Path(flowers.root), split="train")
    assert any("23 photographs have names of the model's training images" in note for note in found.notes)


def test_splits_in_a_folder_are_kept_apart(model, by_class, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(by_class, tmp_path / split)
    (tmp_path / "train/rose/more.jpg").write_bytes(next((tmp_path / "train/rose").iterdir()).read_bytes())
    found = scoring.evaluate(model, tmp_path)
    assert (found.split, len(found.predicted.ids)) == ("test", 9)
    assert any("test is scored" in note for note in found.notes)
    assert len(scoring.evaluate(model, tmp_path, split="all").predicted.ids) == 19
    with pytest.raises(FlowersError, match="has labels for test, train only; --split val"):
        scoring.evaluate(model, tmp_path, split="val")


def test_a_split_of_what_has_none_is_refused(model, by_class):
    with pytest.raises(FlowersError, match="has no splits; --split val needs"):
        scoring.evaluate(model, by_class, split="val")


def test_names_that_are_spelled_otherwise_are_matched_and_told():
    classes = ("common tulip", "Ölbaum", "rose", "Rose")
    matched, notes = matching.match_classes(["Common_Tulip", "O\u0308lbaum", "rose", "rose"], classes)
    assert matched == {"Common_Tulip": "common tulip", "O\u0308lbaum": "Ölbaum", "rose": "rose"}
    assert notes == [
        "Classes that the model spells otherwise: `Common_Tulip` is `common tulip`, `O\u0308lbaum` is `Ölbaum`."
    ]


def test_a_name_that_could_be_two_classes_is_none():
    with pytest.raises(FlowersError, match="the model has no class `ROSE`"):
        matching.match_classes(["ROSE"], ("rose", "Rose"))


def test_an_unknown_class_is_named_with_the_nearest_and_left_out_on_request(model, copied):
    (copied / "rose").rename(copied / "roses")
    with pytest.raises(
        FlowersError, match=r"no class `roses` \(\d photographs; is it `rose`\?\); rename .* --skip-unknown"
    ):
        scoring.evaluate(model, copied)
    found = scoring.evaluate(model, copied, skip_unknown=True)
    assert {reason for _, reason in found.left_out} == {"the model has no class `roses`"}
    assert len(found.left_out) + len(found.predicted.ids) == 9


def test_one_class_alone_is_scored_and_the_absent_ones_are_said(model, by_class, tmp_path):
    shutil.copytree(by_class / "rose", tmp_path / "photographs/rose")
    found = scoring.evaluate(model, tmp_path / "photographs")
    truth, answers = found.predicted.labels, found.predicted.predicted
    assert found.absent == ["daisy", "iris", "lotus"]
    assert found.scores["macro_f1"] == pytest.approx(sk.f1_score(truth, answers, average="macro", zero_division=0))
    alone = sk.f1_score(truth, answers, average=None, labels=[2])[0]
    assert found.scores["macro_f1_of_classes_there"] == pytest.approx(alone)
    [note] = [note for note in found.notes if note.startswith("No photograph is of 3 of the model's classes")]
    assert f"it is {alone:.4f}" in note or "None of them was predicted" in note


def test_pictures_that_cannot_be_read_are_named_and_left_out_on_request(model, copied):
    (copied / "rose/broken.jpg").write_bytes(b"no image")
    (copied / "rose/empty.png").write_bytes(b"")
    (copied / "rose/notes.txt").write_text("no picture", encoding="utf-8")
    with pytest.raises(
        FlowersError, match=r"(?s)2 of 11 photographs cannot be used:\n  `rose/broken.jpg` .*--skip-broken"
    ):
        scoring.evaluate(model, copied)
    found = scoring.evaluate(model, copied, skip_broken=True)
    assert [name for name, _ in found.left_out] == ["rose/broken.jpg", "rose/empty.png"]
    assert len(found.predicted.ids) == 9
    assert any("1 files are no pictures" in note for note in found.notes)


def test_where_nothing_is_left_that_is_an_error(model, tmp_path):
    (tmp_path / "rose").mkdir()
    (tmp_path / "rose/broken.jpg").write_bytes(b"no image")
    with pytest.raises(FlowersError, match="has no photograph to score: 1 are left out"):
        scoring.evaluate(model, tmp_path, skip_broken=True)


def test_test_images_without_a_label_are_counted(model, by_class, tmp_path):
    shutil.copytree(by_class, tmp_path / "train")
    shutil.copytree(by_class, tmp_path / "val")
    shutil.copytree(by_class / "rose", tmp_path / "test")
    with labelled.opened(tmp_path, reading=Reading()) as found:
        assert (found.split, len(found.ids)) == ("val", 9)
        assert f"{len(list((tmp_path / 'test').iterdir()))} photographs have no label and are left out." in found.notes


HOSTILE = ("Ba$$in", "[red]rose[/]", "<b>rose</b>", "a|b", "`x`", "${HOME}", "牡丹", "\u202eesor", "_a_*b*")


def hostile_evaluation(found, names):
    return replace(
        found, classes=names, source="<img src=x onerror=alert(1)>", notes=[f"note of {name}" for name in names]
    )


def parsed(page):
    """Return the tags of a page and its texts, in order."""
    tags, texts = [], []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)

        def handle_data(self, text):
            texts.append(text)

    Parser().feed(page)
    return tags, texts


@pytest.mark.parametrize("start", range(0, len(HOSTILE), 3))
def test_what_users_wrote_is_text_in_the_page_and_never_markup(model, by_class, start):
    names = (*HOSTILE[start : start + 3], "rose")
    found = scoring.evaluate(model, by_class)
    page = evaluation_page.page(hostile_evaluation(found, names))
    harmless = replace(hostile_evaluation(found, ("a", "b", "c", "d")), source="photographs")
    (tags, texts), (expected, _) = parsed(page), parsed(evaluation_page.page(harmless))
    assert set(tags) <= {*expected, "small"}  # in which code points stand
    for tag in ("img", "b", "red", "script"):
        assert tags.count(tag) == expected.count(tag)
    assert html.escape("<img src=x onerror=alert(1)>") in page
    for name in names:
        assert any(name in text for text in texts)


def test_the_page_needs_nothing_else(model, by_class):
    page = evaluation_page.page(scoring.evaluate(model, by_class))
    assert "http" not in page
    assert page.count('src="data:image/') == page.count("<img ")
    assert "<script" not in page


def test_a_source_whose_name_is_no_utf_8_has_a_page(model, by_class, tmp_path):
    source = shutil.copytree(by_class, tmp_path / os.fsdecode(b"caf\xe9"))
    (source / os.fsdecode(b"rose/\xff.jpg")).write_bytes(next((source / "rose").iterdir()).read_bytes())
    found = scoring.evaluate(model, source)
    evaluation_page.write(found, tmp_path / "out")
    assert "caf\\xe9" in (tmp_path / "out/evaluation.html").read_text("utf-8")
    assert "rose/\\xff.jpg" in (tmp_path / "out/predictions.csv").read_text("utf-8")
    names = replace(found, classes=("\udce9", *found.classes[1:]))
    evaluation_page.write(names, tmp_path / "out")
    assert "\\udce9" in (tmp_path / "out/classes.csv").read_text("utf-8")


def run_command(*arguments):
    command = [sys.executable, "-m", "flowerlib", "evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def test_the_command_prints_scores_and_leaves_a_page_and_json(trained, copied, tmp_path):
    done = run_command(copied, "--model", trained, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "out/evaluation.json").read_text("utf-8"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.html", "evaluation.json", "classes.csv", "predictions.csv",
    }  # fmt: skip
    (copied / "rose/broken.jpg").write_bytes(b"no image")
    done = run_command(copied, "--model", trained, "--out", tmp_path / "more")
    assert (done.returncode, done.stdout) == (1, "")
    assert "broken.jpg" in done.stderr
    assert not (tmp_path / "more").exists()


def test_a_photograph_of_any_form_is_cut_as_for_predict(model, tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("rose", (48, 96)), ("iris", (24, 24))):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / name / "1.png")
    found = scoring.evaluate(model, tmp_path)
    for name, probabilities in zip(found.predicted.ids, found.predicted.probabilities, strict=True):
        expected = model.probabilities(model.pixels(tmp_path / name)[None])[0]
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
