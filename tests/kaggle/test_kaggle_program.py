"""What is found in a traced program, against programs whose memory is counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from flowerlib.kaggle import program

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), "float32")


def host(images):
    return jax.pure_callback(np.asarray, IMAGES, images)


def kernel(images):
    def double(source, target):
        target[...] = 2 * source[...]

    return pallas.pallas_call(double, IMAGES)(images)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (host, "pure_callback"),
        (lambda images: [jax.debug.print("{}", images), images][1], "debug_"),
        (kernel, "Pallas"),
        (lambda images: images[:, jnp.array([3, 1])], "gather over images (4, 8, 8, 3)"),
        (jax.jit(host), "pure_callback"),  # a program within
        (lambda images: jax.lax.cond(images.sum() > 0, host, lambda images: images, images), "pure_callback"),
        (lambda images: jax.lax.fori_loop(0, 2, lambda _, images: host(images), images), "pure_callback"),
    ],
)
def test_what_a_tpu_does_badly_is_found(function, word):
    [problem] = program.problems(jax.make_jaxpr(function)(IMAGES))
    assert word in problem


def test_what_it_does_well_is_no_problem():
    def good(images, table):
        return jnp.flip(images, 2)[:, :4].sum() + table[jnp.array([1, 2])].sum()  # a table of vectors may be gathered

    assert program.problems(jax.make_jaxpr(good)(IMAGES, jnp.ones((10, 5)))) == []


def shapes(*sizes):
    return [jax.ShapeDtypeStruct(size, "float32") for size in sizes]


def test_what_is_read_once_is_in_memory_until_then():
    def two_layers(x, a, b):
        return jnp.tanh(x @ a) @ b

    traced = jax.make_jaxpr(two_layers)(*shapes((4, 8), (8, 16), (16, 2)))
    assert program.peak_bytes(traced) == 4 * (4 * 16 + 4 * 2)  # what each product makes; tanh is part of the second


def test_what_the_gradient_reads_stays_in_memory():
    def loss(a, b, x):
        return (jax.nn.relu(x @ a) @ b).sum()

    sizes = shapes((8, 16), (16, 2), (4, 8))
    traced = jax.make_jaxpr(jax.grad(loss, (0, 1)))(*sizes)
    hidden, of_hidden, of_a, of_b = 4 * 16, 4 * 16, 8 * 16, 16 * 2
    assert program.peak_bytes(traced) == 4 * (hidden + of_hidden + of_a + of_b)  # where the gradient of a is computed


def test_it_grows_with_the_batch_and_halves_with_the_precision():
    def loss(kernel, images):
        maps = images
        for _ in range(3):
            maps = jax.nn.relu(jax.lax.conv(maps, kernel.astype(maps.dtype), (1, 1), "SAME"))
        return maps.astype("float32").sum()

    def peak(batch, dtype):
        images = jax.ShapeDtypeStruct((batch, 8, 32, 32), dtype)
        kernel = jax.ShapeDtypeStruct((8, 8, 3, 3), dtype)
        return program.peak_bytes(jax.make_jaxpr(jax.grad(loss))(kernel, images))

    maps = 4 * 8 * 32 * 32
    assert peak(4, "float32") == pytest.approx(4 * 4 * maps, rel=0.3)  # of three layers and one gradient
    assert peak(8, "float32") == pytest.approx(2 * peak(4, "float32"), rel=0.02)
    assert peak(4, "bfloat16") == pytest.approx(peak(4, "float32") / 2, rel=0.02)


def test_a_program_within_counts_like_its_operations():
    def plain(x, a):
        return jnp.tanh(x @ a) @ a.T

    sizes = shapes((4, 8), (8, 16))
    inner = jax.jit(plain)
    traced = [program.peak_bytes(jax.make_jaxpr(function)(*sizes)) for function in (plain, lambda *args: inner(*args))]
    assert traced[0] == traced[1] > 0
