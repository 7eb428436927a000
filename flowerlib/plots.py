"""Every figure of the notebooks, one function each.

A function takes plain arrays or a table and returns a closed figure: pyplot, which would keep it open, is not used.
Blue is the training split, orange the validation split, green the test split, in all of them.
"""

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

# Told apart by colour-blind readers too. Source: Okabe and Ito, jfly.uni-koeln.de/color
TRAIN, VAL, TEST = "#0072B2", "#D55E00", "#009E73"
COLOURS = {"train": TRAIN, "val": VAL, "test": TEST}
MARKED = "#B0005A"
GREY = "#666666"
WIDTH = 10.0  # inches; a notebook's column is about 1000 px
POINT = 1 / 72  # inches


class Picture(Figure):
    """A figure that a notebook's last expression shows; matplotlib's own shows itself only under pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def mark_rehearsal(figure: Figure) -> Figure:
    """Write REHEARSAL across a figure whose numbers come from a shrunk run, and return it."""
    style = {"fontsize": 54, "fontweight": "bold", "color": GREY, "alpha": 0.25}
    figure.text(0.5, 0.5, "REHEARSAL", ha="center", va="center", **style)
    return figure


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
        return _note("no images")
    size = 9 if columns < 5 else 8 if columns < 8 else 7
    titles = [_wrapped(title, WIDTH / columns, size) for title in ([] if titles is None else titles)]
    starts = range(0, len(images), columns)
    lines = sum(1 + max(title.count("\n") for title in titles[start : start + columns]) for start in starts if titles)
    height, width = np.shape(images)[1:3]
    figure = _figure(len(starts) * WIDTH / columns * height / width + lines * 1.3 * size * POINT)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(len(starts), columns, squeeze=False).ravel()
    for axes, image in zip(grid, images, strict=False):
        _show(axes, image)
    for axes in grid[len(images) :]:
        axes.remove()
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(title, fontsize=size, pad=3)
    for index in np.flatnonzero(marks if marks is not None else []):
        grid[index].spines[:].set(visible=True, color=MARKED, linewidth=3)
        grid[index].title.set(color=MARKED, fontweight="bold")
    return figure


def rows(images: np.ndarray, names: Sequence[str], *, column_titles: Sequence[str] | None = None) -> Figure:
    """Show images `(rows, columns, S, S, 3)` in [0, 255] as a grid, each row's name at its left.

    Titles stand above the first columns, as many as there are.
    """
    num_rows, columns = np.shape(images)[:2]
    names = [textwrap.fill(name, 14) for name in names]
    margin = 0.1 + 0.075 * max(len(line) for name in names for line in name.split("\n"))
    figure = _figure(num_rows * (WIDTH - margin) / columns + (0.2 if column_titles else 0))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.subplots(num_rows, columns, squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        _show(axes, images[row][column])
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


def class_counts(counts: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Show how many images `(num_classes,)` each class has in each split, the largest class of the first split first.

    Dots on a logarithmic scale: the same distance between two splits is the same ratio, for rare classes as well.
    """
    order = np.argsort(-next(iter(counts.values())), kind="stable")
    figure, panels = _columns(len(names), row_height=0.17)
    largest = max(values.max() for values in counts.values())
    for axes, members in zip(panels, np.array_split(order, len(panels)), strict=True):
        at = np.arange(len(members))
        axes.hlines(at, 0.7, np.max([values[members] for values in counts.values()], axis=0), color="#dddddd", lw=0.8)
        for split, values in counts.items():
            there = values[members] > 0
            axes.plot(values[members][there], at[there], "o", ms=4.5, color=COLOURS[split], label=split)
        for row in np.flatnonzero(sum(values[members] for values in counts.values()) == 0):
            axes.text(0.8, row, "no image", va="center", fontsize=7, color=GREY)
        axes.set(xscale="log", xlim=(0.7, 1.5 * largest), ylim=(len(members) - 0.4, -0.6))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        _plain(axes, xlabel="images (logarithmic)")
        _class_ticks(axes, [names[member] for member in members])
    _legend(figure, panels[0])
    return figure


