import numpy as np
import pytest
import tiny

from flowerlib import data, features
from flowerlib.accelerator import keras


@pytest.fixture(scope="module")
def looker():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((24, 24, 3)), keras.layers.Conv2D(6, 5, strides=3), keras.layers.GlobalAveragePooling2D()]
    )


@pytest.fixture(scope="module")
def seen(looker, flowers):
    return features.extract(looker, data.eval_batches(flowers, "val", 4), 4)


def test_features_are_those_of_the_image_and_of_its_mirror_image(looker, seen, flowers):
    images = np.concatenate([images for images, _, _ in data.eval_batches(flowers, "val", 1)])
    assert seen.values.shape == (2, 9, 6)
    for view, pixels in zip(seen.values, (images, images[:, :, ::-1]), strict=True):
        one_by_one = np.concatenate([np.asarray(looker(image[None])) for image in pixels])
        np.testing.assert_allclose(view, one_by_one, atol=1e-3)


def numbered(count=11, views=2):
    """Feature 0 is the image's number, feature 1 the view's."""
    image, view = np.meshgrid(np.arange(count), np.arange(views))
    return features.Features(
        np.stack([image, view], axis=2).astype("float32"), np.arange(count) % 3, np.arange(count).astype(str)
    )


def test_every_image_comes_once_before_any_comes_twice_and_both_views_come():
    batches = features.train_batches(numbered(), 4, 3, seed=1).take(22)  # eight epochs of eleven
    values, labels = (np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True))
    for epoch in values[:, 0].reshape(8, 11):
        assert sorted(epoch) == list(range(11))
    np.testing.assert_array_equal(labels.argmax(axis=1), values[:, 0] % 3)
    assert {tuple(value) for value in values} == {(image, view) for image in range(11) for view in range(2)}


def test_a_seed_gives_the_same_batches_again():
    first, again, other = (
        np.concatenate([values for values, _ in features.train_batches(numbered(), 4, 3, seed=seed).take(9)])
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_evaluation_is_in_file_order_and_whole():
    values, labels, ids = (
        np.concatenate(part) for part in zip(*features.eval_batches(numbered(), 4).as_numpy_iterator(), strict=True)
    )
    np.testing.assert_array_equal(values, numbered().values[0])
    np.testing.assert_array_equal(labels, numbered().labels)
    assert [record_id.decode() for record_id in ids] == numbered().ids.tolist()


def test_a_head_on_features_says_what_the_whole_network_says(flowers):
    whole = tiny.network(4)
    looker, head = keras.Sequential(whole.layers[:-1]), whole.layers[-1]
    seen = features.extract(looker, data.eval_batches(flowers, "val", 4), 4)
    images = np.concatenate([images for images, _, _ in data.eval_batches(flowers, "val", 9)])
    expected = (np.asarray(whole(images)) + np.asarray(whole(images[:, :, ::-1]))) / 2
    np.testing.assert_allclose(features.predict(head, seen, 4).probabilities, expected, atol=1e-5)
