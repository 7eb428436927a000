import numpy as np

from flowerlib.evaluation import errors
from flowerlib.predictions import Predictions

NAMES = ("rose", "iris", "daisy")


def said(labels, predicted, sure):
    probabilities = np.full((len(labels), 3), 0.0)
    for row, (guess, share) in enumerate(zip(predicted, sure, strict=True)):
        probabilities[row] = (1 - share) / 2
        probabilities[row, guess] = share
    return Predictions(probabilities, np.array(labels), np.arange(len(labels)).astype(str))


def test_confused_pairs_by_hand():
    table = errors.confused_pairs(said([0, 0, 0, 1, 2, 2], [1, 1, 0, 0, 2, 2], [0.9] * 6), NAMES)
    assert table.to_dict("records") == [
        {"true": "rose", "predicted": "iris", "count": 2},
        {"true": "iris", "predicted": "rose", "count": 1},
    ]


def test_no_mistakes_no_rows():
    perfect = said([0, 1, 2], [0, 1, 2], [0.9] * 3)
    assert errors.confused_pairs(perfect, NAMES).empty
    assert errors.most_confident_errors(perfect, NAMES).empty


def test_the_surest_mistakes_come_first_and_name_their_place():
    table = errors.most_confident_errors(said([0, 1, 2, 0], [1, 1, 0, 2], [0.5, 0.99, 0.8, 0.6]), NAMES, most=2)
    assert table.to_dict("records") == [
        {"split": "val", "position": 2, "true": "daisy", "predicted": "rose", "probability": 0.8},
        {"split": "val", "position": 3, "true": "rose", "predicted": "daisy", "probability": 0.6},
    ]
