"""Draw the flowers of the built-in sample: a picture of a species, never twice the same.

A species is a form (how petals, centre and blooms are built) with a marking on its petals. Colour, pose, light,
background and sharpness vary within a species, so that colour alone does not give it away. Every petal, leaf and stem
is one curved blade; every floret, anther and out-of-focus light is one dot.

Lengths and places are fractions of the picture's side, x to the right, y down, z towards the viewer.
"""

import io
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

UP = -np.pi / 2  # as an angle, y being down

Array = np.ndarray
Rng = np.random.Generator
# (u, v) -> a blade's half width there, at most 1, and u as its tip counts it: 1 where the blade ends.
Outline = Callable[[Array, Array], tuple[Array, Array]]
Frame = tuple[Array, Array, Array]  # a flower's axes, (3,) each: two in its plane, one out of it


@dataclass(frozen=True)
class Form:
    """How a flower is built; lengths are fractions of a petal's length or the bloom's radius, angles degrees."""

    name: str
    petals: int  # in each layer
    spread: int  # how many petals more or fewer a bloom may have
    width: float  # half of a petal's widest place
    belly: float  # where that is, from base (0) to tip (1)
    point: float  # the tip: 1 and more a point, near 0 cut off
    lift: float  # petals rise from the flower's plane: 0 flat, 80 a cup
    centre: str | None  # a key of CENTRES; None leaves the middle to the inner petals
    centre_size: float = 0.2
    layers: int = 1
    shrink: float = 0.75  # how much shorter the innermost layer is
    close: float = 0.0  # how much steeper each inner layer rises
    curl: float = 0.1  # tips bend backwards (above 0) or inwards
    whirl: float = 0.0  # tips bend sideways, a pinwheel
    notch: float = 0.0  # how deep the tip is cut in
    fringe: float = 0.0  # how deep the tip is toothed
    round: float = 0.0  # the tip is rounded off: at 1 to a circle about the base
    lopsided: float = 0.0  # the lowest petal is longer, the highest shorter
    tilt: tuple[float, float] = (0, 50)  # of the axis from the line of sight
    hangs: bool = False
    blooms: tuple[int, int] = (1, 2)

    @property
    def sideways(self) -> bool:
        """Whether the flower is only seen from the side."""
        return self.tilt[0] > 50


FORMS = (
    Form("daisy", 17, 3, 0.12, 0.7, 0.25, 5, "disc", 0.27, blooms=(1, 3)),
    Form("sunflower", 20, 3, 0.13, 0.45, 0.9, 12, "disc", 0.45, layers=2, shrink=0.3),
    Form("poppy", 5, 1, 0.62, 0.72, 0.25, 28, "stamens", 0.22, curl=-0.1, fringe=0.05),
    Form("lily", 6, 0, 0.2, 0.5, 0.9, 25, "stamens", 0.5, curl=0.45),
    Form("tulip", 3, 0, 0.38, 0.48, 0.6, 68, "stamens", 0.3, layers=2, shrink=0.1, curl=-0.18, tilt=(60, 80)),
    Form("bell", 5, 0, 0.46, 0.62, 0.3, 74, "pistil", 0.6, curl=0.22, tilt=(60, 100), hangs=True, blooms=(1, 4)),
    Form("rose", 5, 1, 0.55, 0.7, 0.22, 8, None, layers=5, close=15, curl=-0.12),
    Form("trumpet", 5, 0, 0.85, 0.92, 0.1, 22, "throat", 0.3, curl=0.25, round=0.9, fringe=0.05),
    Form("star", 5, 1, 0.17, 0.4, 1.1, 3, "pistil", 0.25, blooms=(2, 5)),
    Form("pinwheel", 5, 0, 0.3, 0.68, 0.5, 6, "throat", 0.12, whirl=0.35, blooms=(1, 4)),
    Form("pompon", 13, 2, 0.16, 0.62, 0.6, 2, None, layers=5, close=14, curl=-0.15),
    Form("primrose", 5, 0, 0.4, 0.78, 0.22, 4, "throat", 0.2, notch=0.25, blooms=(2, 5)),
    Form("pansy", 5, 0, 0.5, 0.68, 0.25, 3, "throat", 0.13, lopsided=0.28, tilt=(0, 35)),
    Form("carnation", 5, 1, 0.42, 0.85, 0.15, 8, "pistil", fringe=0.22),
)


