"""Find the photographs in a folder: which files are pictures, which folders are classes, which are splits."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from flowerlib.config import FlowersError
from flowerlib.photos import formats

ClassFrom = Literal["top", "leaf", "path"]
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
JUNK_FOLDERS = ("@eadir", "#recycle", "$recycle.bin", "__macosx", "system volume information", "lost+found")
# Names of folders that divide a class, and name none: numbers, dates, and words for photographs.
GENERIC_NAME = re.compile(r"[\W\d_]*|(images?|imgs?|photos?|pictures?|pics?|jpe?gs?|pngs?)[\W\d_]*", re.IGNORECASE)


@dataclass
class Tree:
    """What lies below a folder.

    Attributes:
        pictures: their paths below it, in parts, sorted.
        passed_over: how many files are no pictures, by suffix.
        empty: visible folders without any picture below them.
        visited_again: links to folders that were listed before.
    """

    pictures: list[tuple[str, ...]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)
    visited_again: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What was left out, in sentences."""
        notes = []
        if self.passed_over:
            by_count = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in by_count)
            notes.append(f"{self.passed_over.total():,} files are no pictures and are passed over: {kinds}.")
        if self.empty:
            notes.append(f"No picture is in {listed(self.empty)}.")
        if self.visited_again:
            notes.append(f"Links to folders that are listed already are passed over: {listed(self.visited_again)}.")
        return notes


