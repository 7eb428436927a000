"""Figures, one function each: they draw arrays and tables, and know nothing of the rest.

Read `style` first (colours, bars, the mark of a smoke test), then any other.
"""

from flowerlib.figures.dataset import class_colours, class_counts, file_sizes, ignored_classes
from flowerlib.figures.images import gallery, label_texts, rows
from flowerlib.figures.results import class_f1, confused_pairs, recap, seconds_per_epoch, weights
from flowerlib.figures.style import COLOURS, MARKED, TRAIN, VAL, Picture, mark_smoke_test
from flowerlib.figures.training import curves, learning_rate

__all__ = [
    "COLOURS",
    "MARKED",
    "TRAIN",
    "VAL",
    "Picture",
    "class_colours",
    "class_counts",
    "class_f1",
    "confused_pairs",
    "curves",
    "file_sizes",
    "gallery",
    "ignored_classes",
    "label_texts",
    "learning_rate",
    "mark_smoke_test",
    "recap",
    "rows",
    "seconds_per_epoch",
    "weights",
]
