"""Folders as people have them: which are classes, which are splits, and what is passed over."""

import os
from pathlib import Path

import pytest
from made_photographs import touch

from flowerlib.config import FlowersError
from flowerlib.photos import tree


def classified(*paths, class_from=None):
    """Return `label` or `split:label` of each path, and the notes."""
    pictures = sorted(tuple(path.split("/")) for path in paths)
    places, notes = tree.classify(pictures, Path("in"), class_from)
    found = {"/".join(place.parts): f"{place.split}:{place.label}".removeprefix(":") for place in places}
    return [found[path] for path in paths], notes


def test_a_folder_for_each_class():
    assert classified("rose/1.jpg", "iris/2.jpg") == (["rose", "iris"], [])


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("train", "valid", "test"),
        ("trn", "dev", "tst"),
    ],
)
def test_folders_of_splits_around_the_classes_are_kept_whatever_their_names(train, val, test):
    labels, [note] = classified(f"{train}/rose/1.jpg", f"{train}/iris/2.jpg", f"{val}/rose/2.jpg", f"{test}/iris/3.jpg")
    assert labels == ["train:rose", "train:iris", "val:rose", "test:iris"]
    told = ", ".join(f"`{name}`" for name in sorted([train, val, test]))
    assert note == f"The folders {told} are taken for the splits; --split redo divides anew."


def test_a_test_folder_may_have_no_classes():
    labels, _ = classified("train/rose/1.jpg", "train/iris/2.jpg", "test/3.jpg")
    assert labels == ["train:rose", "train:iris", "test:"]


def test_splits_within_the_classes_are_recognized_too():
    labels, _ = classified("rose/train/1.jpg", "rose/test/2.jpg", "iris/train/3.jpg")
    assert labels == ["train:rose", "test:rose", "train:iris"]


def test_a_class_called_train_is_a_class():
    assert classified("train/1.jpg", "bus/2.jpg", "car/3.jpg") == (["train", "bus", "car"], [])


def test_folders_around_it_all_are_looked_into():
    labels, [note] = classified("home/flowers/rose/1.jpg", "home/flowers/iris/2.jpg")
    assert labels == ["rose", "iris"]
    assert note == "All of it lies in `home/flowers`: the folders in there are the classes, or splits."
    labels, notes = classified("flowers/train/rose/1.jpg", "flowers/val/iris/2.jpg")
    assert labels == ["train:rose", "val:iris"]
    assert len(notes) == 2


@pytest.mark.parametrize("folder", ["images", "test", "unknown"])
def test_folders_within_test_that_are_no_classes_of_train_are_none(folder):
    paths = ("train/rose/1.jpg", "train/iris/2.jpg", "val/rose/3.jpg", f"test/{folder}/4.jpg", f"test/{folder}/5.jpg")
    labels, notes = classified(*paths)
    assert labels == ["train:rose", "train:iris", "val:rose", "test:", "test:"]
    assert notes[1:] == ["No folder within that of test is a class of train: images of test have no label."]


@pytest.mark.parametrize(
    ("paths", "labels", "which"),
    [
        (("rose/2024/1.jpg", "rose/2025/2.jpg", "iris/2024/3.jpg"), ["rose", "rose", "iris"], "first"),
        (("rose/images/1.jpg", "iris/images/3.jpg"), ["rose", "iris"], "first"),
        (("rose/more/1.jpg", "rose/2.jpg", "iris/more/3.jpg"), ["rose", "rose", "iris"], "first"),
        (("mine/rose/1.jpg", "mine/iris/2.jpg", "web/rose/3.jpg", "web/Iris/4.jpg"), None, "last"),
    ],
)
def test_of_folders_within_folders_the_class_is_recognized_and_told(paths, labels, which):
    found, [note] = classified(*paths)
    assert found == (labels or ["rose", "iris", "rose", "Iris"])
    assert f"the {which} is taken for the class; --class-from top, leaf or path says otherwise" in note


def test_the_class_can_be_named():
    paths = ("rosa/canina/1.jpg", "rosa/gallica/2.jpg", "iris/3.jpg")
    assert classified(*paths, class_from="leaf") == (["canina", "gallica", "iris"], [])
    assert classified(*paths, class_from="path") == (["rosa/canina", "rosa/gallica", "iris"], [])
    assert classified(*paths, class_from="top") == (["rosa", "rosa", "iris"], [])


def test_a_picture_outside_the_classes_is_named():
    with pytest.raises(FlowersError, match=r"`in/1.jpg` lies outside the folders of the classes; move it into one"):
        classified("1.jpg", "rose/2.jpg")
    with pytest.raises(FlowersError, match=r"`in/train/1.jpg` lies outside"):
        classified("train/1.jpg", "val/rose/2.jpg", "train/rose/3.jpg")


def test_junk_is_passed_over_and_counted_and_pictures_are_known_by_content_too(tmp_path):
    touch(tmp_path, "rose/1.jpg", "rose/@eaDir/1.jpg", "rose/.hidden/2.jpg", "rose/Thumbs.db", "rose/desktop.ini")
    touch(tmp_path, "README.txt", "labels.csv", "rose/1.xmp", "rose/2.XMP", "rose/film.mov", "empty/", "rose/old/")
    (tmp_path / "rose/photo").write_bytes(b"\xff\xd8\xff\xe0" + bytes(12))
    (tmp_path / "rose/photo.bak").write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    (tmp_path / "rose/notes").write_text("rose")
    os.mkfifo(tmp_path / "rose/pipe")
    found = tree.walk(tmp_path)
    assert found.pictures == [("rose", "1.jpg"), ("rose", "photo"), ("rose", "photo.bak")]
    assert found.passed_over == {".xmp": 2, ".txt": 1, ".csv": 1, ".mov": 1, "without suffix": 2}
    assert found.notes() == [
        "7 files are no pictures and are passed over: 2 .xmp, 2 without suffix, 1 .csv, 1 .mov, 1 .txt.",
        "No picture is in `empty`, `rose/old`.",
    ]


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, "in/rose/1.jpg", "in/iris/1.jpg", "elsewhere/2.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in/rose/linked")
    os.symlink("..", tmp_path / "in/rose/upwards")
    os.symlink("rose", tmp_path / "in/tulip")
    found = tree.walk(tmp_path / "in")
    assert found.pictures == [("iris", "1.jpg"), ("rose", "1.jpg"), ("rose", "linked", "2.jpg")]
    [note] = found.notes()
    assert note == "Links to folders that are listed already are passed over: `rose/upwards`, `tulip`."


def test_a_name_of_any_bytes_becomes_text():
    assert tree.printable(os.fsdecode(b"latin\xfc.jpg")) == r"latin\xfc.jpg"
    assert tree.printable("Ölbaum 花 🌹") == "Ölbaum 花 🌹"
