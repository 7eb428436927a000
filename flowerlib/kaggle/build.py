"""Build the notebooks into Kaggle kernels: the notebook with flowerlib embedded, its metadata, its content hash."""

import copy
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from flowerlib.config import FlowersError, atomic_write
from flowerlib.kaggle import embedding, kernels
from flowerlib.kaggle.embedding import CONTENT_PLACEHOLDER, SOURCES_LINE, code_sources
from flowerlib.kaggle.kernels import FLAGSHIP, METADATA, PLACEHOLDER_OWNER, ROOT, SERIES, Kernel
from flowerlib.series import pairs
from flowerlib.series.notebooks import require_clone

KERNELS_DIR = Path("build/kernels")
FLAGSHIP_NOTEBOOK = Path("build") / f"{FLAGSHIP}.ipynb"  # what the repository's own kernel-metadata.json describes


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel as it is pushed.

    Attributes:
        kernel: its row in `kernels.SERIES`.
        metadata: its kernel-metadata.json.
        notebook: with flowerlib embedded.
        content: a hash of everything that decides the outcome of a run, the kernels that it reads included.
    """

    kernel: Kernel
    metadata: dict
    notebook: NotebookNode
    content: str

    @property
    def ref(self) -> str:
        """Owner and slug."""
        return self.metadata["id"]

    def with_source_versions(self, versions: Iterable[str]) -> "BuiltKernel":
        """Return the same kernel with a line in its first cell that names the versions it reads, for `SOURCES_LINE`.

        Args:
            versions: of its sources, as owner/slug/number.
        """
        notebook = copy.deepcopy(self.notebook)
        content_line = f"# content {self.content}"
        cell = notebook.cells[1]
        cell.source = cell.source.replace(content_line, f"{content_line}\n# reads {' '.join(versions)}", 1)
        return replace(self, notebook=notebook)


def code_digest(notebook: dict) -> str:
    """Return a digest of a notebook's code; the line of source versions and space at the ends of cells do not count."""
    sources = [SOURCES_LINE.sub("", source).strip() for source in code_sources(notebook)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def make(
    kernel: Kernel, user: str, *, accelerator: str | None = None, online: bool | None = None, root: Path = ROOT
) -> BuiltKernel:
    """Make one kernel without writing it. Arguments as in `build`."""
    again = partial(make, user=user, accelerator=accelerator, online=online, root=root)
    metadata = kernels.metadata(kernel, kernels.read(root / METADATA), user, accelerator=accelerator, online=online)
    notebook = _clean(nbformat.read(root / "notebooks" / f"{kernel.notebook}.ipynb", as_version=4), user)
    files = embedding.embedded_files(notebook, kernel.packages)
    notebook.cells.insert(1, embedding.library_cell(files, metadata["machine_shape"]))  # below the title
    sources = [again(SERIES[name]).content for name in kernel.sources]
    content = hashlib.sha256(json.dumps([metadata, notebook, sources], sort_keys=True).encode()).hexdigest()[:16]
    notebook.cells[1].source = notebook.cells[1].source.replace(CONTENT_PLACEHOLDER, content, 1)
    return BuiltKernel(kernel, metadata, notebook, content)


def _clean(notebook: NotebookNode, user: str) -> NotebookNode:
    """Drop outputs and all metadata but the kernelspec; turn links to other notebooks into links to their kernels."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        for name, kernel in SERIES.items():
            address = f"https://www.kaggle.com/code/{user}/{kernel.slug}"
            cell.source = cell.source.replace(f"]({name}.ipynb)", f"]({address})")
    return notebook


def make_all(
    notebooks: Iterable[str] = (),
    *,
    user: str,
    accelerator: str | None = None,
    online: bool | None = None,
    root: Path = ROOT,
) -> list[BuiltKernel]:
    """Make several kernels without writing them, sources first. Arguments and errors as in `build`."""
    if user == PLACEHOLDER_OWNER:
        raise FlowersError("the kernels need an owner: give `--user NAME`, or log in with `kaggle auth login`")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", user):
        raise FlowersError(f"`user` (={user}) must be a Kaggle user name, as in the address of the profile")
    require_clone(root / "notebooks")
    chosen = kernels.select(notebooks)
    pairs.require_current(root / "notebooks" / f"{kernel.notebook}.ipynb" for kernel in chosen)
    one = partial(make, user=user, accelerator=accelerator, online=online, root=root)
    return [one(kernel) for kernel in chosen]


def build(
    notebooks: Iterable[str] = (),
    *,
    user: str,
    out: Path | None = None,
    accelerator: str | None = None,
    online: bool | None = None,
    root: Path = ROOT,
) -> dict[Path, BuiltKernel]:
    """Write a folder for each notebook, with its kernel and its metadata; the same input gives the same bytes.

    Unless `out` is given, the repository's own kernel-metadata.json gets the owner's name, and the notebook that it
    describes is written, so that `kaggle kernels push -p .` works. The other options do not affect these two.

    Args:
        notebooks: their names; all unless given.
        user: the owner on Kaggle.
        out: gets one subfolder per notebook; `build/kernels` in the repository unless given.
        accelerator: for the kernels that need one; that of kernel-metadata.json unless given.
        online: whether kernels may use the internet; as in kernel-metadata.json unless given.
        root: the folder of the repository.

    Returns:
        Each folder and the kernel in it, sources first.

    Raises:
        FlowersError: an unknown notebook or accelerator, an invalid owner, this is not a clone, or a notebook is
            older than its `.py`.
    """
    made = make_all(notebooks, user=user, accelerator=accelerator, online=online, root=root)
    folders = {(out or root / KERNELS_DIR) / built.kernel.notebook: built for built in made}
    for folder, built in folders.items():
        write(built, folder)
    if out is None:
        flagship = make(SERIES[FLAGSHIP], user, root=root)
        _write_notebook(flagship.notebook, root / FLAGSHIP_NOTEBOOK)
        _write_json(flagship.metadata | {"code_file": FLAGSHIP_NOTEBOOK.as_posix()}, root / METADATA)
    return folders


def write(built: BuiltKernel, folder: Path) -> None:
    """Write a kernel as the official package pushes it: a folder with the notebook and its kernel-metadata.json."""
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
