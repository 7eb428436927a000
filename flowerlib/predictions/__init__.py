"""Predictions: a model runs over a split, its probabilities are kept, scored and submitted.

Read `inference` first, then `metrics`, `calibration`, `results` and `submission`; `finding` finds the runs that are
here, and `out_of_fold` joins those of a cross-validation.
"""

from flowerlib.predictions.calibration import calibrate, cross_calibrated, fit_temperature
from flowerlib.predictions.finding import find_runs
from flowerlib.predictions.inference import Predictions, average_views, iterate_outputs, predict
from flowerlib.predictions.results import RunResult, load, save
from flowerlib.predictions.submission import write_submission

__all__ = [
    "Predictions",
    "RunResult",
    "average_views",
    "calibrate",
    "cross_calibrated",
    "find_runs",
    "fit_temperature",
    "iterate_outputs",
    "load",
    "predict",
    "save",
    "write_submission",
]
