"""Run a model over a split, keep what it says, and write the submission."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref
from zipfile import BadZipFile

import numpy as np

from flowerlib import data, metrics
from flowerlib.accelerator import keras, tf
from flowerlib.config import LESSER, FlowersError, kaggle_input, search, written_whole


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


_programs: WeakKeyDictionary[keras.Model, Callable] = WeakKeyDictionary()  # so that each is compiled once


def _run(model: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Return what runs a model on a whole batch, on all devices, and does not wait for the outputs where JAX drives it.

    `predict_on_batch`, which Keras has for it, waits, and gives every device the whole batch.
    """
    if model not in _programs:
        _programs[model] = _jax_program(ref(model)) if keras.backend.backend() == "jax" else _tf_program(ref(model))
    return _programs[model]


def _jax_program(model: ReferenceType[keras.Model]) -> Callable[[tf.Tensor], Any]:
    import jax

    run = jax.jit(lambda *state_and_inputs: model().stateless_call(*state_and_inputs, training=False)[0])
    distribution = keras.distribution.distribution()

    def program(inputs: tf.Tensor) -> jax.Array:
        state = (
            [each.value for each in part] for part in (model().trainable_variables, model().non_trainable_variables)
        )
        inputs = np.asarray(inputs)
        if distribution:
            inputs = keras.distribution.distribute_tensor(inputs, distribution.get_data_layout(inputs.shape))
        return run(*state, inputs)

    return program


def _tf_program(model: ReferenceType[keras.Model]) -> Callable[[tf.Tensor], Any]:
    strategy = model().distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return lambda inputs: model().predict_on_batch(inputs)
    run = tf.function(lambda inputs: strategy.run(model(), (inputs,)))

    def program(inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, strategy.num_replicas_in_sync)
        each = strategy.experimental_distribute_values_from_function(lambda at: parts[at.replica_id_in_sync_group])
        return tf.concat(strategy.experimental_local_results(run(each)), axis=0)

    return program


def outputs(
    model: keras.Model, batches: tf.data.Dataset, batch_size: int, *, mirror: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run a model over batches, and yield for each of them, in order, outputs, labels and ids.

    The one place that pads: the last, partial batch cannot be split over several devices. The outputs of one batch are
    fetched while the next one runs.

    Args:
        model: takes `(batch_size, ...)`, returns `(batch_size, d)`.
        batches: of `(inputs (B, ...), labels (B,), ids (B,))` with B at most `batch_size`, as from
            `data.eval_batches`; read once.
        batch_size: a multiple of the number of replicas.
        mirror: also run every image `(B, S, S, 3)` with left and right exchanged.

    Yields:
        Outputs `(views, B, d)` float32 with views 1, or 2 where mirrored; labels `(B,)`; ids `(B,)` strings.
    """
    run, waiting = _run(model), None
    for *views, labels, ids in data.mirrored(batches) if mirror else batches:
        started = [run(_padded(view, batch_size)) for view in views], labels.numpy(), data.texts(ids.numpy())
        if waiting:
            yield _fetched(*waiting)
        waiting = started
    if waiting:
        yield _fetched(*waiting)


def _padded(inputs: tf.Tensor, batch_size: int) -> tf.Tensor:
    missing = batch_size - len(inputs)
    return tf.pad(inputs, [[0, missing]] + [[0, 0]] * (len(inputs.shape) - 1)) if missing else inputs


def _fetched(values: list, labels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.stack([np.asarray(each, np.float32)[: len(labels)] for each in values]), labels, ids


def predict(model: keras.Model, batches: tf.data.Dataset, batch_size: int, *, mirror: bool = False) -> Predictions:
    """Return a model's probabilities for every image of the batches, averaged over an image and its mirror image
    where `mirror` is set. Arguments as in `outputs`.

    Raises:
        FlowersError: a probability is not a number: the training has diverged.
    """
    parts = zip(*outputs(model, batches, batch_size, mirror=mirror), strict=True)
    probabilities, labels, ids = (np.concatenate(part, axis=axis) for part, axis in zip(parts, (1, 0, 0), strict=True))
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

    Rehearsals, and runs that were left beside a longer one, are left out where the run itself is there.

    Raises:
        FlowersError: there is none, or two go by one name.
    """
    places = (Path("runs"), kaggle_input())
    folders = [path.parent for place in places for path in search(place, "predictions.npz")]
    if not folders:
        looked = ", ".join(f"`{place}`" for place in places)
        raise FlowersError(f"no run (a folder with predictions.npz) below {looked}; run a backbone notebook first")
    runs = _without_lesser(sorted((load(folder) for folder in folders), key=lambda run: run.name))
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FlowersError(f"run {twice[0]} is there twice, in {[str(f) for f in folders]}; remove one of them")
    return runs


def _without_lesser(runs: list[RunOutput]) -> list[RunOutput]:
    """The runs without rehearsals, and without those left beside a longer one, of what is there itself too."""
    names = {run.name for run in runs}
    lesser = names & {f"{name}{kind}" for name in names for kind in LESSER}
    for name in sorted(lesser):
        print(f"{name} is left out: the run without that ending is there.")
    return [run for run in runs if run.name not in lesser]


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
