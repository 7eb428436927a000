"""What an accelerator does with the networks of the notebooks: compiling, images/s, memory; PyTorch beside it.

At 224 and 512 px, in three precisions: DenseNet201 trained and predicting, as in `10_densenet201`; EfficientNetV2XL
frozen, as in `14_efficientnetv2xl`. The weights are random, which speed does not depend on, so nothing is downloaded.
Each contestant is a process of its own, since JAX and torch both want all the memory, and stops where its time is over:
what it did not come to has no row.
"""

import importlib.util
import json
import os
import subprocess
import sys

from benchmarks.harness import Report, Row

NETWORKS = ("DenseNet201", "EfficientNetV2XL")
BATCHES = {512: 16, 224: 64}  # px -> images of a step on one device
SECONDS = {"DenseNet201": 200, "EfficientNetV2XL": 110, "torch": 110}  # of at most 8 minutes in all
UNITS = {"compiling": "s", "memory": "GiB"}  # else images/s


def run(root: str, quick: bool) -> Report:
    """Measure each network with Keras on JAX, DenseNet201 with torch where it is installed, then augmentation."""
    batches = {64: 2} if quick else BATCHES
    raw = {}
    for name in NETWORKS:
        answer = _process("benchmarks.gpu_jax", name, str(SECONDS[name]), json.dumps(batches))
        device, raw[name] = answer["device"], answer["found"]
    raw["six augmentations"] = _process("benchmarks.gpu_augment", root, json.dumps(batches))
    if importlib.util.find_spec("torch"):
        raw["torch"] = _process("benchmarks.gpu_torch", str(SECONDS["torch"]), json.dumps(batches))
    rows = [
        Row(f"{name}, {what}", value, UNITS.get(what.rsplit(": ", 1)[-1].split(" ")[0], "images/s"))
        for name, found in raw.items()
        for what, value in found.items()
    ]
    return Report("gpu", [Row(f"measured on one of: {device}", None, "devices"), *rows, *_ratios(raw)], raw)


def _ratios(raw: dict[str, dict[str, float]]) -> list[Row]:
    """Each images/s that both have, ours over torch's."""
    ours, theirs = raw["DenseNet201"], raw.get("torch", {})
    both = [what for what in theirs if what in ours and what.split(": ")[-1] in ("training", "prediction")]
    return [Row(f"DenseNet201, {what}: Keras on JAX / torch", ours[what] / theirs[what], "x") for what in both]


def _process(module: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{module} {' '.join(arguments)} stopped with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