def _step(start: float, end: float, x: Array) -> Array:
    """Rise smoothly from 0 at `start` to 1 at `end`, or fall where `end` is the smaller."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


# How much of the marking's colour a petal shows, 0 to 1, at `r` from the flower's axis (tip: 1) and at `s` across the
# petal (-1 to 1); the phase makes petals differ.
MARKINGS: dict[str, Callable[[Array, Array, float], Array]] = {
    "plain": lambda r, s, phase: np.zeros_like(r),
    "spotted": lambda r, s, phase: (
        _step(0.35, 0.6, np.sin(26 * r + phase) * np.sin(8 * s + 13 * r + 2 * phase)) * _step(0.95, 0.7, r)
    ),
    "striped": lambda r, s, phase: _step(0.4, 0.15, np.abs(s)) * _step(1.0, 0.8, r),
    "ringed": lambda r, s, phase: _step(0.13, 0.07, np.abs(r - 0.6)),
    "veined": lambda r, s, phase: _step(0.5, 0.95, np.cos(13 * s * (1.15 - 0.3 * r))) * _step(1.0, 0.6, r),
    "edged": lambda r, s, phase: _step(0.6, 0.85, np.maximum(np.abs(s), r - 0.05)),
    "eyed": lambda r, s, phase: _step(0.5, 0.38, r + 0.05 * np.cos(9 * s + phase)),
    "dipped": lambda r, s, phase: _step(0.62, 0.8, r),
}
MAX_CLASSES = len(FORMS) * len(MARKINGS)

# Petal colours as hue, saturation and value, from white to violet.
HUES = (
    (0.12, 0.06, 0.97), (0.14, 0.80, 0.97), (0.07, 0.80, 0.97), (0.00, 0.82, 0.85),
    (0.95, 0.45, 0.95), (0.87, 0.70, 0.80), (0.76, 0.55, 0.80), (0.64, 0.55, 0.88),
)  # fmt: skip
# What lies far behind, two colours each: meadow, shade, dusk, sky, haze, earth.
BACKDROPS = (
    ((0.28, 0.6, 0.50), (0.20, 0.55, 0.70)),
    ((0.35, 0.6, 0.18), (0.30, 0.50, 0.36)),
    ((0.72, 0.3, 0.30), (0.92, 0.30, 0.55)),
    ((0.57, 0.4, 0.92), (0.30, 0.50, 0.55)),
    ((0.12, 0.3, 0.88), (0.22, 0.30, 0.70)),
    ((0.08, 0.5, 0.28), (0.25, 0.40, 0.45)),
)


@dataclass(frozen=True)
class Species:
    """What the pictures of one class share."""

    form: Form
    marking: str
    hues: tuple[int, ...]  # rows of HUES
    leaf_width: float
    leaf_belly: float

    @property
    def name(self) -> str:
        """Return for instance "ringed pixel-lily": "pixel" says that no such flower grows anywhere."""
        return f"{self.marking} pixel-{self.form.name}"


@dataclass(frozen=True)
class Look:
    """What the blooms of one picture share: colours (3,), and how they differ from the form."""

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


@dataclass
class Scene:
    """A picture in the making: `canvas` (S, S, 3) in [0, 1], `light` (3,) the unit vector towards the light."""

    canvas: Array
    light: Array
    rng: Rng


def _rgb(hue: float, saturation: float, value: float) -> Array:
    """Return red, green and blue (3,) in [0, 1]; hues go around, the rest is clipped."""
    ramps = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    saturation, value = np.clip((saturation, value), 0, 1)
    return (value * (1 + saturation * (ramps - 1))).astype(np.float32)


def _mix(first: Array, second: Array, weight: Array) -> Array:
    """Blend two colours, (3,) or (h, w, 3), by `weight` (h, w)."""
    return first + (second - first) * weight[..., None]


def _cross(a: Array, b: Array) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def _way(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])


def _window(size: int, points: Array, margin: float) -> tuple[tuple[slice, slice], Array, Array]:
    """Return the part of a canvas around `points` (n, 2), maybe empty, and its pixels' x (w,) and y (h, 1)."""
    low = np.clip(np.floor((points.min(0) - margin) * size), 0, size).astype(int)
    high = np.clip(np.ceil((points.max(0) + margin) * size), low, size).astype(int)
    x, y = ((np.arange(a, b, dtype=np.float32) + 0.5) / size for a, b in zip(low, high, strict=True))
    return (slice(low[1], high[1]), slice(low[0], high[0])), x, y[:, None]


