"""The training pictures that a run keeps."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from flowerlib import data
from flowerlib.photos import classification
from flowerlib.training import gallery
from flowerlib.training.gallery import Gallery


def test_the_nearest_are_those_of_the_largest_cosine():
    """Worked by hand: cosines 1, 0.6, 0 and -1; how long a vector is does not matter."""
    features = np.array([[0, 1], [0.6, 0.8], [-1, 0], [1, 0]], np.float32)
    pictures = Gallery(features, np.arange(4), np.array(list("abcd")), [b""] * 4)
    found = pictures.nearest(np.array([20.0, 0.0]), 3)
    assert [place for place, _ in found] == [3, 1, 0]
    assert [cosine for _, cosine in found] == pytest.approx([1, 0.6, 0], abs=1e-3)


def test_to_look_for_the_nearest_copies_no_features(tmp_path):
    """25,000 pictures of 256 features: 26 MB. The cosines, and their order, are less than one."""
    features = np.random.default_rng(0).normal(size=(25_000, 256)).astype(np.float16)
    count = len(features)
    kept = {"labels": np.zeros(count, int), "ids": np.zeros(count, str), "thumbnails": np.zeros(0, np.uint8)}
    np.savez(tmp_path / "gallery.npz", features=features, ends=np.zeros(count, int), **kept)
    pictures = gallery.load(tmp_path / "gallery.npz")
    tracemalloc.start()
    try:
        ((place, _),) = pictures.nearest(features[7], 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert place == 7
    assert peak < 1_000_000


def test_a_training_picture_resembles_itself_most(trained, flowers):
    model = classification.load(trained)
    labels, ids = data.labels_and_ids(flowers, "train")
    np.testing.assert_array_equal(model.gallery.labels, labels)
    np.testing.assert_array_equal(model.gallery.ids, ids.astype(str))
    place = 0
    for images, _, _ in data.eval_batches(flowers, "train", 8):
        for image in images.numpy():
            (nearest, cosine), *_ = model.gallery.nearest(model.activation_map(image).features, 1)
            assert cosine == pytest.approx(1, abs=2e-3)
            assert model.gallery.features[nearest] @ model.gallery.features[place] == pytest.approx(1, abs=2e-3)
            thumbnail = np.asarray(Image.open(io.BytesIO(model.gallery.thumbnails[place])), float)
            assert thumbnail.shape == (gallery.SIDE, gallery.SIDE, 3)
            assert abs(thumbnail.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3)) - image).mean() < 6
            place += 1
    assert place == len(labels)
