"""Draw the pictures of the built-in sample: flowers of a species on a blurred background.

Pose, light, background and sharpness vary from picture to picture.
"""

import io
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from flowerlib.sample.blooms import UP, paint_bloom, random_style
from flowerlib.sample.painting import (
    Array,
    Rng,
    Scene,
    hsv_to_rgb,
    mix_colours,
    paint_blade,
    paint_dot,
    paint_stroke,
    petal_outline,
    smooth_step,
    unit_vector,
)
from flowerlib.sample.species import Form, Species

# Colours of the background, two each as hue, saturation and value: meadow, shade, dusk, sky, haze, earth.
BACKDROPS = (
    ((0.28, 0.6, 0.50), (0.20, 0.55, 0.70)),
    ((0.35, 0.6, 0.18), (0.30, 0.50, 0.36)),
    ((0.72, 0.3, 0.30), (0.92, 0.30, 0.55)),
    ((0.57, 0.4, 0.92), (0.30, 0.50, 0.55)),
    ((0.12, 0.3, 0.88), (0.22, 0.30, 0.70)),
    ((0.08, 0.5, 0.28), (0.25, 0.40, 0.45)),
)


def _resize_and_blur(canvas: Array, size: int, radius: float) -> Array:
    """Resize `canvas` (any, any, 3) to (size, size, 3) and blur it."""
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius * size)), np.float32) / 255


def _background(size: int, light: Array, rng: Rng) -> Array:
    """Return the background, out of focus, (size, size, 3)."""
    far, near = (
        hsv_to_rgb(*(colour + rng.normal(0, (0.02, 0.06, 0.05)))) for colour in rng.permutation(rng.choice(BACKDROPS))
    )
    weight = np.linspace(0, 1, 5)[:, None] + rng.normal(0, 0.3, (5, 5))
    gradient = mix_colours(far, near, weight) * rng.normal(1, 0.06, (5, 5, 1))
    scene = Scene(_resize_and_blur(gradient, 64, 0.02), light, rng)
    for _ in range(rng.integers(0, 7)):  # stems
        foot, tip = np.array([rng.random(), 1.05]), rng.random(2)
        bend = np.array([rng.normal(0, 0.2), 0])
        paint_stroke(scene, foot, tip, rng.uniform(0.006, 0.02), near * rng.uniform(0.6, 1.3), bend)
    for _ in range(rng.integers(2, 14)):  # lights, leaves and, one in three, other blossoms
        blossom = hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.5, 1))
        colour = blossom if rng.random() < 0.33 else near * rng.uniform(0.6, 1.7)
        paint_dot(scene, rng.random(2), rng.uniform(0.03, 0.13), colour, rng.uniform(0.2, 0.7), flat=True)
    return _resize_and_blur(scene.canvas, size, rng.uniform(0.004, 0.025))


def _bloom_positions(form: Form, rng: Rng) -> list[tuple[Array, float]]:
    """Return the position (2,) and the radius of each bloom; the largest, near the middle, comes last."""
    count = int(rng.integers(form.blooms[0], form.blooms[1] + 1))
    middle, radius = rng.uniform(0.4, 0.6, 2), rng.uniform(0.3, 0.46) / count**0.4
    if form.sideways:  # it looks half as wide, and is all on one side of its base
        radius *= 1.25
        middle[1] -= math.copysign(0.4 * radius, 1 if form.hangs else -1)
    angles = rng.uniform(0, 2 * np.pi) + rng.permutation(count - 1) * 2 * np.pi / max(count - 1, 1)
    others = [
        (middle + radius * rng.uniform(1.3, 1.9) * unit_vector(angle), radius * rng.uniform(0.65, 0.95))
        for angle in angles
    ]
    return [*others, (middle, radius)]


def _paint_stem(scene: Scene, form: Form, foot: Array, at: Array, green: Array) -> None:
    width, top = scene.rng.uniform(0.006, 0.012), at
    if form.hangs:  # the stem ends in an arch, so that the bloom nods
        top = at + np.array([math.copysign(0.06, foot[0] - at[0]), -0.05])
        paint_stroke(scene, top, at, width, green, np.array([0, 0.13]))
    paint_stroke(scene, foot, top, width, green, np.array([0.3 * (foot[0] - at[0]), 0]))


