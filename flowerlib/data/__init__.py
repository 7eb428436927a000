"""The dataset: found, checked, and turned into batches of images.

Read `dataset` first, then `batches`; `decoding` and `integrity` say what becomes of each record, `storage` how
files elsewhere are read. `duplicates` finds near-duplicates, `folds` divides train and val anew. Batches are images
`(B, S, S, 3)` uint8 in [0, 255] with labels and ids.
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
    record_batches,
    shuffled_positions,
    train_batches,
    with_mirror_images,
)
from flowerlib.data.dataset import SPLITS, Flowers, find, local_files
from flowerlib.data.decoding import FEATURES, resize
from flowerlib.data.duplicates import MAX_HASH_DISTANCE, close_pairs, connected_components, perceptual_hashes
from flowerlib.data.folds import fold, train_on_all
from flowerlib.data.integrity import check

__all__ = [
    "FEATURES",
    "MAX_HASH_DISTANCE",
    "NUM_PARALLEL_CALLS",
    "PREFETCH",
    "SPLITS",
    "Augment",
    "Flowers",
    "Mix",
    "check",
    "close_pairs",
    "connected_components",
    "decode_utf8",
    "eval_batches",
    "find",
    "fitting_batch_size",
    "fold",
    "inverse_frequencies",
    "labels_and_ids",
    "local_files",
    "perceptual_hashes",
    "prefetch",
    "record_batches",
    "resize",
    "shuffled_positions",
    "train_batches",
    "train_on_all",
    "with_mirror_images",
]
