"""Features of a frozen network: computed once an image, kept on disk, then heads train on them in seconds."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flowerlib import data, predictions
from flowerlib.accelerator import keras, tf
from flowerlib.augmentation import Augmentation
from flowerlib.config import FlowersError, cache_dir, make_once
from flowerlib.data import Flowers
from flowerlib.predictions import Predictions
from flowerlib.training import feature_file

VERSION = 1  # raise it when images are decoded or varied otherwise


@dataclass(frozen=True)
class Features:
    """What a frozen network sees in one split, in file order.

    Attributes:
        values: `(views, n, d)` float16, in a file; view 0 is the image, then its mirror image, then varied ones.
        labels: `(n,)` int64, -1 where the truth is not known (test).
        ids: `(n,)` strings.
        plain: how many of the views are not varied: 2, or 1 without the mirror image.
    """

    values: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    plain: int = 2


def extract(
    feature_extractor: keras.Model,
    flowers: Flowers,
    split: str,
    batch_size: int,
    *,
    mirror: bool = True,
    varied: int = 0,
    augment: Augmentation | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Features:
    """Run a network over every image of a split, its mirror image and variations of it; or read what is kept of that.

    What is kept is found again by the network's weights, the precision, the images and the views. A call that was
    stopped goes on with the batch that it was at. Of two processes that ask for the same at once, one waits. What was
    damaged is named, set aside and computed again.

    Args:
        feature_extractor: pixels `(B, S, S, 3)` in [0, 255] -> features `(B, d)`.
        flowers: the dataset, resized to S where its images have another side.
        split: `train`, `val` or `test`.
        batch_size: global; a multiple of the number of replicas.
        mirror: whether to look at the mirror image too.
        varied: how many varied views to add.
        augment: how they vary; as `Augmentation()` unless given.
        folder: where to keep it; `features` in `config.cache_dir()` unless given.
        progress: whether to show a bar.

    Raises:
        FlowersError: a feature is too large for float16, or not a number; or there is no room for them.
    """
    augment = augment or Augmentation()
    plain = 1 + mirror
    shape = (plain + varied, flowers.count(split), feature_extractor.output_shape[-1])
    key = _key(feature_extractor, flowers, [plain, *([batch_size, varied, repr(augment)] if varied else [])])
    path = (folder or cache_dir() / "features") / key / f"{split}.npy"
    truth = None

    def make() -> None:
        nonlocal truth
        with tqdm(desc=f"looking at {split}", total=shape[0] * shape[1], unit="img", disable=not progress) as bar:
            truth = _fill_features(feature_extractor, flowers, split, batch_size, plain, augment, path, shape, bar)

    make_once(path, make)
    return Features(np.load(path, mmap_mode="r"), *(truth or data.labels_and_ids(flowers, split)), plain)


def _key(feature_extractor: keras.Model, flowers: Flowers, views: list) -> str:
    """16 hex digits that differ wherever the features would."""
    weights = hashlib.sha256()
    for weight in feature_extractor.get_weights():
        weights.update(str(weight.shape).encode() + weight.tobytes())
    size = feature_extractor.input_shape[1]
    what = [VERSION, weights.hexdigest(), list(_layers(feature_extractor)), size, views, flowers.fingerprint]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _layers(model: keras.Model) -> Iterator[list]:
    """Yield the kind of each layer and its plain settings, such as a scale, which weights do not tell; not its name."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            plain = {key: value for key, value in layer.get_config().items() if _is_plain(value) and key != "name"}
            yield [type(layer).__name__, layer.dtype_policy.name, plain]


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)


