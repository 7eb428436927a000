"""A notebook and its source, the `.py` beside it. The notebook is what runs: it must not be older than its source."""

import sys
from collections.abc import Iterable
from pathlib import Path

import jupytext

from flowerlib.config import FlowersError
from flowerlib.series.notebooks import read

Cells = list[tuple[str, str, list[str]]]


def require_current(notebooks: Iterable[Path]) -> None:
    """Refuse a notebook whose source was changed after it; print a line where the notebook itself was changed.

    Raises:
        FlowersError: a `.py` is newer than its `.ipynb` and has other cells; each is named. A notebook cannot be read.
    """
    differing = [notebook for notebook in notebooks if _differs(notebook)]
    stale = [path for path in differing if path.with_suffix(".py").stat().st_mtime_ns > path.stat().st_mtime_ns]
    if stale:
        named = ", ".join(f"`{path.with_suffix('.py')}`" for path in stale)
        raise FlowersError(
            f"{named} is newer than its .ipynb, which would run without the changes; bring them over: "
            f"jupytext --to ipynb --update {' '.join(str(path.with_suffix('.py')) for path in stale)}"
        )
    for path in differing:
        print(f"{path.name} has other cells than {path.stem}.py; the .ipynb is taken.", file=sys.stderr)


def _differs(notebook: Path) -> bool:
    """Whether a notebook has a source with other cells."""
    source = notebook.with_suffix(".py")
    if not source.exists():
        return False
    mine = _cells(read(notebook)["cells"])
    return mine != _cells(jupytext.reads(source.read_text("utf-8-sig"), fmt="py:percent").cells)


def _cells(cells: Iterable[dict]) -> Cells:
    return [
        (cell["cell_type"], "".join(cell["source"]).strip(), list(cell["metadata"].get("tags", []))) for cell in cells
    ]
