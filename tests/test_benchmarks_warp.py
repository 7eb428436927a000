import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import input, warp
from flowerlib import augmentation
from flowerlib.accelerator import tf
from flowerlib.config import FlowersError
from flowerlib.sample import pictures, species

COUNT, SIZE = 24, 96


def both(images, augmentation):
    """The same images augmented with the same random numbers, on the host and on the device."""
    host = augmentation(tf.constant(images), (5, 6)).numpy()
    uniform = augmentation.random_parameters((5, 6), COUNT)
    affine = tf.stack(augmentation.affine_matrix(uniform, images.shape[1]))
    return host, np.asarray(warp.augment(images, affine, uniform, augmentation))


@pytest.fixture(scope="module")
def waves():
    """Images that change slowly, on which every way to interpolate agrees; no two are alike, and no two colours."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    phases = np.arange(COUNT)[:, None, None, None] + np.arange(3)
    return (127 + 60 * np.sin(4 * x[..., None] + phases) + 60 * np.cos(3 * y[..., None] * phases / 20)).astype(
        "float32"
    )


@pytest.mark.parametrize("rotation", [0.0, 30.0, 45.0])
def test_slow_images_come_out_as_on_the_host(waves, rotation):
    host, device = both(waves, augmentation.Augmentation(rotation=rotation))
    assert np.abs(host - waves).mean() > 10  # there was something to do
    assert np.abs(host - device).mean() < 0.05
    assert np.abs(host - device).max() < 3  # at a reflected border, which is a crease


def test_flowers_come_out_nearly_as_on_the_host():
    chosen = species.choose_species(COUNT, np.random.default_rng(0))
    jobs = [pictures.Job(number, species, number) for number, species in enumerate(chosen)]
    drawn = [pictures.draw_jpeg(job, 192, seed=0) for job in jobs]
    flowers = np.stack([tf.io.decode_jpeg(image) for image in drawn]).astype("float32")
    host, device = both(flowers, augmentation.Augmentation())
    assert np.abs(host - device).mean() < 2


def test_what_moves_whole_pixels_is_exact(waves):
    flips = replace(augmentation.IDENTITY, horizontal_flip=True, vertical_flip=True)
    for operations in (augmentation.IDENTITY, flips):
        host, device = both(waves, operations)
        np.testing.assert_allclose(device, host, atol=1e-3)


def test_a_rotation_that_is_too_steep_is_an_error(waves):
    with pytest.raises(FlowersError, match=r"`rotation` \(=60.0\) must be at most 45 degrees on the device"):
        warp.augment(
            waves,
            np.zeros((6, COUNT), "float32"),
            np.zeros((COUNT, 8), "float32"),
            augmentation.Augmentation(rotation=60.0),
        )


COMPILED = """
import jax, numpy as np
from benchmarks import warp
from flowerlib import augmentation
batch = np.zeros((8, 64, 64, 3), "uint8"), np.zeros((6, 8), "float32"), np.zeros((8, 8), "float32")
lowered = warp.compiled(augmentation.Augmentation()).lower(*batch)
print(lowered.as_text(), lowered.compile().as_text())
"""


def test_the_compiled_program_has_no_gather():
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("dot_general", "ENTRY"):
        assert word in done.stdout  # it is the program, before and after XLA has worked on it
    for word in ("gather", "scatter", "dynamic_slice", "dynamic-slice"):
        assert word not in done.stdout


def test_the_rate_is_that_of_all_images_over_the_time_they_take():
    run = input.on_device(tf.zeros((32, 64, 64, 3), tf.uint8))
    began = time.perf_counter()
    rate = run()
    seconds = time.perf_counter() - began
    assert 0.5 * seconds < 32 * input.ON_DEVICE / rate <= seconds
