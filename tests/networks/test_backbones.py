"""The table of networks against Keras, keras-efficientnet-v2 and numbers measured elsewhere; and `load`.

Parameters, trainable ones and layers with weights: networks with a Dense(104) head at 192 px, as published or counted
with the packages themselves.
"""

import hashlib
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import backbones
from flowerlib.networks.backbones import BACKBONES

COUNTED = {
    "DenseNet201": (18_521_768, 18_292_712, 402, 1920),
    "Xception": (21_074_576, 21_020_048, 81, 2048),
    "ResNet152V2": (58_544_744, 58_401_000, 307, 2048),
    "EfficientNetB7": (64_364_024, 64_053_304, 437, 2560),
    "EfficientNetV2XL": (207_749_056, 206_972_032, 717, 1280),
    # 4,652,008 trainable ones with the ImageNet head (torch), which has 1,147,776 more than ours.
    "EfficientNetLite0": (3_546_248, 3_504_232, 99, 1280),
    "EfficientNetLite1": (4_322_568, 4_268_904, 129, 1280),  # 5,416,680
    "EfficientNetLite2": (5_002_392, 4_944_296, 129, 1280),  # 6,092,072
}
KERAS = {"DenseNet201": "densenet", "Xception": "xception", "ResNet152V2": "resnet_v2"}
PACKAGE = {"EfficientNetB7": ("v1-b7", "noisy_student"), "EfficientNetV2XL": ("xl", "imagenet21k-ft1k")}
B0 = {"build": backbones._package("EfficientNetV1B0"), "features": 1280}
NO_NETWORK = "http://127.0.0.1:9/network.h5"
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


