"""Sixteen times the images: sixteen times as long, and no more memory? Eight devices: the same as one?"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import Report, Row
from flowerlib import data
from flowerlib.data import Flowers

FACTORS = (1, 4, 16)
DEVICES = (1, 2, 4, 8)
AGREE = 1e-4  # of the largest weight: sums over other shares of a batch are rounded differently

READ = r"""
import json, re, sys, time
from flowerlib import augmentation, data
root, way = sys.argv[1:]
flowers = data.find(192, root)
steps = flowers.count("train") // 64
if way == "training":
    batches = data.train_batches(flowers, 64, augment=augmentation.Augmentation())
else:
    batches = data.eval_batches(flowers, "train", 64)
iterator = batches.as_numpy_iterator()
next(iterator)
began = time.perf_counter()
for _ in range(steps - 1):
    next(iterator)
seconds = time.perf_counter() - began
del iterator, batches  # TensorFlow aborts where their threads are alive when the process ends
most = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]
print(json.dumps({"seconds": seconds, "MB": int(most) / 1024}))
"""

TRAIN = """
import json, sys, time
from flowerlib import accelerator, data
from flowerlib.accelerator import keras
root, steps = sys.argv[1], int(sys.argv[2])
flowers = data.find(192, root)
device = accelerator.setup()
keras.utils.set_random_seed(0)
with device.scope():
    layers = [keras.layers.Rescaling(1 / 127.5, -1.0), keras.layers.Conv2D(16, 3, 2), keras.layers.BatchNormalization()]
    layers += [keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(len(flowers.classes))]
    model = keras.Sequential([keras.Input((64, 64, 3)), *layers])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True))
batches = data.train_batches(flowers, 64, image_size=64)
ended = []

class Note(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs):
        float(logs["loss"])  # waits for the step
        ended.append(time.perf_counter())

model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[Note()])
seconds = (ended[-1] - ended[1]) / (len(ended) - 2)
weights = [float(number) for weight in model.get_weights() for number in weight.ravel()]
print(json.dumps({"devices": device.num_replicas, "weights": weights, "seconds": seconds}))
"""


def run(root: str, quick: bool) -> Report:
    """Measure whole processes, each on its own."""
    flowers = data.find(192, root)
    factors, devices = (FACTORS[:2], DEVICES[:2]) if quick else (FACTORS, DEVICES)
    rows, raw = [], {}
    with TemporaryDirectory() as place:
        roots = {factor: _repeated(flowers, Path(place) / str(factor), factor) for factor in factors}
        for way in ("training",) if quick else ("evaluation", "training"):
            found = {factor: _process(READ, roots[factor], way) for factor in factors}
            for factor in factors[1:]:
                rows += _grown(way, found, factor)
            raw[way] = found
    encoded = sum(Path(path).stat().st_size for path in flowers.shards["train"]) / 2**20
    rows.append(Row("the training images as they are stored, once", encoded, "MB"))
    shared = {count: _process(TRAIN, root, 5 if quick else 30, devices=count) for count in devices}
    assert [found["devices"] for found in shared.values()] == list(devices)
    weights = {count: np.array(found.pop("weights")) for count, found in shared.items()}
    raw["devices"] = shared
    for count in devices[1:]:
        apart = abs(weights[count] - weights[1]).max() / abs(weights[1]).max()
        slower = shared[count]["seconds"] / shared[1]["seconds"]
        rows += [
            Row(f"{count} virtual devices: trained weights differ from one device's by", apart, "x", f"<= {AGREE}"),
            Row(f"{count} virtual devices: a step over one device's", slower, "x"),
        ]
    return Report("growth", rows, raw)


def _grown(way: str, found: dict[int, dict], factor: int) -> list[Row]:
    once, often = found[1], found[factor]
    what = f"reading for {way}, {factor} x the images"
    return [
        Row(f"{what}: time over {factor} x", often["seconds"] / once["seconds"] / factor, "x", "<= 1.1"),
        Row(f"{what}: more memory", often["MB"] - once["MB"], "MB", "<= 200"),
    ]


def _repeated(flowers: Flowers, folder: Path, times: int) -> Path:
    """The dataset with every training shard so many times, as links."""
    for split, shards in flowers.shards.items():
        place = folder / f"tfrecords-jpeg-192x192/{split}"
        place.mkdir(parents=True)
        for number, shard in enumerate(shards * (times if split == "train" else 1)):
            name = Path(shard).name.split("-", 1)[1]
            (place / f"{number:03d}-{name}").symlink_to(Path(shard).resolve())
    (folder / "classes.json").write_text(json.dumps(flowers.classes), encoding="utf-8")
    return folder


def _process(script: str, *arguments: object, devices: int = 1) -> dict:
    several = {"KERAS_BACKEND": "jax", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | (several if script is TRAIN else {}),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])
