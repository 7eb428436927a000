"""What all figures share: colours, sizes, axes, bars, the watermark of a smoke test.

A function takes plain arrays or a table and returns a closed figure: pyplot, which would keep it open, is not used.
Blue is the training split, orange the validation split, green the test split, in all of them.
"""

import io
import math
import textwrap
import unicodedata
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from flowerlib.figures.lettering import legible

# Told apart by colour-blind readers too. Source: Okabe and Ito, jfly.uni-koeln.de/color
TRAIN, VAL, TEST = "#0072B2", "#D55E00", "#009E73"
COLOURS = {"train": TRAIN, "val": VAL, "test": TEST}
MARKED = "#B0005A"
GREY = "#666666"
WIDTH = 10.0  # inches; a notebook's column is about 1000 px
POINT = 1 / 72  # inches
_watermark: list[str] = []  # none or one


class Picture(Figure):
    """A figure that a notebook's last expression shows; matplotlib's own shows itself only under pyplot."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw the figure, each text with all fonts that `legible` has found: it may be older than the last of them."""
        for text in self.findobj(Text):
            text.set_fontfamily(matplotlib.rcParams["font.family"])
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def watermark(text: str | None) -> None:
    """Write a text across every figure that is made from now on, such as SMOKE TEST; None for no text any more."""
    _watermark[:] = [text] if text else []


def new_figure(height: float) -> Picture:
    """Return an empty figure of the common width, `height` inches high, with the watermark."""
    figure = Picture(figsize=(WIDTH, height), layout="constrained")
    for text in _watermark:
        size = min(54, 40 * height)
        figure.text(0.5, 0.5, text, ha="center", va="center", size=size, weight="bold", color=GREY, alpha=0.3, zorder=9)
    return figure


def note(text: str) -> Figure:
    """Return a figure that says why there is nothing to see."""
    figure = new_figure(0.6)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def new_columns(num_rows: int, row_height: float) -> tuple[Picture, list[Axes]]:
    """Return one to three panels side by side, among which a list of classes is divided."""
    num_panels = min(3, math.ceil(num_rows / 12))
    figure = new_figure(row_height * math.ceil(num_rows / num_panels) + 0.8)
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def tight(figure: Figure) -> None:
    """Let a grid of images fill the figure, with narrow gaps."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)


def class_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a list of classes."""
    axes.set_yticks(range(len(names)), list(map(legible, names)), fontsize=7.5)
    axes.tick_params(axis="y", length=0)


def wrapped(text: str, width: float, size: float) -> str:
    """Break `text`, best in place of " / ", where it would be wider than `width` inches in `size` points."""
    text = legible(text)
    num_wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    characters = max(1, int(width / (0.56 * size * POINT) * len(text) / (len(text) + num_wide))) if text else 1
    lines = [text] if len(text) <= characters else text.split(" / ")
    return "\n".join(textwrap.fill(line, characters) for line in lines)


def pixels(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 255] of any type as uint8."""
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image without ticks or frame."""
    axes.imshow(pixels(image))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def plain_axes(axes: Axes, **settings: object) -> None:
    """Leave out the frame's top and right; set what else is given."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**settings)


def legend(figure: Figure, axes: Axes) -> None:
    """Explain all panels once, above them, with what is drawn in `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    write: Callable[[float], str],
    *,
    colour: str = VAL,
    hollow: Sequence[bool] | None = None,
) -> None:
    """Draw a horizontal bar a name, the first on top, with its value at its end; a NaN is a dash, hollow is hatched."""
    numbers = np.asarray(values, float)
    bars = axes.barh(range(len(names)), np.nan_to_num(numbers), height=0.65, color=colour, edgecolor=colour)
    for index in np.flatnonzero(hollow if hollow is not None else []):
        bars[index].set(facecolor="white", hatch="///")
    axes.bar_label(bars, ["\N{EN DASH}" if np.isnan(value) else write(value) for value in numbers], padding=4)
    axes.set_yticks(range(len(names)), list(map(legible, names)))
    axes.tick_params(axis="y", length=0)
    plain_axes(axes, xlim=(0, 1.15 * np.nan_to_num(numbers).max() or 1), ylim=(len(names) - 0.4, -0.6))


def amount(value: float) -> str:
    """Write a number with as many digits as a figure has room for."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def marked_names(names: Sequence[str], hollow: Sequence[bool]) -> list[str]:
    """Return the names, those of smoke tests marked."""
    return [f"{name} (smoke test)" if is_hollow else name for name, is_hollow in zip(names, hollow, strict=True)]