@pytest.fixture(autouse=True)
def nothing_found(tmp_path, monkeypatch):
    """No weights but those that a test puts into `tmp_path`."""
    monkeypatch.setenv("FLOWERS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


def test_a_package_of_weights_has_the_version_that_the_requirements_pin():
    pinned = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    packages = [row.weights.package for row in BACKBONES.values() if row.weights.package]
    assert packages
    assert set(packages) <= set(pinned)


def test_the_series_order():
    assert list(BACKBONES) == list(COUNTED)
    assert all(name == row.name for name, row in BACKBONES.items())


@pytest.mark.parametrize("name", COUNTED)
def test_counts(name):
    backbone = backbones.load(name, 192, "random")
    parameters, trainable, layers, features = COUNTED[name]
    head = 104 * features + 104
    assert backbone.count_params() + head == parameters
    assert sum(math.prod(weight.shape) for weight in backbone.trainable_weights) + head == trainable
    assert sum(bool(layer.weights) for layer in backbone.layers[1].layers) + 1 == layers
    assert backbone.output_shape == (None, 6, 6, features)
    assert BACKBONES[name].features == features
    modes = {"EfficientNetB7": "torch", "EfficientNetV2XL": "tf"}  # what the scaling below is checked against
    assert getattr(backbone.layers[1], "rescale_mode", None) == modes.get(name)


def scaled(name, pixels=PIXELS):
    row = BACKBONES[name]
    return keras.layers.Rescaling(row.scale, row.offset)(pixels)


@pytest.mark.parametrize("name", KERAS)
def test_scaling_equals_keras(name):
    expected = getattr(keras.applications, KERAS[name]).preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(scaled(name), expected, atol=1e-6)


def test_scaling_equals_the_packages():
    torch = keras.applications.imagenet_utils.preprocess_input(PIXELS.copy(), mode="torch")
    np.testing.assert_allclose(scaled("EfficientNetB7"), torch, atol=1e-6)
    np.testing.assert_array_equal(scaled("EfficientNetV2XL"), PIXELS / 128 - 1)
    for number in range(3):
        np.testing.assert_array_equal(scaled(f"EfficientNetLite{number}"), (PIXELS - 127) / 128)


def test_scaling_is_float32_in_mixed_precision():
    """bfloat16 would make 100.37 the 100.5 that is nearest to it there."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = backbones.load("EfficientNetLite0", 32, "random")
        scaling, network, _ = backbone.layers
        assert network.layers[1].compute_dtype == "bfloat16"
        assert scaling.compute_dtype == "float32"
        images = keras.Input((32, 32, 3))
        scaled = keras.Model(images, scaling(images))(np.full((1, 32, 32, 3), 100.37, "float32"))
        np.testing.assert_allclose(scaled, np.full((1, 32, 32, 3), (100.37 - 127) / 128), rtol=1e-5)
        model = keras.Sequential([images, backbone])
        maps = [model(np.full((1, 32, 32, 3), pixel, "float32")) for pixel in (100.37, 100.5)]
        assert np.any(np.not_equal(*maps)), "the whole model must keep the difference too"
    finally:
        keras.config.set_dtype_policy("float32")


class Asked(Exception):
    """Ends a build when it asks for its weights."""


def asked(monkeypatch, action):
    """Return (file name, address, folder of the cache, hash) that `action` asks Keras to get."""
    questions = []

    def get_file(fname, origin, cache_subdir, file_hash):
        questions.append((fname, origin, cache_subdir, file_hash))
        raise Asked

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    monkeypatch.setattr("keras.utils.get_file", get_file)
    action()
    return questions[-1]


@pytest.mark.parametrize("name", KERAS)
def test_files_and_hashes_are_those_of_keras(name, monkeypatch):
    def build():
        with pytest.raises(Asked):
            getattr(keras.applications, name)(include_top=False, input_shape=(75, 75, 3))

    file = BACKBONES[name].weights
    assert asked(monkeypatch, build) == (file.name, file.url, file.cache, file.digest)


@pytest.mark.parametrize("name", PACKAGE)
def test_files_and_hashes_are_those_of_the_package(name, monkeypatch):
    from keras_efficientnet_v2 import efficientnet_v2

    file = BACKBONES[name].weights
    found = asked(monkeypatch, lambda: efficientnet_v2.reload_model_weights(None, *PACKAGE[name]))
    assert found == (file.name, file.url, file.cache, file.digest)


def publish(monkeypatch, name, path, **changes):
    """Make `path` the published weights of a network: its name and md5 go into the network's row."""
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    row = BACKBONES[name]
    file = replace(row.weights, name=path.name, digest=digest, url=NO_NETWORK)
    monkeypatch.setitem(BACKBONES, name, replace(row, weights=file, **changes))
    return path


def write(path, network):
    """Write as `save_weights("....h5")` of Keras does, with Keras' own code, which warns when called that way."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, network)
    return path


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["DenseNet201", "Xception"])
def test_load_fills_a_keras_network_to_the_last_array(name, tmp_path, monkeypatch):
    author = backbones.load(name, 75, "random").layers[1]
    publish(monkeypatch, name, write(tmp_path / "published.h5", author))
    assert backbones.available_weights(name) == "pretrained"
    network = backbones.load(name, 75).layers[1]
    if name == "Xception":  # some of its layers have no names of their own, so only the order can say which is which
        assert [layer.name for layer in network.layers] != [layer.name for layer in author.layers]
    assert_equal(network.get_weights(), author.get_weights())


@pytest.fixture(scope="module")
def author():
    """keras-efficientnet-v2's smallest network, with the ImageNet head, as its author publishes one."""
    B0["build"](32)  # puts the adapter in place
    import keras_efficientnet_v2

    return keras_efficientnet_v2.EfficientNetV1B0(input_shape=(32, 32, 3), num_classes=1000, pretrained=None)


@pytest.fixture
def published(author, tmp_path, monkeypatch):
    """The author's file where it is looked for, as if EfficientNetB7 were that small network."""
    return publish(monkeypatch, "EfficientNetB7", write(tmp_path / "published.h5", author), **B0)


def refusal(name="EfficientNetB7", image_size=32, **options):
    with pytest.raises(FlowersError) as caught:
        backbones.load(name, image_size, **options)
    return str(caught.value)


def test_load_fills_a_network_of_the_package_to_the_last_array(author, published):
    network = backbones.load("EfficientNetB7", 32).layers[1]
    assert_equal(network.get_weights(), author.get_weights()[:-2])  # all but the kernel and bias of the head


def test_a_file_with_a_wrong_hash_is_refused(published):
    digest = hashlib.md5(published.read_bytes()).hexdigest()
    published.write_bytes(published.read_bytes()[:-1])
    message = refusal()
    assert str(published) in message
    assert digest in message
    with pytest.raises(FlowersError, match=digest):
        backbones.available_weights("EfficientNetB7")


def test_a_file_that_lacks_an_array_is_refused(published, monkeypatch):
    with h5py.File(published, "a") as file:
        group = file["stack_3_block1_MB_dw_bn"]
        group.attrs["weight_names"] = group.attrs["weight_names"][:-1]
    publish(monkeypatch, "EfficientNetB7", published)
    message = refusal()
    assert str(published) in message
    assert "stack_3_block1_MB_dw_bn" in message


def test_a_file_of_another_network_is_refused(published, monkeypatch):
    publish(monkeypatch, "Xception", published)
    assert str(published) in refusal("Xception", 75)


def test_without_file_and_network_load_stops(published):
    published.unlink()
    assert backbones.available_weights("EfficientNetB7") == "random"
    file = BACKBONES["EfficientNetB7"].weights
    message = refusal()
    assert all(word in message for word in (file.name, file.digest, NO_NETWORK, str(published.parent)))
    backbones.load("EfficientNetB7", 32, "random")


def test_a_network_for_any_size_is_the_one_for_each(tmp_path):
    some = backbones.load("EfficientNetLite0", None, "random")
    for size in (32, 48):
        one = backbones.load("EfficientNetLite0", size, "random")
        one.set_weights(some.get_weights())
        pixels = 255 * np.random.default_rng(0).random((2, size, size, 3)).astype("float32")
        np.testing.assert_allclose(some(pixels), one(pixels), atol=1e-6)


def test_saves_and_loads_as_plain_keras(tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, "EfficientNetB7", replace(BACKBONES["EfficientNetB7"], **B0))
    backbone = backbones.load("EfficientNetB7", 32, "random")
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    expected = backbone(pixels)
    backbone.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert b"efficientnet_v2" not in file.read("config.json"), (
            "somebody without the package must be able to load it"
        )
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(pixels), expected)


