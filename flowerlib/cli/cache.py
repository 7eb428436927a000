"""`flowerlib cache`: what is kept on this machine, and how to be rid of it."""

import shutil
from pathlib import Path

from flowerlib.config import FlowersError, cache_dir

KINDS = {
    "features": "features of frozen networks",
    "records": "copies of remote data",
    "xla": "compiled programs",
    "competition": "the competition's data, of `flowerlib data`",
    "sample": "the built-in sample",
}


def show() -> str:
    """Return a line for each kind of thing that is kept, with its size."""
    lines = [f"{kind:<11} {_size(folders) / 1e6:>9,.1f} MB  {KINDS[kind]}" for kind, folders in _folders().items()]
    return "\n".join([*lines, f"in {cache_dir()}"])


def clear(kind: str | None) -> str:
    """Remove what is kept, or one kind of it; all of it can be had again. Return what was freed.

    Raises:
        FlowersError: there is no such kind.
    """
    if kind and kind not in KINDS:
        raise FlowersError(f"nothing is kept as {kind!r}; there are {', '.join(KINDS)}")
    chosen = [folder for name, folders in _folders().items() if kind in (None, name) for folder in folders]
    freed = _size(chosen)
    for folder in chosen:
        shutil.rmtree(folder)
    return f"{freed / 1e6:,.1f} MB freed"


def _folders() -> dict[str, list[Path]]:
    return {kind: sorted(path for path in cache_dir().glob(f"{kind}*") if path.is_dir()) for kind in KINDS}


def _size(folders: list[Path]) -> int:
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
