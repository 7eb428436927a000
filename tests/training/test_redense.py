"""ReDense: nothing is lost, the norm is bounded, the loss does not rise, and what is found is the minimum."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from sklearn.metrics import log_loss
from tiny import CPU

from flowerlib import training
from flowerlib.accelerator import keras
from flowerlib.training import features, heads, redense
from flowerlib.training.heads import HeadConfig

CONFIG = training.TrainConfig("tiny", "none", 24, batch_size=8, epochs=4, label_smoothing=0.1, seed=5, smoke_test=True)


@pytest.fixture
def run(flowers):
    """Of the dataset only the four classes are used."""
    return training.Run(CONFIG, flowers, CPU)


@pytest.fixture(scope="module")
def train():
    """Features of 60 images, two original views and an augmented one, of four classes that overlap."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 4
    values = rng.normal(2 * np.eye(4, 10)[labels], 1.5, (3, 60, 10)).astype(np.float16)
    return features.Features(values, labels, labels.astype(str))


@pytest.fixture
def head(run, train):
    (head,) = heads.train_heads(run, train, [HeadConfig(1e-1, 0.0)])
    return head


def original(train):
    """The original views, one after the other, as a head receives them."""
    return train.values[:2].reshape(-1, 10).astype("float32")


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def norm(head):
    return np.sqrt(sum((weight.astype("float64") ** 2).sum() for weight in head.layers[-1].get_weights()))


def problem(seed, count=40, width=6, classes=3):
    """Inputs and smoothed labels that no weights fit, and weights to begin with."""
    rng = np.random.default_rng(seed)
    inputs = np.maximum(rng.normal(size=(count, width)), 0).astype("float32")
    labels = np.eye(classes)[rng.integers(classes, size=count)]
    return inputs, (0.9 * labels + 0.1 / classes).astype("float32"), rng.normal(size=(width, classes)).astype("float32")


def exact(weights, inputs, targets):
    """The loss and its gradient in float64, written once more."""
    probabilities = softmax(inputs.astype("float64") @ weights)
    loss = -(targets * np.log(probabilities)).sum(axis=1).mean()
    return loss, inputs.T.astype("float64") @ (probabilities - targets) / len(inputs)


@pytest.mark.parametrize("seed", range(5))
def test_a_new_layer_loses_nothing(run, train, head, seed):
    run = run.with_config(seed=seed)
    once, _ = training.add_redense_layer(run, head, train, steps=0)
    twice, _ = training.add_redense_layer(run, once, train, steps=0)
    for deeper, width in ((once, 20), (twice, 40)):
        np.testing.assert_allclose(deeper(original(train)), head(original(train)), atol=1e-6)
        assert [weight.shape for weight in deeper.trainable_weights] == [(width, 4), (4,)]
    split = once.layers[1].get_weights()[0]
    np.testing.assert_allclose(split @ split.T, 2 * np.eye(10), atol=1e-6)  # a rotation, twice: lengths are kept
    np.testing.assert_array_equal(split[:, :10], -split[:, 10:])


def test_its_output_is_that_of_the_formula(run, train, head):
    deeper, _ = training.add_redense_layer(run, head, train)
    standardized = np.asarray(head.layers[0](original(train)))
    split, (kernel, bias) = deeper.layers[1].get_weights()[0], deeper.layers[-1].get_weights()
    probabilities = softmax(np.maximum(standardized @ split, 0) @ kernel + bias)
    np.testing.assert_allclose(deeper(original(train)), probabilities, atol=1e-6)
    both = training.predict_head(run, deeper, train)
    np.testing.assert_allclose(both.probabilities, (probabilities[:60] + probabilities[60:]) / 2, atol=1e-6)


def test_layer_by_layer_the_training_loss_does_not_rise_and_the_norm_does_not_grow(run, train, head):
    labels = np.tile(train.labels, 2)
    smoothed = 0.9 * np.eye(4)[labels] + 0.1 / 4
    last = head
    for _ in range(3):
        deeper, losses = training.add_redense_layer(run, last, train)
        for each, loss in ((last, losses[0]), (deeper, losses[-1])):
            probabilities = np.asarray(each(original(train)), "float64")
            assert loss == pytest.approx(-(smoothed * np.log(probabilities)).sum(axis=1).mean(), abs=1e-6)
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0]
        kernel, bias = last.layers[-1].get_weights()
        assert norm(deeper) <= np.sqrt(2 * (kernel**2).sum() + (bias**2).sum()) * (1 + 1e-6)
        last = deeper