def _paint_leaf(scene: Scene, species: Species, base: Array, length: float, angle: float, green: Array) -> None:
    along, rng = length * unit_vector(angle), scene.rng
    across = species.leaf_width * length * unit_vector(angle + np.pi / 2)
    bend = length * (rng.normal(0, 0.25) * unit_vector(angle + np.pi / 2) + np.array([0, 0.1]))  # it hangs a little
    side = rng.normal(0, 0.25)

    def paint(u: Array, v: Array, s: Array) -> Array:
        side_veins = 0.18 * smooth_step(0.75, 1, np.cos(28 * (u - 0.35 * np.abs(s))))
        veins = side_veins + 0.3 * smooth_step(0.12, 0.03, np.abs(s))
        return green * ((0.85 + side * s) * (1 + veins))[..., None]

    paint_blade(scene.canvas, base, along, bend, across, petal_outline(species.leaf_belly, 0.9), paint, shadow=0.3)


def _draw_picture(species: Species, size: int, rng: Rng) -> Array:
    """Return a picture of `species`, (size, size, 3) in [0, 1]."""
    light = np.array([rng.normal(0, 0.5), rng.normal(-0.4, 0.3), 0.9])
    light /= np.linalg.norm(light)
    scene = Scene(_background(size, light, rng), light, rng)
    style, positions = random_style(species, rng), _bloom_positions(species.form, rng)
    foot = np.array([rng.normal(0.5, 0.15), 1.1])
    for at, _ in positions:
        _paint_stem(scene, species.form, foot, at, style.green)
    for _ in range(rng.integers(1, 5)):
        base = foot + (positions[-1][0] - foot) * rng.uniform(0.1, 0.7)
        angle = UP + rng.choice([-1, 1]) * rng.uniform(0.3, 1.6)
        _paint_leaf(scene, species, base, rng.uniform(0.25, 0.5), angle, style.green)
    for at, radius in positions[:-1]:
        paint_bloom(scene, species, style, at, radius)
    if len(positions) > 1:  # only the main bloom is quite in focus
        scene.canvas = _resize_and_blur(scene.canvas, size, rng.uniform(0, 0.006))
    paint_bloom(scene, species, style, *positions[-1])
    return scene.canvas


def _add_camera_effects(canvas: Array, rng: Rng) -> Image.Image:
    """Add what a camera adds: vignette, exposure, tint, a little blur, noise."""
    size = len(canvas)
    squared = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    vignette = 1 - rng.uniform(0, 0.18) * (squared + squared[:, None])
    tint = (rng.uniform(0.85, 1.2) * rng.normal(1, 0.04, 3)).astype(np.float32)
    canvas = _resize_and_blur(canvas * vignette[..., None] * tint, size, rng.uniform(0, 0.004))
    canvas += rng.standard_normal((size, size, 1), np.float32) * rng.uniform(0.004, 0.02)
    return Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))


class Job(NamedTuple):
    """One picture to draw.

    Attributes:
        number: of the picture.
        species: of the flower.
        scene: the number of the picture whose scene it shows: its own, or an earlier one's, of which it is then a
            near-duplicate, taken a moment later with another exposure and, in half of the cases, mirrored.
    """

    number: int
    species: Species
    scene: int


def draw_jpeg(job: Job, image_size: int, seed: int) -> bytes:
    """Draw one picture as a JPEG.

    Each scene has its own random generator, so that the bytes do not depend on which worker draws it.
    """
    rng = np.random.default_rng([seed, 1 + job.scene])  # [seed, 0] draws species and labels
    canvas = _draw_picture(job.species, image_size, rng)
    if job.scene != job.number:
        rng = np.random.default_rng([seed, 1 + job.number])
        canvas = canvas[:, ::-1] if job.number % 2 else canvas
    buffer = io.BytesIO()
    _add_camera_effects(canvas, rng).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
