"""Images/s from shards to batches: decoding alone and with all six augmentations, beside five other ways."""

import io
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from os import cpu_count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks import warp
from benchmarks.harness import Report, Row, in_turns, medians, ratio
from flowerlib import augmentation, data
from flowerlib.accelerator import keras, tf
from flowerlib.data import Flowers, storage

BATCH = 64
SEED = 0
AHEAD = 16  # batches: more than any contestant makes ahead
ON_DEVICE = 4  # batches: a CPU takes most of a second for each


def run(root: str, quick: bool) -> Report:
    """Measure at 192 px and, unless `quick`, at 512 px: the same photographs enlarged, in quality 95."""
    flowers = data.find(192, root)
    count = 1024 if quick else 4096
    rounds = 1 if quick else 5
    rows, raw = [], {}
    with TemporaryDirectory() as place:
        sources = {192: flowers} if quick else {192: flowers, 512: enlarged(flowers, Path(place), 512, 512)}
        for size, source in sources.items():
            decoding = in_turns(_decoding(source, count), rounds)
            augmenting = in_turns(_augmenting(source, count // 2) | _warping(source), rounds)
            raw[str(size)] = {"decode only": decoding, "six augmentations": augmenting}
            rows += [Row(f"decode {size} px: {name}", value, "images/s") for name, value in medians(decoding).items()]
            for peer, target in ((KAGGLE, ">= 1"), (LIMIT, "")):
                rows.append(Row(f"decode {size} px, ratio to {peer}", ratio(decoding, "flowerlib", peer), "x", target))
            rows += [Row(f"six at {size} px: {name}", value, "images/s") for name, value in medians(augmenting).items()]
            for peer, target in ((KERAS, ">= 4"), (ALBUMENTATIONS, ">= 1")):
                target = target if size == 192 else ""
                rows.append(
                    Row(f"six at {size} px, ratio to {peer}", ratio(augmenting, "flowerlib", peer), "x", target)
                )
    return Report("input", rows, raw)


LIMIT = "libjpeg-turbo alone (simplejpeg)"
KAGGLE = "the usual Kaggle pipeline"
KERAS = "Keras layers in tf.data"
ALBUMENTATIONS = "albumentations in threads"
WARP = "matrix products and shears on the device (warp), without decoding"


def _timed(images: int, batches: Callable[[], Iterator]) -> Callable[[], float]:
    """Return a function that reads so many images and returns how many came a second.

    What is made ahead at the start is read first and not counted: it would come in no time.
    """

    def run() -> float:
        iterator = iter(batches())
        for _ in range(AHEAD):
            next(iterator)
        began = time.perf_counter()
        for _ in range(images // BATCH):
            next(iterator)
        return images // BATCH * BATCH / (time.perf_counter() - began)

    return run


def _decoding(flowers: Flowers, images: int) -> dict[str, Callable[[], float]]:
    import simplejpeg

    jpegs = _jpegs(flowers)
    threads = cpu_count()

    def alone() -> float:
        def share(first: int) -> None:
            for index in range(first, images, threads):
                simplejpeg.decode_jpeg(jpegs[index % len(jpegs)])

        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            list(pool.map(share, range(threads)))
            return images / (time.perf_counter() - began)

    return {
        "flowerlib": _timed(images, lambda: data.train_batches(flowers, BATCH, seed=SEED)),
        LIMIT: alone,
        KAGGLE: _timed(images, lambda: kaggle_batches(flowers, BATCH).prefetch(tf.data.AUTOTUNE)),
    }


def _augmenting(flowers: Flowers, images: int) -> dict[str, Callable[[], float]]:
    jpegs = _jpegs(flowers)
    return {
        "flowerlib": _timed(
            images, lambda: data.train_batches(flowers, BATCH, augment=augmentation.Augmentation(), seed=SEED)
        ),
        KERAS: _timed(images, lambda: keras_batches(flowers, BATCH).prefetch(tf.data.AUTOTUNE)),
        ALBUMENTATIONS: _timed(images, lambda: _albumentations(jpegs, flowers.image_size)),
    }


def _warping(flowers: Flowers) -> dict[str, Callable[[], float]]:
    """At 192 px only: larger images would take a CPU minutes."""
    if flowers.image_size != 192:
        return {}
    images, _ = next(iter(data.train_batches(flowers, BATCH, seed=SEED)))
    return {WARP: on_device(images)}


def on_device(images: tf.Tensor) -> Callable[[], float]:
    """Return a function that augments a batch `(B, S, S, 3)` several times and returns the images/s; it is compiled."""
    operations = augmentation.Augmentation()
    uniform = operations.random_parameters((SEED, 0), len(images))
    affine = tf.stack(operations.affine_matrix(uniform, images.shape[1]))
    batch = [keras.ops.convert_to_tensor(each.numpy()) for each in (images, affine, uniform)]
    program = warp.compiled(operations)
    float(program(*batch)[0, 0, 0, 0])

    def run() -> float:
        began = time.perf_counter()
        for _ in range(ON_DEVICE):
            augmented = program(*batch)
        float(augmented[0, 0, 0, 0])  # waits for the last
        return ON_DEVICE * len(images) / (time.perf_counter() - began)

    return run


def _albumentations(jpegs: list[bytes], size: int) -> Iterator[tuple[np.ndarray]]:
    import albumentations as A
    import cv2
    import simplejpeg

    cv2.setNumThreads(0)  # the threads are the pool's
    augment = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Affine(scale=(1.0, 1 / 0.75), rotate=(-30, 30), border_mode=cv2.BORDER_REFLECT, p=1.0),
            A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=1.0),
        ]
    )
    rng = np.random.default_rng(SEED)
    with ThreadPoolExecutor(cpu_count()) as pool:
        while True:
            order = rng.permutation(len(jpegs))
            for first in range(0, len(order) - BATCH + 1, BATCH):
                chosen = [jpegs[index] for index in order[first : first + BATCH]]
                yield (
                    np.stack(list(pool.map(lambda jpeg: augment(image=simplejpeg.decode_jpeg(jpeg))["image"], chosen))),
                )