def class_colours(strips: np.ndarray, names: Sequence[str]) -> Figure:
    """Show each class as a strip of the colours of its images, `(num_classes, length, 3)` in [0, 255]."""
    figure, panels = _columns(len(names), row_height=0.17)
    for axes, members in zip(panels, np.array_split(np.arange(len(names)), len(panels)), strict=True):
        axes.imshow(_pixels(strips[members]), aspect="auto", interpolation="nearest")
        axes.hlines(np.arange(len(members) + 1) - 0.5, -0.5, strips.shape[1] - 0.5, color="white", lw=2)
        _class_ticks(axes, [names[member] for member in members])
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
    return figure


def file_sizes(kilobytes: Mapping[str, np.ndarray]) -> Figure:
    """Show how the sizes of the JPEGs, in kB, are spread in each split."""
    figure = _figure(3)
    axes = figure.subplots()
    bins = round(2 * min(map(len, kilobytes.values())) ** (1 / 3))  # Rice's rule: fewer images, wider bins
    edges = np.histogram_bin_edges(np.concatenate(list(kilobytes.values())), bins)
    for split, sizes in kilobytes.items():
        share = np.histogram(sizes, edges)[0] / len(sizes)
        axes.stairs(100 * share, edges, color=COLOURS[split], lw=1.8, label=split)
    _plain(axes, xlabel="size of an image's JPEG (kB)", ylabel="share of the split (%)")
    axes.legend(frameon=False)
    return figure


def ignored_classes(table: pd.DataFrame) -> Figure:
    """Show `accuracy` and `macro_f1` over the number of rare classes `ignored` by an otherwise perfect classifier."""
    figure = _figure(3.4)
    axes = figure.subplots()
    axes.plot(table["ignored"], table["accuracy"], "-", color=VAL, label="accuracy")
    axes.plot(table["ignored"], table["macro_f1"], "--", color=VAL, label="macro F1")
    _plain(axes, xlabel="rarest classes ignored", ylabel="score on the validation labels", ylim=(0, 1.03))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="lower left")
    return figure


def curves(history: Mapping[str, Sequence[float]], *, best_epoch: int, rehearsal: bool = False) -> Figure:
    """Show how training went: accuracy and macro F1 at the left, loss at the right.

    Args:
        history: one value an epoch for `loss`, `accuracy`, `val_loss`, `val_accuracy`, `val_macro_f1`.
        best_epoch: the epoch, from 1, to mark.
        rehearsal: the run was a shrunk one.
    """
    figure = _figure(3.8)
    scores, losses = figure.subplots(1, 2)
    epochs = np.arange(1, len(history["loss"]) + 1)
    for axes, key, colour, style, label in (
        (scores, "accuracy", TRAIN, "o-", "train"),
        (scores, "val_accuracy", VAL, "o-", "val"),
        (scores, "val_macro_f1", VAL, "s--", "val macro F1"),
        (losses, "loss", TRAIN, "o-", "train"),
        (losses, "val_loss", VAL, "o-", "val"),
    ):
        axes.plot(epochs, history[key], style, color=colour, ms=3.5, label=label)
    best = f"best epoch: {best_epoch} (macro F1 {history['val_macro_f1'][best_epoch - 1]:.4f})"
    for axes in (scores, losses):
        axes.axvline(best_epoch, color=GREY, lw=1, ls=":", label=best, zorder=0)
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(scores, xlabel="epoch", ylabel="accuracy, macro F1")
    _plain(losses, xlabel="epoch", ylabel="cross-entropy loss (nats)", ylim=(0, None))
    _legend(figure, scores)
    return mark_rehearsal(figure) if rehearsal else figure


