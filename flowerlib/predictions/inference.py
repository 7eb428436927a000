"""Run a model over a split and collect its probabilities."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from flowerlib import data
from flowerlib.accelerator import keras, tf
from flowerlib.config import FlowersError
from flowerlib.predictions import metrics


@dataclass(frozen=True)
class Predictions:
    """The probabilities of one split, in file order; of no image for val where it was trained on.

    Attributes:
        probabilities: `(n, num_classes)` float32, rows that sum to one.
        labels: `(n,)` int64, -1 where the truth is not known (test).
        ids: `(n,)` strings.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    @classmethod
    def of_no_images(cls, num_classes: int) -> "Predictions":
        """Return the predictions for a split without images."""
        return cls(np.empty((0, num_classes), np.float32), np.empty(0, np.int64), np.empty(0, str))

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, `(n,)` int64."""
        return self.probabilities.argmax(axis=1)

    def confusion(self) -> np.ndarray:
        """The confusion matrix `(num_classes, num_classes)`: rows are true classes, columns predicted ones."""
        num_classes = self.probabilities.shape[1]
        if not len(self.labels):
            return np.zeros((num_classes, num_classes), np.int64)
        return metrics.confusion(self.labels, self.predicted, num_classes)

    def scores(self) -> dict[str, float]:
        """Return `loss` (log loss), `accuracy` and `macro_f1`, where the labels are known; nothing of no images."""
        if not len(self.labels):
            return {}
        return {
            "loss": metrics.log_loss(self.labels, self.probabilities),
            "accuracy": metrics.accuracy(self.labels, self.predicted),
            "macro_f1": metrics.macro_f1(self.labels, self.predicted, self.probabilities.shape[1]),
        }


_programs: WeakKeyDictionary[keras.Model, Callable] = WeakKeyDictionary()  # so that each is compiled once


def _run(model: keras.Model) -> Callable[[tf.Tensor], Any]:
    """Return what runs a model on a whole batch, on all devices, and does not wait for the outputs where JAX drives it.

    Keras' own `predict_on_batch` waits, and gives every device the whole batch.
    """
    if model not in _programs:
        _programs[model] = _jax_program(ref(model)) if keras.backend.backend() == "jax" else _tf_program(ref(model))
    return _programs[model]


def _jax_program(model: Callable[[], keras.Model]) -> Callable[[tf.Tensor], Any]:
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


def _tf_program(model: Callable[[], keras.Model]) -> Callable[[tf.Tensor], Any]:
    strategy = model().distribute_strategy
    # A partial, as TensorFlow counts tracings by a function's code, and would warn of those of several models together.
    if strategy.num_replicas_in_sync == 1:
        return tf.function(partial(_forward, model))
    run = tf.function(partial(_forward_on_all, model, strategy))

    def program(inputs: tf.Tensor) -> tf.Tensor:
        parts = tf.split(inputs, strategy.num_replicas_in_sync)
        each = strategy.experimental_distribute_values_from_function(lambda at: parts[at.replica_id_in_sync_group])
        return tf.concat(strategy.experimental_local_results(run(each)), axis=0)

    return program


def _forward(model: Callable[[], keras.Model], inputs: tf.Tensor) -> tf.Tensor:
    return model()(inputs, training=False)


def _forward_on_all(model: Callable[[], keras.Model], strategy: tf.distribute.Strategy, inputs: tf.Tensor) -> tf.Tensor:
    return strategy.run(model(), (inputs,))


def iterate_outputs(
    model: keras.Model, batches: tf.data.Dataset, batch_size: int, *, flip: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run a model over batches, and yield for each of them, in order, outputs, labels and ids.

    The one place that pads: the last, partial batch cannot be split over several devices. The outputs of one batch are
    fetched while the next one runs.

    Args:
        model: takes `(batch_size, ...)`, returns `(batch_size, d)`.
        batches: of `(inputs (B, ...), labels (B,), ids (B,))` with B at most `batch_size`, as from
            `data.eval_batches`; read once.
        batch_size: a multiple of the number of replicas.
        flip: also run every image `(B, S, S, 3)` with left and right exchanged.

    Yields:
        Outputs `(views, B, d)` float32 with views 1, or 2 where mirrored; labels `(B,)`; ids `(B,)` strings.
    """
    run, waiting = _run(model), None
    for *views, labels, ids in data.with_mirror_images(batches) if flip else batches:
        started = [run(_padded(view, batch_size)) for view in views], labels.numpy(), data.decode_utf8(ids.numpy())
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


def predict(model: keras.Model, batches: tf.data.Dataset, batch_size: int, *, flip: bool = False) -> Predictions:
    """Return a model's probabilities for every image of the batches, averaged over an image and its mirror image
    where `flip` is set. Arguments as in `iterate_outputs`.

    Raises:
        FlowersError: a probability is not a number: the training has diverged.
    """
    parts = list(iterate_outputs(model, batches, batch_size, flip=flip))
    if not parts:
        return Predictions.of_no_images(model.output_shape[-1])
    columns = zip(zip(*parts, strict=True), (1, 0, 0), strict=True)
    probabilities, labels, ids = (np.concatenate(part, axis=axis) for part, axis in columns)
    if not np.isfinite(probabilities).all():
        raise FlowersError("the model's probabilities are not numbers: training diverged; lower the learning rate")
    return Predictions(probabilities.mean(axis=0), labels, ids)


def average_views(views: Sequence[Predictions]) -> Predictions:
    """Average the predictions of several views of the same images, in the same order."""
    return replace(views[0], probabilities=np.mean([view.probabilities for view in views], axis=0))
