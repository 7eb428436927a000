"""Images/s of all six augmentations by the host and by the device: `gpu_augment DATA '{"512": 16}'`, prints JSON.

The same photographs in memory, enlarged: by `flowerlib.augmentation` in tf.data on all cores, and by `warp` on what JAX
sees.
"""

import json
import sys
from collections.abc import Callable
from itertools import count

from benchmarks import input
from benchmarks.harness import rate
from flowerlib import augmentation, data
from flowerlib.accelerator import tf

BATCH = 64


def measure(root: str, sizes: list[int]) -> dict[str, float]:
    """Return images/s for each size and place."""
    photographs, _ = next(iter(data.train_batches(data.find(192, root), BATCH, seed=0)))
    found = {}
    for size in sizes:
        images = tf.cast(tf.image.resize(photographs, (size, size)), tf.uint8)
        found[f"{size} px: host"] = rate(_on_host(images), lambda _: None, BATCH)
        found[f"{size} px: device"] = input.on_device(images)()
    return found


def _on_host(images: tf.Tensor) -> Callable[[], tf.Tensor]:
    augment = augmentation.Augmentation()
    seeds = tf.data.Dataset.from_generator(count, output_signature=tf.TensorSpec((), tf.int32))
    batches = iter(seeds.map(lambda seed: augment(images, tf.stack([0, seed])), tf.data.AUTOTUNE))
    return lambda: next(batches)


if __name__ == "__main__":
    root, batches = sys.argv[1:]
    print(json.dumps(measure(root, [int(size) for size in json.loads(batches)])), flush=True)
