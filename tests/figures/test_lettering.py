"""Names that people give: no markup in figures, no boxes, no warnings (which are errors here)."""

import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from flowerlib import figures
from flowerlib.figures import lettering

NAMES = (
    "Ba$$in",
    "[red]rose[/]",
    "<b>rose</b>",
    "a|b",
    r"$\frac{$",
    "a_b^c",
    "牡丹",
    "بنفسج",
    "🌹\ufe0f rose",
    "a\tb\u3000c",
)
NUM = len(NAMES)
IMAGES = np.zeros((NUM, 8, 8, 3), np.uint8)
DRAWN = {
    "gallery": lambda: figures.gallery(IMAGES, NAMES, marks=[True] * NUM),
    "rows": lambda: figures.rows(IMAGES[:, None], NAMES),
    "activation_maps": lambda: figures.activation_maps(IMAGES, np.ones((NUM, 2, 2)), NAMES),
    "class_counts": lambda: figures.class_counts({"train": np.arange(NUM)}, NAMES),
    "class_colours": lambda: figures.class_colours(np.zeros((NUM, 4, 3)), NAMES),
    "class_f1": lambda: figures.class_f1(pd.DataFrame({"class": NAMES, "f1": 0.5})),
    "confused_pairs": lambda: figures.confused_pairs(pd.DataFrame({"true": NAMES, "predicted": NAMES, "count": 1})),
    "confusion_matrix": lambda: figures.confusion_matrix(np.eye(NUM), NAMES),
    "similarity": lambda: figures.similarity(np.eye(NUM), NAMES, "agreement"),
    "weights": lambda: figures.weights(NAMES, [0.1] * NUM),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No test has the fonts that another one added."""
    with matplotlib.rc_context({"font.family": ["sans-serif"]}):
        lettering._can_draw.cache_clear()
        lettering._told.clear()
        yield
    lettering._can_draw.cache_clear()


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_shows_any_name(name):
    assert DRAWN[name]()._repr_png_().startswith(b"\x89PNG")


def test_dollars_are_drawn_as_they_are():
    """Twice the characters take about twice the room, which mathematics would not."""
    axes = figures.confusion_matrix(np.eye(2), ("$a$", "$a$$a$")).axes[0]
    axes.figure.draw_without_rendering()
    one, two = (label.get_window_extent().height for label in axes.get_xticklabels())
    assert two / one == pytest.approx(2, abs=0.2)


def test_what_no_font_has_becomes_its_code_point_and_that_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(lettering, "_families", tuple)
    assert lettering.legible("牡丹 peony") == "U+7261 U+4E39 peony"
    assert lettering.legible("peony牡") == "peony U+7261"
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("No installed font has 牡: figures show its code point, U+7261; a font such as ")


@pytest.mark.parametrize("text", ["rose", "Ölbaum", "Ba$$in", "x\ny", "шиповник", ""])
def test_what_the_font_has_stays_as_it_is(text, capsys):
    assert lettering.legible(text) == text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb", "a b"), ("a\u3000b", "a b"), ("a\x07b", "a U+0007 b"), ("a\udce9b", "a U+DCE9 b"),
        ("a\U000e0067b", "ab"), ("\U00013000", "U+13000"),
    ],
)  # fmt: skip
def test_characters_that_are_no_letters(text, shown, monkeypatch):
    monkeypatch.setattr(lettering, "_families", tuple)
    assert lettering.legible(text) == shown


@pytest.mark.parametrize("name", DRAWN)
def test_a_font_that_is_found_for_a_name_draws_it(name, monkeypatch, tmp_path):
    """In every text, also of axes that were made before; a glyph that is missing is a warning, an error here."""
    path = tmp_path / "names.ttf"
    make_font(path, "Names of flowers", [character for character in "".join(NAMES) if not character.isascii()])
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(path)
    monkeypatch.setattr(lettering, "_families", lambda: (("Names of flowers", str(path)),))
    assert DRAWN[name]()._repr_png_()
    assert matplotlib.rcParams["font.family"] == ["sans-serif", "Names of flowers"]


def test_a_font_that_has_the_character_is_taken(monkeypatch, tmp_path):
    """A font is made that has one ideograph, as this machine may have none."""
    path = tmp_path / "peony.ttf"
    make_font(path, "Peony Noto", "牡")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [str(path)])
    before = list(font_manager.fontManager.ttflist)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", before)
    lettering._families.cache_clear()
    try:
        has_already = any(0x7261 in FT2Font(font.fname).get_charmap() for font in before if "Last" not in font.name)
        assert lettering.legible("牡") == "牡"
        assert has_already or matplotlib.rcParams["font.family"] == ["sans-serif", "Peony Noto"]
        assert figures.gallery(IMAGES[:1], ["牡 rose"])._repr_png_()
    finally:
        lettering._families.cache_clear()


def make_font(path, family, characters):
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 800), (800, 800), (800, 0)):
        (pen.moveTo if point == (0, 0) else pen.lineTo)(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(character):X}" for character in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): f"u{ord(character):X}" for character in characters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)


def test_a_notebooks_kernel_draws_such_names_too():
    """As under IPython, whose inline backend may set matplotlib up again."""
    code = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell as Shell\n"
        "shell = Shell.instance()\n"
        "shell.run_cell('from flowerlib import figures\\nimport numpy as np')\n"
        "shell.run_line_magic('matplotlib', 'agg')\n"
        "figure = shell.run_cell(\"figures.confusion_matrix(np.eye(2), ('Ba$$in', '牡丹'))\").result\n"
        "assert figure._repr_png_()"
    )
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
