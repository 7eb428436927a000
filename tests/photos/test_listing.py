"""Sources of photographs: what is listed, what is said, and what is refused."""

import os

import pytest
from made_photographs import picture, touch

from flowerlib.config import FlowersError
from flowerlib.photos import listing
from flowerlib.photos.listing import Photograph, Reading


def test_a_folder_is_listed_by_class_without_hidden_files_and_in_order(source):
    found = listing.find(source)
    assert [photograph.id for photograph in found.photographs] == sorted(item.id for item in found.photographs)
    assert len(found.photographs) == 37
    [note] = found.notes
    assert note.startswith("There are folders within folders, such as `aster/more`: the first is taken for the class")
    for photograph in found.photographs:
        assert photograph.path == source / photograph.id
        assert photograph.label == photograph.id.split("/")[0]


def test_a_csv_file_is_listed_line_by_line_relative_to_its_folder(tmp_path):
    touch(tmp_path, "b/2.png", "a/1.png")
    (tmp_path / "in.csv").write_text("\ufeffpath,label\nb/2.png,rose\na/1.png, iris \n", encoding="utf-8")
    assert listing.find(tmp_path / "in.csv").photographs == [
        Photograph("b/2.png", tmp_path / "b/2.png", "rose"),
        Photograph("a/1.png", tmp_path / "a/1.png", "iris"),
    ]


def test_splits_are_kept_or_redone(tmp_path):
    touch(tmp_path, "train/rose/1.jpg", "train/iris/2.jpg", "val/rose/3.jpg", "test/4.jpg")
    kept = listing.find(tmp_path).photographs
    assert {item.id: (item.label, item.split) for item in kept} == {
        "train/rose/1.jpg": ("rose", "train"),
        "train/iris/2.jpg": ("iris", "train"),
        "val/rose/3.jpg": ("rose", "val"),
        "test/4.jpg": ("", "test"),
    }
    redone = listing.find(tmp_path, Reading(split="redo"))
    assert any(note.startswith("1 images of test have no label and are left out") for note in redone.notes)
    assert {item.id: (item.label, item.split) for item in redone.photographs} == {
        "train/rose/1.jpg": ("rose", ""),
        "train/iris/2.jpg": ("iris", ""),
        "val/rose/3.jpg": ("rose", ""),
    }


def test_names_that_differ_in_spelling_are_told_and_merged_if_asked(tmp_path):
    touch(tmp_path, "Rose/1.jpg", "rose/2.jpg", "rose/3.jpg", "iris/4.jpg")
    found = listing.find(tmp_path)
    assert {item.label for item in found.photographs} == {"Rose", "rose", "iris"}
    assert any("--merge-names makes them one" in note for note in found.notes)
    merged = listing.find(tmp_path, Reading(merge_names=True))
    assert [item.label for item in merged.photographs] == ["rose", "iris", "rose", "rose"]


def test_names_that_differ_in_spaces_only_are_one_class_and_told(tmp_path):
    touch(tmp_path, "red rose/1.jpg", "red  rose/2.jpg", "iris/3.jpg")
    found = listing.find(tmp_path)
    assert sorted(item.label for item in found.photographs) == ["iris", "red rose", "red rose"]
    assert found.notes == ["Names of classes that differ in spaces only are one class."]


def test_names_of_any_bytes_become_text(tmp_path):
    touch(tmp_path, "iris/1.jpg")
    folder = tmp_path / os.fsdecode(b"r\xf6schen")
    folder.mkdir()
    (folder / os.fsdecode(b"\xfc.jpg")).touch()
    (folder / "a\nb.jpg").touch()
    found = {item.id: item.label for item in listing.find(tmp_path).photographs}
    assert found == {"iris/1.jpg": "iris", r"r\xf6schen/\xfc.jpg": r"r\xf6schen", "r\\xf6schen/a\nb.jpg": r"r\xf6schen"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda source: None, "does not exist"),
        (lambda source: (source / "one").mkdir(parents=True), "has 0 classes.*\nNo picture is in `one`"),
        (lambda source: [(source / "one").mkdir(parents=True), picture(0).save(source / "one/a.png")], "has 1 classes"),
        (lambda source: [source.mkdir(), picture(0).save(source / "a.png")], "lies outside the folders of the classes"),
        (lambda source: touch(source, "rose/1.jpg", " /2.jpg"), "has a name of spaces only"),
        (lambda source: touch(source, "images/1.jpg", "train.csv"), r"\nif `\S+/in/train.csv` holds the labels, name "),
    ],
)
def test_a_folder_of_another_form_is_refused(tmp_path, make, message):
    make(tmp_path / "in")
    with pytest.raises(FlowersError, match=message):
        listing.find(tmp_path / "in")


def test_an_address_is_refused_by_name(tmp_path):
    with pytest.raises(FlowersError, match=r"`https:/example.org/a.zip` is an address; download it"):
        listing.find(tmp_path.__class__("https://example.org/a.zip"))
