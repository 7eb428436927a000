"""Where a model goes wrong: the pairs it confuses, and its most confident errors."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from flowerlib.predictions import Predictions, metrics


def confused_pairs(said: Predictions, classes: Sequence[str], most: int = 10) -> pd.DataFrame:
    """Return the most confused pairs, worst first: columns `true`, `predicted` (names) and `count` (images)."""
    table = metrics.confusion(said.labels, said.predicted, len(classes))
    np.fill_diagonal(table, 0)
    worst = np.argsort(-table, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(worst[table.ravel()[worst] > 0], table.shape)
    names = np.array(classes)
    return pd.DataFrame({"true": names[rows], "predicted": names[columns], "count": table[rows, columns]})


def most_confident_errors(said: Predictions, classes: Sequence[str], most: int = 12) -> pd.DataFrame:
    """Return the wrong validation images, the most_confident_errors first.

    Columns `split`, `position` (in file order), `true`, `predicted` (names) and `probability` (of the wrong class).
    """
    probability = said.probabilities.max(axis=1)
    wrong = np.flatnonzero(said.predicted != said.labels)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")[:most]]
    names = np.array(classes)
    return pd.DataFrame(
        {
            "split": "val",
            "position": wrong,
            "true": names[said.labels[wrong]],
            "predicted": names[said.predicted[wrong]],
            "probability": probability[wrong],
        }
    )