def kaggle_batches(flowers: Flowers, batch_size: int) -> tf.data.Dataset:
    """The way of the competition's public notebooks: one record after the other, floating point on the host."""

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, {name: data.FEATURES[name] for name in ("image", "class")})
        image = tf.cast(tf.io.decode_jpeg(example["image"], channels=3), tf.float32)
        return tf.reshape(image, (flowers.image_size, flowers.image_size, 3)), example["class"]

    shards = tf.data.TFRecordDataset(list(flowers.shards["train"]), num_parallel_reads=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = False
    return shards.with_options(options).map(parse, tf.data.AUTOTUNE).repeat().shuffle(2048).batch(batch_size)


def keras_batches(flowers: Flowers, batch_size: int) -> tf.data.Dataset:
    """As `kaggle_batches`, augmented in the six ways of the work this series started from, by Keras' layers."""
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal_and_vertical", seed=SEED),
            keras.layers.RandomRotation(30 / 360, fill_mode="reflect", seed=SEED),
            keras.layers.RandomZoom((-0.25, 0.0), fill_mode="reflect", seed=SEED),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), seed=SEED),
            keras.layers.RandomBrightness(0.1, value_range=(0, 255), seed=SEED),
        ]
    )
    return kaggle_batches(flowers, batch_size).map(
        lambda images, labels: (layers(images, training=True), labels), tf.data.AUTOTUNE
    )


def records(flowers: Flowers, split: str) -> Iterator[tf.train.Example]:
    """Read a split's records, in file order."""
    for record in tf.data.TFRecordDataset(list(flowers.shards[split])).as_numpy_iterator():
        yield tf.train.Example.FromString(record)


def _jpegs(flowers: Flowers) -> list[bytes]:
    return [record.features.feature["image"].bytes_list.value[0] for record in records(flowers, "train")]


def enlarged(flowers: Flowers, folder: Path, size: int, count: int) -> Flowers:
    """Return the first images of the training split, enlarged to `size` and compressed again, as one shard."""
    path = folder / f"00-{size}x{size}-{count}.tfrec"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in islice(records(flowers, "train"), count):
            image = record.features.feature["image"].bytes_list
            Image.open(io.BytesIO(image.value[0])).resize((size, size), Image.Resampling.LANCZOS).save(
                buffer := io.BytesIO(), "JPEG", quality=95
            )
            image.value[0] = buffer.getvalue()
            writer.write(record.SerializeToString())
    shards, hashes = flowers.shards | {"train": (str(path),)}, flowers.hashes | {str(path): storage.sha256(str(path))}
    return replace(flowers, image_size=size, shards=shards, hashes=hashes, fingerprint="enlarged")
