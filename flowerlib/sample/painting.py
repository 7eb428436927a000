"""Paint antialiased shapes on a canvas: blades (petals, leaves, stems) and dots (florets, anthers, lights).

Lengths and positions are fractions of the picture's side, x to the right, y down, z towards the viewer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Rng = np.random.Generator
# (u, v) -> a blade's half width there, at most 1, and u as its tip counts it: 1 where the blade ends.
Outline = Callable[[Array, Array], tuple[Array, Array]]


@dataclass
class Scene:
    """A picture in the making: `canvas` (S, S, 3) in [0, 1], `light` (3,) the unit vector towards the light."""

    canvas: Array
    light: Array
    rng: Rng


def smooth_step(start: float, end: float, x: Array) -> Array:
    """Rise smoothly from 0 at `start` to 1 at `end`, or fall where `end` is the smaller."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Array:
    """Return red, green and blue (3,) in [0, 1]; hues go around, the rest is clipped."""
    ramps = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    saturation, value = np.clip((saturation, value), 0, 1)
    return (value * (1 + saturation * (ramps - 1))).astype(np.float32)


def mix_colours(first: Array, second: Array, weight: Array) -> Array:
    """Blend two colours, (3,) or (h, w, 3), by `weight` (h, w)."""
    return first + (second - first) * weight[..., None]


def _cross(a: Array, b: Array) -> float:
    """Return the cross product of two vectors (2,): the signed area between them."""
    return float(a[0] * b[1] - a[1] * b[0])


def unit_vector(angle: float) -> Array:
    """Return the vector (2,) of length one at an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


def _canvas_window(size: int, points: Array, margin: float) -> tuple[tuple[slice, slice], Array, Array]:
    """Return the part of a canvas around `points` (n, 2), maybe empty, and its pixels' x (w,) and y (h, 1)."""
    low = np.clip(np.floor((points.min(0) - margin) * size), 0, size).astype(int)
    high = np.clip(np.ceil((points.max(0) + margin) * size), low, size).astype(int)
    x, y = ((np.arange(a, b, dtype=np.float32) + 0.5) / size for a, b in zip(low, high, strict=True))
    return (slice(low[1], high[1]), slice(low[0], high[0])), x, y[:, None]


def petal_outline(
    belly: float, point: float, notch: float = 0, fringe: float = 0, round: float = 0, phase: float = 0
) -> Outline:
    """Return a beta curve that peaks at the belly, its tip cut off as `Form` says."""
    rise = point * belly / (1 - belly)
    peak = belly**rise * (1 - belly) ** point

    def outline(u: Array, v: Array) -> tuple[Array, Array]:
        cut = notch * np.exp(-((v / 0.4) ** 2)) + fringe * np.abs(np.sin(9 * v + phase))
        reach = np.hypot(u, round * v) * (1 + cut)
        along = np.clip(reach, 1e-4, 1)
        return along**rise * (1 - along) ** point / peak, reach

    return outline


def _thickened(along: Array, across: Array) -> Array:
    """Widen `across` where a petal is viewed from its edge: it is not quite flat, so it never looks like a line."""
    normal = np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-6)
    thickness = across @ normal
    return across + normal * (np.copysign(max(abs(thickness), 0.25 * np.hypot(*across)), thickness) - thickness)


def _blade_coordinates(x: Array, y: Array, along: Array, bend: Array, across: Array) -> tuple[Array, Array]:
    """Solve (x, y) = u * along + u² * bend + v * across for u and v, (h, w) each.

    Crossing both sides with `across` rids the equation of v and leaves c2 u² + c1 u = q.
    """
    c1, c2 = _cross(along, across), _cross(bend, across)
    (ax, ay), (bx, by), (tx, ty) = along.tolist(), bend.tolist(), across.tolist()
    q = x * ty - y * tx
    u = 2 * q / (c1 + math.copysign(1, c1) * np.sqrt(np.maximum(c1 * c1 + 4 * c2 * q, 1e-9)))
    v = (x - u * (ax + u * bx)) * tx + (y - u * (ay + u * by)) * ty
    return u, v / (tx * tx + ty * ty)


def paint_blade(
    canvas: Array,
    base: Array,
    along: Array,
    bend: Array,
    across: Array,
    outline: Outline,
    paint: Callable[[Array, Array, Array], Array],
    shadow: float = 0.0,
) -> None:
    """Paint a blade, be it petal, leaf, stem or filament, over `canvas` (S, S, 3).

    It is the points base + u * along + u² * bend + v * across, (2,) each, with u from 0 (base) to 1 (tip) and
    |v| <= `outline`. `paint(u, v, s)` returns its colours (h, w, 3); s goes from -1 to 1 across the blade.
    """
    across, size = _thickened(along, across), len(canvas)
    spine = np.array([base, base + along / 2 + bend / 4, base + along + bend])
    part, x, y = _canvas_window(size, spine, np.abs(across).max() + 0.02)
    u, v = _blade_coordinates(x - float(base[0]), y - float(base[1]), along, bend, across)
    (width, reach), area = outline(u, v), abs(_cross(along, across))
    to_side = (width - np.abs(v)) * (area / max(math.hypot(*along), 1e-6))
    to_end = np.minimum(u, 1 - reach) * (area / math.hypot(*across))
    inside = np.minimum(to_side, to_end) * size  # pixels to the edge, below 0 outside
    patch = canvas[part]
    if shadow:
        beside = (u > 0) & (u < 1)  # beyond the tip it would look like a hair
        patch *= 1 - shadow * (beside * smooth_step(-0.018 * size, 0, inside))[..., None]
    colours = paint(np.clip(u, 0, 1), v, np.clip(v / np.maximum(width, 1e-3), -1, 1))
    patch += (colours - patch) * np.clip(inside + 0.5, 0, 1)[..., None]


def paint_dot(scene: Scene, at: Array, radius: float, colour: Array, alpha: float = 1.0, flat: bool = False) -> None:
    """Paint a little ball lit by the scene's light, or a flat disc, of `colour` (3,) around `at` (2,)."""
    part, x, y = _canvas_window(len(scene.canvas), at[None], radius * 1.2)
    x, y = (x - float(at[0])) / radius, (y - float(at[1])) / radius
    squared = x * x + y * y
    lx, ly, lz = (0, 0, 0) if flat else scene.light.tolist()
    lit = np.clip(x * lx + y * ly + np.sqrt(np.maximum(1 - squared, 0)) * lz, 0, 1)
    colours = colour.astype(np.float32) * (1.0 if flat else 0.55 + 0.6 * lit[..., None])
    inside = (1 - np.sqrt(squared)) * (radius * len(scene.canvas))
    patch = scene.canvas[part]
    patch += (colours - patch) * (alpha * np.clip(inside + 0.5, 0, 1))[..., None]


def paint_stroke(scene: Scene, base: Array, tip: Array, width: float, colour: Array, bend: Array | float = 0.0) -> None:
    """Paint a stem or a filament from `base` to `tip`, (2,) each, by way of a curve if there is a `bend` (2,)."""
    bend = np.zeros(2) + bend
    along = tip - base - bend + 1e-4
    across = np.array([-along[1], along[0]]) / math.hypot(*along) * width
    side = 0.3 * math.copysign(1, scene.light[0])

    def paint(u: Array, v: Array, s: Array) -> Array:
        return colour * (0.85 - side * s)[..., None]

    paint_blade(scene.canvas, base, along, bend, across, lambda u, v: (np.ones_like(u), u), paint)
