"""List the photographs of a dataset with their classes and splits: from folders, or from a CSV file."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from flowerlib.config import FlowersError
from flowerlib.photos import names, tables, tree
from flowerlib.photos.tree import ClassFrom

SplitRule = Literal["keep", "redo"]
MAX_TABLES_TOLD = 3
FORM = "a folder with a folder for each class, a CSV file of path,label, or a zip or tar file of such a folder"


@dataclass(frozen=True)
class Photograph:
    """A file and its class.

    Attributes:
        id: its path below the source folder, or the path as it stands in the CSV file, as printable text.
        path: where the file is.
        label: the name of its class; empty for a test image without one.
        split: the one it was given; empty if it is to be assigned.
    """

    id: str
    path: Path
    label: str
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """The photographs of a source, and sentences about what was recognized in it, and what was passed over."""

    photographs: list[Photograph]
    notes: list[str]


@dataclass(frozen=True)
class Reading:
    """How a source is to be read, where it is not to be recognized.

    Attributes:
        split: whether the splits that the source has are kept.
        class_from: of folders within each other, which is the class; recognized unless given.
        columns: of a CSV file, as in `tables.read`.
        root: of the paths in a CSV file; its own folder unless given.
        merge_names: whether names that differ only in case, spaces or Unicode form become one class.
    """

    split: SplitRule = "keep"
    class_from: ClassFrom | None = None
    columns: tuple[str, ...] = ()
    root: Path | None = None
    merge_names: bool = False


def find(source: Path, reading: Reading | None = None, min_classes: int = 2) -> Listing:
    """List the photographs of a folder or of a CSV file.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice. Files that are no
    pictures are passed over, and counted in the notes.

    Raises:
        FlowersError: the source does not exist, or is of another form; there are fewer than `min_classes` classes.
    """
    reading = reading or Reading()
    if not source.exists():
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(source)):
            raise FlowersError(f"`{source}` is an address; download it, then name the file or folder")
        raise FlowersError(f"`{source}` does not exist; name {FORM}")
    if not source.is_dir():
        return _listed(source, *_from_table(source, reading), reading, min_classes)
    try:
        return _listed(source, *_from_folder(source, reading), reading, min_classes)
    except FlowersError as error:
        tables = [f"`{tree.printable(str(path))}`" for path in islice(source.rglob("*.[ct]sv"), MAX_TABLES_TOLD)]
        hint = f"\nif {' or '.join(tables)} holds the labels, name that file" if tables else ""
        raise FlowersError(f"{error}{hint}") from None


def _listed(
    source: Path, photographs: list[Photograph], notes: list[str], reading: Reading, min_classes: int
) -> Listing:
    if reading.split == "redo":
        labelled = [replace(photograph, split="") for photograph in photographs if photograph.label]
        if unlabelled := len(photographs) - len(labelled):
            notes.append(f"{unlabelled:,} images of test have no label and are left out, as the splits are made anew.")
        photographs = labelled
    photographs = _with_sound_names(photographs, reading.merge_names, notes)
    if len(classes := {photograph.label for photograph in photographs} - {""}) < min_classes:
        told = f"`{source}` has {len(classes)} classes with pictures; it needs at least {min_classes}, as {FORM}"
        raise FlowersError("\n".join([told, *notes]))
    return Listing(photographs, notes)


def _from_folder(source: Path, reading: Reading) -> tuple[list[Photograph], list[str]]:
    found = tree.walk(source)
    places, notes = tree.classify(found.pictures, source, reading.class_from)
    photographs = []
    for place in places:
        name, label = tree.printable("/".join(place.parts)), tree.printable(place.label)
        photographs.append(Photograph(name, source.joinpath(*place.parts), label, place.split))
    return photographs, [*notes, *found.notes()]


def _from_table(source: Path, reading: Reading) -> tuple[list[Photograph], list[str]]:
    rows, notes = tables.read(source, reading.columns, reading.root, reading.split == "redo")
    return [Photograph(row.id, row.path, row.label, row.split) for row in rows], notes


def _with_sound_names(photographs: list[Photograph], merge: bool, notes: list[str]) -> list[Photograph]:
    """Give each class a name without odd spaces, and tell of those that differ in spelling only."""
    labels = [" ".join(photograph.label.split()) for photograph in photographs]
    if len(set(labels)) < len({photograph.label for photograph in photographs}):
        notes.append("Names of classes that differ in spaces only are one class.")
    chosen = names.variants([label for label in labels if label])
    if chosen:
        notes.append(names.variants_note(chosen, merge))
    if merge:
        labels = [chosen.get(label, label) for label in labels]
    for photograph, label in zip(photographs, labels, strict=True):
        if not label and photograph.split != "test":
            raise FlowersError(f"`{photograph.path.parent}` has a name of spaces only; rename it")
    if repeated := [name for name, count in Counter(photograph.id for photograph in photographs).items() if count > 1]:
        raise FlowersError(f"two files are called `{repeated[0]}` once their names are printed; rename one")
    return [replace(photograph, label=label) for photograph, label in zip(photographs, labels, strict=True)]