def _fill_features(
    feature_extractor: keras.Model,
    flowers: Flowers,
    split: str,
    batch_size: int,
    plain: int,
    augment: Augmentation,
    path: Path,
    shape: tuple[int, int, int],
    bar: tqdm,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fill the file, from where an earlier call was stopped: first the plain views, then each varied one.

    Return labels and ids, where all images have come by.
    """
    views, count, _ = shape
    truth = []
    with feature_file.open_partial(path, shape) as partial:
        bar.initial = bar.n = sum(seen * rows for _, _, seen, rows in partial.blocks)  # they count for no speed
        bar.refresh()
        done = sum(rows for *_, rows in partial.blocks)
        for number in range(done // count, 1 + views - plain):
            before, varying = number * count, augment if number else None
            batches = _batches(
                flowers,
                split,
                batch_size,
                feature_extractor.input_shape[1],
                done - before,
                augment=varying,
                seed=number,
            )
            mirror = number == 0 and plain == 2
            for seen, *labels_and_ids in predictions.iterate_outputs(
                feature_extractor, batches, batch_size, mirror=mirror
            ):
                _refuse_too_large(seen, split, feature_extractor.name)
                partial.write_block(0 if number == 0 else plain - 1 + number, done - before, seen)
                done += seen.shape[1]
                bar.update(seen.shape[0] * seen.shape[1])
                truth += [labels_and_ids] if number == 0 else []
    labels, ids = (np.concatenate(part) for part in zip(*truth, strict=True)) if truth else ([], [])
    return (labels, ids) if len(labels) == count else None


def _refuse_too_large(seen: np.ndarray, split: str, network: str) -> None:
    if not (abs(seen) <= np.finfo(np.float16).max).all():
        raise FlowersError(
            f"a feature of {split} is not a number, or larger than the 65,504 of float16; check the weights of the "
            f"network, {network}"
        )


def _batches(
    flowers: Flowers,
    split: str,
    batch_size: int,
    image_size: int,
    start: int,
    *,
    augment: Augmentation | None,
    seed: int,
) -> tf.data.Dataset:
    """Return batches of the images from `start`, a multiple of `batch_size`, on; varied where `augment` is given."""
    batches = data.eval_batches(flowers, split, batch_size, image_size=image_size, start=start)
    if not augment:
        return batches

    def vary(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return augment(batch[0], tf.stack([seed, tf.cast(number, tf.int32)])), *batch[1:]

    return data.prefetch(batches.enumerate(start // batch_size).map(vary, data.NUM_PARALLEL_CALLS))


def split_holdout(features: Features, every: int) -> tuple[Features, Features]:
    """Return the others, and every so many images (the first, ...), with all views of each."""
    held = np.arange(len(features.labels)) % every == 0
    return tuple(
        replace(features, values=features.values[:, part], labels=features.labels[part], ids=features.ids[part])
        for part in (~held, held)
    )


def train_batches(
    features: Features, batch_size: int, num_classes: int, seed: int = 0, start: int = 0
) -> tf.data.Dataset:
    """Return endless batches, features `(B, d)` and labels `(B, num_classes)`; each time one view, drawn at random.

    `start` is the number of the first batch.
    """
    views, count, _ = features.values.shape

    def batch(number: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = tf.random.stateless_uniform([batch_size], [seed, number], maxval=views, dtype=tf.int32)
        seen = tf.cast(tf.gather_nd(values, tf.stack([drawn, indices], axis=1)), tf.float32)
        return seen, tf.one_hot(tf.gather(labels, indices), num_classes)

    values, labels = tf.constant(features.values), tf.constant(features.labels)
    order = data.shuffled_positions(count, seed, start * batch_size).batch(batch_size, drop_remainder=True)
    return data.prefetch(
        tf.data.Dataset.zip(tf.data.Dataset.counter(start, dtype=tf.int32), order).map(batch, data.NUM_PARALLEL_CALLS)
    )


def eval_batches(features: Features, batch_size: int, view: int = 0) -> tf.data.Dataset:
    """Return one view of every image once, in file order, as `(features, labels, ids)`; view 0 is the image itself."""
    values = features.values[view].astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((values, features.labels, features.ids)).batch(batch_size)


def predict(head: keras.Model, features: Features, batch_size: int) -> Predictions:
    """Return a head's probabilities for every image, averaged over its plain views.

    `batch_size` and errors as in `predictions.predict`.
    """
    views = (eval_batches(features, batch_size, view) for view in range(features.plain))
    return predictions.average_views([predictions.predict(head, view, batch_size) for view in views])
