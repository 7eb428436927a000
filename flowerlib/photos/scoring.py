"""Score a model on labelled photographs: accuracy, macro F1, the classes, the worst mistakes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from flowerlib import evaluation
from flowerlib.config import FlowersError
from flowerlib.photos import classification, labelled, matching, photo
from flowerlib.photos.classification import BATCH_SIZE, Classifier
from flowerlib.photos.labelled import Labelled, Split
from flowerlib.photos.listing import Reading
from flowerlib.photos.tree import listed, printable
from flowerlib.predictions import Predictions, metrics

MAX_ERRORS_SHOWN = 20
NUM_MISTAKES = 12
THUMBNAIL_SIZE = 224  # pixels, at most


@dataclass(frozen=True)
class Mistake:
    """A photograph that got a wrong class, with that class's probability, and itself as a small JPEG."""

    id: str
    true: str
    predicted: str
    probability: float
    jpeg: bytes


@dataclass(frozen=True)
class Evaluation:
    """What a model made of labelled photographs.

    Attributes:
        source: where they are.
        split: the one they are of, or `all`.
        record: of the run that trained the model.
        classes: of the model, in label order.
        predicted: the probabilities, with labels and ids.
        intervals: of 95 %, of `accuracy` and `macro_f1`.
        mistakes: the most confident ones, the most confident first.
        left_out: the photographs that are not scored, each with the reason.
        notes: what else is to be known, in sentences.
    """

    source: str
    split: str
    record: dict
    classes: tuple[str, ...]
    predicted: Predictions
    intervals: dict[str, tuple[float, float]]
    mistakes: list[Mistake]
    left_out: list[tuple[str, str]]
    notes: list[str]

    @property
    def scores(self) -> dict[str, float]:
        """`loss`, `accuracy`, `macro_f1`, `macro_f1_of_classes_there`: over those with photographs alone, and `ece`."""
        predicted = self.predicted
        f1 = metrics.f1_scores(predicted.labels, predicted.predicted, len(self.classes))
        return predicted.scores() | {
            "macro_f1_of_classes_there": float(f1[np.unique(predicted.labels)].mean()),
            "ece": metrics.expected_calibration_error(predicted.labels, predicted.probabilities),
        }

    @property
    def absent(self) -> list[str]:
        """The model's classes that no photograph has."""
        there = set(self.predicted.labels.tolist())
        return [name for label, name in enumerate(self.classes) if label not in there]

    @property
    def class_report(self) -> pd.DataFrame:
        """As from `evaluation.class_report`."""
        return evaluation.class_report(self.predicted, self.classes)

    def confusion(self) -> tuple[np.ndarray, list[str]]:
        """The confusion matrix of the classes that photographs have or got, and the names of these classes."""
        table = self.predicted.confusion()
        involved = np.flatnonzero(table.sum(axis=0) + table.sum(axis=1))
        return table[np.ix_(involved, involved)], [self.classes[label] for label in involved]

    def __str__(self) -> str:
        return "\n".join([self.headline(), *self.notes])

    def headline(self) -> str:
        """The scores with their intervals, in two lines."""
        accuracy, macro_f1 = (
            f"{self.scores[name]:.4f} ({self.intervals[name][0]:.4f} to {self.intervals[name][1]:.4f})"
            for name in ("accuracy", "macro_f1")
        )
        num_there = len(self.classes) - len(self.absent)
        which = "" if self.split == "all" else f", {self.split}"
        lines = [
            f"`{self.source}`{which}: {len(self.predicted.labels):,} photographs of {num_there} of the model's "
            f"{len(self.classes)} classes",
            f"accuracy {accuracy}, macro F1 {macro_f1}; in brackets 95 % intervals, bootstrap",
        ]
        return "\n".join(lines)


