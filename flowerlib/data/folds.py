"""Which of the labelled images, train and val together, to train on and which to judge by, instead of the splits' own.

`fold` is for cross-validation: as many trainings as there are folds predict every labelled image once, each with a
network that was not trained on it. `train_on_all` leaves no image to judge by.
"""

import hashlib
import json
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from flowerlib.config import FlowersError
from flowerlib.data import duplicates
from flowerlib.data.batches import decode_utf8, eval_batches
from flowerlib.data.dataset import LABELLED, Flowers

BATCH = 64  # images decoded at a time: 200 MB at 512 px


def fold(flowers: Flowers, number: int, folds: int, seed: int = 0) -> Flowers:
    """Return the dataset with one part of the labelled images as val and all others as train.

    The parts are stratified: each has its share of every class, as nearly as whole images allow. Near-duplicates, also
    of mirror images, are in one part. Every image is decoded once, to find them.

    Args:
        flowers: the dataset, in its own splits.
        number: of the part, from 0.
        folds: how many parts there are.
        seed: another one gives other parts; the same one the same.

    Raises:
        FlowersError: a part would be empty.
    """
    labels, ids, group = _labelled(flowers)
    part = assign(labels, ids, group, folds, seed)
    if empty := sorted({*range(folds)} - {*part.tolist()}):
        raise FlowersError(
            f"`folds` (={folds}) must be fewer: of {len(labels)} labelled images, near-duplicates counted once, none "
            f"is left for fold {empty[0]}"
        )
    return _select(flowers, part != number)


def train_on_all(flowers: Flowers) -> Flowers:
    """Return the dataset with all labelled images as train and none as val."""
    return _select(flowers, np.ones(len(_places(flowers)), bool))


def assign(labels: np.ndarray, ids: np.ndarray, group: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the part of each image, `(n,)`: groups go whole, in a random order but large ones first, each to the part
    with the fewest images of its class, and of all.

    Args:
        labels: `(n,)`; the class of a group is that of its first image.
        ids: `(n,)` strings, which with the seed decide the order.
        group: `(n,)`, the same number for images that must not be parted, as from `duplicates.groups`.
        folds: how many parts.
        seed: of the order.
    """
    members = {first: np.flatnonzero(group == first) for first in np.unique(group).tolist()}
    random = {first: hashlib.sha256(f"{seed}/{ids[first]}".encode()).digest() for first in members}
    counts = np.zeros((folds, labels.max() + 1), int)
    part = np.empty(len(labels), int)
    for first in sorted(members, key=lambda first: (-len(members[first]), random[first])):
        chosen = min(range(folds), key=lambda each: (counts[each, labels[first]], counts[each].sum()))
        part[members[first]] = chosen
        np.add.at(counts[chosen], labels[members[first]], 1)
    return part


def _labelled(flowers: Flowers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of all labelled images the labels, the ids, and the groups of near-duplicates, each `(n,)`."""
    parts = []
    with tqdm(desc="finding near-duplicates", total=len(_places(flowers)), leave=False) as bar:
        for split in LABELLED:
            for images, labels, ids in eval_batches(flowers, split, BATCH):
                parts.append((labels.numpy(), decode_utf8(ids.numpy()), *duplicates.perceptual_hashes(images)))
                bar.update(len(labels))
    labels, ids, hashes, mirrored = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, ids, duplicates.groups(hashes, mirrored)


def _places(flowers: Flowers) -> np.ndarray:
    """Return the places of the labelled images in the files of train, followed by those of val."""
    train, val = (np.arange(flowers.count(split)) for split in LABELLED)
    return np.concatenate([train, flowers.num_stored("train") + val])


def _select(flowers: Flowers, in_train: np.ndarray) -> Flowers:
    """Return the dataset with those labelled images as train, `(n,)` bool, and the others as val."""
    places = _places(flowers)
    selection = {"train": tuple(places[in_train].tolist()), "val": tuple(places[~in_train].tolist())}
    content = json.dumps([flowers.fingerprint, selection])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:12]
    return replace(flowers, selection=selection, fingerprint=fingerprint)
