"""Class weights, sampling and the moving average of the weights: against class imbalance and noise of training."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from sklearn.utils.class_weight import compute_class_weight

from flowerlib import data, training
from flowerlib.accelerator import Device, keras
from flowerlib.config import FlowersError
from flowerlib.data import batches

CPU = Device("cpu", "a test", 1, "tensorflow")
CONFIG = training.TrainConfig("tiny", "none", 24, 4, 4, 1, 0.05)


@pytest.fixture
def run(flowers):
    return training.Run(CONFIG, flowers, CPU)


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    ours = data.inverse_frequencies(labels, "balanced")
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(ours, theirs[labels])
    assert ours.mean() == pytest.approx(1)
    root = data.inverse_frequencies(labels, "sqrt")
    np.testing.assert_allclose(root[-1] / root[0], np.sqrt(6))


def test_an_unknown_kind_is_an_error(run):
    with pytest.raises(FlowersError, match=r"'equal'.* must be one of balanced, sqrt"):
        training.loss(run.with_config(class_weights="equal"))


@pytest.mark.parametrize(("kind", "shares"), [("balanced", (1 / 3, 1 / 3, 1 / 3)), ("sqrt", None)])
def test_classes_are_drawn_as_often_as_they_should(kind, shares):
    labels = np.repeat([0, 1, 2], [81, 16, 4])
    shares = shares or np.array([9, 4, 2]) / 15
    positions = batches.drawn_positions(data.inverse_frequencies(labels, kind), seed=3)
    drawn = labels[list(positions.take(12_000).as_numpy_iterator())]
    np.testing.assert_allclose(np.bincount(drawn) / 12_000, shares, atol=0.015)  # three standard deviations


def test_a_later_start_continues_the_same_draws():
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    whole = list(batches.drawn_positions(weights, seed=1).take(30).as_numpy_iterator())
    assert list(batches.drawn_positions(weights, seed=1, start=13).take(17).as_numpy_iterator()) == whole[13:]


def test_balanced_batches_hold_the_images_of_their_labels(flowers):
    once = {}
    for images, labels in data.train_batches(flowers, 1).take(flowers.count("train")):
        once[images.numpy().tobytes()] = labels.numpy().argmax()
    for images, labels in data.train_batches(flowers, 4, sampling="balanced").take(5):
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            assert once[image.tobytes()] == label.argmax()


def test_the_weighted_loss_by_hand(run):
    labels, _ = data.labels_and_ids(run.flowers, "train")
    counts = np.bincount(labels, minlength=4)
    y_true = np.array([[1, 0, 0, 0], [0, 0.25, 0.75, 0]], np.float32)  # the second one is mixed
    y_pred = np.array([[0.7, 0.1, 0.1, 0.1], [0.2, 0.3, 0.4, 0.1]], np.float32)
    weights = len(labels) / (4 * counts)  # classes of the tiny dataset all have images
    entropy = -(y_true * np.log(y_pred)).sum(axis=1)
    expected = (entropy * (y_true @ weights)).mean()
    assert float(training.loss(run.with_config(class_weights="balanced"))(y_true, y_pred)) == pytest.approx(
        expected, rel=1e-5
    )


def test_without_weights_the_loss_is_keras_own(run):
    y_true, y_pred = np.eye(4, dtype=np.float32)[:2], np.full((2, 4), 0.25, np.float32)
    assert float(training.loss(run)(y_true, y_pred)) == pytest.approx(np.log(4))


def test_the_moving_average_is_what_is_kept(run, tmp_path, monkeypatch):
    """Worked by hand from the weights after every step."""
    monkeypatch.chdir(tmp_path)
    run = replace(run, config=replace(run.config, ema=0.8, epochs=2))
    model = tiny.network(4)
    model.compile(training.optimizer(run), training.loss(run), metrics=["accuracy"])
    steps = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append([np.array(weight) for weight in self.model.get_weights()])

    begin = model.get_weights()
    model.fit(
        training.train_batches(run)(start=0), steps_per_epoch=3, epochs=1, callbacks=[Watch()], verbose=0, shuffle=False
    )
    for index, value in enumerate(model.get_weights()):
        average = begin[index]
        for step in steps:
            average = 0.8 * average + 0.2 * step[index]
        np.testing.assert_allclose(value, average, atol=1e-5)
