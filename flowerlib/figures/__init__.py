"""Figures, one function each: they draw arrays and tables, and know nothing of the rest.

Read `style` first (colours, bars, the watermark), then any other; `lettering` has the fonts.
"""

from flowerlib.figures.dataset import class_colours, class_counts, file_sizes, ignored_classes
from flowerlib.figures.images import activation_maps, gallery, label_texts, lit_by_map, rows
from flowerlib.figures.lettering import legible
from flowerlib.figures.results import (
    class_f1,
    confused_pairs,
    confusion_matrix,
    recap,
    reliability,
    seconds_per_epoch,
    similarity,
    weights,
)
from flowerlib.figures.style import COLOURS, MARKED, TRAIN, VAL, Picture, watermark
from flowerlib.figures.training import curves, learning_rates

__all__ = [
    "COLOURS",
    "MARKED",
    "TRAIN",
    "VAL",
    "Picture",
    "activation_maps",
    "class_colours",
    "class_counts",
    "class_f1",
    "confused_pairs",
    "confusion_matrix",
    "curves",
    "file_sizes",
    "gallery",
    "ignored_classes",
    "label_texts",
    "learning_rates",
    "legible",
    "lit_by_map",
    "recap",
    "reliability",
    "rows",
    "seconds_per_epoch",
    "similarity",
    "watermark",
    "weights",
]
