"""Seconds until something happens: the import, the help, the first step of a training."""

import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.harness import Report, Row, in_turns, medians

TRAIN = """
from flowerlib import accelerator, augmentation, data, networks, training
from flowerlib.accelerator import keras
device = accelerator.setup()
flowers = data.find(192, {root!r})
backbone = networks.load("EfficientNetLite0", 192)
head = networks.head(len(flowers.classes))
model = keras.Sequential([keras.Input((192, 192, 3)), backbone, keras.layers.GlobalAveragePooling2D(), head])
model.compile("adam", "categorical_crossentropy")
batches = data.train_batches(flowers, 32, augment=augmentation.Augmentation())
with training.prepared(model, batches, device):
    model.fit(batches, steps_per_epoch=1, verbose=0, shuffle=False)
"""


def run(root: str, quick: bool) -> Report:
    """Measure whole processes, from their start to their end."""
    seconds = in_turns(
        {
            "import flowerlib": _process("-c", "import flowerlib"),
            "python -m flowerlib --help": _process("-m", "flowerlib", "--help"),
            "to the first training step of EfficientNet-Lite0": _process("-c", TRAIN.format(root=root)),
        },
        1 if quick else 5,
    )
    targets = {"import flowerlib": "<= 0.3", "python -m flowerlib --help": "<= 0.5"}
    rows = [Row(name, value, "s", targets.get(name, "")) for name, value in medians(seconds).items()]
    return Report("start", rows, {"seconds": seconds})


def _process(*arguments: str) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return time.perf_counter() - began

    return run
