"""A network of a few hundred weights, so that tests run whole trainings; and eight devices to run them on."""

import os
import subprocess
import sys
from pathlib import Path

from flowerlib import heads
from flowerlib.accelerator import keras


def network(num_classes, image_size=24, dropout=0.0, seed=0):
    """Pixels (B, S, S, 3) in [0, 255] -> probabilities (B, num_classes); no BatchNorm, so batches do not matter."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            heads.linear(num_classes, dropout),
        ]
    )


def looker():
    """Pixels (B, 24, 24, 3) in [0, 255] -> features (B, 6)."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((24, 24, 3)), keras.layers.Conv2D(6, 5, strides=3), keras.layers.GlobalAveragePooling2D()]
    )


EIGHT_DEVICES = """
import sys

backend, tests, *arguments = sys.argv[1:]
sys.path.insert(0, tests)
from flowerlib import accelerator

if backend == "tensorflow":
    cpu = accelerator.tf.config.list_physical_devices("CPU")[0]
    logical = accelerator.tf.config.LogicalDeviceConfiguration()
    accelerator.tf.config.set_logical_device_configuration(cpu, [logical] * 8)
device = accelerator.setup()
assert device.num_replicas == 8, device
"""


def run_on_8_devices(backend, script, *arguments):
    """Run a script in a process with eight virtual devices; it has `device` and `arguments`. Return what it prints."""
    environment = os.environ | {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", EIGHT_DEVICES + script, backend, str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
