"""Paint one flower: its petals, shaded and marked, and its centre."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

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
    unit_vector,
)
from flowerlib.sample.species import HUES, MARKINGS, Form, Species

UP = -np.pi / 2  # as an angle, y being down
Axes = tuple[Array, Array, Array]  # of a flower, (3,) each: two in its plane, one out of it


@dataclass(frozen=True)
class BloomStyle:
    """Colours (3,) and proportions that the blooms of one picture share; they vary around the species' form."""

    base: Array
    tip: Array
    mark: Array
    strength: float  # of the marking
    centre: Array
    green: Array
    petals: int
    width: float
    lift: float  # radians
    curl: float
    phase: float


def random_style(species: Species, rng: Rng) -> BloomStyle:
    """Draw the colours and the proportions of a picture's blooms."""
    form = species.form
    hue, saturation, value = HUES[rng.choice(species.hues)] + rng.normal(0, (0.03, 0.06, 0.04))
    if rng.random() < 0.75 or saturation < 0.3:  # a white petal shows no light marking
        mark = hsv_to_rgb(rng.uniform(0.75, 1.05), rng.uniform(0.6, 0.95), value * rng.uniform(0.3, 0.6))
    else:
        mark = hsv_to_rgb(rng.uniform(0.08, 0.17), rng.uniform(0.05, 0.5), 1.0)
    return BloomStyle(
        base=hsv_to_rgb(hue + rng.normal(0, 0.03), saturation * rng.uniform(0.4, 1.1), value * rng.uniform(0.8, 1.05)),
        tip=hsv_to_rgb(hue, saturation, value),
        mark=mark,
        strength=rng.uniform(0.55, 0.95),
        centre=hsv_to_rgb(rng.choice([0.06, 0.1, 0.13, 0.2, 0.85]), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.95)),
        green=hsv_to_rgb(rng.uniform(0.22, 0.38), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.6)),
        petals=form.petals + int(rng.integers(-form.spread, form.spread + 1)),
        width=form.width * rng.uniform(0.88, 1.15),
        lift=np.radians(form.lift + rng.normal(0, 6)),
        curl=form.curl + rng.normal(0, 0.08),
        phase=rng.uniform(0, 2 * np.pi),
    )


def _flower_axes(tilt: float, azimuth: float) -> Axes:
    """Return the axes of a flower that leans by `tilt` towards `azimuth`, where the first one points too."""
    (cos, sin), (x, y) = unit_vector(tilt), unit_vector(azimuth)
    return np.array([cos * x, cos * y, -sin]), np.array([-y, x, 0]), np.array([sin * x, sin * y, cos])


def _petal_directions(
    form: Form, style: BloomStyle, axes: Axes, azimuth: float, rng: Rng
) -> Iterator[tuple[Array, float]]:
    """Yield each petal's directions (4, 3) and its length, outermost layer first.

    The directions: away from the flower's axis, across the petal, along it, and the way its inner side faces.
    """
    e1, e2, axis = axes
    start = UP + rng.normal(0, 0.15) if form.lopsided else rng.uniform(0, 2 * np.pi)
    step = 2 * np.pi / style.petals
    for layer, k in itertools.product(range(form.layers), range(style.petals)):
        angle = start + step * (k + layer / 2 + rng.normal(0, 0.06))
        cos, sin = unit_vector(angle - azimuth)
        out, across = cos * e1 + sin * e2, cos * e2 - sin * e1
        cos, sin = unit_vector(style.lift + np.radians(form.close * layer) + rng.normal(0, 0.06))
        length = (1 - form.shrink * layer / form.layers) * (1 - form.lopsided * np.cos(angle - UP))
        directions = np.array([out, across, cos * out + sin * axis, cos * axis - sin * out])
        yield directions, length * rng.uniform(0.94, 1.05)


