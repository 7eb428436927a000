"""The dataset: found, checked, and turned into batches of images.

Read `dataset` first, then `batches`; `decoding` and `integrity` say what becomes of each record, `storage` how
files elsewhere are read. Batches are images `(B, S, S, 3)` uint8 in [0, 255] with labels and ids.
"""

from flowerlib.data.batches import (
    NUM_PARALLEL_CALLS,
    PREFETCH,
    Augment,
    Mix,
    decode_utf8,
    eval_batches,
    fitting_batch_size,
    inverse_frequencies,
    labels_and_ids,
    prefetch,
    shuffled_positions,
    train_batches,
    with_mirror_images,
)
from flowerlib.data.dataset import SPLITS, Flowers, find, local_files
from flowerlib.data.decoding import FEATURES, resize
from flowerlib.data.integrity import check

__all__ = [
    "FEATURES",
    "NUM_PARALLEL_CALLS",
    "PREFETCH",
    "SPLITS",
    "Augment",
    "Flowers",
    "Mix",
    "check",
    "decode_utf8",
    "eval_batches",
    "find",
    "fitting_batch_size",
    "inverse_frequencies",
    "labels_and_ids",
    "local_files",
    "prefetch",
    "resize",
    "shuffled_positions",
    "train_batches",
    "with_mirror_images",
]
