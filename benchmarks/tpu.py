"""What eight cores of a TPU v5e should take for an epoch, on paper: nothing here has run on one.

Operations are counted in the program that JAX hands to the compiler, at 512 px: a training step of the networks that
the notebooks 10 to 13 train, a look of the one that 14 only looks through. It takes as long as the slower of two:
computing, at an assumed share of the peak, and what the host does meanwhile. Of that, looking and predicting are
measured here, on one core's share of this machine: decoding, mirroring, handing over, writing down.
"""

import json
import os
import subprocess
import sys

from benchmarks import look
from benchmarks.harness import Report, Row, medians
from flowerlib.parallel import num_cores

NETWORKS = {
    "DenseNet201": True,
    "Xception": True,
    "ResNet152V2": True,
    "EfficientNetB7": True,
    "EfficientNetV2XL": False,  # frozen: forward only
}
IMAGES = {True: 12_753, False: 6 * 12_753 + 2 * (3_712 + 7_382)}  # an epoch; all the views that 14 looks at
PEAK = 8 * 197e12  # bfloat16 operations/s: cloud.google.com/tpu/docs/v5e
SHARE = 0.35  # of the peak; an assumption, to be replaced by the first real run
SIZE, BATCH = 512, 4

COUNT = """
import json, sys
import jax
from flowerlib.networks import backbones
from flowerlib.accelerator import keras
name, size, batch, trained = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True"
backbones._calibrate_batch_norm = lambda network: None  # weights do not matter, and settling them takes minutes
network = backbones.load(name, size, "random")
network.trainable = trained
variables = network.trainable_variables, network.non_trainable_variables
trainable, others = ([variable.value for variable in part] for part in variables)

def forward(trainable, others, images):
    maps, _ = network.stateless_call(trainable, others, images, training=trained)
    return maps.astype("float32").mean()

step = jax.grad(forward) if trained else forward
images = jax.ShapeDtypeStruct((batch, size, size, 3), "float32")
cost = jax.jit(step).lower(trainable, others, images).cost_analysis()
print(json.dumps(cost["flops"] / batch))
"""


def run(root: str, quick: bool) -> Report:
    """Count, and measure what predicting takes of the host."""
    looking = look.measured(root, quick)
    a_core = medians(looking)[look.MIRRORED] / num_cores()
    rows = [Row(f"host: predicting at {SIZE} px, mirrored too, by each core here", a_core, "images/s")]
    raw = {"look": looking}
    for name in ("Xception",) if quick else NETWORKS:
        arguments = map(str, (name, SIZE, BATCH, NETWORKS[name]))
        done = subprocess.run(
            [sys.executable, "-c", COUNT, *arguments],
            env=os.environ | {"KERAS_BACKEND": "jax"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr)
        raw[name] = operations = json.loads(done.stdout.splitlines()[-1])
        trained = NETWORKS[name]
        seconds = IMAGES[trained] * operations / (PEAK * SHARE)
        rows += [
            Row(f"{name}: operations an image, {'trained' if trained else 'looked at'}", operations / 1e9, "10^9"),
            Row(f"{name}: computing, {'an epoch' if trained else 'all looks'} on a v5e-8, expected", seconds, "s"),
            Row(f"{name}: decoding that keeps up with it", PEAK * SHARE / operations, "images/s"),
            Row(f"{name}: cores that keep up with it in predicting", _cores(operations, trained, a_core), "cores"),
        ]
    return Report("tpu", rows, raw)


def _cores(operations: float, trained: bool, a_core: float) -> float:
    """How many cores make as many images a second as eight chips predict, each in two views.

    A training step takes three times the operations of a forward pass.
    """
    forward = operations / 3 if trained else operations
    return PEAK * SHARE / (2 * forward) / a_core
