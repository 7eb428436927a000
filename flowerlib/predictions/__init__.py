"""Predictions: a model runs over a split, its probabilities are kept, scored and submitted.

Read `inference` first, then `metrics`, `results` and `submission`; `finding` finds the runs that are here, and
`out_of_fold` joins those of a cross-validation.
"""

from flowerlib.predictions.finding import find_runs
from flowerlib.predictions.inference import Predictions, average_views, iterate_outputs, predict
from flowerlib.predictions.results import RunResult, load, save
from flowerlib.predictions.submission import write_submission

__all__ = [
    "Predictions",
    "RunResult",
    "average_views",
    "find_runs",
    "iterate_outputs",
    "load",
    "predict",
    "save",
    "write_submission",
]
