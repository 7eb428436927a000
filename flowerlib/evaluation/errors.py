"""Error analysis: scores of each class, confused pairs, the most confident errors."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from flowerlib.predictions import Predictions

pd.options.display.html.use_mathjax = False  # in the notebooks' tables: a class may be called Ba$$in


def class_report(predicted: Predictions, classes: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall, F1 and support of each class, the worst F1 first.

    Columns `class`, `precision`, `recall`, `f1` (in [0, 1], NaN where there is nothing to divide by) and `support`, the
    number of its images. Classes that are neither a label nor predicted are left out, as from macro F1.
    """
    table = predicted.confusion()
    right, support, taken = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    report = pd.DataFrame(
        {
            "class": list(classes),
            "precision": _ratio(right, taken),
            "recall": _ratio(right, support),
            "f1": _ratio(2 * right, support + taken),
            "support": support,
        }
    )
    return report[report["f1"].notna()].sort_values("f1", kind="stable", ignore_index=True)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def confused_pairs(predicted: Predictions, classes: Sequence[str], most: int = 10) -> pd.DataFrame:
    """Return the most confused pairs, worst first: columns `true`, `predicted` (names) and `count` (images)."""
    table = predicted.confusion()
    np.fill_diagonal(table, 0)
    worst = np.argsort(-table, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(worst[table.ravel()[worst] > 0], table.shape)
    names = np.array(classes)
    return pd.DataFrame({"true": names[rows], "predicted": names[columns], "count": table[rows, columns]})


def most_confident_errors(predicted: Predictions, classes: Sequence[str], most: int = 12) -> pd.DataFrame:
    """Return the wrong validation images, the most confident first (fastai: top losses).

    Columns `split`, `position` (in file order), `true`, `predicted` (names), `label` (of the prediction) and
    `probability` (of the wrong class).
    """
    probability = predicted.probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted.predicted != predicted.labels)
    wrong = wrong[np.argsort(-probability[wrong], kind="stable")[:most]]
    names = np.array(classes)
    return pd.DataFrame(
        {
            "split": "val",
            "position": wrong,
            "true": names[predicted.labels[wrong]],
            "predicted": names[predicted.predicted[wrong]],
            "label": predicted.predicted[wrong],
            "probability": probability[wrong],
        }
    )