def learning_rate(values: np.ndarray, steps_per_epoch: int) -> Figure:
    """Show the learning rate of each step, `(steps,)`; epoch 1 begins at 1 on the axis and ends at 2."""
    values = np.asarray(values)
    figure = _figure(2.8)
    axes = figure.subplots()
    axes.plot(1 + np.arange(len(values)) / steps_per_epoch, values, color=TRAIN)
    peak = int(values.argmax())
    axes.plot(1 + peak / steps_per_epoch, values[peak], "o", color=TRAIN)
    text = f"peak {values[peak]:.1e}, end {values[-1]:.1e}"
    axes.annotate(text, (1 + peak / steps_per_epoch, values[peak]), (0, 8), textcoords="offset points")
    _plain(axes, xlabel="epoch", ylabel="learning rate", ylim=(0, 1.25 * values[peak]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure


def confused_pairs(pairs: pd.DataFrame, *, rehearsal: bool = False) -> Figure:
    """Show the most confused pairs, in the order given: columns `true`, `predicted` (names) and `count`."""
    if pairs.empty:
        return _note("no image of one class was taken for another")
    figure = _figure(0.3 * len(pairs) + 0.7)
    axes = figure.subplots()
    _bars(axes, pairs["true"] + " \N{RIGHTWARDS ARROW} " + pairs["predicted"], pairs["count"], "{:.0f}".format)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("validation images (true class \N{RIGHTWARDS ARROW} predicted class)")
    return mark_rehearsal(figure) if rehearsal else figure


def class_f1(scores: np.ndarray, names: Sequence[str], *, worst: int = 10, rehearsal: bool = False) -> Figure:
    """Show the `worst` classes' F1, worst first, and the macro F1 as a line.

    Args:
        scores: F1 `(num_classes,)` in [0, 1], NaN for a class that is left out.
        names: `(num_classes,)` in label order.
        worst: how many classes to show.
        rehearsal: the run was a shrunk one.
    """
    order = np.argsort(scores, kind="stable")[: min(worst, int(np.isfinite(scores).sum()))]
    figure = _figure(0.3 * len(order) + 1.0)
    axes = figure.subplots()
    _bars(axes, [names[index] for index in order], scores[order], "{:.2f}".format)
    mean = float(np.nanmean(scores))
    axes.axvline(mean, color=GREY, lw=1, ls=":", label=f"macro F1 of all classes: {mean:.4f}")
    axes.set(xlim=(0, 1.05), xlabel="F1 on the validation images")
    _legend(figure, axes)
    return mark_rehearsal(figure) if rehearsal else figure


def recap(table: pd.DataFrame) -> Figure:
    """Show all runs, the best first: macro F1 and accuracy at the left, seconds an epoch at the right.

    Args:
        table: one row a run, columns `name`, `val_macro_f1`, `val_accuracy`, `val_loss`, `seconds_per_epoch`,
            `parameters` (these two may be NaN) and `rehearsal` (bool). Rehearsals are hollow and say so.
    """
    table = table.sort_values("val_macro_f1", ascending=False)
    figure = _figure(0.5 * len(table) + 1.0)
    scores, seconds = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    at, hollow = np.arange(len(table)), table["rehearsal"].to_numpy(bool)
    scores.scatter(table["val_accuracy"], at, 110, marker="|", color=GREY, label="accuracy")
    faces = np.where(hollow, "white", VAL)
    scores.scatter(table["val_macro_f1"], at, 70, color=faces, edgecolors=VAL, lw=1.8, label="macro F1")
    for row, value in zip(at, table["val_macro_f1"], strict=True):
        scores.annotate(f"{value:.4f}", (value, row), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    sizes = ["" if pd.isna(value) else f"\n{value / 1e6:.1f} M parameters" for value in table["parameters"]]
    names = _marked_names(table["name"], hollow)
    names = [f"{name}{size}" for name, size in zip(names, sizes, strict=True)]
    _bars(seconds, names, table["seconds_per_epoch"], _amount, colour=TRAIN, hollow=hollow)
    scores.margins(x=0.15)
    scores.grid(axis="y", color="#e5e5e5")
    scores.set_axisbelow(True)
    scores.tick_params(axis="y", length=0)
    _plain(scores, xlabel="score on the validation images", ylim=(len(table) - 0.5, -0.7))
    seconds.set_xlabel("seconds an epoch")
    _legend(figure, scores)
    return figure


def weights(names: Sequence[str], shares: Sequence[float], *, rehearsal: bool = False) -> Figure:
    """Show each network's weight in an average, in the order given."""
    figure = _figure(0.32 * len(names) + 0.7)
    axes = figure.subplots()
    _bars(axes, names, shares, "{:.2f}".format, colour=GREY)
    axes.set_xlabel("weight in the average")
    return mark_rehearsal(figure) if rehearsal else figure


def seconds_per_epoch(table: pd.DataFrame) -> Figure:
    """Show what a device makes of one training, a row a device.

    Args:
        table: columns `device`, `seconds_per_epoch`, `compile_seconds`, `images_per_second` (NaN where not measured)
            and `rehearsal` (bool). Rehearsals are hatched.
    """
    figure = _figure(0.55 * len(table) + 0.9)
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(2, 1.3, 1.3))
    hollow = table["rehearsal"].to_numpy(bool)
    names = [textwrap.fill(name, 26) for name in _marked_names(table["device"], hollow)]
    for axes, column, label in zip(
        panels,
        ("seconds_per_epoch", "compile_seconds", "images_per_second"),
        ("seconds an epoch", "seconds to compile, once", "images a second"),
        strict=True,
    ):
        _bars(axes, names, table[column], _amount, colour=TRAIN, hollow=hollow)
        axes.set_xlabel(label)
    return figure


def _figure(height: float) -> Picture:
    return Picture(figsize=(WIDTH, height), layout="constrained")


def _note(text: str) -> Figure:
    """Return a figure that says why there is nothing to see."""
    figure = _figure(0.6)
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def _columns(num_rows: int, row_height: float) -> tuple[Picture, list[Axes]]:
    """Return one to three panels side by side, among which a list of classes is divided."""
    num_panels = min(3, math.ceil(num_rows / 12))
    figure = _figure(row_height * math.ceil(num_rows / num_panels) + 0.8)
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def _class_ticks(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.tick_params(axis="y", length=0)


def _wrapped(text: str, width: float, size: float) -> str:
    """Break `text`, best in place of " / ", where it would be wider than `width` inches in `size` points."""
    characters = int(width / (0.56 * size * POINT))
    lines = [text] if len(text) <= characters else text.split(" / ")
    return "\n".join(textwrap.fill(line, characters) for line in lines)


def _pixels(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(_pixels(image))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _plain(axes: Axes, **settings: object) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(**settings)


def _legend(figure: Figure, axes: Axes) -> None:
    """Explain all panels once, above them, with what is drawn in `axes`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    write: Callable[[float], str],
    *,
    colour: str = VAL,
    hollow: Sequence[bool] | None = None,
) -> None:
    """Draw a horizontal bar a name, the first on top, with its value at its end; a NaN is a dash, hollow is hatched."""
    values = np.asarray(values, float)
    bars = axes.barh(range(len(names)), np.nan_to_num(values), height=0.65, color=colour, edgecolor=colour)
    for index in np.flatnonzero(hollow if hollow is not None else []):
        bars[index].set(facecolor="white", hatch="///")
    axes.bar_label(bars, ["\N{EN DASH}" if np.isnan(value) else write(value) for value in values], padding=4)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    _plain(axes, xlim=(0, 1.15 * np.nan_to_num(values).max() or 1), ylim=(len(names) - 0.4, -0.6))


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _marked_names(names: Sequence[str], hollow: Sequence[bool]) -> list[str]:
    return [f"{name} (rehearsal)" if is_hollow else name for name, is_hollow in zip(names, hollow, strict=True)]
