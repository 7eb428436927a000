"""Embed flowerlib in a notebook, so that a kernel needs nothing but itself: the first code cell holds its source.

What is embedded follows from what the notebook imports, not from a list.
"""

import ast
import re
from collections.abc import Iterable
from importlib import metadata as packages
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import flowerlib
from flowerlib.config import FlowersError
from flowerlib.kaggle.imports import PACKAGE, needed
from flowerlib.kaggle.kernels import ACCELERATORS, ROOT

CONTENT_LINE = re.compile(r"^# content ([0-9a-f]{16})$", re.MULTILINE)  # the content hash of the kernel
SOURCES_LINE = re.compile(r"^# reads (.+)\n", re.MULTILINE)  # the versions of other kernels that it reads
CONTENT_PLACEHOLDER = "0" * 16  # instead of the hash, while that is computed
CELL_TEMPLATE = """\
# This cell holds flowerlib {version}, the library of this series of notebooks, so that a copy of the notebook runs as
# it is. Only pretrained weights are downloaded, or found in an attached dataset. Each string below is one file of the
# source, unchanged: read it here, or in the folder it is unpacked to.
# content {content}
import sys
import tempfile
from pathlib import Path

_files = {{
{files}}}
_folder = Path(tempfile.mkdtemp(prefix="flowerlib-"))
for _name, _text in _files.items():
    (_folder / _name).parent.mkdir(parents=True, exist_ok=True)
    (_folder / _name).write_text(_text, encoding="utf-8", newline="")
sys.path.insert(0, str(_folder))

from flowerlib import kernel

print("unpacked to", _folder)
kernel.start({expected})
"""


def code_sources(notebook: dict) -> list[str]:
    """Return the sources of a notebook's code cells, each as one string."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def embedded_files(notebook: dict, package_names: Iterable[str] = ()) -> dict[str, str]:
    """Return the files to embed, name -> text: what a notebook imports of flowerlib, its licence, and other packages.

    Raises:
        FlowersError: a package is not installed here.
    """
    sources = ["from flowerlib import kernel", *code_sources(notebook)]
    paths = {path.relative_to(PACKAGE.parent).as_posix(): path for path in needed(sources)}
    paths["flowerlib/LICENSE"] = ROOT / "LICENSE"
    for name in package_names:
        paths |= _package_files(name)
    return {name: paths[name].read_bytes().decode() for name in sorted(paths)}


def _package_files(name: str) -> dict[str, Path]:
    """Return the modules of an installed package that importing it loads, and its licence."""
    module = name.replace("-", "_")
    try:
        files = packages.files(name) or ()
    except packages.PackageNotFoundError:
        raise FlowersError(f"{name} must be embedded in the kernel: pip install --no-deps {name}") from None
    paths = {file.name: Path(file.locate()) for file in files if file.parts[0] == module or file.name == "LICENSE"}
    wanted, todo = {"LICENSE"}, ["__init__.py"]
    while todo:
        wanted.add(file := todo.pop())
        imported = re.findall(rf"^from (?:{module})?\.?(\w+) import", paths[file].read_text("utf-8"), re.MULTILINE)
        todo += [f"{name}.py" for name in imported if f"{name}.py" in paths and f"{name}.py" not in wanted]
    return {f"{module}/{file}": paths[file] for file in wanted}


def library_cell(files: dict[str, str], machine: str) -> NotebookNode:
    """Return the code cell that unpacks the files and stops the kernel on any other machine; "" allows every machine.

    Its content hash is `CONTENT_PLACEHOLDER`.
    """
    text = "".join(f'    "{name}": {_literal(files[name])},\n' for name in files)
    source = CELL_TEMPLATE.format(
        version=flowerlib.__version__, content=CONTENT_PLACEHOLDER, files=text, expected=_expected_device(machine)
    )
    cell = nbformat.v4.new_code_cell(source.rstrip("\n"), id="flowerlib")
    cell.metadata = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}  # folded, on Kaggle and elsewhere
    return cell


def _expected_device(machine: str) -> str:
    """Return the arguments of `kernel.start` for a machine, as Python source."""
    if not machine:
        return ""
    num_devices = ACCELERATORS[machine]
    return f"devices={num_devices}" if num_devices else 'kind="gpu"'


def _literal(text: str) -> str:
    """Return a Python literal for a string, as readable as possible."""
    literal = f"r'''{text}'''"
    try:
        return literal if ast.literal_eval(literal) == text else repr(text)
    except SyntaxError:
        return repr(text)