def _outline(
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


def _thick(along: Array, across: Array) -> Array:
    """Widen `across` where a petal is seen from its edge: it is not quite flat, so it never looks like a line."""
    normal = np.array([-along[1], along[0]]) / max(np.hypot(*along), 1e-6)
    seen = across @ normal
    return across + normal * (np.copysign(max(abs(seen), 0.25 * np.hypot(*across)), seen) - seen)


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


def _blade(
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
    across, size = _thick(along, across), len(canvas)
    spine = np.array([base, base + along / 2 + bend / 4, base + along + bend])
    part, x, y = _window(size, spine, np.abs(across).max() + 0.02)
    u, v = _blade_coordinates(x - float(base[0]), y - float(base[1]), along, bend, across)
    (width, reach), area = outline(u, v), abs(_cross(along, across))
    to_side = (width - np.abs(v)) * (area / max(math.hypot(*along), 1e-6))
    to_end = np.minimum(u, 1 - reach) * (area / math.hypot(*across))
    inside = np.minimum(to_side, to_end) * size  # pixels to the edge, below 0 outside
    patch = canvas[part]
    if shadow:
        beside = (u > 0) & (u < 1)  # beyond the tip it would look like a hair
        patch *= 1 - shadow * (beside * _step(-0.018 * size, 0, inside))[..., None]
    colours = paint(np.clip(u, 0, 1), v, np.clip(v / np.maximum(width, 1e-3), -1, 1))
    patch += (colours - patch) * np.clip(inside + 0.5, 0, 1)[..., None]


def _dot(scene: Scene, at: Array, radius: float, colour: Array, alpha: float = 1.0, flat: bool = False) -> None:
    """Paint a little ball lit by the scene's light, or a flat disc, of `colour` (3,) around `at` (2,)."""
    part, x, y = _window(len(scene.canvas), at[None], radius * 1.2)
    x, y = (x - float(at[0])) / radius, (y - float(at[1])) / radius
    squared = x * x + y * y
    lx, ly, lz = (0, 0, 0) if flat else scene.light.tolist()
    lit = np.clip(x * lx + y * ly + np.sqrt(np.maximum(1 - squared, 0)) * lz, 0, 1)
    colours = colour.astype(np.float32) * (1.0 if flat else 0.55 + 0.6 * lit[..., None])
    inside = (1 - np.sqrt(squared)) * (radius * len(scene.canvas))
    patch = scene.canvas[part]
    patch += (colours - patch) * (alpha * np.clip(inside + 0.5, 0, 1))[..., None]


def _thread(scene: Scene, base: Array, tip: Array, width: float, colour: Array, bend: Array | float = 0.0) -> None:
    """Paint a stem or a filament from `base` to `tip`, (2,) each, by way of a curve if there is a `bend` (2,)."""
    bend = np.zeros(2) + bend
    along = tip - base - bend + 1e-4
    across = np.array([-along[1], along[0]]) / math.hypot(*along) * width
    side = 0.3 * math.copysign(1, scene.light[0])

    def paint(u: Array, v: Array, s: Array) -> Array:
        return colour * (0.85 - side * s)[..., None]

    _blade(scene.canvas, base, along, bend, across, lambda u, v: (np.ones_like(u), u), paint)


def _leaf(scene: Scene, species: Species, base: Array, length: float, angle: float, green: Array) -> None:
    along, rng = length * _way(angle), scene.rng
    across = species.leaf_width * length * _way(angle + np.pi / 2)
    bend = length * (rng.normal(0, 0.25) * _way(angle + np.pi / 2) + np.array([0, 0.1]))  # it hangs a little
    side = rng.normal(0, 0.25)

    def paint(u: Array, v: Array, s: Array) -> Array:
        veins = 0.18 * _step(0.75, 1, np.cos(28 * (u - 0.35 * np.abs(s)))) + 0.3 * _step(0.12, 0.03, np.abs(s))
        return green * ((0.85 + side * s) * (1 + veins))[..., None]

    _blade(scene.canvas, base, along, bend, across, _outline(species.leaf_belly, 0.9), paint, shadow=0.3)


def _frame(tilt: float, azimuth: float) -> Frame:
    """Return the axes of a flower that leans by `tilt` towards `azimuth`, where the first one points too."""
    (cos, sin), (x, y) = _way(tilt), _way(azimuth)
    return np.array([cos * x, cos * y, -sin]), np.array([-y, x, 0]), np.array([sin * x, sin * y, cos])


def _petals(form: Form, look: Look, frame: Frame, azimuth: float, rng: Rng) -> Iterator[tuple[Array, float]]:
    """Yield each petal's directions (4, 3) and its length, outermost layer first.

    The directions: away from the flower's axis, across the petal, along it, and the way its inner side faces.
    """
    e1, e2, axis = frame
    start = UP + rng.normal(0, 0.15) if form.lopsided else rng.uniform(0, 2 * np.pi)
    step = 2 * np.pi / look.petals
    for layer, k in itertools.product(range(form.layers), range(look.petals)):
        angle = start + step * (k + layer / 2 + rng.normal(0, 0.06))
        cos, sin = _way(angle - azimuth)
        out, across = cos * e1 + sin * e2, cos * e2 - sin * e1
        cos, sin = _way(look.lift + np.radians(form.close * layer) + rng.normal(0, 0.06))
        length = (1 - form.shrink * layer / form.layers) * (1 - form.lopsided * np.cos(angle - UP))
        directions = np.array([out, across, cos * out + sin * axis, cos * axis - sin * out])
        yield directions, length * rng.uniform(0.94, 1.05)


def _paint_petal(scene: Scene, species: Species, look: Look, petal: Array, at: Array, radius: float) -> None:
    """Paint the petal with the directions `petal` (4, 3) and the length `radius` on a flower around `at` (2,)."""
    form, (out, across, along, inner) = species.form, petal
    _, to_side, to_tip, facing = (petal @ scene.light).tolist()
    seen_inside = inner[2] > 0
    brightness = scene.rng.normal(1, 0.04) * (0.64 + 0.5 * max(facing if seen_inside else -facing, 0))
    strength = look.strength * (1 if seen_inside else 0.7)  # paler outside
    phase = look.phase + 2.4 * float(scene.rng.integers(8))

    def paint(u: Array, v: Array, s: Array) -> Array:
        marked = strength * MARKINGS[species.marking](np.hypot(u, look.width * v), s, phase)
        colours = _mix(_mix(look.base, look.tip, u), look.mark, marked)
        shade = (1 - 0.45 * np.exp(-u / 0.16)) * (1 + 0.35 * to_side * s + 0.25 * to_tip * (u - 0.5) - 0.12 * s * s)
        return colours * (brightness * shade * (1 + 0.025 * np.cos(24 * s)))[..., None]

    along, bend, across = (
        radius * way[:2] for way in (along, form.whirl * across - look.curl * inner, look.width * across)
    )
    outline = _outline(form.belly, form.point, form.notch, form.fringe, form.round * look.width, phase)
    _blade(scene.canvas, at + 0.06 * radius * out[:2], along, bend, across, outline, paint, shadow=0.3)


def _disc(scene: Scene, look: Look, at: Array, radius: float, frame: Frame) -> None:
    """Paint florets on a dome in a sunflower's spiral (Vogel 1979), the far ones first."""
    k = np.arange(110)
    r, angle = np.sqrt((k + 0.5) / len(k)), k * np.pi * (3 - np.sqrt(5)) + look.phase
    points = radius * np.stack([r * np.cos(angle), r * np.sin(angle), 0.45 * (1 - r * r)], 1) @ np.stack(frame)
    _dot(scene, at, radius * 0.8, look.centre * 0.35)
    for i in np.argsort(points[:, 2]):
        shade = (0.5 + 0.6 * r[i]) * scene.rng.normal(1, 0.12)
        _dot(scene, at + points[i, :2], radius * 0.085, look.centre * shade)


def _stamens(scene: Scene, look: Look, at: Array, radius: float, frame: Frame) -> None:
    count = int(scene.rng.integers(9, 16))
    for k in range(count):
        turn, lean = _way(2 * np.pi * k / count + scene.rng.normal(0, 0.2)), _way(scene.rng.uniform(0.35, 0.9))
        tip = at + radius * (np.array([*lean[1] * turn, lean[0]]) @ np.stack(frame))[:2]
        _thread(scene, at, tip, 0.012 * radius + 0.001, 0.5 + 0.5 * look.centre)
        _dot(scene, tip, 0.09 * radius + 0.004, look.centre)


def _pistil(scene: Scene, look: Look, at: Array, radius: float, frame: Frame) -> None:
    for k in range(5):
        knob = radius * np.array([*0.4 * _way(k * 2 * np.pi / 5), 0.5]) @ np.stack(frame)
        _dot(scene, at + knob[:2], 0.16 * radius, look.centre)
    tip = at + radius * frame[2][:2]
    _thread(scene, at, tip, 0.07 * radius, look.centre)
    _dot(scene, tip, 0.15 * radius, 0.4 + 0.6 * look.centre)


def _throat(scene: Scene, look: Look, at: Array, radius: float, frame: Frame) -> None:
    for scale, alpha in ((1.0, 0.35), (0.8, 0.45), (0.62, 0.7)):
        _dot(scene, at, radius * scale, look.centre, alpha, flat=True)
    _dot(scene, at, radius * 0.35, look.centre * 0.4, flat=True)


CENTRES = {"disc": _disc, "stamens": _stamens, "pistil": _pistil, "throat": _throat}


def _bloom(scene: Scene, species: Species, look: Look, at: Array, radius: float) -> None:
    """Paint one flower around `at`: the petals whose inner side shows, the centre, then the petals that hide it."""
    form, rng = species.form, scene.rng
    azimuth = rng.normal(-UP if form.hangs else UP, 0.35 if form.sideways else 1.5)
    frame = _frame(np.radians(rng.uniform(*form.tilt)), azimuth)
    petals = list(_petals(form, look, frame, azimuth, rng))
    for petal, length in petals:
        if petal[3, 2] > 0:
            _paint_petal(scene, species, look, petal, at, radius * length)
    if form.centre:
        CENTRES[form.centre](scene, look, at, radius * form.centre_size, frame)
    for petal, length in reversed(petals):
        if petal[3, 2] <= 0:
            _paint_petal(scene, species, look, petal, at, radius * length)


def _look(species: Species, rng: Rng) -> Look:
    form = species.form
    hue, saturation, value = HUES[rng.choice(species.hues)] + rng.normal(0, (0.03, 0.06, 0.04))
    if rng.random() < 0.75 or saturation < 0.3:  # a white petal shows no light marking
        mark = _rgb(rng.uniform(0.75, 1.05), rng.uniform(0.6, 0.95), value * rng.uniform(0.3, 0.6))
    else:
        mark = _rgb(rng.uniform(0.08, 0.17), rng.uniform(0.05, 0.5), 1.0)
    return Look(
        base=_rgb(hue + rng.normal(0, 0.03), saturation * rng.uniform(0.4, 1.1), value * rng.uniform(0.8, 1.05)),
        tip=_rgb(hue, saturation, value),
        mark=mark,
        strength=rng.uniform(0.55, 0.95),
        centre=_rgb(rng.choice([0.06, 0.1, 0.13, 0.2, 0.85]), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.95)),
        green=_rgb(rng.uniform(0.22, 0.38), rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.6)),
        petals=form.petals + int(rng.integers(-form.spread, form.spread + 1)),
        width=form.width * rng.uniform(0.88, 1.15),
        lift=np.radians(form.lift + rng.normal(0, 6)),
        curl=form.curl + rng.normal(0, 0.08),
        phase=rng.uniform(0, 2 * np.pi),
    )


