"""Figures of images: a gallery, rows of variants."""

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from flowerlib.figures.lettering import legible
from flowerlib.figures.style import MARKED, POINT, WIDTH, new_figure, note, pixels, show, tight, wrapped


def gallery(
    images: np.ndarray,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    marks: Sequence[bool] | None = None,
) -> Figure:
    """Show images row by row.

    Args:
        images: `(n, height, width, 3)` in [0, 255], float or uint8; none gives a figure that says so.
        titles: one an image; long ones are broken, best in place of " / ".
        columns: images in a row.
        marks: True frames that image and prints its title in the same colour: a mistake, for example.
    """
    if not len(images):
        return note("no images")
    size = 9 if columns < 5 else 8 if columns < 8 else 7
    titles = [wrapped(title, WIDTH / columns, size) for title in ([] if titles is None else titles)]
    starts = range(0, len(images), columns)
    lines = sum(1 + max(title.count("\n") for title in titles[start : start + columns]) for start in starts if titles)
    height, width = np.shape(images)[1:3]
    figure = new_figure(len(starts) * WIDTH / columns * height / width + lines * 1.3 * size * POINT)
    tight(figure)
    grid = figure.subplots(len(starts), columns, squeeze=False).ravel()
    for axes, image in zip(grid, images, strict=False):
        show(axes, image)
    for axes in grid[len(images) :]:
        axes.remove()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title, fontsize=size, pad=3)
    for index in np.flatnonzero(marks if marks is not None else []):
        grid[index].spines[:].set(visible=True, color=MARKED, linewidth=3)
        grid[index].title.set(color=MARKED, fontweight="bold")
    return figure


def activation_maps(
    images: np.ndarray, maps: np.ndarray, titles: Sequence[str] | None = None, *, columns: int = 6
) -> Figure:
    """Show images with their class activation maps: bright where a place supports the class, dark elsewhere.

    Args:
        images: `(n, S, S, 3)` in [0, 255].
        maps: `(n, h, w)`, in any unit; what is below zero supports other classes.
        titles: one an image.
        columns: images in a row.
    """
    if not len(images):
        return note("no images")
    lit = [lit_by_map(image, values) for image, values in zip(images, maps, strict=True)]
    return gallery(np.stack(lit), titles, columns=columns)


def lit_by_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return an image `(S, S, 3)` uint8 bright where a map `(h, w)` is high, dark where not positive."""
    strength = cv2.resize(np.maximum(values, 0).astype(np.float32), np.shape(image)[1::-1])
    brightness = 0.25 + 0.75 * strength / max(float(strength.max()), 1e-6)
    return pixels(np.asarray(image, np.float32) * brightness[..., np.newaxis])


def rows(images: np.ndarray, names: Sequence[str], *, column_titles: Sequence[str] | None = None) -> Figure:
    """Show images `(rows, columns, S, S, 3)` in [0, 255] as a grid, each row's name at its left.

    Titles stand above the first columns, as many as there are.
    """
    num_rows, columns = np.shape(images)[:2]
    names = [textwrap.fill(legible(name), 14) for name in names]
    margin = 0.1 + 0.075 * max(len(line) for name in names for line in name.split("\n"))
    figure = new_figure(num_rows * (WIDTH - margin) / columns + (0.2 if column_titles else 0))
    tight(figure)
    grid = figure.subplots(num_rows, columns, squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        show(axes, images[row][column])
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    for axes, title in zip(grid[0], column_titles or [], strict=False):
        axes.set_title(title, fontsize=9, pad=3)
    return figure


def label_texts(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """Write labels `(n, num_classes)`, rows that sum to one, as "iris 63 % / rose 37 %", the largest share first."""
    texts = []
    for shares in np.asarray(labels):
        kept = [index for index in np.argsort(-shares, kind="stable") if round(100 * shares[index]) > 0]
        texts.append(" / ".join(f"{names[index]} {100 * shares[index]:.0f}\N{NO-BREAK SPACE}%" for index in kept))
    return texts
