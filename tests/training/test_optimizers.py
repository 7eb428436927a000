"""The learning rate worked by hand; single steps of the optimizer, of which AdamW's formula is known."""

import math

import numpy as np
import pytest
from test_training import CONFIG
from tiny import CPU

from flowerlib import training
from flowerlib.accelerator import keras


@pytest.fixture
def run(flowers):
    return training.Run(CONFIG, flowers, CPU)


def test_learning_rate_by_hand(run):
    """23 images in batches of 8: 2 steps an epoch, so 2 steps of warm-up, then half a cosine over 6."""
    schedule = training.learning_rate(run)
    fall = [0.05 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(7)]
    expected = [0, 0.025, *fall]
    np.testing.assert_allclose([float(schedule(step)) for step in range(9)], expected, atol=1e-8)
    np.testing.assert_allclose(training.learning_rates(run), expected[:-1], atol=1e-8)  # eight steps: 0 to 7


@pytest.mark.parametrize("head_lr_multiplier", [1.0, 10.0])
def test_the_head_has_the_multiple_of_the_learning_rate(run, head_lr_multiplier):
    """Adam's first step is the learning rate, whatever the gradient; here without decay."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), keras.layers.Dense(4, name="head")])
    run = run.with_config(weight_decay=0.0, warmup_epochs=0, head_lr_multiplier=head_lr_multiplier)
    model.compile(training.optimizer(run), "mse")
    before = model.get_weights()
    rng = np.random.default_rng(0)
    model.train_on_batch(rng.normal(size=(8, 5)), rng.normal(size=(8, 4)))
    moved = [abs(new - old) for new, old in zip(model.get_weights(), before, strict=True)]
    for change, rate in zip(moved, [0.05, 0.05, 0.05 * head_lr_multiplier, 0.05 * head_lr_multiplier], strict=True):
        np.testing.assert_allclose(change, rate, rtol=1e-3)


def test_scales_and_biases_do_not_decay(run):
    """One step of no gradient: AdamW multiplies what decays by 1 - lr * decay, and leaves the rest."""
    optimizer = training.optimizer(run.with_config(warmup_epochs=0, weight_decay=0.5, peak_lr=0.1))
    names = ("kernel", "bias", "gamma", "beta")
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in names]
    optimizer.build(variables)
    optimizer.apply([np.zeros(2, "float32")] * 4)
    after = {name: float(variable[0]) for name, variable in zip(names, variables, strict=True)}
    assert after == pytest.approx({"kernel": 1 - 0.1 * 0.5, "bias": 1, "gamma": 1, "beta": 1})


def test_the_loss_is_cross_entropy_with_smoothed_labels(run):
    """Of four classes and a tenth: the true one's label is 0.925, the others' 0.025."""
    labels, probabilities = np.eye(4)[[1]], np.array([[0.1, 0.6, 0.1, 0.2]])
    expected = -(0.925 * np.log(0.6) + 0.025 * (2 * np.log(0.1) + np.log(0.2)))
    assert float(training.loss(run)(labels, probabilities)) == pytest.approx(expected)
