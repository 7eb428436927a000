import numpy as np
import pytest
import tiny

from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.training import features, heads


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_linear_is_a_softmax_over_one_matrix():
    head = heads.linear(5, dropout=0.5)
    features = np.random.default_rng(0).standard_normal((7, 12)).astype("float32")
    said = head(features)  # dropout is off outside training
    kernel, bias = head.get_weights()
    np.testing.assert_allclose(said, softmax(features @ kernel + bias), atol=1e-6)


def test_linear_answers_in_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert str(keras.ops.convert_to_numpy(heads.linear(5)(np.ones((2, 12), "float32"))).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def seen():
    """Features of 60 images, two views each, of four classes that can be told apart but for noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 4
    values = rng.normal(3 * np.eye(4, 10)[labels], 1.5, (2, 60, 10)).astype(np.float16)
    return features.Features(values, labels, labels.astype(str))


def test_features_are_scaled_but_never_by_next_to_nothing():
    """Variances 4, 0.01 and 0: a hundredth of their mean is 0.0134. The mirrored view does not count."""
    plain = np.array([[1, 0.1, 5], [5, -0.1, 5]], np.float16)
    seen = features.Features(np.stack([plain, plain + 7]), np.arange(2), np.arange(2).astype(str))
    scaled = heads.standardization(seen)(np.array([[5.0, 0.1, 6.0]], np.float32))
    least = np.sqrt((4 + 0.01 + 0) / 3 / 100)
    np.testing.assert_allclose(scaled, [[1.0, 0.1 / least, 1.0 / least]], rtol=1e-3)


def alone(seen, choice):
    """A head trained by Keras' own AdamW, on the same batches."""
    scaling = keras.layers.Normalization()
    scaling.adapt(seen.values[0].astype("float32"))
    dense = keras.layers.Dense(4, activation="softmax", kernel_initializer="zeros")
    head = keras.Sequential([keras.Input((10,)), scaling, dense])
    rate = keras.optimizers.schedules.CosineDecay(0.0, 3 * 7, warmup_target=choice.peak_lr, warmup_steps=7)
    adamw = keras.optimizers.AdamW(rate, weight_decay=choice.weight_decay)
    adamw.exclude_from_weight_decay(var_names=["bias"])
    head.compile(adamw, keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    head.fit(features.train_batches(seen, 8, 4, seed=5), steps_per_epoch=7, epochs=4, verbose=0, shuffle=False)
    return head


def test_heads_trained_together_are_those_trained_alone(seen):
    choices = [heads.HeadConfig(1e-2, 0.0), heads.HeadConfig(1e-2, 5.0), heads.HeadConfig(1e-1, 0.1)]
    together = heads.train_heads(seen, 4, choices, epochs=4, batch_size=8, label_smoothing=0.1, seed=5)
    for head, choice in zip(together, choices, strict=True):
        for one, other in zip(head.get_weights()[-2:], alone(seen, choice).get_weights()[-2:], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert not np.allclose(together[0].get_weights()[-2], together[1].get_weights()[-2], atol=1e-2)


MANY_ON_8 = """
import numpy as np
from flowerlib.training import heads
from flowerlib.accelerator import keras
from flowerlib.training.features import Features

rng, labels = np.random.default_rng(0), np.arange(60) % 4
values = rng.normal(3 * np.eye(4, 10)[labels], 1.5, (2, 60, 10)).astype(np.float16)
seen = Features(values, labels, labels.astype(str))

def train():
    choices = [heads.Choice(1e-2, 0.0), heads.Choice(1e-1, 0.1)]
    trained = heads.train_heads(seen, 4, choices, epochs=4, batch_size=16, seed=5)
    return [weight for head in trained for weight in head.get_weights()[-2:]]

shared = train()
keras.distribution.set_distribution(None)
for one, other in zip(shared, train(), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
print("the same")
"""


def test_eight_devices_train_the_same_heads_as_one():
    assert "the same" in tiny.run_on_8_devices("jax", MANY_ON_8)


def test_the_scores_are_each_heads_own(seen):
    """One never learns: all classes are equally likely, and the first of them is named, rightly for 15 of 60."""
    choices = [heads.HeadConfig(1e-1, 0.0), heads.HeadConfig(0.0, 0.0)]
    learned, still = heads.score_heads(heads.train_heads(seen, 4, choices, epochs=4, batch_size=8), seen, 16)
    assert learned["accuracy"] > 0.8
    f1_of_the_first = 2 * 15 / (60 + 15)
    assert still == pytest.approx({"loss": np.log(4), "accuracy": 0.25, "macro_f1": f1_of_the_first / 4})


def test_too_few_images_for_a_batch_are_an_error(seen):
    with pytest.raises(FlowersError, match=r"`batch_size` \(=64\) must be at most the 60 images to learn from"):
        heads.train_heads(seen, 4, [heads.HeadConfig(1e-1, 0.0)], epochs=4, batch_size=64)


def test_a_single_epoch_which_only_warms_up_is_an_error(seen):
    with pytest.raises(FlowersError, match=r"`epochs` \(=1\) must be at least 2"):
        heads.train_heads(seen, 4, [heads.HeadConfig(1e-1, 0.0)], epochs=1, batch_size=8)


def test_one_more_layer_begins_by_saying_the_same_and_learns_in_the_last_layer_only(seen):
    (head,) = heads.train_heads(seen, 4, [heads.HeadConfig(1e-1, 0.0)], epochs=4, batch_size=8)
    deeper = heads.with_relu_layer(head, dropout=0.5, seed=3)
    inputs = seen.values[0].astype("float32")
    np.testing.assert_allclose(deeper(inputs), head(inputs), atol=1e-5)
    split = deeper.layers[1].get_weights()[0]
    np.testing.assert_allclose(split @ split.T, 2 * np.eye(10), atol=1e-5)  # a rotation, twice: lengths are kept
    np.testing.assert_array_equal(split[:, :10], -split[:, 10:])
    assert [weight.shape for weight in deeper.trainable_weights] == [(20, 4), (4,)]
