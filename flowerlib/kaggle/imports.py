"""Find the files of flowerlib that a notebook imports, directly or not, by reading the sources."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import flowerlib

PACKAGE = Path(flowerlib.__file__).parent


def needed(sources: Iterable[str]) -> set[Path]:
    """Return the files of flowerlib that Python sources import, anywhere in them, and those that these import.

    A package's `__init__` is imported with anything in it.
    """
    names: set[str] = set().union(*map(_imported, sources))
    todo, files = list(names), set[Path]()
    while todo:
        new = set(_files(todo.pop())) - files
        files |= new
        imported = set().union(*(_imported(file.read_text(encoding="utf-8")) for file in new)) - names
        names |= imported
        todo += imported
    return files


@cache  # all kernels import much the same
def _imported(source: str) -> frozenset[str]:
    """Return the dotted names of flowerlib that a source imports; the last part may be something in a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in names if name.split(".")[0] == PACKAGE.name)


def _files(name: str) -> Iterator[Path]:
    """Yield the files that importing a dotted name of flowerlib reads."""
    _, *parts = name.split(".")
    for count in range(len(parts) + 1):
        module = PACKAGE.joinpath(*parts[:count])
        yield from (path for path in (module / "__init__.py", module.with_suffix(".py")) if path.is_file())
