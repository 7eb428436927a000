"""The 104 names, and what a dataset's own `classes.json` may and may not say."""

import hashlib
import json

import pytest

from flowerlib.config import FlowersError
from flowerlib.data.classes import CLASSES, parse


def test_the_names_are_the_competitions_in_its_label_order():
    # Worked out from a classes.json that came with data in the competition's labels, its trailing spaces stripped.
    names = hashlib.sha256("\n".join(CLASSES).encode()).hexdigest()
    assert names == "6639afd16c55b3f7f6e8f85b846d28f876675af3b6795cdccdeba0a84e66b069"
    assert {label: CLASSES[label] for label in (0, 49, 67, 103)} == {
        0: "pink primrose",
        49: "common dandelion",
        67: "iris",
        103: "wild rose",
    }


def test_there_are_104_different_names_without_spaces_around_them():
    assert len(CLASSES) == len(set(CLASSES)) == 104
    assert [name for name in CLASSES if name != name.strip()] == []


@pytest.mark.parametrize("names", [["rose", "tulip"], ["Röschen", "薔薇"], [f"class {label}" for label in range(1000)]])
def test_a_dataset_may_bring_any_number_of_names_from_two(names):
    assert parse(json.dumps(names, ensure_ascii=False).encode(), "classes.json") == tuple(names)


def test_spaces_around_a_name_are_dropped():
    assert parse(b'["rose ", " wild rose"]', "classes.json") == ("rose", "wild rose")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rose, tulip", "is not JSON"),
        ("", "is not JSON"),
        ('["Röschen", "tulip"]', "is not JSON"),  # in Latin-1, and JSON is UTF-8
        ('{"rose": 0, "tulip": 1}', "must be a JSON list"),
        ('["rose", 1]', "must be a JSON list of non-empty class names"),
        ('["rose", " "]', "must be a JSON list of non-empty class names"),
        ("[]", "has 0 class"),
        ('["rose"]', "has 1 class"),
        ('["rose", "tulip", "rose"]', "names a class twice: rose"),
        ('["rose", "tulip", "rose "]', "names a class twice: rose"),  # the same once stripped
    ],
)
def test_anything_else_is_one_line_that_names_the_file(text, complaint):
    with pytest.raises(FlowersError) as error:
        parse(text.encode("latin-1"), "gs://garden/classes.json")
    message = str(error.value)
    assert message.startswith("`gs://garden/classes.json`")
    assert complaint in message
    assert "\n" not in message