def test_the_other_backend_computes_the_same():
    """The adapter builds there, and the pretrained Lite0 gives the same features."""
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    code = """
from flowerlib.networks import backbones
from keras_efficientnet_v2 import efficientnet_v2
import numpy as np
efficientnet_v2.CONV_KERNEL_INITIALIZER = "zeros"  # JAX compiles a program for each shape of random numbers
assert backbones._package("EfficientNetV1B0")(32).output_shape == (None, 1, 1, 1280)
pixels = np.arange(32 * 32 * 3, dtype="float32").reshape(1, 32, 32, 3) % 256
maps = backbones.load("EfficientNetLite0", 32).predict_on_batch(pixels)
print(backbones.keras.backend.backend(), *maps.ravel())
"""
    environment = os.environ | {"KERAS_BACKEND": other, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    root = Path(backbones.__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=root, text=True)
    backend, *features = printed.split()
    assert backend == other
    pixels = np.arange(32 * 32 * 3, dtype="float32").reshape(1, 32, 32, 3) % 256
    here = backbones.load("EfficientNetLite0", 32).predict_on_batch(pixels).ravel()
    assert here.max() > 1
    np.testing.assert_allclose(np.array(features, "float32"), here, atol=1e-4)


def test_an_unknown_name_lists_the_known_ones():
    message = refusal("ResNet50")
    assert "'ResNet50'" in message
    assert all(name in message for name in COUNTED)


def test_weights_are_pretrained_or_random_and_nothing_else():
    assert "'imagenet'" in refusal("EfficientNetLite0", weights="imagenet")


@pytest.mark.parametrize("pixels", ["noise", "a ramp", "one colour"])
def test_features_of_the_deepest_network_stay_small_with_random_weights(deepest, pixels):
    """Noise is what its statistics come from; of a ramp its features would be millions."""
    ramp = np.broadcast_to(np.linspace(0, 255, 72)[:, None], (2, 72, 72, 3))
    noise = np.random.default_rng(0).uniform(0, 255, (2, 72, 72, 3))
    images = {"noise": noise, "a ramp": ramp, "one colour": np.full((2, 72, 72, 3), 200.0)}[pixels]
    features = np.asarray(deepest(images.astype("float32")))
    np.testing.assert_allclose(np.linalg.norm(features, axis=-1), 1.0, atol=1e-3)


@pytest.fixture(scope="module")
def deepest():
    return backbones.load("EfficientNetV2XL", 72, "random")


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_calibration_takes_over_the_statistics_of_the_noise(backend):
    code = (
        "import numpy as np\n"
        "from flowerlib.networks import backbones\n"
        "from flowerlib.accelerator import keras\n"
        "norm = keras.layers.BatchNormalization(momentum=0.9)\n"
        "backbones._calibrate_batch_norm(keras.Sequential([keras.Input((5, 5, 3)), norm, keras.layers.Dropout(0.5)]))\n"
        "noise = np.asarray(keras.random.uniform((4, 5, 5, 3), -1.0, 1.0, seed=0))\n"
        "np.testing.assert_allclose(norm.moving_mean, noise.mean((0, 1, 2)), atol=1e-6)\n"
        "np.testing.assert_allclose(norm.moving_variance, noise.var((0, 1, 2)), atol=1e-6)\n"
        "assert norm.momentum == 0.9\n"
    )
    environment = os.environ | {"KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
