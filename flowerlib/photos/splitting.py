"""Stratified splits without leakage: group near-duplicates, then assign whole groups to train, val and test.

The image table has one row per file: `id`, `label`, `note`, `broken` (the file cannot be read) and, once grouped,
`group`, the same number for files that are copies or near-duplicates of each other.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from flowerlib.config import FlowersError
from flowerlib.evaluation import statistics

MAX_HASH_DISTANCE = 6  # of 64 bits: perceptual hashes of near-duplicates differ in no more, as measured in 01_eda
MIN_PER_CLASS = 3  # groups that a class needs to have one in each split
NOTE_SIMILAR = "like "
NOTE_MISSING_SPLIT = "none of its class in "
NOTE_TOO_FEW = f"its class has fewer than {MIN_PER_CLASS} different photographs: train only"
MAX_EXCESS = 2  # a split that has no group of a class gets one of at most so many times its share of the images


def group_near_duplicates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the column `group`; the note of each further member names the first one.

    Args:
        table: the columns `id`, `label`, `note`, `broken`, and of each image `digest` (of its pixels), `hash` and
            `mirrored` (64-bit perceptual hashes of the image and of its mirror image). Its index is 0, 1, ...
    """
    readable = table[~table["broken"]]
    pairs = [*_copies(readable), *_near_duplicates(readable)] if len(readable) else []
    group = _connected_components(len(table), pairs)
    table = table.assign(group=group)
    for row in np.flatnonzero(group != np.arange(len(table))):
        first = group[row]
        same_label = table.loc[row, "label"] == table.loc[first, "label"]
        suffix = "" if same_label else ", which has another label"
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
    pairs = statistics.near_duplicates(hashes, MAX_HASH_DISTANCE)
    return zip(pairs["left"], pairs["right"], strict=True)


def _connected_components(count: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """Return for each of `count` rows the smallest row that is linked to it by pairs (union-find)."""
    parent = np.arange(count)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for left, right in pairs:
        smaller, larger = sorted((root(left), root(right)))
        parent[larger] = smaller
    return np.array([root(row) for row in range(count)])


def assign_splits(table: pd.DataFrame, val: float, test: float, rng: np.random.Generator) -> pd.Series:
    """Return each row's split, stratified by class and with no group in two splits; empty for broken files.

    Args:
        table: the columns `label`, `group` and `broken`.
        val: share of the images of each class.
        test: likewise.
        rng: decides the order of groups of equal size, and between splits that lack equally many images.

    Raises:
        FlowersError: val or test would be empty.
    """
    splits = pd.Series("", table.index)
    readable = table[~table["broken"]]
    label_of_group = _label_of_group(table)
    sizes = readable["group"].value_counts()
    for label in sorted(label_of_group.unique()):
        groups = rng.permutation(label_of_group.index[label_of_group == label].to_numpy())
        groups = groups[np.argsort(-sizes[groups].to_numpy(), kind="stable")]
        group_sizes = dict(zip(groups.tolist(), sizes[groups].tolist(), strict=True))
        splits.update(readable["group"].map(_split_class(group_sizes, val, test, rng)).dropna())
    if empty := [split for split in ("val", "test") if split not in set(splits)]:
        raise FlowersError(
            f"no image is left for {empty[0]}: no class has {MIN_PER_CLASS} different photographs, or too many are "
            "near-duplicates; add photographs"
        )
    return splits


def _label_of_group(table: pd.DataFrame) -> pd.Series:
    """Return the class that a group counts for: that of its first file."""
    return table[~table["broken"]].groupby("group")["label"].first()


def _split_class(sizes: dict[int, int], val: float, test: float, rng: np.random.Generator) -> dict[int, str]:
    """Return the split of each group of one class; a class with too few groups goes to train.

    The largest group goes to train, each of the others to the split that lacks most images of its share.

    Args:
        sizes: group -> its number of images, the largest first.
        val: share of the images.
        test: likewise.
        rng: decides between splits that lack equally many images.
    """
    if len(sizes) < MIN_PER_CLASS:
        return dict.fromkeys(sizes, "train")
    split_of: dict[int, str] = {}
    count = sum(sizes.values())
    target = {"train": (1 - val - test) * count, "val": val * count, "test": test * count}
    deficit = {split: target[split] for split in rng.permutation(list(target)).tolist()}
    for group, size in sizes.items():
        split_of[group] = max(deficit, key=lambda split: round(deficit[split], 6)) if split_of else "train"
        deficit[split_of[group]] -= size
    for split in [split for split in deficit if split not in split_of.values()]:
        _fill_empty_split(split, MAX_EXCESS * target[split], sizes, split_of)
    return split_of


def _fill_empty_split(split: str, max_images: float, sizes: dict[int, int], split_of: dict[int, str]) -> None:
    """Move the smallest group that another split can spare to an empty one, unless it has more than `max_images`."""
    num_groups = Counter(split_of.values())
    smallest = min((group for group in sizes if num_groups[split_of[group]] > 1), key=sizes.__getitem__)
    if sizes[smallest] <= max(1, max_images):
        split_of[smallest] = split


def note_missing_splits(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a note at each image whose class is missing from val or test."""
    table = table.copy()
    num_groups = _label_of_group(table).value_counts()
    for label, rows in table[~table["broken"]].groupby("label"):
        missing = [split for split in ("val", "test") if split not in set(rows["split"])]
        note = f"{NOTE_MISSING_SPLIT}{' or '.join(missing)}: near-duplicates stay together"
        if len(missing) == 2 and num_groups.get(label, 0) < MIN_PER_CLASS:
            note = NOTE_TOO_FEW
        table.loc[rows.index[(rows["note"] == "") & bool(missing)], "note"] = note
    return table