def _paint_petal(scene: Scene, species: Species, style: BloomStyle, petal: Array, at: Array, radius: float) -> None:
    """Paint the petal with the directions `petal` (4, 3) and the length `radius` on a flower around `at` (2,)."""
    form, (out, across, along, inner) = species.form, petal
    _, to_side, to_tip, facing = (petal @ scene.light).tolist()
    shows_inner_side = inner[2] > 0
    brightness = scene.rng.normal(1, 0.04) * (0.64 + 0.5 * max(facing if shows_inner_side else -facing, 0))
    strength = style.strength * (1 if shows_inner_side else 0.7)  # paler outside
    phase = style.phase + 2.4 * float(scene.rng.integers(8))

    def paint(u: Array, v: Array, s: Array) -> Array:
        marked = strength * MARKINGS[species.marking](np.hypot(u, style.width * v), s, phase)
        colours = mix_colours(mix_colours(style.base, style.tip, u), style.mark, marked)
        shade = (1 - 0.45 * np.exp(-u / 0.16)) * (1 + 0.35 * to_side * s + 0.25 * to_tip * (u - 0.5) - 0.12 * s * s)
        return colours * (brightness * shade * (1 + 0.025 * np.cos(24 * s)))[..., None]

    along, bend, across = (
        radius * vector[:2] for vector in (along, form.whirl * across - style.curl * inner, style.width * across)
    )
    outline = petal_outline(form.belly, form.point, form.notch, form.fringe, form.round * style.width, phase)
    paint_blade(scene.canvas, at + 0.06 * radius * out[:2], along, bend, across, outline, paint, shadow=0.3)


def _paint_disc(scene: Scene, style: BloomStyle, at: Array, radius: float, axes: Axes) -> None:
    """Paint florets on a dome in a sunflower's spiral (Vogel 1979), the far ones first."""
    k = np.arange(110)
    r, angle = np.sqrt((k + 0.5) / len(k)), k * np.pi * (3 - np.sqrt(5)) + style.phase
    points = radius * np.stack([r * np.cos(angle), r * np.sin(angle), 0.45 * (1 - r * r)], 1) @ np.stack(axes)
    paint_dot(scene, at, radius * 0.8, style.centre * 0.35)
    for i in np.argsort(points[:, 2]):
        shade = (0.5 + 0.6 * r[i]) * scene.rng.normal(1, 0.12)
        paint_dot(scene, at + points[i, :2], radius * 0.085, style.centre * shade)


def _paint_stamens(scene: Scene, style: BloomStyle, at: Array, radius: float, axes: Axes) -> None:
    count = int(scene.rng.integers(9, 16))
    for k in range(count):
        azimuth = unit_vector(2 * np.pi * k / count + scene.rng.normal(0, 0.2))
        cos, sin = unit_vector(scene.rng.uniform(0.35, 0.9))  # of the angle to the flower's axis
        tip = at + radius * (np.array([*sin * azimuth, cos]) @ np.stack(axes))[:2]
        paint_stroke(scene, at, tip, 0.012 * radius + 0.001, 0.5 + 0.5 * style.centre)
        paint_dot(scene, tip, 0.09 * radius + 0.004, style.centre)


def _paint_pistil(scene: Scene, style: BloomStyle, at: Array, radius: float, axes: Axes) -> None:
    for k in range(5):
        stigma = radius * np.array([*0.4 * unit_vector(k * 2 * np.pi / 5), 0.5]) @ np.stack(axes)
        paint_dot(scene, at + stigma[:2], 0.16 * radius, style.centre)
    tip = at + radius * axes[2][:2]
    paint_stroke(scene, at, tip, 0.07 * radius, style.centre)
    paint_dot(scene, tip, 0.15 * radius, 0.4 + 0.6 * style.centre)


def _paint_throat(scene: Scene, style: BloomStyle, at: Array, radius: float, axes: Axes) -> None:
    for scale, alpha in ((1.0, 0.35), (0.8, 0.45), (0.62, 0.7)):
        paint_dot(scene, at, radius * scale, style.centre, alpha, flat=True)
    paint_dot(scene, at, radius * 0.35, style.centre * 0.4, flat=True)


CENTRES = {"disc": _paint_disc, "stamens": _paint_stamens, "pistil": _paint_pistil, "throat": _paint_throat}


def paint_bloom(scene: Scene, species: Species, style: BloomStyle, at: Array, radius: float) -> None:
    """Paint one flower around `at`: the petals whose inner side shows, the centre, then the petals that hide it."""
    form, rng = species.form, scene.rng
    azimuth = rng.normal(-UP if form.hangs else UP, 0.35 if form.sideways else 1.5)
    axes = _flower_axes(np.radians(rng.uniform(*form.tilt)), azimuth)
    petals = list(_petal_directions(form, style, axes, azimuth, rng))
    for petal, length in petals:
        if petal[3, 2] > 0:
            _paint_petal(scene, species, style, petal, at, radius * length)
    if form.centre:
        CENTRES[form.centre](scene, style, at, radius * form.centre_size, axes)
    for petal, length in reversed(petals):
        if petal[3, 2] <= 0:
            _paint_petal(scene, species, style, petal, at, radius * length)
