"""Features of a network that does nothing, beside decoding alone: what is left is what extraction costs the host.

At 512 px: the same photographs enlarged, in quality 95. A network that is frozen, such as that of
`14_efficientnetv2xl`, can be no faster than this.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Report, Row, in_turns, medians, ratio
from benchmarks.input import enlarged
from flowerlib import data
from flowerlib.accelerator import keras, tf
from flowerlib.data import Flowers
from flowerlib.training import features

SIZE, BATCH = 512, 64
DECODE, LOOK, MIRRORED = "decoding alone", "looking", "looking, mirrored too"


def run(root: str, quick: bool) -> Report:
    """Measure in turns."""
    rates = measured(root, quick)
    rows = [Row(f"{name}, {SIZE} px", value, "images/s") for name, value in medians(rates).items()]
    rows += [Row(f"{LOOK} / {DECODE}", ratio(rates, LOOK, DECODE), "x", ">= 0.9")]
    rows += [Row(f"{MIRRORED} / {DECODE}", ratio(rates, MIRRORED, DECODE), "x")]
    return Report("look", rows, {"images/s": rates})


def measured(root: str, quick: bool) -> dict[str, list[float]]:
    """Return the images/s of each way, one number a turn; an image counts once, mirrored too or not."""
    images = 256 if quick else 2048
    with TemporaryDirectory() as place:
        flowers = enlarged(data.find(192, root), Path(place), SIZE, images)
        ways = {
            DECODE: partial(_decode, flowers),
            LOOK: partial(_extract, flowers, flip=False),
            MIRRORED: partial(_extract, flowers, flip=True),
        }
        return in_turns({name: _rate(images, way) for name, way in ways.items()}, 1 if quick else 7)


def _rate(images: int, way: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        way()
        return images / (time.perf_counter() - began)

    return run


def _decode(flowers: Flowers) -> None:
    for _ in data.eval_batches(flowers, "train", BATCH):
        pass


class _EverySixteenth(keras.layers.Layer):
    """A network for which nothing is computed: it takes every sixteenth pixel of every sixteenth row."""

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        return keras.ops.cast(pixels[:, ::16, ::16], "float32")


def _extract(flowers: Flowers, flip: bool) -> None:
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    network = keras.Sequential([pixels, _EverySixteenth(autocast=False), keras.layers.GlobalAveragePooling2D()])
    with TemporaryDirectory() as folder:
        features.extract(network, flowers, "train", BATCH, flip=flip, folder=Path(folder), progress=False)
