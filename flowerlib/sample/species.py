"""The species of the built-in sample: fourteen forms of flowers, each with eight markings on its petals.

A species is a form (how petals, centre and blooms are built) with a marking. Colour varies within a species, so that
colour alone does not give it away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flowerlib.sample.painting import Array, Rng, smooth_step


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

# How much of the marking's colour a petal shows, 0 to 1, at `r` from the flower's axis (tip: 1) and at `s` across the
# petal (-1 to 1); the phase makes petals differ.
MARKINGS: dict[str, Callable[[Array, Array, float], Array]] = {
    "plain": lambda r, s, phase: np.zeros_like(r),
    "spotted": lambda r, s, phase: (
        smooth_step(0.35, 0.6, np.sin(26 * r + phase) * np.sin(8 * s + 13 * r + 2 * phase)) * smooth_step(0.95, 0.7, r)
    ),
    "striped": lambda r, s, phase: smooth_step(0.4, 0.15, np.abs(s)) * smooth_step(1.0, 0.8, r),
    "ringed": lambda r, s, phase: smooth_step(0.13, 0.07, np.abs(r - 0.6)),
    "veined": lambda r, s, phase: smooth_step(0.5, 0.95, np.cos(13 * s * (1.15 - 0.3 * r))) * smooth_step(1.0, 0.6, r),
    "edged": lambda r, s, phase: smooth_step(0.6, 0.85, np.maximum(np.abs(s), r - 0.05)),
    "eyed": lambda r, s, phase: smooth_step(0.5, 0.38, r + 0.05 * np.cos(9 * s + phase)),
    "dipped": lambda r, s, phase: smooth_step(0.62, 0.8, r),
}
MAX_CLASSES = len(FORMS) * len(MARKINGS)

# Petal colours as hue, saturation and value, from white to violet.
HUES = (
    (0.12, 0.06, 0.97), (0.14, 0.80, 0.97), (0.07, 0.80, 0.97), (0.00, 0.82, 0.85),
    (0.95, 0.45, 0.95), (0.87, 0.70, 0.80), (0.76, 0.55, 0.80), (0.64, 0.55, 0.88),
)  # fmt: skip


@dataclass(frozen=True)
class Species:
    """The traits that all pictures of one class share."""

    form: Form
    marking: str
    hues: tuple[int, ...]  # rows of HUES
    leaf_width: float
    leaf_belly: float

    @property
    def name(self) -> str:
        """Return for instance "ringed pixel-lily": "pixel" says that no such flower grows anywhere."""
        return f"{self.marking} pixel-{self.form.name}"


def choose_species(count: int, rng: Rng) -> list[Species]:
    """Return different species: every form once before any a second time with another marking."""
    forms, markings = rng.permutation(len(FORMS)), [rng.permutation(list(MARKINGS)) for _ in FORMS]
    pairs = [(FORMS[i], str(markings[i][number])) for number in range(len(MARKINGS)) for i in forms][:count]
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
