"""Predictions: a model runs over a split, its probabilities are kept, scored and submitted.

Read `inference` first, then `metrics`, `results` and `submission`.
"""

from flowerlib.predictions.inference import Predictions, average, outputs, predict
from flowerlib.predictions.results import RunOutput, find_runs, load, save
from flowerlib.predictions.submission import write_submission

__all__ = ["Predictions", "RunOutput", "average", "find_runs", "load", "outputs", "predict", "save", "write_submission"]
