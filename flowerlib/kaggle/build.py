"""Turn the notebooks into kernels that need nothing but themselves: flowerlib travels inside each, as plain text."""

import ast
import copy
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata as packages
from pathlib import Path

import nbformat
from nbformat import NotebookNode

import flowerlib
from flowerlib.config import FlowersError, atomic_write
from flowerlib.kaggle import kernels
from flowerlib.kaggle.imports import PACKAGE, needed
from flowerlib.kaggle.kernels import ACCELERATORS, FLAGSHIP, METADATA, NOBODY, ROOT, SERIES, Kernel

DEFAULT = Path("build/kernels")
ROOT_CODE = Path("build") / f"{FLAGSHIP}.ipynb"  # what the kernel-metadata.json at the top of the repository sends
CONTENT = re.compile(r"^# content ([0-9a-f]{16})$", re.MULTILINE)
READS = re.compile(r"^# reads (.+)\n", re.MULTILINE)
PENDING = "0" * 16  # in the place of the hash, while that is computed
CELL = """\
# flowerlib {version}, the library behind this series of notebooks, travels in this cell, so that a copy runs as it is.
# Only pretrained weights do not travel: they are downloaded, or found in an attached dataset. Each string below is one
# file of the source, unchanged: read it here, or in the folder it is unpacked to.
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


@dataclass(frozen=True)
class Built:
    """A kernel as it is sent: its metadata, its notebook and the hash of all that decides what a run of it gives."""

    kernel: Kernel
    metadata: dict
    notebook: NotebookNode
    content: str

    @property
    def ref(self) -> str:
        """Owner and slug."""
        return self.metadata["id"]

    def reading(self, versions: Iterable[str]) -> "Built":
        """Return the same kernel with a line in its first cell that names what it is sent to read, for `READS`.

        Args:
            versions: of its sources, as owner/slug/number.
        """
        notebook = copy.deepcopy(self.notebook)
        hashed = f"# content {self.content}"
        cell = notebook.cells[1]
        cell.source = cell.source.replace(hashed, f"{hashed}\n# reads {' '.join(versions)}", 1)
        return replace(self, notebook=notebook)


def carried(notebook: dict, packages_too: Iterable[str] = ()) -> dict[str, str]:
    """Return the files that travel, name -> text: flowerlib as far as a notebook imports it, its licence, and packages.

    Raises:
        FlowersError: a package is not installed here.
    """
    sources = ["from flowerlib import kernel", *code_sources(notebook)]
    paths = {path.relative_to(PACKAGE.parent).as_posix(): path for path in needed(sources)}
    paths["flowerlib/LICENSE"] = ROOT / "LICENSE"
    for name in packages_too:
        paths |= _package(name)
    return {name: paths[name].read_bytes().decode() for name in sorted(paths)}


def _package(name: str) -> dict[str, Path]:
    """The modules of an installed package that importing it loads, and its licence."""
    module = name.replace("-", "_")
    try:
        files = packages.files(name) or ()
    except packages.PackageNotFoundError:
        raise FlowersError(f"{name} must travel inside the kernel: pip install --no-deps {name}") from None
    paths = {file.name: Path(file.locate()) for file in files if file.parts[0] == module or file.name == "LICENSE"}
    wanted, todo = {"LICENSE"}, ["__init__.py"]
    while todo:
        wanted.add(file := todo.pop())
        imported = re.findall(rf"^from (?:{module})?\.?(\w+) import", paths[file].read_text(), re.MULTILINE)
        todo += [f"{each}.py" for each in imported if f"{each}.py" in paths and f"{each}.py" not in wanted]
    return {f"{module}/{file}": paths[file] for file in wanted}


def code_sources(notebook: dict) -> list[str]:
    """Return the sources of a notebook's code cells, each as one string."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def code_digest(notebook: dict) -> str:
    """Return a digest of what a notebook executes: the line of what it reads, and space at the ends, do not count."""
    sources = [READS.sub("", source).strip() for source in code_sources(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def make(
    kernel: Kernel, user: str, *, accelerator: str | None = None, online: bool | None = None, root: Path = ROOT
) -> Built:
    """Make one kernel; nothing is written. Arguments as in `build`, `root` is that of the repository."""
    again = partial(make, user=user, accelerator=accelerator, online=online, root=root)
    described = kernels.metadata(kernel, kernels.read(root / METADATA), user, accelerator=accelerator, online=online)
    notebook = _clean(nbformat.read(root / "notebooks" / f"{kernel.notebook}.ipynb", as_version=4), user)
    notebook.cells.insert(1, _cell(carried(notebook, kernel.carries), described["machine_shape"]))  # below the title
    sources = [again(SERIES[name]).content for name in kernel.sources]
    content = hashlib.sha256(json.dumps([described, notebook, sources], sort_keys=True).encode()).hexdigest()[:16]
    notebook.cells[1].source = notebook.cells[1].source.replace(PENDING, content, 1)
    return Built(kernel, described, notebook, content)


def _clean(notebook: NotebookNode, user: str) -> NotebookNode:
    """Drop outputs and all metadata but the kernelspec; make links to other notebooks lead to their kernels."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        for name, kernel in SERIES.items():
            address = f"https://www.kaggle.com/code/{user}/{kernel.slug}"
            cell.source = cell.source.replace(f"]({name}.ipynb)", f"]({address})")
    return notebook


def _cell(files: dict[str, str], machine: str) -> NotebookNode:
    text = "".join(f'    "{name}": {_literal(files[name])},\n' for name in files)
    expected = ""
    if machine:
        devices = ACCELERATORS[machine]
        expected = f"devices={devices}" if devices else 'kind="gpu"'
    source = CELL.format(version=flowerlib.__version__, content=PENDING, files=text, expected=expected)
    cell = nbformat.v4.new_code_cell(source.rstrip("\n"), id="flowerlib")
    cell.metadata = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}  # folded, on Kaggle and elsewhere
    return cell


def _literal(text: str) -> str:
    """Python for a string, as readable as it can be."""
    literal = f"r'''{text}'''"
    try:
        return literal if ast.literal_eval(literal) == text else repr(text)
    except SyntaxError:
        return repr(text)


def make_all(
    notebooks: Iterable[str] = (),
    *,
    user: str,
    accelerator: str | None = None,
    online: bool | None = None,
    root: Path = ROOT,
) -> list[Built]:
    """Make several kernels, each after those that feed it; nothing is written. Arguments and errors as in `build`."""
    if user == NOBODY:
        raise FlowersError("whose kernels are they? Give `--user NAME`, or log in with `kaggle auth login`")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", user):
        raise FlowersError(f"`user` (={user}) must be a name as in the address of a Kaggle profile")
    one = partial(make, user=user, accelerator=accelerator, online=online, root=root)
    return [one(kernel) for kernel in kernels.chosen(notebooks)]


def build(
    notebooks: Iterable[str] = (),
    *,
    user: str,
    to: Path | None = None,
    accelerator: str | None = None,
    online: bool | None = None,
    root: Path = ROOT,
) -> dict[Path, Built]:
    """Write a folder for each notebook, its kernel and its metadata; the same input gives the same bytes.

    Where `to` is not given, the kernel-metadata.json at the top of the repository gets the owner's name, and the
    notebook it describes is written: `kaggle kernels push -p .` works. The other options change nothing there.

    Args:
        notebooks: their names; all unless given.
        user: the owner on Kaggle.
        to: gets the folders, named as the notebooks; `build/kernels` in the repository unless given.
        accelerator: for the kernels that need one; that in kernel-metadata.json unless given.
        online: whether kernels may use the internet; as kernel-metadata.json says unless given.
        root: of the repository.

    Returns:
        Each folder and the kernel in it, after those that feed it.

    Raises:
        FlowersError: an unknown notebook or accelerator, an impossible owner, or this is no clone.
    """
    made = make_all(notebooks, user=user, accelerator=accelerator, online=online, root=root)
    built = {(to or root / DEFAULT) / each.kernel.notebook: each for each in made}
    for folder, each in built.items():
        write(each, folder)
    if to is None:
        flagship = make(SERIES[FLAGSHIP], user, root=root)
        _write_notebook(flagship.notebook, root / ROOT_CODE)
        _write_json(flagship.metadata | {"code_file": ROOT_CODE.as_posix()}, root / METADATA)
    return built


def write(built: Built, folder: Path) -> None:
    """Write a kernel as the official package sends it: a folder with the notebook and its kernel-metadata.json."""
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        _write_notebook(built.notebook, temporary / built.metadata["code_file"])
        _write_json(built.metadata, temporary / METADATA)


def _write_notebook(notebook: NotebookNode, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def _write_json(content: dict, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