def printable(name: str) -> str:
    r"""Return a file's name as text that can be written anywhere; a byte that is no UTF-8 becomes such as `\xfc`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def file_name(text: str) -> str:
    """Return how Python spells the name of a file on this machine that `printable` returns as this text."""
    return os.fsdecode(text.encode())


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return names in one line, the first few of many."""
    names = [f"`{name}`" for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def walk(folder: Path) -> Tree:
    """List what lies below a folder; links are followed, but no folder is entered twice, and none that is hidden.

    Raises:
        FlowersError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise FlowersError(
            f"`{error.filename}` cannot be listed ({error.strerror}); give yourself the right to read it"
        )

    tree, visited, folders_seen = Tree(), set[str](), []
    for here, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        parts = Path(here).relative_to(folder).parts
        real_path = os.path.realpath(here)
        if real_path in visited:
            folders.clear()
            tree.visited_again.append(printable("/".join(parts)))
            continue
        visited.add(real_path)
        folders[:] = sorted(name for name in folders if not _is_hidden(name) and name.lower() not in JUNK_FOLDERS)
        folders_seen.append(parts)
        for name in sorted(names):
            if _is_hidden(name):
                continue
            if formats.is_picture(Path(here, name)):
                tree.pictures.append((*parts, name))
            else:
                tree.passed_over[Path(name).suffix.lower() or "without suffix"] += 1
    tree.pictures.sort()
    filled = {parts[:depth] for parts in tree.pictures for depth in range(len(parts))}
    tree.empty = [printable("/".join(parts)) for parts in folders_seen if parts and parts not in filled]
    return tree


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Place:
    """What the folders of a picture say.

    Attributes:
        parts: of its path below the source.
        label: its class; empty for a test image without one.
        split: `train`, `val` or `test`; empty where the folders say nothing.
    """

    parts: tuple[str, ...]
    label: str
    split: str = ""


def classify(
    pictures: list[tuple[str, ...]], source: Path, class_from: ClassFrom | None = None
) -> tuple[list[Place], list[str]]:
    """Return class and split of each picture by the folders that it lies in, and sentences about what was recognized.

    The common forms are recognized: a folder for each class; folders for the splits around or within those of the
    classes, and a `test` without classes; folders within classes; one folder around it all.

    Args:
        pictures: their paths in parts, as in `Tree`.
        source: the folder they lie in, for messages.
        class_from: which of several folders within each other is the class: the `top` one, the `leaf`, or the whole
            `path`; recognized unless given.

    Raises:
        FlowersError: a picture lies in no folder of a class.
    """
    notes: list[str] = []
    around = _folder_around(pictures) if class_from is None else 0
    if around:
        wrapper = "/".join(pictures[0][:around])
        notes.append(f"All of it lies in `{printable(wrapper)}`: the folders in there are the classes, or splits.")
    inner = [parts[around:-1] for parts in pictures]
    splits, inner, how = _splits(inner)
    if how:
        notes.append(f"The folders {how} are taken for the splits; --split redo divides anew.")
    label_of = _labelling(inner, class_from, notes)
    places = []
    for parts, folders, split in zip(pictures, inner, splits, strict=True):
        if not folders and split != "test":
            raise FlowersError(
                f"`{source / Path(*parts)}` lies outside the folders of the classes; move it into one, or away"
            )
        places.append(Place(parts, label_of(folders) if folders else "", split))
    return _without_labels_of_test(places, notes), notes


def _without_labels_of_test(places: list[Place], notes: list[str]) -> list[Place]:
    """Take the folders within `test` for no classes where none of them is one of train, such as `test/images`."""
    trained = {place.label.casefold() for place in places if place.split == "train"}
    tested = {place.label.casefold() for place in places if place.split == "test"} - {""}
    if not tested or tested & trained:
        return places
    notes.append("No folder within that of test is a class of train: images of test have no label.")
    return [replace(place, label="") if place.split == "test" else place for place in places]


def _folder_around(pictures: list[tuple[str, ...]]) -> int:
    """How many folders lie around all classes: those that every picture shares, but for a class and its file."""
    if not pictures:
        return 0
    around = 0
    while all(len(parts) > around + 2 for parts in pictures) and len({parts[around] for parts in pictures}) == 1:
        around += 1
    return around


def _splits(inner: list[tuple[str, ...]]) -> tuple[list[str], list[tuple[str, ...]], str]:
    """Return each picture's split, its folders without that of the split, and the names of the splits' folders."""
    for level in (0, 1):
        names = [folders[level] if len(folders) > level else "" for folders in inner]
        kinds = {SPLIT_NAMES.get(name.lower(), "") for name in names}
        if "" not in kinds and "train" in kinds and len(kinds) > 1:
            splits = [SPLIT_NAMES[name.lower()] for name in names]
            without = [folders[:level] + folders[level + 1 :] for folders in inner]
            return splits, without, listed(sorted(set(names)))
    return [""] * len(inner), inner, ""


def _labelling(
    inner: list[tuple[str, ...]], class_from: ClassFrom | None, notes: list[str]
) -> Callable[[tuple[str, ...]], str]:
    """Return what makes a class of the folders that a picture lies in."""
    deeper = [folders for folders in inner if len(folders) > 1]
    if class_from is None and deeper:
        class_from = _recognized(inner)
        notes.append(
            f"There are folders within folders, such as `{printable('/'.join(deeper[0]))}`: the "
            f"{'first' if class_from == 'top' else 'last'} is taken for the class; --class-from top, leaf or path "
            "says otherwise."
        )
    if class_from == "leaf":
        return lambda folders: folders[-1]
    return "/".join if class_from == "path" else lambda folders: folders[0]


def _recognized(inner: list[tuple[str, ...]]) -> ClassFrom:
    """`leaf` where the same names of classes stand in several folders, such as one for each source; else `top`."""
    labelled = sorted({folders for folders in inner if folders})
    if any(len(folders) < 2 for folders in labelled):
        return "top"
    leaves = Counter(folders[-1].lower() for folders in labelled)
    repeated = [name for name, count in leaves.items() if count > 1 and not GENERIC_NAME.fullmatch(name)]
    tops = [list(group) for _, group in groupby(labelled, key=lambda folders: folders[0])]
    return "leaf" if len(tops) > 1 and len(repeated) > 1 else "top"
