"""Photographs whose classes are known: of a folder, a CSV file, an archive, or of a dataset that `folder` made."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Literal, overload

import numpy as np

from flowerlib import data
from flowerlib.accelerator import tf
from flowerlib.config import FlowersError
from flowerlib.photos import archives, listing, names
from flowerlib.photos.folder import LISTING
from flowerlib.photos.listing import Reading
from flowerlib.tfrecords.records import Records

Split = Literal["train", "val", "test", "all"]
PREFERRED = ("test", "val", "train")  # a model has not seen the first, and has not been trained on the second


@dataclass(frozen=True)
class Labelled:
    """Photographs with their classes.

    Attributes:
        ids: `n` names, as text that can be written anywhere.
        labels: the names of their `n` classes.
        files: what `classification.classify` takes, `n` of them.
        split: the one they are of, or `all`.
        notes: what was recognized and what was left out, in sentences.
    """

    ids: list[str]
    labels: list[str]
    files: Sequence[Path] | Sequence[BinaryIO]
    split: str
    notes: list[str]


@contextmanager
def opened(
    source: Path, split: Split | None = None, reading: Reading | None = None, size: int = 192
) -> Iterator[Labelled]:
    """Yield the labelled photographs of a source; they can be read until the end of the block.

    Args:
        source: as in `listing.find`, an archive of such a folder, or a dataset in the competition's layout. The labels
            of a dataset's test split are those in its `files.csv`.
        split: the split to take, where the source has splits; by default test, where its labels are known, else val.
        reading: how to read the source, where it is not to be recognized.
        size: which of a dataset's sizes to take, in pixels; the next larger one where it is absent.

    Raises:
        FlowersError: as in `listing.find`, `archives.unpack` and `data.find`; the source has no such split, or nothing
            in it has a label.
    """
    if source.is_dir() and any(source.glob("tfrecords-jpeg-*")):
        yield _of_dataset(source, split, size)
    elif archives.is_archive(source):
        with TemporaryDirectory(prefix="flowerlib-") as temporary:
            archives.unpack(source, folder := Path(temporary, "unpacked"))
            yield _of_photographs(folder, source, split, reading or Reading())
    else:
        yield _of_photographs(source, source, split, reading or Reading())


def _of_photographs(folder: Path, source: Path, split: Split | None, reading: Reading) -> Labelled:
    if split == "all" and not folder.is_dir():
        reading = replace(reading, split="redo")  # so that no value in a column of splits matters
    found = listing.find(folder, reading, min_classes=1)
    labelled = [photograph for photograph in found.photographs if photograph.label]
    spelling = names.variants_note(names.variants([photograph.label for photograph in labelled]), reading.merge_names)
    notes = [note for note in found.notes if note != spelling]  # classes are matched with the model's by spelling
    notes = [note.replace("--split redo divides anew", "--split all takes all of them") for note in notes]
    if unlabelled := len(found.photographs) - len(labelled):
        notes.append(f"{unlabelled:,} photographs have no label and are left out.")
    chosen = _chosen_split(source, split, [photograph.split for photograph in labelled], notes)
    kept = [photograph for photograph in labelled if chosen in ("all", photograph.split)]
    ids, labels = [photograph.id for photograph in kept], [photograph.label for photograph in kept]
    return Labelled(ids, labels, [photograph.path for photograph in kept], chosen, notes)


def _chosen_split(source: Path, wanted: Split | None, splits: Sequence[str], notes: list[str]) -> str:
    """Return the split to take, of those that photographs have; an empty one is none."""
    there = [split for split in PREFERRED if split in splits]
    if wanted is None and there and "" in splits:
        notes.append("Some photographs have a split and others none: all are scored; --split test takes those of test.")
    if wanted == "all" or (wanted is None and (not there or "" in splits)):
        return "all"
    if wanted is None:
        notes.append(f"Of its splits {', '.join(there)}, {there[0]} is scored; --split chooses another, or all.")
        return there[0]
    if wanted not in there:
        told = f"has labels for {', '.join(there)} only" if there else "has no splits"
        raise FlowersError(f"`{source}` {told}; --split {wanted} needs photographs of that split")
    return wanted


def _of_dataset(source: Path, split: Split | None, size: int) -> Labelled:
    flowers = data.find(size, str(source), nearest=True)
    listed = _labels_of_test(source)
    notes: list[str] = []
    chosen = _chosen_split(source, split, [*(("test",) if listed else ()), "val", "train"], notes)
    ids, labels, images = [], [], []
    for each in PREFERRED if chosen == "all" else (chosen,):
        numbers, its_ids = data.labels_and_ids(flowers, each)
        records = Records(data.local_files(flowers, each))
        for position, (name, number) in enumerate(zip(its_ids.tolist(), numbers.tolist(), strict=True)):
            if label := listed.get(name, "") if each == "test" else flowers.classes[number]:
                ids.append(name)
                labels.append(label)
                images.append((records, position))
    if unlabelled := sum(flowers.count(each) for each in PREFERRED if chosen in ("all", each)) - len(ids):
        notes.append(f"{unlabelled:,} images of test have no label in {LISTING} and are left out.")
    return Labelled(ids, labels, _Images(images), chosen, notes)


def _labels_of_test(source: Path) -> dict[str, str]:
    """The labels of the test split by id, which only `files.csv` has; none where there is no such file."""
    if not (source / LISTING).exists():
        return {}
    try:
        with open(source / LISTING, newline="", encoding="utf-8") as file:
            rows = [(row["split"], row["id"], row["label"]) for row in csv.DictReader(file)]
    except (ValueError, KeyError, csv.Error) as error:
        raise FlowersError(f"`{source / LISTING}` is damaged ({error!r}); run `flowerlib folder` again") from None
    return {name: label for split, name, label in rows if split == "test" and label}


class _Images(Sequence[BinaryIO]):
    """The images of records, read when they are asked for."""

    def __init__(self, places: list[tuple[Records, int]]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> BinaryIO: ...
    @overload
    def __getitem__(self, index: slice) -> list[BinaryIO]: ...
    def __getitem__(self, index: int | slice) -> BinaryIO | list[BinaryIO]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        records, position = self.places[index]
        [record] = records.fetch(np.array([position]))
        return io.BytesIO(tf.train.Example.FromString(record).features.feature["image"].bytes_list.value[0])
