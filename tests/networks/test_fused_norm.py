"""The oracle: Keras' own batch normalization, trained on the same batches."""

import numpy as np
import pytest

from flowerlib.accelerator import keras, tf
from flowerlib.networks import fused_norm

layers = keras.layers
IMAGES = np.random.default_rng(0).normal(3.0, 2.0, (12, 6, 6, 3)).astype(np.float32)
LABELS = np.eye(12, 4, dtype=np.float32)


def network():
    """Batch normalization of every kind, one in a model inside, one that is frozen."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    x = layers.BatchNormalization(momentum=0.5, name="first")(layers.Conv2D(8, 3)(inputs))
    x = layers.BatchNormalization(scale=False, axis=3, epsilon=0.1, name="unscaled")(layers.Conv2D(8, 1)(x))
    inner = keras.Model(inputs, layers.BatchNormalization(center=False, name="uncentred")(x))
    frozen = layers.BatchNormalization(trainable=False, name="frozen")
    model = keras.Sequential([keras.Input((6, 6, 3)), inner, frozen, layers.GlobalAveragePooling2D(), layers.Dense(4)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def fit(model):
    for start in 3 * [0, 4, 8]:
        model.train_on_batch(IMAGES[start : start + 4], LABELS[start : start + 4])
    return model.get_weights()


def operations(model):
    """How many fused operations a step of training consists of."""
    step = tf.function(lambda images: model(images, training=True)).get_concrete_function(tf.TensorSpec(IMAGES.shape))
    return sum(operation.type == "FusedBatchNormV3" for operation in step.graph.get_operations())


def test_training_ends_at_the_same_weights_and_statistics():
    theirs, ours = network(), network()
    expected = fit(theirs)
    with fused_norm.fused_batch_norm(ours):
        found = fit(ours)
    for ours_now, theirs_now in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours_now, theirs_now, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.predict_on_batch(IMAGES), theirs.predict_on_batch(IMAGES), atol=1e-4)


def test_it_is_the_operation_that_trains_and_afterwards_every_layer_is_keras_own():
    model = network()
    assert operations(model) == 0
    with fused_norm.fused_batch_norm(model):
        assert operations(model) == 3  # all but the frozen one
    assert operations(model) == 0
    assert type(model.layers[0].get_layer("first")) is layers.BatchNormalization


def test_a_head_that_is_not_built_yet_is_left_to_keras():
    head = keras.Sequential([layers.BatchNormalization(), layers.Dense(4)])
    head.compile("sgd", "mse")
    with fused_norm.fused_batch_norm(head):
        head.train_on_batch(IMAGES.reshape(12, -1), LABELS)
    assert head.layers[0].built


def test_it_is_over_even_where_training_failed():
    model = network()

    def fail():
        with fused_norm.fused_batch_norm(model):
            raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        fail()
    assert operations(model) == 0


def test_a_normalization_of_keras_3_13_which_knows_no_renorm_is_fused_too():
    norm = keras.layers.BatchNormalization()
    norm.build((None, 4, 4, 3))
    if hasattr(norm, "renorm"):
        del norm.renorm
    assert fused_norm._is_plain(norm)
