"""`flowerlib doctor`: what there is to work with, on one screen, to paste into an issue; nothing secret."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from flowerlib import __version__, machine
from flowerlib.config import FlowersError, cache_dir

if TYPE_CHECKING:
    from flowerlib.networks.weights import WeightsFile

PACKAGES = ("kaggle", "fastapi", "onnxruntime")  # beside those that results depend on


def report() -> str:
    """Return the report: a line for each thing, with `?` where something is missing and what to do about it."""
    parts = (_machine, _versions, _device, _data, _weights, _kaggle, _cache)
    return "\n".join(f"{name:<10} {text}" for part in parts for name, text in part())


def _machine() -> Iterator[tuple[str, str]]:
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    yield "flowerlib", f"{__version__}, Python {platform.python_version()} on {platform.platform()}"
    yield (
        "memory",
        f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free; disk {disk.free / 1e9:.0f} GB free",
    )


def _versions() -> Iterator[tuple[str, str]]:
    found = machine.versions() | machine.versions(PACKAGES)
    yield "packages", ", ".join(f"{name} {version}" for name, version in found.items())


def _device() -> Iterator[tuple[str, str]]:
    def ask() -> str:
        from flowerlib import accelerator

        return str(accelerator.setup())

    yield "device", _answer(ask)


def _data() -> Iterator[tuple[str, str]]:
    def ask() -> str:
        from flowerlib import data

        return str(data.find())

    yield "data", _answer(ask)


def _weights() -> Iterator[tuple[str, str]]:
    from flowerlib.networks import backbones

    for name, row in backbones.BACKBONES.items():
        found = _answer(partial(_found, row.weights))
        yield "weights", f"{name}: {found}"


def _found(file: "WeightsFile") -> str:
    from flowerlib.networks import weights

    return str(weights.find(file) or "? not on this machine")


def _kaggle() -> Iterator[tuple[str, str]]:
    """Whether credentials are there; never what they are."""
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    named = [name for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY") if os.environ.get(name)]
    files = [name for name in ("kaggle.json", "access_token", "credentials.json") if (folder / name).exists()]
    found = [*named, *(str(folder / name) for name in files)]
    yield "kaggle", f"credentials in {', '.join(found)}" if found else "? no credentials: kaggle auth login"


def _cache() -> Iterator[tuple[str, str]]:
    size = sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file())
    yield "cache", f"{size / 1e6:,.0f} MB in {cache_dir()}"


def _answer(ask: Callable[[], str]) -> str:
    """What a question gives, or why it cannot be answered."""
    try:
        return ask()
    except (FlowersError, RuntimeError, ImportError) as error:
        return f"? {error}"
