"""Turn the TFRecord shards of a dataset into batches for training and for evaluation."""

import os
from collections.abc import Callable

import cv2
import numpy as np

from flowerlib.accelerator import tf
from flowerlib.config import FlowersError
from flowerlib.data import host_calls
from flowerlib.data.dataset import LABELLED, Flowers, local_files
from flowerlib.data.decoding import FEATURES, parse
from flowerlib.tfrecords.records import Records

NUM_PARALLEL_CALLS = min((os.cpu_count() or 1) + 1, 16)  # batches made at once; one may be waiting for Python's lock
POWERS = {"balanced": 1.0, "sqrt": 0.5}  # of the inverse frequency of a class
PREFETCH = 4  # batches that wait
Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Mix = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def train_batches(
    flowers: Flowers,
    batch_size: int,
    *,
    image_size: int | None = None,
    augment: Augment | None = None,
    mix: Mix | None = None,
    sampling: str = "uniform",
    seed: int = 0,
    start: int = 0,
) -> tf.data.Dataset:
    """Return endless batches for training; with uniform sampling every image comes once before any comes twice.

    Args:
        flowers: the dataset.
        batch_size: global, over all replicas; the order runs on over the end of an epoch, so that no batch is partial.
        image_size: side of the images to return, the stored side unless given.
        augment: `(images (B, S, S, 3) uint8, seed (2,) int32) -> images`, with a seed of its own for each batch.
        mix: `(images, labels, seed) -> (images, labels)`, likewise.
        sampling: how often an image comes: `uniform`, or by its class, `balanced` (each class equally often, drawn with
            replacement) or `sqrt` (half-way, by the square root of its images).
        seed: of the order and of everything random; the same seed gives the same batches again.
        start: the number of the first batch, from 0; those before it are not made.

    Returns:
        Images `(B, S, S, 3)` uint8, labels `(B, num_classes)` float32, rows that sum to one.
    """
    count = flowers.count("train")
    if batch_size > count:
        raise FlowersError(f"`batch_size` (={batch_size}) must be at most the {count} training images")

    def batch(number: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels, _ = parse(_fetch(records, tf.ensure_shape(indices, (batch_size,))), flowers, image_size)
        labels = tf.one_hot(labels, num_classes)
        if augment:
            images = augment(images, tf.stack([seed, number]))
        return mix(images, labels, tf.stack([seed, -1 - number])) if mix else (images, labels)

    # Records are fetched by their position, so each epoch is shuffled as one. Augmented last: new random numbers each
    # time.
    records, num_classes = _on_disk(flowers, "train"), len(flowers.classes)
    if sampling == "uniform":
        positions = shuffled_positions(count, seed, start * batch_size)
    else:
        weights = inverse_frequencies(labels_and_ids(flowers, "train")[0], sampling)
        positions = drawn_positions(weights, seed, start * batch_size)
    order = positions.batch(batch_size, drop_remainder=True)
    numbered = tf.data.Dataset.zip(tf.data.Dataset.counter(start, dtype=tf.int32), order)
    return prefetch(numbered.map(batch, NUM_PARALLEL_CALLS))


def fitting_batch_size(flowers: Flowers, batch_size: int) -> int:
    """Return the batch size, or the number of training images where there are fewer; a line says so."""
    count = flowers.count("train")
    if batch_size > count:
        print(f"The batch size is {count}, not {batch_size}: there are only {count} training images.")
    return min(batch_size, count)


def shuffled_positions(count: int, seed: int, start: int = 0) -> tf.data.Dataset:
    """Return the positions 0 to `count` - 1 (int32) again and again, every time in another order, without the first
    `start` of them.

    The order is the same for every iterator; that of `Dataset.shuffle` is not where two take turns, as with Keras.
    """

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(tf.range(count), [seed, number])
        return tf.data.Dataset.from_tensor_slices(order)

    first, within = divmod(start, count)
    return tf.data.Dataset.counter(first, dtype=tf.int32).flat_map(epoch).skip(within)


def inverse_frequencies(labels: np.ndarray, kind: str) -> np.ndarray:
    """Return a weight for each image, larger where its class has fewer, against class imbalance; their mean is 1.

    Args:
        labels: `(n,)`.
        kind: `balanced`, by 1 / (images of the class), as scikit-learn's `class_weight="balanced"`; or `sqrt`, by the
            square root of that.

    Raises:
        FlowersError: another kind.
    """
    if kind not in POWERS:
        raise FlowersError(f"`sampling` or `class_weights` (={kind!r}) must be one of {', '.join(POWERS)}, or left out")
    weights = (1.0 / np.bincount(labels)[labels]) ** POWERS[kind]
    return weights / weights.mean()


def drawn_positions(weights: np.ndarray, seed: int, start: int = 0) -> tf.data.Dataset:
    """Return positions (int32) without end, each drawn with a probability proportional to its weight `(n,)`.

    As `shuffled_positions`: the same for every iterator, without the first `start`, in epochs of n.
    """
    count, log_weights = len(weights), tf.math.log(tf.constant(weights, tf.float32))[tf.newaxis]

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        drawn = tf.random.stateless_categorical(log_weights, count, [seed, number], tf.int32)
        return tf.data.Dataset.from_tensor_slices(drawn[0])

    first, within = divmod(start, count)
    return tf.data.Dataset.counter(first, dtype=tf.int32).flat_map(epoch).skip(within)


def prefetch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Return the same batches, some of them made ahead, without tf.data's own tuning.

    Its thread sleeps for longer and longer: at their end Keras' `fit` and `predict` wait until it wakes, for up to as
    long again as they took, at most a minute.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(PREFETCH).with_options(options)


def _on_disk(flowers: Flowers, split: str) -> Records:
    """Return the records of a split, by their position in it; of one that is selected, out of the files of both."""
    sources = LABELLED if split in flowers.selection else (split,)
    count = sum(map(flowers.num_stored, sources))
    records = Records([path for source in sources for path in local_files(flowers, source)])
    if len(records) != count:
        names = " and ".join(sources)
        raise FlowersError(f"{len(records)} {names} records but the file names say {count}; run `flowerlib check`")
    return records.select(flowers.selection[split]) if split in flowers.selection else records


def _fetch(records: Records, indices: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(host_calls.numpy_function(records.fetch, [indices], tf.string), indices.shape)


def eval_batches(
    flowers: Flowers, split: str, batch_size: int, *, image_size: int | None = None, start: int = 0
) -> tf.data.Dataset:
    """Return a split once, in file order, nothing dropped: the last batch may be smaller.

    Args:
        flowers: the dataset.
        split: `train`, `val` or `test`.
        batch_size: how many images come together.
        image_size: side of the images to return, the stored side unless given.
        start: how many images to leave out at the beginning; they are not decoded.

    Returns:
        Images `(B, S, S, 3)` uint8, labels `(B,)` int64 (-1 in test), ids `(B,)` string. A record without id gets
        `<split>-<its position>`, of the files where it is.
    """

    def batch(indices: tf.Tensor, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, labels, ids = parse(records, flowers, image_size)
        return images, labels, _fill_in_ids(ids, flowers, split, indices)

    return prefetch(record_batches(flowers, split, batch_size, start).map(batch, NUM_PARALLEL_CALLS))


def with_mirror_images(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Return batches `(images, labels, ids)` as `(images, images with left and right exchanged, labels, ids)`."""

    def both(images: tf.Tensor, labels: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, ...]:
        exchanged = host_calls.numpy_function(_flip_left_right, [images], images.dtype)
        return images, tf.ensure_shape(exchanged, images.shape), labels, ids

    return prefetch(batches.map(both, NUM_PARALLEL_CALLS))


def _flip_left_right(images: np.ndarray) -> np.ndarray:
    """Mirror each image, with OpenCV: four times as fast as TensorFlow, and without Python's lock."""
    exchanged = np.empty_like(images)
    for image, to in zip(images, exchanged, strict=True):
        cv2.flip(image, 1, to)
    return exchanged


def labels_and_ids(flowers: Flowers, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels `(n,)` int64 and the ids `(n,)` of a split, as in `eval_batches`; no image is decoded."""

    def some(indices: tf.Tensor, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.io.parse_example(records, {name: FEATURES[name] for name in ("class", "id")})
        return features["class"], _fill_in_ids(features["id"], flowers, split, indices)

    parts = record_batches(flowers, split, 512).map(some).as_numpy_iterator()
    labels, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    return labels, decode_utf8(ids)


def decode_utf8(values: np.ndarray) -> np.ndarray:
    """Return UTF-8 bytes `(n,)` as strings, such as ids, which may hold a file's name; other bytes become `\\xe9`."""
    return np.array([value.decode("utf-8", "backslashreplace") for value in values], str)


def record_batches(flowers: Flowers, split: str, batch_size: int, start: int = 0) -> tf.data.Dataset:
    """Return a split once, in file order, without the first `start`: positions in it `(B,)` int64, records `(B,)`."""
    if split in flowers.selection:
        chosen = _on_disk(flowers, split)
        indices = tf.data.Dataset.range(start, len(chosen)).batch(batch_size)
        return indices.map(lambda indices: (indices, _fetch(chosen, indices)), NUM_PARALLEL_CALLS)
    records = tf.data.TFRecordDataset(local_files(flowers, split))
    records = records.apply(tf.data.experimental.assert_cardinality(flowers.num_stored(split)))
    return records.take(flowers.count(split)).enumerate().skip(start).batch(batch_size)


def _fill_in_ids(record_id: tf.Tensor, flowers: Flowers, split: str, index: tf.Tensor) -> tf.Tensor:
    source = tf.fill(tf.shape(index), split)
    if split in flowers.selection:
        place = tf.gather(tf.constant(flowers.selection[split], tf.int64), index)
        of_train = flowers.num_stored("train")
        source = tf.where(place < of_train, *LABELLED)
        index = tf.where(place < of_train, place, place - of_train)
    position = tf.strings.join([source, tf.strings.as_string(index, width=6, fill="0")], "-")
    return tf.where(record_id == "", position, record_id)
