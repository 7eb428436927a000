"""Heads against formulas, against Keras' own AdamW and against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from sklearn.metrics import accuracy_score, f1_score, log_loss
from tiny import CPU

from flowerlib import networks, training
from flowerlib.accelerator import keras
from flowerlib.config import FlowersError
from flowerlib.training import features, heads
from flowerlib.training.heads import HeadConfig

CONFIG = training.TrainConfig(
    "tiny", "none", 24, batch_size=8, epochs=4, label_smoothing=0.1, seed=5, smoke_test=True
)  # a smoke test writes no checkpoint


@pytest.fixture
def run(flowers):
    """Of the dataset only the four classes and the number of training images are used: that of `train`."""
    shards = flowers.shards | {"train": ("00-24x24-60.tfrec",)}
    return training.Run(CONFIG, replace(flowers, shards=shards), CPU)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_a_head_is_a_softmax_over_one_matrix():
    head = networks.head(5, dropout=0.5)
    inputs = np.random.default_rng(0).standard_normal((7, 12)).astype("float32")
    outputs = head(inputs)  # dropout is off outside training
    kernel, bias = head.get_weights()
    np.testing.assert_allclose(outputs, softmax(inputs @ kernel + bias), atol=1e-6)


def test_a_heads_outputs_are_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        outputs = networks.head(5)(np.ones((2, 12), "float32"))
        assert str(keras.ops.convert_to_numpy(outputs).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def noisy(count, seed=0):
    """Features of `count` images, two views each, of four classes that can be told apart but for noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    values = rng.normal(3 * np.eye(4, 10)[labels], 1.5, (2, count, 10)).astype(np.float16)
    return features.Features(values, labels, labels.astype(str))


@pytest.fixture(scope="module")
def train():
    return noisy(60)


def test_features_are_standardized_but_never_by_next_to_nothing():
    """Variances 4, 0.01 and 0: a hundredth of their mean is 0.0134. The mirrored view does not count."""
    original = np.array([[1, 0.1, 5], [5, -0.1, 5]], np.float16)
    extracted = features.Features(np.stack([original, original + 7]), np.arange(2), np.arange(2).astype(str))
    standardized = heads.standardization(extracted)(np.array([[5.0, 0.1, 6.0]], np.float32))
    least = np.sqrt((4 + 0.01 + 0) / 3 / 100)
    np.testing.assert_allclose(standardized, [[1.0, 0.1 / least, 1.0 / least]], rtol=1e-3)


