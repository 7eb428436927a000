"""The oracle: the network that is not folded, and by hand one convolution with its batch normalization."""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.networks import backbones, folding

layers = keras.layers


def with_statistics(model, seed=0):
    """Give every batch normalization statistics and weights that make a difference."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


def kinds(model):
    return [type(layer).__name__ for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def test_a_convolution_with_its_batch_normalization_by_hand():
    """One pixel: 3 * 2 + 1 = 7; less the mean 5, over the root of 3 + 1, times 4, plus 6: 10. As one: 3 * 4 - 2."""
    pixel = keras.Input((1, 1, 1))
    conv, norm = layers.Conv2D(1, 1), layers.BatchNormalization(epsilon=1.0)
    model = keras.Model(pixel, norm(conv(pixel)))
    conv.set_weights([np.full((1, 1, 1, 1), 2.0), np.array([1.0])])
    norm.set_weights([np.array([value]) for value in (4.0, 6.0, 5.0, 3.0)])  # gamma, beta, mean, variance
    folded = folding.fold_batch_norm(model)
    assert kinds(folded) == ["Conv2D"]
    kernel, bias = folded.layers[1].get_weights()
    assert (kernel.item(), bias.item()) == (4.0, -2.0)
    assert folded(np.full((1, 1, 1, 1), 3.0, np.float32)).numpy().item() == 10.0


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    "conv",
    [layers.Conv2D(6, 3, use_bias=False), layers.DepthwiseConv2D(3, depth_multiplier=2, bias_initializer="ones")],
)
def test_every_kind_of_pair_computes_the_same_as_one(conv, center, scale):
    inputs = keras.Input((8, 8, 3))
    norm = layers.BatchNormalization(center=center, scale=scale)
    model = with_statistics(keras.Model(inputs, norm(type(conv).from_config(conv.get_config())(inputs))))
    folded = folding.fold_batch_norm(model)
    assert kinds(folded) == [type(conv).__name__]
    images = np.random.default_rng(1).random((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(folded(images), model(images), atol=1e-5)


def conv(filters=8):
    return layers.Conv2D(filters, 3, padding="same")


def used_twice(x):
    maps = conv()(x)
    return layers.Add()([maps, layers.BatchNormalization()(maps)])


def also_an_output(x):
    maps = conv()(x)
    return [maps, layers.BatchNormalization()(maps)]


def shared_normalization(x):
    norm = layers.BatchNormalization()
    return layers.Add()([norm(conv()(x)), norm(layers.ReLU()(x))])


def shared_convolution(x):
    shared = conv()
    return layers.Add()([layers.BatchNormalization()(shared(x)), shared(layers.ReLU()(x))])


CASES = {
    "maps that are used elsewhere too": used_twice,
    "maps that are an output": also_an_output,
    "a normalization of other things too": shared_normalization,
    "a convolution of other things too": shared_convolution,
    "a normalization of rows": lambda x: layers.BatchNormalization(axis=1)(conv()(x)),
    "maps made positive first": lambda x: layers.BatchNormalization()(layers.ReLU()(conv()(x))),
    "a convolution that makes them so": lambda x: layers.BatchNormalization()(
        layers.Conv2D(8, 3, activation="relu")(x)
    ),
    "a normalization before its convolution": lambda x: conv()(layers.BatchNormalization()(x)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_folded_is_left_alone(case):
    inputs = keras.Input((8, 8, 8))
    model = with_statistics(keras.Model(inputs, CASES[case](inputs)))
    folded = folding.fold_batch_norm(model)
    assert sorted(kinds(folded)) == sorted(kinds(model))
    images = np.random.default_rng(1).random((2, 8, 8, 8), np.float32)
    for ours, theirs in zip(keras.tree.flatten(folded(images)), keras.tree.flatten(model(images)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_copy_holds_nothing_of_the_original():
    """Else a frozen network would be in memory twice."""
    scaling = layers.Normalization()
    scaling.adapt(np.random.default_rng(0).random((20, 1280), np.float32))
    backbone = backbones.load("EfficientNetLite0", 32, "random")
    model = keras.Sequential([keras.Input((32, 32, 3)), backbone, layers.GlobalAveragePooling2D(), scaling])
    images = 255 * np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    first, outputs = folding.fold_batch_norm(model), model(images)
    assert np.isfinite(first(images)).all()
    original = [weakref.ref(layer) for layer in (scaling, *backbone.layers[1].layers)]
    np.testing.assert_array_equal(first.layers[-1](np.ones((1, 1280))), scaling(np.ones((1, 1280))))
    del model, backbone, scaling, outputs
    gc.collect()
    assert not any(layer() for layer in original)


@pytest.mark.parametrize("name", ["EfficientNetLite0", "DenseNet201", "ResNet152V2", "Xception"])
def test_a_frozen_backbone_has_the_same_features(name):
    """At 96 px: on maps of one pixel, random weights make much of the last digit of a sum."""
    backbone = backbones.load(name, 96, "random")
    images = 255 * np.random.default_rng(0).random((2, 96, 96, 3), np.float32)
    before, count = backbone(images).numpy(), len(backbone.layers[1].layers)
    frozen = folding.freeze(backbone)
    assert len(frozen.layers[1].layers) < count
    assert frozen.trainable_weights == []
    np.testing.assert_allclose(frozen(images), before, atol=1e-3 * abs(before).max())


@pytest.mark.parametrize("name", ["EfficientNetLite0", "EfficientNetB7"])
def test_where_each_normalization_follows_a_convolution_none_is_left(name):
    frozen = folding.freeze(backbones.load(name, 32, "random"))
    assert "BatchNormalization" not in kinds(frozen.layers[1])


def test_weights_within_a_layers_layers_are_copied():
    inputs = keras.Input((8, 6))
    attention = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(
        inputs, layers.Bidirectional(layers.LSTM(5))(layers.TimeDistributed(layers.Dense(3))(attention))
    )
    rows = np.random.default_rng(0).random((2, 8, 6), np.float32)
    np.testing.assert_array_equal(folding.fold_batch_norm(model)(rows), model(rows))


def test_a_compiled_model_is_folded_without_its_optimizer():
    class Optimizer(keras.optimizers.SGD):
        """Which Keras cannot make again from what it keeps of it."""

    inputs = keras.Input((8, 8, 3))
    model = with_statistics(keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(6, 3)(inputs))))
    model.compile(Optimizer(), "mse")
    folded = folding.fold_batch_norm(model)
    assert (kinds(folded), folded.compiled) == (["Conv2D"], False)


def test_freezing_leaves_the_original_as_it_was():
    backbone = backbones.load("EfficientNetLite0", 32, "random")
    count = len(backbone.trainable_weights)
    folding.freeze(backbone)
    assert len(backbone.trainable_weights) == count > 0


def test_a_folded_model_is_saved_and_loaded(tmp_path):
    frozen = folding.freeze(backbones.load("EfficientNetLite0", 32, "random"))
    model = keras.Sequential([keras.Input((32, 32, 3)), frozen, layers.GlobalAveragePooling2D(), layers.Dense(3)])
    model.save(tmp_path / "model.keras")
    images = 255 * np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))
    np.testing.assert_array_equal(folding.fold_batch_norm(loaded)(images), model(images))  # nothing is left to fold


@pytest.mark.parametrize(
    ("name", "frozen"),  # convolutions of the stem, of block 1a, which expands nothing, of blocks 2a, 2b and 2c
    [("EfficientNetLite0", 1 + 2 + 3 + 3), ("EfficientNetLite1", 1 + 2 + 9), ("EfficientNetLite2", 1 + 2 + 9)],
)
def test_frozen_layers_stay_as_they_are_and_the_others_are_trained(name, frozen):
    """In two steps of training: weights and moving statistics, before and from the layer that is named."""
    backbone = folding.freeze(backbones.load(name, 32, "random"), "block3a_expand_conv")
    pooling = layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((32, 32, 3)), backbone, pooling, layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    inner = backbone.layers[1].layers
    before = [layer.get_weights() for layer in inner]
    images = 255 * np.random.default_rng(0).random((8, 32, 32, 3))
    for half in (slice(4), slice(4, 8)):
        model.train_on_batch(images[half], np.eye(8, 3)[half])
    changed = {
        layer.name: [not np.array_equal(*pair) for pair in zip(old, layer.get_weights(), strict=True)]
        for layer, old in zip(inner, before, strict=True)
        if old
    }
    unfolded = [name for name in changed if name.endswith("_bn")]
    original = [layer.name for layer in backbones.load(name, 32, "random").layers[1].layers]
    late = original[original.index("block3a_expand_conv") :]
    assert unfolded == [name for name in late if name.endswith("_bn")]
    first = list(changed).index("block3a_expand_conv")
    assert not any(map(any, list(changed.values())[:first]))
    assert all(map(all, list(changed.values())[first:]))
    assert first == frozen
    np.testing.assert_allclose(
        folding.fold_batch_norm(model)(images), model(images), rtol=1e-3, atol=1e-4
    )  # once it is trained


def test_freezing_before_a_layer_that_is_not_there_is_an_error():
    backbone = backbones.load("EfficientNetLite0", 32, "random")
    with pytest.raises(
        FlowersError, match=r"`before` \(='block99'\) must be a layer of EfficientNetLite0, such as stem_conv"
    ):
        folding.freeze(backbone, "block99")


JAX = """
import numpy as np
from flowerlib import accelerator
from flowerlib.networks import folding
from flowerlib.accelerator import keras
assert accelerator.setup().num_replicas == 8
keras.config.set_dtype_policy("mixed_bfloat16")
inputs = keras.Input((8, 8, 3))
norm = keras.layers.BatchNormalization()
model = keras.Model(inputs, norm(keras.layers.Conv2D(6, 3)(inputs)))
norm.set_weights([np.full(6, value) for value in (2.0, 1.0, 0.5, 4.0)])
folded = folding.fold_batch_norm(model)
assert len(folded.layers) == 2
images = np.random.default_rng(0).random((16, 8, 8, 3), np.float32)
np.testing.assert_allclose(folded.predict_on_batch(images), model.predict_on_batch(images), atol=0.03)
model = keras.Sequential([keras.Input((8, 8, 3)), model, keras.layers.Conv2D(2, 6), keras.layers.Flatten()])
before = model.predict_on_batch(images)
folded = folding.fold_batch_norm(model)
again = folding.fold_batch_norm(model)
for trained, other in ((model, folded), (again, folded)):
    trained.compile("sgd", "mse")
    trained.train_on_batch(images, np.zeros((16, 2)), np.ones(16))  # Keras 3.13 fails without weights on eight devices
    np.testing.assert_allclose(other.predict_on_batch(images), before, atol=0.1)
    trained.get_weights()
print("the same")
"""


def test_it_folds_on_eight_jax_devices_in_mixed_precision():
    """Original and copy live on when the other is trained, whose step takes over its arrays' memory."""
    where = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    process = subprocess.run([sys.executable, "-c", JAX], env=os.environ | where, capture_output=True, text=True)
    assert process.stdout == "the same\n", process.stderr