def evaluate(
    classifier: Classifier,
    source: Path,
    *,
    split: Split | None = None,
    reading: Reading | None = None,
    skip_broken: bool = False,
    skip_unknown: bool = False,
) -> Evaluation:
    """Classify labelled photographs and score the answers, with a progress bar on stderr.

    Args:
        classifier: the model.
        source: as in `labelled.opened`.
        split: likewise.
        reading: likewise.
        skip_broken: whether to leave out pictures that cannot be read, instead of stopping.
        skip_unknown: whether to leave out photographs of classes that the model does not have, instead of stopping.

    Raises:
        FlowersError: as in `labelled.opened`; pictures cannot be read; the model lacks a class; nothing is left.
    """
    with labelled.opened(source, split, reading, classifier.stored_size) as photographs:
        matched, notes = matching.match_classes(photographs.labels, classifier.classes, skip_unknown)
        known = [place for place, label in enumerate(photographs.labels) if label in matched]
        left_out = [
            (name, f"the model has no class `{label}`")
            for name, label in zip(photographs.ids, photographs.labels, strict=True)
            if label not in matched
        ]
        results = _classified(classifier, photographs, known)
        broken = {place: str(result) for place, result in results.items() if isinstance(result, FlowersError)}
        _require_readable(photographs, broken, skip_broken)
        left_out += [(photographs.ids[place], reason) for place, reason in broken.items()]
        scored = [place for place in known if place not in broken]
        if not scored:
            raise FlowersError(f"`{source}` has no photograph to score: {len(left_out)} are left out, and no other is")
        labels = [classifier.classes.index(matched[photographs.labels[place]]) for place in scored]
        predicted = Predictions(
            np.stack([np.asarray(results[place]) for place in scored]),
            np.array(labels, np.int64),
            np.array([photographs.ids[place] for place in scored]),
        )
        mistakes = _mistakes(classifier, photographs, scored, predicted)
    found = Evaluation(
        printable(str(source)),
        photographs.split,
        classifier.record,
        classifier.classes,
        predicted,
        evaluation.bootstrap_intervals(predicted),
        mistakes,
        left_out,
        [*photographs.notes, *notes],
    )
    found.notes.extend([*_notes_on_classes(found), *_notes_on_training(classifier, photographs, found)])
    return found


def _classified(
    classifier: Classifier, photographs: Labelled, places: Sequence[int]
) -> dict[int, np.ndarray | FlowersError]:
    """The probabilities of the photographs at those places, or the error that one cannot be read."""
    results: dict[int, np.ndarray | FlowersError] = {}
    with tqdm(desc="classifying", total=len(places), unit="img", disable=len(places) < BATCH_SIZE, leave=False) as bar:
        for start in range(0, len(places), BATCH_SIZE):
            part = places[start : start + BATCH_SIZE]
            files: list[Any] = [photographs.files[place] for place in part]
            for place, (_, result) in zip(part, classification.classify(classifier, files), strict=True):
                results[place] = result
                bar.update()
    return results


def _require_readable(photographs: Labelled, broken: dict[int, str], skip_broken: bool) -> None:
    if not broken or skip_broken:
        return
    lines = [f"{len(broken):,} of {len(photographs.ids):,} photographs cannot be used:"]
    lines += [f"  `{photographs.ids[place]}` {reason}" for place, reason in list(broken.items())[:MAX_ERRORS_SHOWN]]
    if len(broken) > MAX_ERRORS_SHOWN:
        lines.append(f"  and {len(broken) - MAX_ERRORS_SHOWN:,} more")
    raise FlowersError("\n".join([*lines, "repair or remove them, or leave them out with --skip-broken"]))


def _mistakes(
    classifier: Classifier, photographs: Labelled, scored: Sequence[int], predicted: Predictions
) -> list[Mistake]:
    errors = evaluation.most_confident_errors(predicted, classifier.classes, NUM_MISTAKES)
    size = min(classifier.stored_size, THUMBNAIL_SIZE)
    return [
        Mistake(
            str(predicted.ids[row.position]),
            row.true,
            row.predicted,
            float(row.probability),
            photo.as_jpeg(photographs.files[scored[row.position]], size, classifier.fit),
        )
        for row in errors.itertuples()
    ]


def _notes_on_classes(found: Evaluation) -> list[str]:
    """What macro F1 is the mean of, where the model has classes without photographs."""
    if not found.absent:
        return []
    involved = len(found.class_report)
    there = len(found.classes) - len(found.absent)
    note = f"No photograph is of {len(found.absent):,} of the model's classes: {listed(found.absent, 10)}."
    if involved == there:
        return [f"{note} None of them was predicted; macro F1 is the mean over the other {there:,}."]
    return [
        f"{note} Of these, {involved - there:,} were predicted and count as F1 0 in macro F1; over the {there:,} "
        f"classes with photographs alone it is {found.scores['macro_f1_of_classes_there']:.4f}."
    ]


def _notes_on_training(classifier: Classifier, photographs: Labelled, found: Evaluation) -> list[str]:
    notes = []
    if classifier.record["smoke_test"]:
        notes.append("SMOKE TEST: this model was trained for a few steps only; ignore its scores.")
    trained_on = set(classifier.gallery.ids.tolist()) if classifier.gallery else set()
    if seen := len(trained_on.intersection(found.predicted.ids.tolist())):
        notes.append(
            f"{seen:,} photographs have names of the model's training images; where they are the same, the score is "
            "too high."
        )
    return notes
