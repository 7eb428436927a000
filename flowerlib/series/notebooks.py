"""The notebooks of the series: their names, what they are for, their parameters."""

import ast
import difflib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from flowerlib.config import FlowersError

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"  # of a clone
Parameters = dict[str, object]
REPLACED = {"BACKBONE": "NETWORKS"}  # parameters that a notebook had in earlier versions -> what it has now


def names() -> list[str]:
    """Return the notebooks in the order in which they run: that of their numbers.

    Raises:
        FlowersError: there are none: flowerlib was installed without its clone.
    """
    require_clone(NOTEBOOKS)
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def require_clone(notebooks: Path) -> None:
    """Refuse to go on without notebooks in that folder.

    Raises:
        FlowersError: there are none: flowerlib was installed without its clone.
    """
    if not any(notebooks.glob("*.ipynb")):
        raise FlowersError(f"no notebooks in `{notebooks}`; work in a clone, where `make setup` installs flowerlib")


def resolve(given: str) -> str:
    """Return the name of a notebook of which the number, the words or the file is given: `00`, `quickstart`, its path.

    Raises:
        FlowersError: there is no such notebook; the nearest name is suggested.
    """
    stem = Path(given).stem
    for name in names():
        if stem in (name, *name.split("_", 1)):
            return name
    near = difflib.get_close_matches(stem, names(), 1, 0.4)
    suggestion = f"; did you mean {near[0]}?" if near else "."
    raise FlowersError(f"no notebook {given!r}{suggestion} There are {', '.join(names())}")


def read(notebook: Path) -> dict:
    """Return the content of a notebook.

    Raises:
        FlowersError: it is no notebook, or not plain UTF-8, which Kaggle needs.
    """
    content = notebook.read_bytes()
    if content.startswith(BOM_UTF8):
        raise FlowersError(f"`{notebook}` begins with a byte-order mark; save it as UTF-8 without one")
    try:
        parsed = json.loads(content.decode("utf-8"))
        _ = [(cell["cell_type"], cell["source"], cell["metadata"]) for cell in parsed["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise FlowersError(
            f"`{notebook}` is no notebook ({error}); make it again: jupytext --to ipynb {notebook.with_suffix('.py')}"
        ) from None
    return parsed


def frame(name: str) -> dict[str, str]:
    """Return the frame of a notebook, the first table of its first cell: `goal`, `device`, `time`, `expect`."""
    content = read(NOTEBOOKS / f"{name}.ipynb")
    rows = re.findall(r"^\|(.+)\|$", "".join(content["cells"][0]["source"]), re.MULTILINE)
    cells = [[cell.strip() for cell in row.split("|")] for row in rows[:3]]
    return dict(zip(cells[0], cells[2], strict=True)) if len(cells) == 3 and cells[0][0] == "goal" else {}


@cache
def defaults(notebook: Path) -> Parameters:
    """Return the parameters of a notebook and their values, as its cell tagged `parameters` assigns them."""
    content = read(notebook)
    tagged = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assigned: Parameters = {}
    for node in ast.parse("".join(tagged[0]["source"])).body if tagged else ():
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] = ast.literal_eval(node.value)
    return assigned


def parameters(name: str, given: Iterable[str]) -> Parameters:
    """Return the values of `NAME=VALUE`, checked against the parameters of a notebook.

    Raises:
        FlowersError: not of that form, no such parameter, or a value of another type than the one it replaces.
    """
    known, values = defaults(NOTEBOOKS / f"{name}.ipynb"), {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals:
            raise FlowersError(f"`-p {each}` must be NAME=VALUE, such as -p EPOCHS=5")
        if key not in known and (now := REPLACED.get(key)) in known:
            raise FlowersError(f"{name} has {now}, one or more, in place of {key}; pass -p {now}={text}")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            raise FlowersError(
                f"{name} has no parameter {key!r}{f'; did you mean {near[0]}?' if near else ''} "
                f"It has {', '.join(known)}"
            )
        values[key] = _value(key, text, known[key])
    return values


def _value(key: str, text: str, default: object) -> object:
    """The value that a text stands for, of the type of the default."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, tuple):
        value = text.split(",") if isinstance(value, str) else value
        value = tuple(value) if isinstance(value, list | tuple) else (value,)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and value is not None and type(value) is not type(default):
        raise FlowersError(f"`{key}` (={text}) must be of the kind of its default, {default!r}")
    return value
