"""How far a model's probabilities can be taken at their word, before and after calibration."""

import numpy as np
from matplotlib.figure import Figure

from flowerlib import figures
from flowerlib.predictions import Predictions, cross_calibrated, metrics


def reliability_diagram(val: Predictions) -> Figure:
    """Show the reliability diagram of val before and after temperature scaling, each with its calibration error (ECE).

    Each image is calibrated with a temperature that was fitted without it. Without images the figure says so.
    """
    panels: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    if not len(val.labels):
        return figures.reliability(panels)
    for title, probabilities in (
        ("as the model gives them", val.probabilities),
        ("after temperature scaling", cross_calibrated(val.probabilities, val.labels)),
    ):
        error = metrics.expected_calibration_error(val.labels, probabilities)
        panels[f"{title}: ECE {error:.4f}"] = metrics.calibration_bins(val.labels, probabilities)
    return figures.reliability(panels)