def alone(train, config, head_config):
    """A head trained by Keras' own AdamW, on the same batches."""
    normalization = keras.layers.Normalization()
    normalization.adapt(train.values[0].astype("float32"))
    dense = keras.layers.Dense(4, activation="softmax", kernel_initializer="zeros")
    head = keras.Sequential([keras.Input((10,)), normalization, dense])
    steps = len(train.labels) // 8
    warmup = config.warmup_epochs * steps
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, config.epochs * steps - warmup, warmup_target=head_config.peak_lr, warmup_steps=warmup
    )
    adamw = keras.optimizers.AdamW(rate, weight_decay=head_config.weight_decay)
    adamw.exclude_from_weight_decay(var_names=["bias"])
    head.compile(adamw, keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    batches = features.train_batches(train, 8, 4, seed=5)
    head.fit(batches, steps_per_epoch=steps, epochs=config.epochs, verbose=0, shuffle=False)
    return head


@pytest.mark.parametrize(("warmup_epochs", "atol"), [(0, 2e-3), (1, 1e-4), (2, 1e-4)])
def test_heads_trained_together_are_those_trained_alone(run, train, warmup_epochs, atol):
    """Without a warm-up Adam's first, full step divides by next to nothing, so that roundings show."""
    run = run.with_config(warmup_epochs=warmup_epochs)
    grid = [HeadConfig(1e-2, 0.0), HeadConfig(1e-2, 5.0), HeadConfig(1e-1, 0.1)]
    together = heads.train_heads(run, train, grid)
    for head, config in zip(together, grid, strict=True):
        for one, other in zip(
            head.get_weights()[-2:], alone(train, run.config, config).get_weights()[-2:], strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=atol)
    assert not np.allclose(together[0].get_weights()[-2], together[1].get_weights()[-2], atol=1e-2)


MANY_ON_8 = """
from dataclasses import replace
import numpy as np
import test_heads as t
from flowerlib import data, training
from flowerlib.training import heads
from flowerlib.accelerator import Device, keras

run = training.Run(t.CONFIG, data.find(path=arguments[0]), device).with_config(batch_size=16)

def train(run):
    trained = heads.train_heads(run, t.noisy(60), [t.HeadConfig(1e-2, 0.0), t.HeadConfig(1e-1, 0.1)])
    return [weight for head in trained for weight in head.get_weights()[-2:]]

shared = train(run)
keras.distribution.set_distribution(None)
for one, other in zip(shared, train(replace(run, device=Device("cpu", "one", 1, "jax"))), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
print("the same")
"""


def test_eight_devices_train_the_same_heads_as_one(flowers):
    assert "the same" in tiny.run_on_8_devices("jax", MANY_ON_8, flowers.root)


def test_the_scores_are_each_heads_own(run):
    """One never learns: all classes are equally likely, and the first of them is predicted, rightly for 10 of 40."""
    learned, untrained = training.search(run, noisy(200), [1e-1, 0.0], [0.0]).to_dict("records")
    assert learned["accuracy"] > 0.8
    f1_of_the_first = 2 * 10 / (40 + 10)
    scores = {"loss": np.log(4), "accuracy": 0.25, "macro_f1": f1_of_the_first / 4}
    assert untrained == pytest.approx(scores | {"peak_lr": 0.0, "weight_decay": 0.0})


def test_the_grid_is_scored_on_every_fifth_image_which_no_head_learns_from(run, train):
    """The same heads, trained alone, scored by scikit-learn over both views."""
    grid = training.search(run, train, [1e-2, 1e-1], [0.0, 1.0])
    held = np.arange(60) % 5 == 0
    rest, holdout = (
        replace(train, values=train.values[:, part], labels=train.labels[part], ids=train.ids[part])
        for part in (~held, held)
    )
    pairs = [(1e-2, 0.0), (1e-2, 1.0), (1e-1, 0.0), (1e-1, 1.0)]
    assert list(zip(grid["peak_lr"], grid["weight_decay"], strict=True)) == pairs
    for row, pair in zip(grid.to_dict("records"), pairs, strict=True):
        head = alone(rest, run.config, HeadConfig(*pair))
        outputs = np.mean([np.asarray(head(view.astype("float32"))) for view in holdout.values], axis=0)
        assert row["loss"] == pytest.approx(log_loss(holdout.labels, outputs), abs=1e-3)
        assert row["accuracy"] == accuracy_score(holdout.labels, outputs.argmax(axis=1))
        assert row["macro_f1"] == pytest.approx(f1_score(holdout.labels, outputs.argmax(axis=1), average="macro"))


CANDIDATES = [0.0, 1e-1], [0.0, 1.0]  # at a rate of 0 nothing is learned


def fitted(run, extracted):
    """The chosen pair and the weights of the head that was trained with it."""
    run, head, history = training.fit_head(run, extracted, *CANDIDATES)
    return (run.config.peak_lr, run.config.weight_decay), head.get_weights(), history


def test_the_best_pair_on_the_holdout_is_taken_whatever_val_says(run, train):
    """With wrong labels in val the choice and the head are the same; only the curve of validation is another."""
    val = noisy(20, seed=1)
    wrong = replace(val, labels=(val.labels + 1) % 4)
    chosen, weights, history = fitted(run, {"train": train, "val": val})
    again, same_weights, misled = fitted(run, {"train": train, "val": wrong})
    grid = training.search(run, train, *CANDIDATES)
    assert chosen == again == tuple(grid.loc[grid["macro_f1"].idxmax(), ["peak_lr", "weight_decay"]])
    assert chosen[0] == 1e-1
    for one, other in zip(weights, same_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history["loss"] == misled["loss"]
    assert history["val_accuracy"][-1] > 0.7 > 0.3 > misled["val_accuracy"][-1]


def test_where_val_would_choose_another_pair_the_holdout_decides(run, train):
    """Val's labels are those that an untrained head predicts: on val it would be the best."""
    val = replace(noisy(20, seed=1), labels=np.zeros(20, int))
    assert fitted(run, {"train": train, "val": val})[0][0] == 1e-1


def test_a_head_trained_alone_has_all_hyperparameters(run, train):
    """It is the head that is trained together with others, on the same batches."""
    run = run.with_config(peak_lr=1e-1, weight_decay=0.1, warmup_epochs=2)
    head, history = training.train_head(run, {"train": train, "val": noisy(20, seed=1)})
    [other] = heads.train_heads(run, train, [HeadConfig(1e-1, 0.1)])
    for one, theirs in zip(head.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, theirs, rtol=1e-3, atol=1e-4)
    assert len(history["val_macro_f1"]) == 4


def test_a_heads_predictions_are_those_of_its_original_views(run, train):
    head = networks.head(4)
    outputs = [np.asarray(head(view.astype("float32"))) for view in train.values]
    both = training.predict_head(run, head, train)
    np.testing.assert_allclose(both.probabilities, np.mean(outputs, axis=0), atol=1e-6)
    one = training.predict_head(run, head, replace(train, num_original=1))
    np.testing.assert_allclose(one.probabilities, outputs[0], atol=1e-6)
    np.testing.assert_array_equal(both.labels, train.labels)


def test_too_few_images_for_a_batch_are_an_error(run, train):
    with pytest.raises(FlowersError, match=r"`batch_size` \(=64\) must be at most the 60 images in fit"):
        heads.train_heads(run.with_config(batch_size=64), train, [HeadConfig(1e-1, 0.0)])


def test_a_single_epoch_which_only_warms_up_is_an_error(run):
    with pytest.raises(FlowersError, match=r"`epochs` \(=1\) must be more than `warmup_epochs` \(=1\)"):
        run.with_config(epochs=1)
