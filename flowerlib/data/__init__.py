"""The dataset: found, checked, and turned into batches of images.

Read `dataset` first, then `batches`; `decoding` and `integrity` say what becomes of each record. Batches are images
`(B, S, S, 3)` uint8 in [0, 255] with labels and ids.
"""

from flowerlib.data.batches import (
    AHEAD,
    CALLS,
    Augment,
    Mix,
    ahead,
    eval_batches,
    mirrored,
    shuffled,
    texts,
    train_batches,
    truth,
)
from flowerlib.data.dataset import SPLITS, Flowers, find
from flowerlib.data.decoding import FEATURES, resize
from flowerlib.data.integrity import check

__all__ = [
    "AHEAD",
    "CALLS",
    "FEATURES",
    "SPLITS",
    "Augment",
    "Flowers",
    "Mix",
    "ahead",
    "check",
    "eval_batches",
    "find",
    "mirrored",
    "resize",
    "shuffled",
    "texts",
    "train_batches",
    "truth",
]