def _blurred(canvas: Array, size: int, radius: float) -> Array:
    """Resize `canvas` (any, any, 3) to (size, size, 3) and blur it."""
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius * size)), np.float32) / 255


def _background(size: int, light: Array, rng: Rng) -> Array:
    """Return what lies out of focus behind the flowers, (size, size, 3)."""
    far, near = (
        _rgb(*(colour + rng.normal(0, (0.02, 0.06, 0.05)))) for colour in rng.permutation(rng.choice(BACKDROPS))
    )
    weight = np.linspace(0, 1, 5)[:, None] + rng.normal(0, 0.3, (5, 5))
    scene = Scene(_blurred(_mix(far, near, weight) * rng.normal(1, 0.06, (5, 5, 1)), 64, 0.02), light, rng)
    for _ in range(rng.integers(0, 7)):  # stems
        foot, tip = np.array([rng.random(), 1.05]), rng.random(2)
        bend = np.array([rng.normal(0, 0.2), 0])
        _thread(scene, foot, tip, rng.uniform(0.006, 0.02), near * rng.uniform(0.6, 1.3), bend)
    for _ in range(rng.integers(2, 14)):  # lights, leaves and, one in three, other blossoms
        blossom = _rgb(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.5, 1))
        colour = blossom if rng.random() < 0.33 else near * rng.uniform(0.6, 1.7)
        _dot(scene, rng.random(2), rng.uniform(0.03, 0.13), colour, rng.uniform(0.2, 0.7), flat=True)
    return _blurred(scene.canvas, size, rng.uniform(0.004, 0.025))


