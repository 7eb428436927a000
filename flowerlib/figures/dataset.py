"""Figures of a dataset: its classes, its colours, its files."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from flowerlib.figures.style import COLOURS, GREY, VAL, class_ticks, legend, new_columns, new_figure, pixels, plain_axes


def class_counts(counts: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Show how many images `(num_classes,)` each class has in each split, the largest class of the first split first.

    Dots on a logarithmic scale: the same distance between two splits is the same ratio, for rare classes as well.
    """
    order = np.argsort(-next(iter(counts.values())), kind="stable")
    figure, panels = new_columns(len(names), row_height=0.17)
    largest = max(values.max() for values in counts.values())
    for axes, members in zip(panels, np.array_split(order, len(panels)), strict=True):
        at = np.arange(len(members))
        axes.hlines(at, 0.7, np.max([values[members] for values in counts.values()], axis=0), color="#dddddd", lw=0.8)
        for split, values in counts.items():
            there = values[members] > 0
            axes.plot(values[members][there], at[there], "o", ms=4.5, color=COLOURS[split], label=split)
        for row in np.flatnonzero(sum(values[members] for values in counts.values()) == 0):
            axes.text(0.8, float(row), "no image", va="center", fontsize=7, color=GREY)
        axes.set(xscale="log", xlim=(0.7, 1.5 * largest), ylim=(len(members) - 0.4, -0.6))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        plain_axes(axes, xlabel="images (logarithmic)")
        class_ticks(axes, [names[member] for member in members])
    legend(figure, panels[0])
    return figure


def class_colours(strips: np.ndarray, names: Sequence[str]) -> Figure:
    """Show each class as a strip of the colours of its images, `(num_classes, length, 3)` in [0, 255]."""
    figure, panels = new_columns(len(names), row_height=0.17)
    for axes, members in zip(panels, np.array_split(np.arange(len(names)), len(panels)), strict=True):
        axes.imshow(pixels(strips[members]), aspect="auto", interpolation="nearest")
        axes.hlines(np.arange(len(members) + 1) - 0.5, -0.5, strips.shape[1] - 0.5, color="white", lw=2)
        class_ticks(axes, [names[member] for member in members])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    return figure


def file_sizes(kilobytes: Mapping[str, np.ndarray]) -> Figure:
    """Show how the sizes of the JPEGs, in kB, are spread in each split."""
    figure = new_figure(3)
    axes = figure.subplots()
    bins = round(2 * min(map(len, kilobytes.values())) ** (1 / 3))  # Rice's rule: fewer images, wider bins
    edges = np.histogram_bin_edges(np.concatenate(list(kilobytes.values())), bins)
    for split, sizes in kilobytes.items():
        share = np.histogram(sizes, edges)[0] / len(sizes)
        axes.stairs(100 * share, edges, color=COLOURS[split], lw=1.8, label=split)
    plain_axes(axes, xlabel="size of an image's JPEG (kB)", ylabel="fraction of the split (%)")
    axes.legend(frameon=False)
    return figure


def ignored_classes(table: pd.DataFrame) -> Figure:
    """Show `accuracy` and `macro_f1` over the number of rare classes `ignored` by an otherwise perfect classifier."""
    figure = new_figure(3.4)
    axes = figure.subplots()
    axes.plot(table["ignored"], table["accuracy"], "-", color=VAL, label="accuracy")
    axes.plot(table["ignored"], table["macro_f1"], "--", color=VAL, label="macro F1")
    plain_axes(axes, xlabel="rarest classes ignored", ylabel="score on the validation labels", ylim=(0, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower left")
    return figure
