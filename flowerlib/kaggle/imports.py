"""Which files of flowerlib a notebook needs: those it imports, and those that they import, read from the source."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import flowerlib

PACKAGE = Path(flowerlib.__file__).parent


def needed(sources: Iterable[str]) -> set[Path]:
    """Return the files of flowerlib that the Python sources import, at their top or within functions, and so on.

    A package's `__init__` is imported with anything in it.
    """
    todo = [name for source in sources for name in _imported(source)]
    found: set[Path] = set()
    while todo:
        new = set(_files(todo.pop())) - found
        found |= new
        todo += [name for file in new for name in _imported(file.read_text(encoding="utf-8"))]
    return found


def _imported(source: str) -> Iterator[str]:
    """The dotted names that a source imports; the last part of one may be a module, or something in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """The files that importing a dotted name of flowerlib reads; none for a name of another package."""
    first, *parts = name.split(".")
    for count in range(len(parts) + 1) if first == "flowerlib" else ():
        place = PACKAGE.joinpath(*parts[:count])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())
