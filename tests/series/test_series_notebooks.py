import json

import nbformat
import pytest

from flowerlib.config import FlowersError
from flowerlib.series import notebooks


@pytest.mark.parametrize("given", ["03_finetune", "03", "finetune", "03_finetune.ipynb", "notebooks/03_finetune.py"])
def test_a_notebook_is_known_by_its_name_its_number_its_word_and_its_file(given):
    assert notebooks.resolve(given) == "03_finetune"


def test_an_unknown_notebook_gets_a_suggestion_and_the_list():
    with pytest.raises(
        FlowersError, match=r"no notebook '03_finetun'; did you mean 03_finetune\? There are 00_quickstart"
    ):
        notebooks.resolve("03_finetun")


@pytest.mark.parametrize("name", notebooks.names())
def test_every_notebook_has_a_frame_and_parameters(name):
    assert set(notebooks.frame(name)) == {"goal", "device", "time", "expect"}
    assert notebooks.defaults(notebooks.NOTEBOOKS / f"{name}.ipynb")


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    source = "NAME = '00_a'  # a comment\nEPOCHS = 3\nRATE = 1e-3\nSIZES = (192, 224)\nEVAL_SIZE = None\nFLIP = True\n"
    source += "NETWORKS = ('A',)"
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "00_a.ipynb")
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    return "00_a"


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("EPOCHS=5", 5),
        ("RATE=2", 2.0),
        ("RATE=3e-4", 3e-4),
        ("SIZES=(128, 160)", (128, 160)),
        ("SIZES=[128]", (128,)),
        ("SIZES=128", (128,)),
        ("SIZES=128,160", (128, 160)),
        ("NETWORKS=B", ("B",)),
        ("NETWORKS=A,B", ("A", "B")),
        ("NETWORKS=('A', 'B')", ("A", "B")),
        ("EVAL_SIZE=256", 256),
        ("FLIP=False", False),
        ("NAME=a = b", "a = b"),
    ],
)
def test_values_get_the_type_of_the_default(notebook, given, value):
    [(_, found)] = notebooks.parameters(notebook, [given]).items()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("EPOCHS", "must be NAME=VALUE"),
        ("EPOCH=5", "has no parameter 'EPOCH'; did you mean EPOCHS\\? It has NAME, EPOCHS, RATE"),
        ("BACKBONE=B", "00_a has NETWORKS, one or more, in place of BACKBONE; pass -p NETWORKS=B"),
        ("EPOCHS=5.5", r"`EPOCHS` \(=5.5\) must be of the kind of its default, 3"),
        ("EPOCHS=True", "must be of the kind of its default, 3"),
        ("FLIP=maybe", "must be of the kind of its default, True"),
    ],
)
def test_a_slip_is_named(notebook, given, said):
    with pytest.raises(FlowersError, match=said):
        notebooks.parameters(notebook, [given])


def test_the_defaults_are_what_the_cell_assigns(notebook):
    found = notebooks.defaults(notebooks.NOTEBOOKS / "00_a.ipynb")
    assert json.loads(json.dumps(found)) == {
        "NAME": "00_a", "EPOCHS": 3, "RATE": 1e-3, "SIZES": [192, 224], "EVAL_SIZE": None, "FLIP": True,
        "NETWORKS": ["A"],
    }  # fmt: skip
