"""Stratified splits without leakage: group near-duplicates, then assign whole groups to train, val and test.

The image table has one row per file: `id`, `label`, `note`, `broken` (the file cannot be read) and, once grouped,
`group`, the same number for files that are copies or near-duplicates of each other.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flowerlib import data
from flowerlib.config import FlowersError
from flowerlib.evaluation import statistics

MIN_PER_CLASS = 3  # groups that a class needs to have one in each split
NOTE_SIMILAR = "like "
NOTE_CONTRADICTION = ", which has another label"
NOTE_MISSING_SPLIT = "none of its class in "
NOTE_TOO_FEW = f"its class has fewer than {MIN_PER_CLASS} different photographs: train only"
MAX_EXCESS = 2  # a burst of more than so many times a split's share of the class does not go there


def group_near_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the column `group`; the note of each further member names the first one.

    Args:
        table: the columns `id`, `label`, `note`, `broken`, and of each image `digest` (of its pixels), `hash` and
            `mirrored` (64-bit perceptual hashes of the image and of its mirror image). Its index is 0, 1, ...
    """
    readable = table[~table["broken"]]
    pairs = [*_copies(readable), *_near_duplicates(readable)] if len(readable) else []
    group = data.connected_components(len(table), pairs)
    table = table.assign(group=group)
    for row in np.flatnonzero(group != np.arange(len(table))):
        first = group[row]
        labels = {table.loc[row, "label"], table.loc[first, "label"]} - {""}
        suffix = NOTE_CONTRADICTION if len(labels) > 1 else ""
        table.loc[row, "note"] = f"{NOTE_SIMILAR}{table.loc[first, 'id']}{suffix}"
    return table


def _copies(readable: pd.DataFrame) -> Iterable[tuple[int, int]]:
    """Pair each image with the first one that has the same pixels."""
    first = readable.reset_index().groupby("digest")["index"].transform("first").to_numpy()
    is_copy = first != readable.index.to_numpy()
    return zip(first[is_copy], readable.index[is_copy], strict=True)


def _near_duplicates(readable: pd.DataFrame) -> Iterable[tuple[int, int]]:
    """Pair the images whose perceptual hashes are close, one of them mirrored or not."""
    hashes = readable[["hash", "mirrored"]].assign(label=pd.factorize(readable["label"])[0], split="")
    pairs = statistics.near_duplicates(hashes, data.MAX_HASH_DISTANCE)
    return zip(pairs["left"], pairs["right"], strict=True)


def assign_splits(table: pd.DataFrame, val: float, test: float, seed: int) -> pd.Series:
    """Return each row's split, with no group in two splits; empty for broken files.

    A group goes where a hash of its content falls, so that other photographs do not change its split. Each class
    has about its shares, and at least one group in each split if it has three that are not much larger than such a
    share.

    Args:
        table: the columns `label`, `group`, `broken`, `content` (a digest of the file) and `given` (the split that a
            file has already, or empty).
        val: share of the images of each class; 0 where all of val is given.
        test: likewise.
        seed: another one gives other splits.

    Raises:
        FlowersError: val or test would be empty.
    """
    splits = pd.Series("", table.index)
    readable = table[~table["broken"]]
    shares = {"val": val, "test": test}
    for _, rows in readable.groupby(readable["group"].map(_label_of_group(table))):
        split_of = _split_class(_groups(rows), shares, seed)
        splits.update(rows["given"].where(rows["given"] != "", rows["group"].map(split_of)))
    if empty := [split for split in ("val", "test") if split not in set(splits)]:
        raise FlowersError(
            f"no image is left for {empty[0]}: no class has {MIN_PER_CLASS} different photographs, or too many are "
            "near-duplicates; add photographs"
        )
    return splits


def _label_of_group(table: pd.DataFrame) -> pd.Series:
    """Return the class that a group counts for: that of its first file with one; empty where none has."""
    readable = table[~table["broken"]]
    return readable["label"].replace("", pd.NA).groupby(readable["group"]).first().fillna("")


@dataclass(frozen=True)
class _Group:
    """Near-duplicates: their number, the digest they are known by, and the split that one of them has already."""

    number: int
    size: int
    content: bytes
    given: str

    def hash(self, seed: int, purpose: str = "split") -> float:
        """Return a number in [0, 1) that depends on the content alone."""
        digest = hashlib.sha256(f"{seed}/{purpose}/".encode() + self.content).digest()
        return int.from_bytes(digest[:8]) / 2**64


def _groups(rows: pd.DataFrame) -> list[_Group]:
    groups = []
    for number, members in rows.groupby("group"):
        given = [split for split in members["given"] if split]
        groups.append(_Group(int(number), len(members), min(members["content"]), given[0] if given else ""))
    return groups


def _split_class(groups: list[_Group], shares: dict[str, float], seed: int) -> dict[int, str]:
    """Return the split of each group of one class; a class with too few groups goes to train.

    A burst that is much larger than the share of a split does not go there.

    Args:
        groups: of the class.
        shares: of val and test.
        seed: of the hash.
    """
    count = sum(group.size for group in groups)
    split_of, free = {group.number: group.given or "train" for group in groups}, [g for g in groups if not g.given]
    if len(groups) < MIN_PER_CLASS:
        return split_of
    most = {split: max(1.0, MAX_EXCESS * share * count) for split, share in shares.items()}
    for group in free:
        position = group.hash(seed)
        split = "test" if position < shares["test"] else "val" if position < sum(shares.values()) else "train"
        split_of[group.number] = split if group.size <= most.get(split, count) else "train"
    for split in ("val", "test", "train"):
        if split not in split_of.values() and shares.get(split, 1.0) > 0:
            _fill_empty_split(split, most.get(split, count), free, split_of, seed)
    return split_of


def _fill_empty_split(split: str, max_images: float, free: list[_Group], split_of: dict[int, str], seed: int) -> None:
    """Move one group that another split can spare to an empty one, unless each has more than `max_images`."""
    num_groups = Counter(split_of.values())
    spare = [group for group in free if num_groups[split_of[group.number]] > 1 and group.size <= max_images]
    if spare:
        split_of[min(spare, key=lambda group: group.hash(seed, split)).number] = split


def count_leaks(table: pd.DataFrame) -> int:
    """Return how many images of val and test are near-duplicates of an image of another split, as they were given."""
    readable = table[~table["broken"]]
    num_splits = readable.groupby("group")["split"].transform("nunique")
    return int(((num_splits > 1) & (readable["split"] != "train")).sum())


def note_missing_splits(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a note at each image whose class is missing from val or test, where these have labels."""
    table = table.copy()
    num_groups = _label_of_group(table).value_counts()
    labelled = table[~table["broken"] & (table["label"] != "")]
    splits = [split for split in ("val", "test") if split in set(labelled["split"])]
    for label, rows in labelled.groupby("label"):
        missing = [split for split in splits if split not in set(rows["split"])]
        note = f"{NOTE_MISSING_SPLIT}{' or '.join(missing)}"
        if len(missing) == 2 and num_groups.get(label, 0) < MIN_PER_CLASS:
            note = NOTE_TOO_FEW
        table.loc[rows.index[(rows["note"] == "") & bool(missing)], "note"] = note
    return table
