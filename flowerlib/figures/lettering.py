"""Letters in figures: what users wrote is never markup, and each character comes from a font that has it.

Matplotlib takes what stands between two dollars for mathematics, and draws a box for a character that its font lacks.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

matplotlib.rcParams["text.parse_math"] = False  # a class may be called Ba$$in; nothing here is mathematics

# Fonts whose glyphs are not those of Unicode, or are placeholders.
_UNSUITABLE = re.compile(r"cm[a-z]+10|STIX(NonUnicode|Size).*|Last ?Resort.*|\..*")
_LIKELY = re.compile(r"CJK|Noto|Unicode|Emoji|Symbol|WenQuanYi|IPA|Nanum|Hei|Song|Gothic", re.IGNORECASE)
_told: set[str] = set()  # characters that no font has, of which one line was printed


def legible(text: str) -> str:
    """Return a text that figures can show: a character that no installed font has becomes its code point, `U+7261`.

    The fonts that are needed join `font.family`, from which matplotlib takes what the first one lacks. The first time
    that there is none for a character, a line says so.
    """
    missing = {character for character in text if character != "\n" and not _can_draw(character)}
    if not missing:
        return text
    substitutes = {character: _substitute(character) for character in missing}
    _tell([character for character in text if substitutes.get(character, "").strip()])
    replaced = "".join(substitutes.get(character, character) for character in text)
    return re.sub(" {2,}", " ", replaced).strip(" ")


def _substitute(character: str) -> str:
    """The code point; for what only joins or turns others, nothing, and for a space, a space."""
    if character.isspace():
        return " "
    is_invisible = unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"
    return "" if is_invisible else f" U+{ord(character):04X} "


def _tell(characters: list[str]) -> None:
    if characters and not _told:
        print(
            f"No installed font has {characters[0]}: figures show its code point, U+{ord(characters[0]):04X}; a font "
            "such as Noto Sans CJK or Symbola helps."
        )
    _told.update(characters)


@cache
def _can_draw(character: str) -> bool:
    """Whether one of the fonts has a character; one that has it is added to those that are used."""
    if any(ord(character) in _charmap(path) for path in _used_files()):
        return True
    if character.isspace() or unicodedata.category(character)[0] == "C":
        return False
    for family, path in _families():
        if ord(character) in _charmap(path) and _draws(path, character):
            matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], family]
            return True
    return False


def _used_files() -> Iterator[str]:
    for family in matplotlib.rcParams["font.family"]:
        yield font_manager.findfont(font_manager.FontProperties(family=[family]))


@cache
def _families() -> tuple[tuple[str, str], ...]:
    """The installed families with the file of their regular font, those that have many characters first."""
    known = {Path(font.fname) for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():  # matplotlib's own list may be older than a font
        if Path(path) not in known:
            try:
                font_manager.fontManager.addfont(path)
            except Exception:  # fonts of pixels, such as of emoji, and damaged ones raise anything
                continue
    regular = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if (font.style, font.weight) == ("normal", 400) and not _UNSUITABLE.fullmatch(font.name)
    }
    return tuple(sorted(regular.items(), key=lambda font: (not _LIKELY.search(font[0]), font)))


@cache
def _charmap(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except Exception:  # as above
        return frozenset()


def _draws(path: str, character: str) -> bool:
    """Whether a font has an outline of a character; those of coloured emoji may have none."""
    try:
        font = FT2Font(path)
        font.set_size(12, 72)
        left, bottom, right, top = font.load_char(ord(character)).bbox
    except Exception:  # as above
        return False
    return right > left and top > bottom
