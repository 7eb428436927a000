"""Evaluation: `statistics` of a dataset, `errors` of a model, `ensemble` of several, `comparison` of two.

`averages` has the ways to average several models (`stacking` one of them), `choice` scores the ways and chooses one.
`intervals` says how much a score would vary with other images, `calibration` how far probabilities are to be believed,
`activation_maps` computes which places of an image support a class, `galleries` shows errors with them."""

from flowerlib.evaluation.activation_maps import ActivationMaps, activation_maps
from flowerlib.evaluation.averages import WAYS, fit_weights
from flowerlib.evaluation.calibration import reliability_diagram
from flowerlib.evaluation.choice import Choice, choose
from flowerlib.evaluation.comparison import Comparison, compare, verdict
from flowerlib.evaluation.ensemble import (
    agreement,
    aligned,
    average_row,
    error_correlation,
    recap_table,
    selection_optimism,
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
    "WAYS",
    "ActivationMaps",
    "Choice",
    "Comparison",
    "activation_maps",
    "agreement",
    "aligned",
    "average_row",
    "bootstrap_intervals",
    "choose",
    "class_counts",
    "class_report",
    "colour_scores",
    "colour_strips",
    "compare",
    "confused_pairs",
    "count_cross_split_duplicates",
    "error_correlation",
    "error_gallery",
    "fit_weights",
    "image_table",
    "load_images",
    "most_confident_errors",
    "near_duplicates",
    "recap_table",
    "reliability_diagram",
    "score_ignoring_rare",
    "selection_optimism",
    "verdict",
]
