"""Figures of a training: its curves, its learning rate."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flowerlib.figures.style import GREY, TRAIN, VAL, legend, new_figure, plain_axes


def curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Show how training went: accuracy and macro F1 at the left, loss at the right; the last epoch is the one kept.

    Args:
        history: one value an epoch for `loss` and `accuracy`, and where there are validation images for `val_loss`,
            `val_accuracy` and `val_macro_f1`.
    """
    figure = new_figure(3.8)
    scores, losses = figure.subplots(1, 2)
    epochs = np.arange(1, len(history["loss"]) + 1)
    for axes, key, colour, style, label in (
        (scores, "accuracy", TRAIN, "o-", "train"),
        (scores, "val_accuracy", VAL, "o-", "val"),
        (scores, "val_macro_f1", VAL, "s--", "val macro F1"),
        (losses, "loss", TRAIN, "o-", "train"),
        (losses, "val_loss", VAL, "o-", "val"),
    ):
        if key in history:
            axes.plot(epochs, history[key], style, color=colour, ms=3.5, label=label)
    kept = f"kept: epoch {len(epochs)}"
    if "val_macro_f1" in history:
        kept += f" (macro F1 {history['val_macro_f1'][-1]:.4f})"
    for axes in (scores, losses):
        axes.axvline(len(epochs), color=GREY, lw=1, ls=":", label=kept, zorder=0)
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(scores, xlabel="epoch", ylabel="accuracy, macro F1")
    plain_axes(losses, xlabel="epoch", ylabel="cross-entropy loss (nats)", ylim=(0, None))
    legend(figure, scores)
    return figure


def learning_rates(values: np.ndarray, steps_per_epoch: int) -> Figure:
    """Show the learning rate of each step, `(steps,)`; epoch 1 begins at 1 on the axis and ends at 2."""
    values = np.asarray(values)
    figure = new_figure(2.8)
    axes = figure.subplots()
    axes.plot(1 + np.arange(len(values)) / steps_per_epoch, values, color=TRAIN)
    peak = int(values.argmax())
    axes.plot(1 + peak / steps_per_epoch, values[peak], "o", color=TRAIN)
    text = f"peak {values[peak]:.1e}, end {values[-1]:.1e}"
    axes.annotate(text, (1 + peak / steps_per_epoch, values[peak]), (0, 8), textcoords="offset points")
    plain_axes(axes, xlabel="epoch", ylabel="learning rate", ylim=(0, 1.25 * values[peak]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure
