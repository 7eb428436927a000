"""Each notebook's .py and .ipynb are a pair, clean and short; nbmake runs them (`make notebooks`)."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.py"))


def cells(notebook):
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def test_the_series_is_whole():
    backbones = ["10_densenet201", "11_xception", "12_resnet152v2", "13_efficientnetb7", "14_efficientnetv2xl"]
    assert {
        "00_quickstart", "01_eda", "02_augmentation", "03_finetune", *backbones, "20_ensemble", "30_tpu_vs_gpu",
    } <= set(NAMES)  # fmt: skip
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_is_in_sync(name):
    source, paired = (jupytext.read(NOTEBOOKS / f"{name}{suffix}") for suffix in (".py", ".ipynb"))
    assert cells(paired) == cells(source), f"run: jupytext --to ipynb --update notebooks/{name}.py"


@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_is_valid_and_clean(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"jupytext", "kernelspec", "language_info"}
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_prose_comes_before_code(name):
    """A heading first, one cell of parameters at most, and more words than lines of code."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    assert re.match(r"# \w", notebook.cells[0].source)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = [line for cell in notebook.cells if cell.cell_type == "code" for line in cell.source.splitlines()]
    assert len(prose.split()) > 3 * len(code)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_beside_a_run_goes_where_its_record_says(name):
    """A run may have been left under another name than its configuration's: beside a longer one."""
    assert "run.config.folder" not in (NOTEBOOKS / f"{name}.py").read_text()
