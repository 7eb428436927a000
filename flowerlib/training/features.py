"""Feature extraction: a frozen network processes every image once; what it puts out is kept on disk for its heads."""

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
from flowerlib.networks import folding
from flowerlib.predictions import Predictions
from flowerlib.training import feature_file
from flowerlib.training.run import Run

VERSION = 1  # raise it when images are decoded or augmented otherwise


@dataclass(frozen=True)
class Features:
    """The features of one split, in file order.

    Attributes:
        values: `(views, n, d)` float16, in a file; view 0 is the image, then its mirror image, then augmented views.
        labels: `(n,)` int64, -1 where unknown (test).
        ids: `(n,)` strings.
        num_original: how many of the views are not augmented: 2, or 1 without the mirror image.
    """

    values: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    num_original: int = 2


def extract_features(run: Run, feature_extractor: keras.Model) -> dict[str, Features]:
    """Extract the features of every split, with `num_augmented_views` of train; split -> features, as from `extract`.

    Batch normalization is folded into the convolutions first: the same features, sooner. A smoke test extracts those of
    the original images alone, and spares the memory of another network.
    """
    config, batch_size = run.config, run.config.extract_batch_size * run.device.num_replicas
    network = feature_extractor
    if not config.smoke_test:
        with run.device.scope():
            network = folding.fold_batch_norm(feature_extractor)

    def split(name: str) -> Features:
        augmented = config.num_augmented_views if name == "train" else 0
        return extract(network, run.flowers, name, batch_size, flip=not config.smoke_test, num_augmented=augmented)

    return {name: split(name) for name in data.SPLITS}


