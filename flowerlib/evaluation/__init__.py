"""Evaluation: `statistics` of a dataset, `errors` of a model, `ensemble` of several, `comparison` of two.

`intervals` says how much a score would vary with other images,
`activation_maps` computes which places of an image support a class, `galleries` shows errors with them."""

from flowerlib.evaluation.activation_maps import ActivationMaps, activation_maps
from flowerlib.evaluation.comparison import Comparison, compare
from flowerlib.evaluation.ensemble import (
    agreement,
    aligned,
    average_row,
    cross_fitted,
    fit_weights,
    recap_table,
    selection_optimism,
    weighted_average,
)
from flowerlib.evaluation.errors import class_report, confused_pairs, most_confident_errors
from flowerlib.evaluation.galleries import error_gallery
from flowerlib.evaluation.intervals import bootstrap_intervals
from flowerlib.evaluation.statistics import (
    class_counts,
    colour_scores,
    colour_strips,
    count_cross_split_duplicates,
    image_table,
    load_images,
    near_duplicates,
    score_ignoring_rare,
)

__all__ = [
    "ActivationMaps",
    "Comparison",
    "activation_maps",
    "agreement",
    "aligned",
    "average_row",
    "bootstrap_intervals",
    "class_counts",
    "class_report",
    "colour_scores",
    "colour_strips",
    "compare",
    "confused_pairs",
    "count_cross_split_duplicates",
    "cross_fitted",
    "error_gallery",
    "fit_weights",
    "image_table",
    "load_images",
    "most_confident_errors",
    "near_duplicates",
    "recap_table",
    "score_ignoring_rare",
    "selection_optimism",
    "weighted_average",
]
