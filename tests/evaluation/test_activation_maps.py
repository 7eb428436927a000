"""Class activation maps of networks that are made by hand, so that what they go by is known."""

import numpy as np
import pytest

from flowerlib import evaluation, figures
from flowerlib.accelerator import keras
from flowerlib.evaluation.activation_maps import _resized
from flowerlib.predictions import Predictions


@pytest.fixture
def by_colour():
    """Pixels (B, S, S, 3) -> the probabilities of red, green and blue, by 4 x 4 places."""
    pooling = keras.layers.AveragePooling2D(4)
    dense = keras.layers.Dense(3, activation="softmax")
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), pooling, keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.5), dense]
    )
    dense.set_weights([np.eye(3) / 10, np.zeros(3)])
    return model


@pytest.fixture
def images():
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0, :4, :4, 0] = 200  # red, above at the left
    images[1, 12:, 8:12, 2] = 100  # blue, below
    return images


def test_the_map_by_hand(by_colour, images):
    features, maps = evaluation.ActivationMaps(by_colour)(images)
    np.testing.assert_allclose(features, [[200 / 16, 0, 0], [0, 0, 100 / 16]], rtol=1e-5)
    expected = np.zeros((2, 4, 4, 3))
    expected[0, 0, 0] = np.array([20, 0, 0]) - 20 / 3
    expected[1, 3, 2] = np.array([0, 0, 10]) - 10 / 3
    np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_the_mean_of_a_map_gives_the_probabilities(by_colour, images):
    _, maps = evaluation.ActivationMaps(by_colour)(images)
    logits = maps.mean(axis=(1, 2))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(by_colour.predict_on_batch(images), expected, atol=1e-5)


def test_layers_that_stand_in_another_model_too_are_followed(by_colour, images):
    """As in the notebooks with features: the same layers, extractor and head, put together."""
    again = keras.Sequential([keras.Input((16, 16, 3)), *by_colour.layers])
    for one, other in zip(
        evaluation.ActivationMaps(again)(images), evaluation.ActivationMaps(by_colour)(images), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_each_image_has_the_map_of_its_own_class(by_colour, images):
    maps = evaluation.activation_maps(by_colour, images, np.array([2, 2]))
    assert maps.shape == (2, 4, 4)
    assert maps[0].max() <= 1e-4  # nothing speaks for blue in the red one
    assert np.unravel_index(maps[1].argmax(), (4, 4)) == (3, 2)


def test_an_image_is_lit_where_the_map_is_high(images):
    values = np.zeros((4, 4), np.float32)
    values[3, 2], values[0, 0] = 5.0, -5.0
    white = np.full((16, 16, 3), 200, np.uint8)
    lit = figures.lit_by_map(white, values)
    assert lit.dtype == np.uint8
    assert lit[13:15, 9:11].min() > 175
    assert (lit[:8, :4] == 50).all()  # a quarter of the light


def test_a_gallery_of_errors_shows_the_wrong_ones_alone(flowers, by_colour):
    count = flowers.count("val")
    labels = np.array([0, 1] * count)[:count]
    val = Predictions(np.eye(4, dtype=np.float32)[(labels + (np.arange(count) < 2)) % 4], labels, np.arange(count))
    figure = evaluation.error_gallery(flowers, val)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 2
    assert all("predicted: " in title for title in titles)


def test_maps_get_more_places_by_hand():
    """Two places become three: of the middle one half lies in each. The mean stays 2.5."""
    maps = np.array([1.0, 4.0], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(_resized(maps, 2, 3)[0, :, :, 0], [[1, 2.5, 4], [1, 2.5, 4]])
    np.testing.assert_array_equal(_resized(maps, 1, 2), maps)