def _places(form: Form, rng: Rng) -> list[tuple[Array, float]]:
    """Return where the blooms go, (2,), and their radii; the largest, near the middle, comes last."""
    count = int(rng.integers(form.blooms[0], form.blooms[1] + 1))
    middle, radius = rng.uniform(0.4, 0.6, 2), rng.uniform(0.3, 0.46) / count**0.4
    if form.sideways:  # it looks half as wide, and is all on one side of its base
        radius *= 1.25
        middle[1] -= math.copysign(0.4 * radius, 1 if form.hangs else -1)
    turns = rng.uniform(0, 2 * np.pi) + rng.permutation(count - 1) * 2 * np.pi / max(count - 1, 1)
    others = [
        (middle + radius * rng.uniform(1.3, 1.9) * _way(turn), radius * rng.uniform(0.65, 0.95)) for turn in turns
    ]
    return [*others, (middle, radius)]


def _stem(scene: Scene, form: Form, foot: Array, at: Array, green: Array) -> None:
    width, top = scene.rng.uniform(0.006, 0.012), at
    if form.hangs:  # over a bow, so that the bloom nods
        top = at + np.array([math.copysign(0.06, foot[0] - at[0]), -0.05])
        _thread(scene, top, at, width, green, np.array([0, 0.13]))
    _thread(scene, foot, top, width, green, np.array([0.3 * (foot[0] - at[0]), 0]))


