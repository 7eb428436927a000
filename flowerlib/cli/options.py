"""Kinds of options: choices and durations."""

import re
from enum import StrEnum

import typer

UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


class Fit(StrEnum):
    """How a photograph becomes a square."""

    crop = "crop"
    pad = "pad"


class SplitRule(StrEnum):
    """What becomes of the splits that photographs have already."""

    keep = "keep"
    redo = "redo"


class Split(StrEnum):
    """Which of the photographs of a source are scored."""

    train = "train"
    val = "val"
    test = "test"
    all = "all"


class ClassFrom(StrEnum):
    """Which of several folders within each other is the class."""

    top = "top"
    leaf = "leaf"
    path = "path"


class Format(StrEnum):
    """What a model is exported to."""

    onnx = "onnx"
    litert = "litert"
    savedmodel = "savedmodel"


class Profile(StrEnum):
    """Whether training notebooks train in full or are smoke-tested."""

    full = "full"
    smoke = "smoke"


class Backend(StrEnum):
    """What drives Keras."""

    jax = "jax"
    tensorflow = "tensorflow"


class DeviceKind(StrEnum):
    """The kind of device that must be there."""

    tpu = "tpu"
    gpu = "gpu"
    cpu = "cpu"


def seconds(text: str) -> float:
    """Read a duration such as `30s`, `5min`, `9h`; a number alone is seconds.

    Raises:
        typer.BadParameter: it is none, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)?", text.strip())
    if not match or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no duration; write 30s, 5min or 9h")
    return float(match[1]) * UNITS[match[2] or "s"]
