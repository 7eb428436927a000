"""A notebook whose source was changed is not run without the changes."""

import os
from codecs import BOM_UTF8

import jupytext
import nbformat
import pytest

from flowerlib.config import FlowersError
from flowerlib.series import notebooks, pairs

SOURCE = '# %% [markdown]\n# # A title\n\n# %% tags=["parameters"]\nEPOCHS = 3\n\n# %%\nprint(EPOCHS)\n'


@pytest.fixture
def pair(tmp_path):
    """A notebook made of its source; `age(seconds)` makes the notebook so much older or newer."""
    source, notebook = tmp_path / "00_a.py", tmp_path / "00_a.ipynb"
    source.write_text(SOURCE, encoding="utf-8")
    jupytext.write(jupytext.read(source, fmt="py:percent"), notebook, fmt="ipynb")

    def age(seconds):
        when = source.stat().st_mtime
        os.utime(notebook, (when - seconds, when - seconds))

    return source, notebook, age


@pytest.mark.parametrize("seconds", [-60, 60])
def test_a_pair_that_is_in_sync_may_have_any_age(pair, seconds, capsys):
    _, notebook, age = pair
    age(seconds)
    pairs.require_current([notebook])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("old", "new"),
    [("EPOCHS = 3", "EPOCHS = 4"), ("A title", "Another"), ('tags=["parameters"]', ""), ("# %%\nprint", "print")],
)
def test_a_source_that_was_changed_after_its_notebook_is_named_with_the_remedy(pair, old, new):
    source, notebook, age = pair
    source.write_text(SOURCE.replace(old, new), encoding="utf-8")
    age(60)
    with pytest.raises(
        FlowersError, match=rf"`{source}` is newer than its .ipynb.* jupytext --to ipynb --update {source}"
    ):
        pairs.require_current([notebook])


def test_a_notebook_that_was_changed_is_taken_and_that_is_said(pair, capsys):
    _, notebook, age = pair
    content = nbformat.read(notebook, as_version=4)
    content.cells[-1].source = "print(5)"
    nbformat.write(content, notebook)
    age(-60)
    pairs.require_current([notebook])
    assert capsys.readouterr().err == "00_a.ipynb has other cells than 00_a.py; the .ipynb is taken.\n"


def test_a_notebook_without_source_and_the_outputs_of_a_notebook_do_not_matter(pair, capsys):
    source, notebook, age = pair
    content = nbformat.read(notebook, as_version=4)
    content.cells[-1].outputs = [nbformat.v4.new_output("stream", text="3")]
    nbformat.write(content, notebook)
    age(60)
    pairs.require_current([notebook])
    source.unlink()
    pairs.require_current([notebook])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: BOM_UTF8 + content, "begins with a byte-order mark; save it as UTF-8 without one"),
        (lambda content: content.decode().encode("utf-16"), "is no notebook"),
        (lambda content: b"<<<<<<< HEAD\n" + content, "is no notebook"),
        (lambda content: content[:40], "is no notebook"),
        (lambda content: b"[]", "is no notebook"),
    ],
)
def test_what_is_no_notebook_is_named_in_one_line(pair, change, words):
    _, notebook, _ = pair
    notebook.write_bytes(change(notebook.read_bytes()))
    for call in (notebooks.read, lambda path: pairs.require_current([path])):
        with pytest.raises(FlowersError, match=words) as raised:
            call(notebook)
        assert "\n" not in str(raised.value)


def test_the_notebooks_of_the_series_are_in_sync(capsys):
    pairs.require_current(sorted(notebooks.NOTEBOOKS.glob("*.ipynb")))
    assert capsys.readouterr() == ("", "")