def _picture(species: Species, size: int, rng: Rng) -> Array:
    """Return a picture of `species`, (size, size, 3) in [0, 1]."""
    light = np.array([rng.normal(0, 0.5), rng.normal(-0.4, 0.3), 0.9])
    light /= np.linalg.norm(light)
    scene = Scene(_background(size, light, rng), light, rng)
    look, places = _look(species, rng), _places(species.form, rng)
    foot = np.array([rng.normal(0.5, 0.15), 1.1])
    for at, _ in places:
        _stem(scene, species.form, foot, at, look.green)
    for _ in range(rng.integers(1, 5)):
        base = foot + (places[-1][0] - foot) * rng.uniform(0.1, 0.7)
        angle = UP + rng.choice([-1, 1]) * rng.uniform(0.3, 1.6)
        _leaf(scene, species, base, rng.uniform(0.25, 0.5), angle, look.green)
    for at, radius in places[:-1]:
        _bloom(scene, species, look, at, radius)
    if len(places) > 1:  # only the main bloom is quite in focus
        scene.canvas = _blurred(scene.canvas, size, rng.uniform(0, 0.006))
    _bloom(scene, species, look, *places[-1])
    return scene.canvas


def _photograph(canvas: Array, rng: Rng) -> Image.Image:
    """Add what a camera adds: vignette, exposure, tint, a little blur, noise."""
    size = len(canvas)
    squared = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    vignette = 1 - rng.uniform(0, 0.18) * (squared + squared[:, None])
    tint = (rng.uniform(0.85, 1.2) * rng.normal(1, 0.04, 3)).astype(np.float32)
    canvas = _blurred(canvas * vignette[..., None] * tint, size, rng.uniform(0, 0.004))
    canvas += rng.standard_normal((size, size, 1), np.float32) * rng.uniform(0.004, 0.02)
    return Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8))


def draw_jpeg(job: tuple[int, Species], image_size: int, seed: int) -> bytes:
    """Return picture number `job[0]`; each has a random generator of its own, so any worker may draw it."""
    index, species = job
    rng = np.random.default_rng([seed, 1 + index])  # [seed, 0] draws the plan
    buffer = io.BytesIO()
    _photograph(_picture(species, image_size, rng), rng).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def choose_species(count: int, rng: Rng) -> list[Species]:
    """Return different species: every form once before any a second time with another marking."""
    forms, markings = rng.permutation(len(FORMS)), [rng.permutation(list(MARKINGS)) for _ in FORMS]
    pairs = [(FORMS[i], str(markings[i][turn])) for turn in range(len(MARKINGS)) for i in forms][:count]
    return [
        Species(
            form,
            marking,
            hues=tuple(rng.choice(len(HUES), 3, replace=False).tolist()),
            leaf_width=rng.uniform(0.12, 0.3),
            leaf_belly=rng.uniform(0.35, 0.6),
        )
        for form, marking in pairs
    ]
