"""Draw the figures of README and docs/results.md: `python docs/figures.py SAMPLE_OUT REAL_OUT`.

SAMPLE_OUT and REAL_OUT are output folders of `flowerlib run 00_quickstart`, on the built-in sample and on photographs.
Of the photographs nothing is drawn but scores: they may not be redistributed.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from flowerlib import data, evaluation, figures, predictions
from flowerlib.config import sample_dir

DOCS = Path(__file__).parent
NUM_RIGHT, NUM_WRONG = 8, 4


def sample_predictions(out: Path) -> None:
    """Draw the first validation image of a few classes that the quickstart has right, and its most confident errors."""
    run = predictions.load(out / "runs/00_quickstart")
    names, predicted = np.array(run.classes), run.val.predicted
    right = np.flatnonzero(predicted == run.val.labels)
    _, first = np.unique(run.val.labels[right], return_index=True)
    right = right[first][:: max(len(first) // NUM_RIGHT, 1)][:NUM_RIGHT]
    wrong = evaluation.most_confident_errors(run.val, run.classes, NUM_WRONG)["position"]
    shown = pd.DataFrame({"split": "val", "position": np.concatenate([right, wrong])})
    at = shown["position"].to_numpy()
    probabilities = run.val.probabilities.max(axis=1)[at]
    titles = [
        f"{names[label]} {100 * probability:.0f}\N{NO-BREAK SPACE}%"
        + ("" if label == true else f" / true: {names[true]}")
        for label, true, probability in zip(predicted[at], run.val.labels[at], probabilities, strict=True)
    ]
    images = evaluation.load_images(data.find(path=str(sample_dir())), shown)
    marks = predicted[at] != run.val.labels[at]
    figures.gallery(images, titles, marks=marks).savefig(DOCS / "sample.png", dpi=80)
    with Image.open(DOCS / "sample.png") as image:  # 256 colours: half the size
        image.convert("RGB").quantize(256).save(DOCS / "sample.png", optimize=True)


def real_scores(out: Path) -> None:
    """Draw the training curves and the worst classes of the quickstart on photographs."""
    run = predictions.load(out / "runs/00_quickstart")
    figures.curves(run.record["history"]).savefig(DOCS / "quickstart-curves.png", dpi=80)
    figures.class_f1(evaluation.class_report(run.val, run.classes)).savefig(DOCS / "quickstart-classes.png", dpi=80)


if __name__ == "__main__":
    sample_predictions(Path(sys.argv[1]))
    real_scores(Path(sys.argv[2]))
