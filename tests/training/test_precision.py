"""Mixed precision, which only a TPU or GPU takes by itself, forced on a CPU: trained, saved, and used elsewhere."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tiny

from flowerlib import networks, predictions
from flowerlib.accelerator import keras
from flowerlib.networks import folding
from flowerlib.photos import classification, export
from flowerlib.training import heads
from flowerlib.training.features import Features

TRAIN = """
import numpy as np
from flowerlib import data, networks, predictions, training
from flowerlib.networks import folding
from flowerlib.accelerator import keras

assert keras.config.dtype_policy().name == arguments[1]
keras.utils.set_random_seed(0)
config = training.TrainConfig(
    "lite0", "EfficientNetLite0", 64, batch_size=8, epochs=1, warmup_epochs=0, peak_lr=1e-4, label_smoothing=0.1,
    dropout=0.3, steps=2, head_lr_multiplier=10.0,
)
run = training.Run(config, data.find(path=arguments[0]), device)
with device.scope():
    if arguments[1] == "mixed_bfloat16":
        backbone = networks.load(config.backbone, config.image_size)
    else:  # a small one: XLA takes a minute for each network of the series
        convolution = keras.layers.Conv2D(16, 5, strides=4, use_bias=False)
        layers = [keras.layers.Rescaling(1 / 127.5, -1), convolution, keras.layers.BatchNormalization()]
        backbone = keras.Sequential([keras.Input((64, 64, 3)), *layers, keras.layers.ReLU()])
    head = networks.head(len(run.classes), config.dropout)
    pixels = keras.Input((64, 64, 3))
    model = keras.Sequential([pixels, backbone, keras.layers.GlobalAveragePooling2D(dtype="float32"), head])
    model.compile(training.optimizer(run), training.loss(run), metrics=["accuracy"])
history = training.fit(run, model, training.train_batches(run), verbose=0)
val, test = (predictions.predict(model, training.eval_batches(run, split), 32) for split in ("val", "test"))
training.save(run, model, history, val, test)
same = predictions.predict(folding.to_float32(model), training.eval_batches(run, "val"), config.eval_batch_size)
np.save("float32.npy", same.probabilities)
"""


@pytest.fixture(scope="module", params=["mixed_bfloat16", "mixed_float16"])
def run(request, flowers, tmp_path_factory):
    """The folder of a network that eight devices trained for two steps in mixed precision."""
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        tiny.run_on_8_devices("jax", TRAIN, flowers.root, request.param, FLOWERS_PRECISION=request.param)
    return place / "runs/lite0"


def test_what_is_saved_names_no_mixed_precision_and_the_record_does(run):
    with zipfile.ZipFile(run / "model/model.keras") as archive:
        assert b"mixed" not in archive.read("config.json")
    assert json.loads((run / "run.json").read_text())["precision"].startswith("mixed_")


def test_it_predicts_on_a_cpu_what_it_did_where_it_was_trained(run, photographs_of_val):
    val = predictions.load(run).val
    files = [photographs_of_val / f"{record_id}.jpg" for record_id in val.ids]
    loaded = classification.load(run)
    mine = loaded.outputs(np.stack([loaded.pixels(file) for file in files]))
    assert mine.dtype == np.float32
    np.testing.assert_allclose(mine, np.load(run.parents[1] / "float32.npy"), atol=1e-4)
    # Each of the fifty layers of EfficientNet-Lite0 rounds to the 8 bits of bfloat16; float16 has 11.
    rounding = 2e-2 if "bfloat16" in run.parents[1].name else 4e-3
    assert abs(mine - val.probabilities).mean() < rounding


@pytest.mark.parametrize("to", ["onnx", "litert", "savedmodel"])
def test_it_is_exported_as_one_trained_in_float32_is(run, photographs_of_val, tmp_path, to):
    """`export` itself compares every output with the saved one's, to 1e-4."""
    assert "equal to within" in export.export(run, to, [photographs_of_val], tmp_path / "exported")


@pytest.mark.usefixtures("in_bfloat16")
def test_standardization_keeps_the_digits_of_features_far_from_zero():
    """A mean of ten deviations: in bfloat16 the least step near 10 is 1/16 of one."""
    values = np.random.default_rng(0).normal(10.0, 1.0, (1, 200, 3)).astype("float16")
    train = Features(values, np.zeros(200, int), np.arange(200).astype(str), num_original=1)
    rows = values[0].astype("float32")
    standardized = np.asarray(heads.standardization(train)(rows))
    np.testing.assert_allclose(standardized, (rows - rows.mean(axis=0)) / rows.std(axis=0), atol=1e-3)


@pytest.mark.usefixtures("in_bfloat16")
def test_a_head_computes_in_float32_throughout():
    head = networks.head(4, 0.5)
    assert {layer.compute_dtype for layer in head.layers} == {"float32"}
    assert head(np.full((1, 8), 1.001, "float32")).dtype == "float32"


@pytest.mark.usefixtures("in_bfloat16")
def test_a_copy_in_float32_has_the_weights_and_the_outputs_of_a_network_made_in_float32():
    def network():
        pixels = keras.Input((16, 16, 3))
        maps = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3)(pixels)))
        inner = keras.Model(pixels, keras.ops.mean(maps, axis=(1, 2)) * 2.0)
        again = keras.layers.TimeDistributed(keras.layers.Dense(3))  # a layer that holds a layer
        rows = keras.layers.Reshape((2, 4))(inner.outputs[0])
        return keras.Sequential([pixels, keras.Model(pixels, again(rows)), keras.layers.Flatten()])

    mixed = network()
    copied = folding.to_float32(mixed)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"  # as it was
    keras.config.set_dtype_policy("float32")
    made = network()
    made.set_weights(mixed.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(copied(images), made(images), rtol=1e-6)
    assert float(abs(np.asarray(mixed(images), "float32") - np.asarray(made(images))).max()) > 1e-3  # it was mixed


REFUSED = "from flowerlib import accelerator; accelerator.setup()"


def test_a_precision_that_there_is_not_is_an_error():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], env=os.environ | {"FLOWERS_PRECISION": "bf16"}, capture_output=True, text=True
    )
    message = "`FLOWERS_PRECISION` (=bf16) must be one of float32, mixed_bfloat16, mixed_float16, or unset"
    assert done.stderr.splitlines()[-1].endswith(message)