def extract(
    feature_extractor: keras.Model,
    flowers: Flowers,
    split: str,
    batch_size: int,
    *,
    flip: bool = True,
    num_augmented: int = 0,
    augment: Augmentation | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Features:
    """Extract the features of each image of a split, its mirror image and augmented views; or read them from the cache.

    The cache key covers the network's layers and weights, the precision, the images and the views. A call that was
    stopped resumes with the batch that it was at. Of two processes that ask for the same at once, one waits. A damaged
    file is named, set aside and computed again.

    Args:
        feature_extractor: pixels `(B, S, S, 3)` in [0, 255] -> features `(B, d)`.
        flowers: the dataset, resized to S where its images have another side.
        split: `train`, `val` or `test`.
        batch_size: global; a multiple of the number of replicas.
        flip: whether to add the mirror image.
        num_augmented: how many augmented views to add.
        augment: makes them; `Augmentation()` unless given.
        folder: of the cache; `features` in `config.cache_dir()` unless given.
        progress: whether to show a bar.

    Raises:
        FlowersError: a feature is too large for float16, or not a number; or the disk has no room for them.
    """
    views = _Views(flip, num_augmented, augment or Augmentation())
    shape = (views.count, flowers.count(split), feature_extractor.output_shape[-1])
    key = _key(feature_extractor, flowers, views.key(batch_size))
    path = (folder or cache_dir() / "features") / key / f"{split}.npy"
    labels_and_ids = None

    def make() -> None:
        nonlocal labels_and_ids
        with tqdm(desc=f"extracting {split}", total=shape[0] * shape[1], unit="img", disable=not progress) as bar:
            labels_and_ids = _extract(feature_extractor, flowers, split, batch_size, views, path, shape, bar)

    make_once(path, make)
    labels, ids = labels_and_ids or data.labels_and_ids(flowers, split)
    return Features(np.load(path, mmap_mode="r"), labels, ids, views.num_original)


@dataclass(frozen=True)
class _Views:
    """Which views of each image are processed."""

    flip: bool
    num_augmented: int
    augment: Augmentation

    @property
    def num_original(self) -> int:
        return 1 + self.flip

    @property
    def count(self) -> int:
        return self.num_original + self.num_augmented

    def key(self, batch_size: int) -> list:
        """What decides how they look; the batch size does where there is a random number for each batch."""
        random = [batch_size, self.num_augmented, repr(self.augment)] if self.num_augmented else []
        return [self.num_original, *random]

    def batches(
        self, flowers: Flowers, split: str, batch_size: int, image_size: int, *, number: int, start: int
    ) -> tf.data.Dataset:
        """Return batches of the original images, `number` 0, or of an augmented view, from image `start` on.

        `start` is a multiple of `batch_size`.
        """
        batches = data.eval_batches(flowers, split, batch_size, image_size=image_size, start=start)
        if number == 0:
            return batches

        def augmented(index: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            return self.augment(batch[0], tf.stack([number, tf.cast(index, tf.int32)])), *batch[1:]

        return data.prefetch(batches.enumerate(start // batch_size).map(augmented, data.NUM_PARALLEL_CALLS))


def _key(feature_extractor: keras.Model, flowers: Flowers, views: list) -> str:
    """16 hex digits that differ wherever the features would."""
    weights = hashlib.sha256()
    for weight in feature_extractor.get_weights():
        weights.update(str(weight.shape).encode() + weight.tobytes())
    size = feature_extractor.input_shape[1]
    limit = [] if flowers.limit is None else [flowers.limit]
    what = [VERSION, weights.hexdigest(), list(_layers(feature_extractor)), size, views, flowers.fingerprint, *limit]
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


def _extract(
    feature_extractor: keras.Model,
    flowers: Flowers,
    split: str,
    batch_size: int,
    views: _Views,
    path: Path,
    shape: tuple[int, int, int],
    bar: tqdm,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fill the file, from where an earlier call was stopped: first the original views, then each augmented one.

    Return labels and ids, where all images were read.
    """
    count, parts = shape[1], list[tuple[np.ndarray, np.ndarray]]()
    with feature_file.open_partial(path, shape) as partial:
        bar.initial = bar.n = sum(num_views * rows for _, _, num_views, rows in partial.blocks)  # not in the speed
        bar.refresh()
        done = sum(rows for *_, rows in partial.blocks)
        for number in range(done // count, 1 + views.num_augmented):
            size, start = feature_extractor.input_shape[1], done - number * count
            batches = views.batches(flowers, split, batch_size, size, number=number, start=start)
            flip, view = (views.flip, 0) if number == 0 else (False, views.num_original - 1 + number)
            for values, labels, ids in predictions.iterate_outputs(feature_extractor, batches, batch_size, flip=flip):
                _refuse_too_large(values, split, feature_extractor.name)
                partial.write_block(view, done - number * count, values)
                done += values.shape[1]
                bar.update(values.shape[0] * values.shape[1])
                parts += [(labels, ids)] if number == 0 else []
    if sum(len(labels) for labels, _ in parts) < count:  # resumed: some were processed by an earlier call
        return None
    return np.concatenate([labels for labels, _ in parts]), np.concatenate([ids for _, ids in parts])


def _refuse_too_large(values: np.ndarray, split: str, network: str) -> None:
    if not (abs(values) <= np.finfo(np.float16).max).all():
        raise FlowersError(
            f"a feature of {split} is not a number, or larger than the 65,504 of float16; check the weights of the "
            f"network, {network}"
        )


def split_holdout(features: Features, every: int) -> tuple[Features, Features]:
    """Split off every `every`-th image (the first, ...) as a holdout, with all its views; return (rest, holdout)."""
    held = np.arange(len(features.labels)) % every == 0
    return _select(features, ~held), _select(features, held)


def _select(features: Features, part: np.ndarray) -> Features:
    return replace(features, values=features.values[:, part], labels=features.labels[part], ids=features.ids[part])


def train_batches(
    features: Features, batch_size: int, num_classes: int, seed: int = 0, start: int = 0
) -> tf.data.Dataset:
    """Return endless batches, features `(B, d)` and labels `(B, num_classes)`; each time one view, drawn at random.

    `start` is the number of the first batch.
    """
    views, count, _ = features.values.shape

    def batch(number: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = tf.random.stateless_uniform([batch_size], [seed, number], maxval=views, dtype=tf.int32)
        values_drawn = tf.cast(tf.gather_nd(values, tf.stack([drawn, indices], axis=1)), tf.float32)
        return values_drawn, tf.one_hot(tf.gather(labels, indices), num_classes)

    values, labels = tf.constant(features.values), tf.constant(features.labels)
    order = data.shuffled_positions(count, seed, start * batch_size).batch(batch_size, drop_remainder=True)
    return data.prefetch(
        tf.data.Dataset.zip(tf.data.Dataset.counter(start, dtype=tf.int32), order).map(batch, data.NUM_PARALLEL_CALLS)
    )


def eval_batches(features: Features, batch_size: int, view: int = 0) -> tf.data.Dataset:
    """Return one view of every image once, in file order, as `(features, labels, ids)`; view 0 is the image itself."""
    values = features.values[view].astype(np.float32)
    images = tf.data.Dataset.from_tensor_slices((values, features.labels, features.ids))
    return data.prefetch(images.batch(batch_size))


def predict(head: keras.Model, features: Features, batch_size: int) -> Predictions:
    """Return a head's probabilities for every image, averaged over its original views.

    `batch_size` and errors as in `predictions.predict`.
    """
    views = (eval_batches(features, batch_size, view) for view in range(features.num_original))
    return predictions.average_views([predictions.predict(head, view, batch_size) for view in views])
