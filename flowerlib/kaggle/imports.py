"""Find the files of flowerlib that a notebook imports, directly or not, by reading the sources."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import flowerlib

PACKAGE = Path(flowerlib.__file__).parent


def needed(sources: Iterable[str]) -> set[Path]:
    """Return the files of flowerlib that Python sources import, anywhere in them, and those that these import.

    A package's `__init__` is imported with anything in it.
    """
    todo = [name for source in sources for name in _imported(source)]
    files: set[Path] = set()
    while todo:
        new = set(_files(todo.pop())) - files
        files |= new
        todo += [name for file in new for name in _imported(file.read_text(encoding="utf-8"))]
    return files


def _imported(source: str) -> Iterator[str]:
    """Yield the dotted names that a source imports; the last part may be a module, or something in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """Yield the files that importing a dotted name of flowerlib reads; none for a name of another package."""
    first, *parts = name.split(".")
    for count in range(len(parts) + 1) if first == "flowerlib" else ():
        module = PACKAGE.joinpath(*parts[:count])
        yield from (path for path in (module / "__init__.py", module.with_suffix(".py")) if path.is_file())
