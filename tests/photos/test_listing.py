"""Folders and CSV files that are no dataset of photographs are refused, with the place and the remedy."""

import os

import pytest
from made_photographs import picture

from flowerlib.config import FlowersError
from flowerlib.photos import listing


def test_a_folder_is_listed_by_class_without_hidden_files_and_in_order(source):
    photographs = listing.find(source)
    assert [photograph.id for photograph in photographs] == sorted(photograph.id for photograph in photographs)
    assert len(photographs) == 37
    for photograph in photographs:
        assert photograph.path == source / photograph.id
        assert photograph.label == photograph.id.split("/")[0]


def test_a_csv_file_is_listed_line_by_line_relative_to_its_folder(tmp_path):
    (tmp_path / "in.csv").write_text("\ufeffpath,label\nb/2.png,rose\na/1.png, iris \n", encoding="utf-8")
    photographs = listing.find(tmp_path / "in.csv")
    assert photographs == [
        listing.Photograph("b/2.png", tmp_path / "b/2.png", "rose"),
        listing.Photograph("a/1.png", tmp_path / "a/1.png", "iris"),
    ]


def test_links_are_followed_and_no_folder_is_listed_twice(tmp_path):
    for label in ("rose", "iris"):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "1.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2.png").touch()
    os.symlink(tmp_path / "elsewhere", tmp_path / "in/rose/linked")
    os.symlink("..", tmp_path / "in/rose/upwards")
    ids = [photograph.id for photograph in listing.find(tmp_path / "in")]
    assert ids == ["iris/1.png", "rose/1.png", "rose/linked/2.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda source: None, "does not exist"),
        (lambda source: (source / "one").mkdir(parents=True), "has 0 classes"),
        (lambda source: [(source / "one").mkdir(parents=True), picture(0).save(source / "one/a.png")], "has 1 classes"),
        (lambda source: [source.mkdir(), picture(0).save(source / "a.png")], "lies outside the folders of the classes"),
    ],
)
def test_a_folder_of_another_form_is_refused(tmp_path, make, message):
    make(tmp_path / "in")
    with pytest.raises(FlowersError, match=message):
        listing.find(tmp_path / "in")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,\n", "line 2: .* needs a path and a label"),
        ("file,class\na.png,x\n", "line 2: .* needs a path and a label"),
        ("path,label\na.png,x\na.png,y\n", "line 3: a.png is listed in line 2 too"),
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path, text, message):
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(FlowersError, match=message):
        listing.find(tmp_path / "in.csv")
