"""The six augmentations of `flowerlib.augmentation`, on the device, a batch at once: one program that XLA compiles
without gathers. Nothing trains with it; `input` times it, until a TPU shows whether it is needed.

A TPU multiplies matrices fast and fetches single pixels slowly. So the affine map is done in two passes, as Catmull and
Smith did (SIGGRAPH 1980): along the rows, then along the columns. In each, every line is shifted by an amount of its
own (a shear, out of shifts by powers of two) and then resampled, the same for all lines: a product of two matrices.
"""

import math
from collections.abc import Callable

from flowerlib.accelerator import keras, tf
from flowerlib.augmentation import Augmentation
from flowerlib.config import FlowersError

ops = keras.ops
STEEPEST = 45.0  # degrees; beyond it the first pass would squeeze the image too much


def augment(
    images: keras.KerasTensor, affine: keras.KerasTensor, uniform: keras.KerasTensor, augmentation: Augmentation
) -> keras.KerasTensor:
    """Augment a batch as `augmentation` does on the host, given the same random numbers.

    Args:
        images: `(B, S, S, 3)` in [0, 255].
        affine: `(6, B)`, as from `Augmentation.affine_matrix`.
        uniform: `(B, 8)` in [-1, 1), as from `Augmentation.random_parameters`.
        augmentation: what to do.

    Returns:
        Images `(B, S, S, 3)` float32 in [0, 255]. They are interpolated four times where the host does so once, and so
        are a little softer: on photographs of 192 px the mean difference is below 2 of 255.

    Raises:
        FlowersError: `augmentation.rotation` is beyond 45 degrees.
    """
    if augmentation.rotation > STEEPEST:
        raise FlowersError(f"`rotation` (={augmentation.rotation}) must be at most {STEEPEST:g} degrees on the device")
    images, uniform = ops.cast(images, "float32"), ops.cast(uniform, "float32")
    moved = _warp(images, *ops.unstack(ops.cast(affine, "float32")), augmentation.rotation)
    gain = 1.0 + augmentation.contrast * uniform[:, 6]
    mean = ops.mean(moved, axis=(1, 2), keepdims=True)
    brighter = 255.0 * augmentation.brightness * uniform[:, 7]
    return ops.clip((moved - mean) * _per_image(gain) + mean + _per_image(brighter), 0.0, 255.0)


def compiled(augmentation: Augmentation) -> Callable:
    """Return `augment` as one program: (images, affine, uniform) -> images."""

    def program(images: keras.KerasTensor, affine: keras.KerasTensor, uniform: keras.KerasTensor) -> keras.KerasTensor:
        return augment(images, affine, uniform, augmentation)

    if keras.backend.backend() == "tensorflow":
        return tf.function(program)
    import jax

    return jax.jit(program)


def _per_image(values: keras.KerasTensor) -> keras.KerasTensor:
    return ops.reshape(values, (-1, 1, 1, 1))


def _warp(
    images: keras.KerasTensor,
    a: keras.KerasTensor,
    b: keras.KerasTensor,
    c: keras.KerasTensor,
    d: keras.KerasTensor,
    e: keras.KerasTensor,
    f: keras.KerasTensor,
    rotation: float,
) -> keras.KerasTensor:
    """Read pixel (x, y) at (u, v) = (a x + b y + c, d x + e y + f), reflected beyond the border.

    First along the rows: with y = (v - d x - f) / e put into u, row v of the image is read at
    u = (a - b d / e) x + (b / e) (v - f) + c. Then along the columns: column x is read at v = e y + (d x + f).
    """
    size, centre = images.shape[1], (images.shape[1] - 1) / 2.0
    angle = math.radians(rotation)
    reach = (math.cos(angle) + math.sin(angle)) * size / 2.0  # how far from the centre anything is read
    pad = math.ceil(reach - size / 2.0) + 2
    padded = ops.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="symmetric")
    rows = ops.arange(size + 2 * pad, dtype="float32") - pad - centre
    shear = b / e
    scale, offset = a - shear * d, c + shear * (centre - f)
    sheared = _shift_lines(padded, shear[:, None] * rows, math.tan(angle) * (reach + 2.0))
    across = ops.einsum("bxu,bvuc->bvxc", _linear(scale, offset + pad, size, size + 2 * pad), sheared)
    columns = ops.arange(size, dtype="float32") - centre
    turned = ops.swapaxes(across, 1, 2)
    sheared = _shift_lines(turned, d[:, None] * columns, math.sin(angle) * size / 2.0)
    return ops.einsum("byv,bxvc->byxc", _linear(e, f + d * centre + pad, size, size + 2 * pad), sheared)


def _linear(scale: keras.KerasTensor, offset: keras.KerasTensor, size: int, length: int) -> keras.KerasTensor:
    """Return matrices `(B, size, length)` that read a line of `length` pixels at `scale` i + `offset`, linearly."""
    places = scale[:, None] * ops.arange(size, dtype="float32") + offset[:, None]
    return ops.relu(1.0 - ops.abs(places[:, :, None] - ops.arange(length, dtype="float32")))


def _shift_lines(lines: keras.KerasTensor, by: keras.KerasTensor, most: float) -> keras.KerasTensor:
    """Read every line, `(B, lines, length, 3)`, `by` pixels (B, lines) further on; none is moved by more than `most`.

    By whole pixels one power of two after another, then linearly by the rest. What runs out at one end comes in at
    the other, where nothing is read.
    """
    lowest = -math.ceil(most) - 1
    whole = ops.floor(by)
    steps = ops.clip(ops.cast(whole, "int32") - lowest, 0, -2 * lowest)
    lines = ops.roll(lines, -lowest, axis=2)
    for power in range((-2 * lowest).bit_length()):
        odd = ops.bitwise_and(ops.right_shift(steps, power), 1)
        lines = ops.where(odd[:, :, None, None] == 1, ops.roll(lines, -(2**power), axis=2), lines)
    rest = (by - whole)[:, :, None, None]
    return lines * (1.0 - rest) + ops.roll(lines, -1, axis=2) * rest
