"""Features of a frozen network: computed once an image, then a head trains on them in seconds."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flowerlib import predictions
from flowerlib.accelerator import keras, tf
from flowerlib.predictions import Predictions


@dataclass(frozen=True)
class Features:
    """What a frozen network sees in one split, in file order.

    Attributes:
        values: `(views, n, d)` float32; view 0 is the image, view 1 its mirror image.
        labels: `(n,)` int64, -1 where the truth is not known (test).
        ids: `(n,)` strings.
    """

    values: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


def extract(extractor: keras.Model, batches: Iterable, batch_size: int) -> Features:
    """Run the extractor, pixels `(B, S, S, 3)` -> features `(B, d)`, over every image and its mirror image.

    `batches` and `batch_size` as in `predictions.outputs`.
    """
    return Features(*predictions.outputs(extractor, batches, batch_size, mirror=True))


def train_batches(features: Features, batch_size: int, num_classes: int, seed: int = 0) -> tf.data.Dataset:
    """Return endless batches, features `(B, d)` and labels `(B, num_classes)`; each time one view, drawn at random."""
    views, count, _ = features.values.shape

    def example(index: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        draw = tf.stack([seed, tf.cast(position, tf.int32)])
        view = tf.random.stateless_uniform([], draw, maxval=views, dtype=tf.int64)
        return values[view, index], tf.one_hot(labels[index], num_classes)

    values, labels = tf.constant(features.values), tf.constant(features.labels)
    order = tf.data.Dataset.range(count).shuffle(count, seed=seed).repeat()
    numbered = tf.data.Dataset.zip(order, tf.data.Dataset.counter())
    return numbered.map(example, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def eval_batches(features: Features, batch_size: int, view: int = 0) -> tf.data.Dataset:
    """Return one view of every image once, in file order, as `(features, labels, ids)`; view 0 is the image itself."""
    return tf.data.Dataset.from_tensor_slices((features.values[view], features.labels, features.ids)).batch(batch_size)


def predict(head: keras.Model, features: Features, batch_size: int) -> Predictions:
    """Return a head's probabilities for every image, averaged over the views.

    `batch_size` and errors as in `predictions.predict`.
    """
    views = [
        predictions.predict(head, eval_batches(features, batch_size, view), batch_size).probabilities
        for view in range(len(features.values))
    ]
    return Predictions(np.mean(views, axis=0), features.labels, features.ids)
