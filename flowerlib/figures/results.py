"""Figures of results: errors, classes, runs side by side, devices side by side."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowerlib.figures.lettering import legible
from flowerlib.figures.style import (
    GREY,
    TRAIN,
    VAL,
    amount,
    bars,
    legend,
    marked_names,
    new_figure,
    note,
    plain_axes,
)

NO_IMAGES = "no validation images: this run was trained on all labelled ones"


def confused_pairs(pairs: pd.DataFrame) -> Figure:
    """Show the most confused pairs, in the order given: columns `true`, `predicted` (names) and `count`."""
    if pairs.empty:
        return note("no image of one class was taken for another")
    figure = new_figure(0.3 * len(pairs) + 0.7)
    axes = figure.subplots()
    bars(axes, pairs["true"] + " \N{RIGHTWARDS ARROW} " + pairs["predicted"], pairs["count"], "{:.0f}".format)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("validation images (true class \N{RIGHTWARDS ARROW} predicted class)")
    return figure


def class_f1(report: pd.DataFrame, *, worst: int = 10) -> Figure:
    """Show the `worst` classes' F1, worst first, and the macro F1 as a line.

    Args:
        report: one row a class, the worst first: columns `class` and `f1` in [0, 1].
        worst: how many classes to show.
    """
    if report.empty:
        return note(NO_IMAGES)
    shown = report.head(worst)
    figure = new_figure(0.3 * len(shown) + 1.0)
    axes = figure.subplots()
    bars(axes, shown["class"], shown["f1"], "{:.2f}".format)
    mean = report["f1"].mean()
    axes.axvline(mean, color=GREY, lw=1, ls=":", label=f"macro F1 of all classes: {mean:.4f}")
    axes.set(xlim=(0, 1.05), xlabel="F1 on the validation images")
    legend(figure, axes)
    return figure


def recap(table: pd.DataFrame) -> Figure:
    """Show all runs, the best first: macro F1 and accuracy at the left, seconds an epoch at the right.

    Args:
        table: one row a run, columns `name`, `val_macro_f1`, `val_accuracy`, `val_loss`, `seconds_per_epoch`,
            `parameters` (these two may be NaN) and `smoke_test` (bool). Smoke tests are hollow and say so.
    """
    table = table.sort_values("val_macro_f1", ascending=False)
    figure = new_figure(0.5 * len(table) + 1.0)
    scores, seconds = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    at, hollow = np.arange(len(table)), table["smoke_test"].to_numpy(bool)
    scores.scatter(table["val_accuracy"], at, 110, marker="|", color=GREY, label="accuracy")
    faces = np.where(hollow, "white", VAL)
    scores.scatter(table["val_macro_f1"], at, 70, color=faces, edgecolors=VAL, lw=1.8, label="macro F1")
    for row, value in zip(at, table["val_macro_f1"], strict=True):
        scores.annotate(f"{value:.4f}", (value, row), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    sizes = ["" if pd.isna(value) else f"\n{value / 1e6:.1f} M parameters" for value in table["parameters"]]
    names = marked_names(table["name"], hollow)
    names = [f"{name}{size}" for name, size in zip(names, sizes, strict=True)]
    bars(seconds, names, table["seconds_per_epoch"], amount, colour=TRAIN, hollow=hollow)
    scores.margins(x=0.15)
    scores.grid(axis="y", color="#e5e5e5")
    scores.set_axisbelow(True)
    scores.tick_params(axis="y", length=0)
    plain_axes(scores, xlabel="score on the validation images", ylim=(len(table) - 0.5, -0.7))
    seconds.set_xlabel("seconds an epoch")
    legend(figure, scores)
    return figure


def confusion_matrix(table: np.ndarray, names: Sequence[str]) -> Figure:
    """Show a confusion matrix: rows are true classes, columns predicted ones, each row as fractions of its class.

    Args:
        table: counts `(num_classes, num_classes)`, as from `metrics.confusion`.
        names: `(num_classes,)` in label order; written where there are at most 30.
    """
    if not table.any():
        return note(NO_IMAGES)
    fractions = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = new_figure(7.0)
    axes = figure.subplots()
    shown = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if len(names) <= 30:
        names = list(map(legible, names))
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(shown, ax=axes, label="fraction of the true class", shrink=0.8)
    return figure


def reliability(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """Show a reliability diagram in each panel: accuracy against confidence, and below it how the images are spread.

    Args:
        panels: by title, for each bin of confidence its share of the images, their mean confidence and their accuracy,
            `(num_bins,)`, as from `metrics.calibration_bins`; NaN where a bin is empty.
    """
    if not panels:
        return note(NO_IMAGES)
    figure = new_figure(4.6)
    rows = figure.subplots(2, len(panels), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False)
    for (title, (share, confidence, accuracy)), (axes, below) in zip(panels.items(), rows.T, strict=True):
        width = 1 / len(share)
        middles = (np.arange(len(share)) + 0.5) * width
        axes.bar(middles, np.nan_to_num(accuracy), width, color=VAL, edgecolor="white", label="accuracy of the bin")
        axes.plot(confidence, accuracy, "o", color="black", ms=4, label="the same at its mean confidence")
        axes.plot([0, 1], [0, 1], ":", color="black", label="calibrated: accuracy equals confidence")
        below.bar(middles, share, width, color=GREY, edgecolor="white")
        plain_axes(axes, title=title, xlim=(0, 1), ylim=(0, 1.05))
        plain_axes(below, xlabel="confidence: probability of the predicted class")
    plain_axes(rows[0, 0], ylabel="accuracy")
    plain_axes(rows[1, 0], ylabel="share of\nthe images")
    legend(figure, rows[0, 0])
    return figure


def similarity(table: np.ndarray, names: Sequence[str], label: str) -> Figure:
    """Show how alike models are, two by two: `(n, n)` in [0, 1], such as correlations or agreements."""
    figure = new_figure(0.45 * len(names) + 2.0)
    axes = figure.subplots()
    shown = axes.imshow(table, cmap="Purples", vmin=min(0.5, float(np.min(table))), vmax=1)
    names = list(map(legible, names))
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.85 else "black")
    figure.colorbar(shown, ax=axes, label=label, shrink=0.8)
    return figure


def weights(names: Sequence[str], shares: Sequence[float]) -> Figure:
    """Show each network's weight in an average, in the order given."""
    figure = new_figure(0.32 * len(names) + 0.7)
    axes = figure.subplots()
    bars(axes, names, shares, "{:.2f}".format, colour=GREY)
    axes.set_xlabel("weight in the average")
    return figure


def seconds_per_epoch(table: pd.DataFrame) -> Figure:
    """Show how fast devices train, a row a device.

    Args:
        table: columns `device`, `seconds_per_epoch`, `compile_seconds`, `images_per_second` (NaN where not measured)
            and `smoke_test` (bool). Smoke tests are hatched.
    """
    figure = new_figure(0.55 * len(table) + 0.9)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1.3, 1.3))
    hollow = table["smoke_test"].to_numpy(bool)
    names = [textwrap.fill(name, 26) for name in marked_names(table["device"], hollow)]
    for axes, column, label in zip(
        panels,
        ("seconds_per_epoch", "compile_seconds", "images_per_second"),
        ("seconds an epoch", "seconds to compile, once", "images a second"),
        strict=True,
    ):
        bars(axes, names, table[column], amount, colour=TRAIN, hollow=hollow)
        axes.set_xlabel(label)
    return figure
