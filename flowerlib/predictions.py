"""Run a model over a split, keep what it says, and write the submission."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from flowerlib import calls, data, metrics
from flowerlib.accelerator import keras, tf
from flowerlib.config import FlowersError, kaggle_input, search, written_whole


@dataclass(frozen=True)
class Predictions:
    """What a model says of one split, in file order.

    Attributes:
        probabilities: `(n, num_classes)` float32, rows that sum to one.
        labels: `(n,)` int64, -1 where the truth is not known (test).
        ids: `(n,)` strings.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, `(n,)` int64."""
        return self.probabilities.argmax(axis=1)

    def scores(self) -> dict[str, float]:
        """Return `loss` (log loss), `accuracy` and `macro_f1`, where the labels are known."""
        return {
            "loss": metrics.log_loss(self.labels, self.probabilities),
            "accuracy": metrics.accuracy(self.labels, self.predicted),
            "macro_f1": metrics.macro_f1(self.labels, self.predicted, self.probabilities.shape[1]),
        }


class _Each(keras.callbacks.Callback):
    """Hand each batch's outputs on, as soon as they are there."""

    def __init__(self, views: int, take: Callable[[np.ndarray], None]) -> None:
        super().__init__()
        self.views, self.take, self.waiting = views, take, []

    def on_predict_batch_end(self, batch: int, logs: dict) -> None:
        self.waiting.append(np.asarray(logs["outputs"], np.float32))
        if len(self.waiting) == self.views:
            self.take(np.stack(self.waiting))
            self.waiting = []


def outputs(
    model: keras.Model,
    batches: Iterable,
    batch_size: int,
    *,
    mirror: bool = False,
    steps: int | None = None,
    take: Callable[[np.ndarray], None] = lambda batch: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run a model over batches, each padded to `batch_size` and cut again.

    The one place that pads: the last, partial batch cannot be split over several devices.

    Args:
        model: takes `(batch_size, ...)`, returns `(batch_size, d)`.
        batches: of `(inputs (B, ...), labels (B,), ids (B,))` with B at most `batch_size`, as from
            `data.eval_batches`; read once.
        batch_size: a multiple of the number of replicas.
        mirror: also run every image `(B, S, S, 3)` with left and right exchanged.
        steps: how many batches there are; `len(batches)` unless given.
        take: called with the outputs `(views, B, d)` of each batch, as soon as they are there.

    Returns:
        Outputs `(views, n, d)` float32 with views 1, or 2 where mirrored; labels `(n,)`; ids `(n,)`, as they came.
    """
    labels: list[np.ndarray] = []
    ids: list[np.ndarray] = []

    def padded() -> Iterator[np.ndarray]:
        for inputs, batch_labels, batch_ids in batches:
            labels.append(np.asarray(batch_labels))
            ids.append(np.asarray(batch_ids).astype(str))
            inputs = np.asarray(inputs)
            whole = np.zeros((batch_size, *inputs.shape[1:]), inputs.dtype)
            whole[: len(inputs)] = inputs
            yield whole
            if mirror:
                yield whole[:, :, ::-1]

    steps = len(batches) if steps is None else steps
    whole = padded()
    first = next(whole)
    signature = tf.TensorSpec(first.shape, first.dtype)
    inputs = data.ahead(calls.from_generator(lambda: chain([first], whole), signature))
    taken = iter(range(steps))
    each = _Each(1 + mirror, lambda values: take(values[:, : len(labels[next(taken)])]))
    values = np.asarray(model.predict(inputs, steps=steps * (1 + mirror), verbose=0, callbacks=[each]), np.float32)
    values = values.reshape(len(labels), 1 + mirror, batch_size, -1).swapaxes(0, 1)
    kept = [values[:, index, : len(part)] for index, part in enumerate(labels)]
    return np.concatenate(kept, axis=1), np.concatenate(labels), np.concatenate(ids)


def predict(model: keras.Model, batches: Iterable, batch_size: int, *, mirror: bool = False) -> Predictions:
    """Return a model's probabilities for every image of the batches, averaged over an image and its mirror image
    where `mirror` is set. Arguments as in `outputs`.

    Raises:
        FlowersError: a probability is not a number: the training has diverged.
    """
    probabilities, labels, ids = outputs(model, batches, batch_size, mirror=mirror)
    if not np.isfinite(probabilities).all():
        raise FlowersError("the model's probabilities are not numbers: training diverged; lower the learning rate")
    return Predictions(probabilities.mean(axis=0), labels, ids)


def average(views: Sequence[Predictions]) -> Predictions:
    """Average what was said of the same images, in the same order, in several views."""
    return replace(views[0], probabilities=np.mean([view.probabilities for view in views], axis=0))


@dataclass(frozen=True)
class RunOutput:
    """What a run left in `runs/<name>/`: its record (`run.json`), its val and test predictions, its classes."""

    record: dict
    val: Predictions
    test: Predictions
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The run's name, such as `10_densenet201`."""
        return self.record["name"]


def save(path: Path, val: Predictions, test: Predictions, classes: tuple[str, ...]) -> None:
    """Write `predictions.npz`: `val_*` and `test_*` arrays of `Predictions`, and `classes`."""
    arrays = {"classes": np.array(classes)}
    for split, predictions in (("val", val), ("test", test)):
        arrays |= {f"{split}_{name}": value for name, value in vars(predictions).items()}
    with written_whole(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def load(folder: Path) -> RunOutput:
    """Read what a run left in a folder.

    Raises:
        FlowersError: `run.json` or `predictions.npz` is missing or damaged.
    """
    try:
        record = json.loads((folder / "run.json").read_text())
        with open(folder / "predictions.npz", "rb") as file, np.load(file) as arrays:
            val, test = (
                Predictions(*(arrays[f"{split}_{name}"] for name in ("probabilities", "labels", "ids")))
                for split in ("val", "test")
            )
            classes = tuple(str(name) for name in arrays["classes"])
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise FlowersError(f"`{folder}` is not what a run leaves ({error}); run its notebook again") from None
    return RunOutput(record, val, test, classes)


def find_runs() -> list[RunOutput]:
    """Load every run in `runs/` and wherever Kaggle mounted the outputs of other notebooks, sorted by name.

    Raises:
        FlowersError: there is none, or two go by one name.
    """
    places = (Path("runs"), kaggle_input())
    folders = [path.parent for place in places for path in search(place, "predictions.npz")]
    if not folders:
        looked = ", ".join(f"`{place}`" for place in places)
        raise FlowersError(f"no run (a folder with predictions.npz) below {looked}; run a backbone notebook first")
    runs = sorted((load(folder) for folder in folders), key=lambda run: run.name)
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FlowersError(f"run {twice[0]} is there twice, in {[str(f) for f in folders]}; remove one of them")
    return runs


def write_submission(test: Predictions, path: Path, *, count: int) -> None:
    """Write `id,label`, one row for each test image, in file order.

    Args:
        test: predictions for the test split.
        path: the CSV to write.
        count: how many rows there must be: the images of the test split.

    Raises:
        FlowersError: the number of rows is another, or an id is there twice.
    """
    if len(test.ids) != count:
        raise FlowersError(f"{len(test.ids)} predictions for {count} test images; predict the whole test split")
    if len(set(test.ids)) != count:
        raise FlowersError(f"{count - len(set(test.ids))} test ids are there twice; run `flowerlib check`")
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label"])
        writer.writerows(zip(test.ids.tolist(), test.predicted.tolist(), strict=True))
