"""A network of a few hundred weights, so that tests run whole trainings; and eight devices to run them on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from flowerlib import data, networks, predictions, training
from flowerlib.accelerator import Device, keras
from flowerlib.training import Features

CPU, TPU = Device("cpu", "a CPU", 1, "tensorflow"), Device("tpu", "a TPU", 8, "jax")


def network(num_classes, image_size=24, dropout=0.0, seed=0):
    """Pixels (B, S, S, 3) in [0, 255] -> probabilities (B, num_classes); no BatchNorm, so batches do not matter."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((image_size, image_size, 3)),
            keras.layers.Rescaling(1 / 127.5, -1.0),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            networks.head(num_classes, dropout),
        ]
    )


def feature_extractor():
    """Pixels (B, 24, 24, 3) in [0, 255] -> features (B, 6)."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((24, 24, 3)), keras.layers.Conv2D(6, 5, strides=3), keras.layers.GlobalAveragePooling2D()]
    )


def write_run(flowers, eval_size=None, keep_pictures=False):
    """Leave `runs/tiny` in the working folder, as a training on images of 24 px would; return its val predictions."""
    config = training.TrainConfig("tiny", "none", 24, batch_size=4, epochs=1, warmup_epochs=0, eval_size=eval_size)
    run = training.Run(config, flowers, CPU)
    model = network(4, image_size=None)
    model.set_weights([3 * weight for weight in model.get_weights()])  # larger logits, so that predictions differ
    val, test = (
        predictions.predict(model, data.eval_batches(flowers, split, 8, image_size=eval_size), 8, flip=True)
        for split in ("val", "test")
    )
    measured = ("loss", "accuracy", "val_loss", "val_accuracy", "val_macro_f1", "seconds", "compiled")
    history = {name: [1.0] for name in measured}
    features = None
    if keep_pictures:
        pooled = keras.Model(model.inputs, model.layers[-2].output)
        images = [images for images, _, _ in data.eval_batches(flowers, "train", 8, image_size=eval_size)]
        values = [pooled.predict_on_batch(batch.numpy().astype("float32")) for batch in images]
        labels_and_ids = data.labels_and_ids(flowers, "train")
        features = Features(np.concatenate(values)[None].astype(np.float16), *labels_and_ids, num_original=1)
    training.save(run, model, history, val, test, features)
    return val


HERE = Path(__file__).parent
PYTHONPATH = f"{HERE}:{HERE / 'training'}"  # for scripts that import this module, or `test_training`
EIGHT_DEVICES = """
import sys

backend, tests, *arguments = sys.argv[1:]
sys.path[:0] = tests.split(":")
from flowerlib import accelerator

if backend == "tensorflow":
    cpu = accelerator.tf.config.list_physical_devices("CPU")[0]
    logical = accelerator.tf.config.LogicalDeviceConfiguration()
    accelerator.tf.config.set_logical_device_configuration(cpu, [logical] * 8)
device = accelerator.setup()
assert device.num_replicas == 8, device
"""


def run_on_8_devices(backend, script, *arguments, **environment):
    """Run a script in a process with eight virtual devices; it has `device` and `arguments`. Return what it prints."""
    environment |= {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", EIGHT_DEVICES + script, backend, PYTHONPATH, *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