def test_without_label_smoothing_the_loss_is_the_log_loss(run, train, head):
    deeper, losses = training.add_redense_layer(run.with_config(label_smoothing=0.0), head, train)
    probabilities = np.asarray(deeper(original(train)))
    assert losses[-1] == pytest.approx(log_loss(np.tile(train.labels, 2), probabilities), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_on_any_problem_the_loss_falls_at_each_step_and_the_norm_is_bounded(seed):
    inputs, targets, start = problem(seed)
    weights, losses = redense.minimize(inputs, targets, start, 50)
    assert losses[0] == pytest.approx(exact(start, inputs, targets)[0], abs=1e-6)
    assert losses[-1] == pytest.approx(exact(weights, inputs, targets)[0], abs=1e-6)
    assert (np.diff(losses) < 0).all()
    assert np.linalg.norm(weights) <= np.linalg.norm(start) * (1 + 1e-6)
    again, _ = redense.minimize(inputs, targets, weights, 50)
    np.testing.assert_allclose(again, weights, atol=5e-3)  # nothing is left to gain


@pytest.mark.parametrize("scale", [0.3, 10.0])  # the bound is active; it is not
def test_what_it_finds_is_the_minimum_that_scipy_finds(scale):
    inputs, targets, start = problem(0)
    start = start * np.float32(scale / np.linalg.norm(start))
    _, losses = redense.minimize(inputs, targets, start, 1000)
    theirs = scipy_minimize(
        lambda flat: exact(flat.reshape(start.shape), inputs, targets)[0],
        np.zeros(start.size),
        jac=lambda flat: exact(flat.reshape(start.shape), inputs, targets)[1].ravel(),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda flat: scale**2 - flat @ flat, "jac": lambda flat: -2 * flat},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert theirs.success
    assert losses[-1] == pytest.approx(theirs.fun, abs=1e-6)


@pytest.mark.parametrize("scale", [0.3, 10.0])
def test_the_conditions_of_a_minimum_hold(scale):
    """Karush, Kuhn and Tucker: the gradient is zero; or, at the bound, it is the weights times a negative number."""
    inputs, targets, start = problem(1)
    weights, _ = redense.minimize(inputs, targets, start * np.float32(scale / np.linalg.norm(start)), 1000)
    _, gradient = exact(weights, inputs, targets)
    multiplier = -np.vdot(gradient, weights) / np.vdot(weights, weights)
    at_bound = np.linalg.norm(weights) > scale * (1 - 1e-4)
    assert at_bound == (scale == 0.3)
    if at_bound:
        assert multiplier > 0
        gradient = gradient + multiplier * weights
    assert np.linalg.norm(gradient) < 2e-3


def test_weights_that_are_the_minimum_stay():
    inputs = np.ones((4, 1), "float32")
    targets = np.array([[1, 0], [0, 1]] * 2, "float32")
    weights, losses = redense.minimize(inputs, targets, np.array([[3.0, 3.0]], "float32"), 10)
    np.testing.assert_array_equal(weights, [[3, 3]])
    assert losses == pytest.approx([np.log(2)])


def test_numbers_that_are_none_do_not_make_it_run_for_ever():
    inputs, targets, start = problem(0)
    _, losses = redense.minimize(inputs * np.float32(np.nan), targets, start, 10)
    assert len(losses) == 1


def test_the_seed_decides_and_each_layer_has_a_rotation_of_its_own(run, train, head):
    one, _ = training.add_redense_layer(run, head, train)
    same, _ = training.add_redense_layer(run, head, train)
    other, _ = training.add_redense_layer(run.with_config(seed=6), head, train)
    for ours, theirs in zip(one.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert abs(one.layers[1].get_weights()[0] - other.layers[1].get_weights()[0]).max() > 0.1
    assert abs(redense.random_rotation(10, [5, 1]) - redense.random_rotation(10, [5, 2])).max() > 0.1


def test_all_is_float32_under_mixed_precision(run, train, head):
    expected, losses = training.add_redense_layer(run, head, train)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        deeper, same_losses = training.add_redense_layer(run, head, train)
        outputs = deeper(original(train))
    finally:
        keras.config.set_dtype_policy("float32")
    assert losses == same_losses
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    np.testing.assert_array_equal(outputs, expected(original(train)))


def test_only_the_original_views_count(run, train, head):
    _, losses = training.add_redense_layer(run, head, train)
    _, plain = training.add_redense_layer(run, head, replace(train, values=train.values[:2]))
    assert losses == plain


def test_it_is_saved_as_any_other_head(run, train, head, tmp_path):
    deeper, _ = training.add_redense_layer(run, head, train)
    deeper.save(tmp_path / "head.keras")
    loaded = keras.models.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded(original(train)), deeper(original(train)))
