"""Options that several commands share, and options that were renamed."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

Notebooks = Annotated[
    list[str] | None, typer.Argument(metavar="NOTEBOOK", help="Such as 14_efficientnetv2xl; all unless given.")
]
User = Annotated[
    str | None, typer.Option(metavar="NAME", help="Kaggle user name of the owner; default: the logged-in user.")
]


def _current_accelerator(name: str | None) -> str | None:
    """Put what Kaggle gives for a retired accelerator in its place, and say so on stderr."""
    from flowerlib.kaggle.kernels import current_accelerator

    current = current_accelerator(name) if name else None
    if current != name:
        typer.echo(f"{name} is retired; Kaggle gives {current} in its place.", err=True)
    return current


Accelerator = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=_current_accelerator,
        help="Accelerator of the kernels that train, such as TpuV5E8 or NvidiaTeslaT4 (two of them); the others need "
        "none. Default: that in kernel-metadata.json.",
    ),
]
Online = Annotated[
    bool | None,
    typer.Option(
        "--online/--offline",
        help="Whether kernels may use the internet; offline, they take their weights from the dataset that "
        "`flowerlib kaggle weights-dataset` uploads. Default: as in kernel-metadata.json.",
        show_default=False,
    ),
]
Timeout = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="Maximum run time of a kernel, such as 9h or 90min; Kaggle allows 9 hours with a TPU or GPU. A kernel "
        "that is stopped by it leaves no output: stay above the notebook's HOURS.",
    ),
]
OutputFolder = Annotated[Path, typer.Option(file_okay=False, metavar="FOLDER", help="Output folder.")]
DEFAULT_OUTPUT = Path("outputs/kaggle")


def hours(text: str) -> float:
    """Read a duration such as `9h` or `90min`; a number alone is hours.

    Raises:
        typer.BadParameter: it is none, or not within a minute and 12 hours.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h)?", text.strip())
    value = float(match[1]) / (60 if match[2] == "min" else 1) if match else 0.0
    if not 1 / 60 <= value <= 12:
        raise typer.BadParameter(f"{text!r} must be a time of at most 12 hours, such as 9h or 90min")
    return value


def renamed(old: str, new: str) -> Any:
    """Return a hidden option that keeps an old spelling working, and names the new one on stderr when it is used."""

    def warn(value: object) -> object:
        if value is not None:
            typer.echo(f"`{old}` is now `{new}`; the old name still works.", err=True)
        return value

    return typer.Option(old, hidden=True, callback=warn)
