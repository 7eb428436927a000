"""List the photographs of a dataset and their classes: from one folder per class, or from a CSV file."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flowerlib.config import FlowersError


@dataclass(frozen=True)
class Photograph:
    """A file and its class.

    Attributes:
        id: its path below the source folder, or the path as it stands in the CSV file.
        path: where the file is.
        label: the name of its class.
    """

    id: str
    path: Path
    label: str


def find(source: Path) -> list[Photograph]:
    """List the photographs of a folder that has one folder per class, or of a CSV file with the columns path,label.

    Hidden files and folders are left out. Links are followed, but no folder is entered twice.

    Raises:
        FlowersError: the source does not exist; a folder cannot be read; a file lies outside the class folders; the
            CSV lacks a column, lists a file twice or has an empty label; there are fewer than two classes.
    """
    photographs = _from_csv(source) if source.is_file() else _from_folders(source)
    num_classes = len({photograph.label for photograph in photographs})
    if num_classes < 2:
        raise FlowersError(
            f"`{source}` has {num_classes} classes with files; it needs a folder for each of at least two classes, or "
            "to be a CSV file with the columns path,label"
        )
    return photographs


def _from_folders(source: Path) -> list[Photograph]:
    if not source.is_dir():
        raise FlowersError(
            f"`{source}` does not exist; name a folder with a folder for each class, or a CSV file of path,label"
        )
    photographs, visited = [], {os.path.realpath(source)}
    for folder in sorted(source.iterdir()):
        if folder.name.startswith("."):
            continue
        if not folder.is_dir():
            raise FlowersError(
                f"`{folder}` lies outside the folders of the classes; move it away, or into one if it is a photograph"
            )
        photographs += [
            Photograph(str(path.relative_to(source)), path, folder.name) for path in _walk_files(folder, visited)
        ]
    return photographs


def _walk_files(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Yield the visible files below a folder, sorted; `visited` (real paths) keeps links from leading in circles."""

    def refuse(error: OSError) -> None:
        raise FlowersError(
            f"`{error.filename}` cannot be listed ({error.strerror}); give yourself the right to read it"
        )

    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real_path = os.path.realpath(parent)
        if real_path in visited:
            folders.clear()
            continue
        visited.add(real_path)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(names) if not name.startswith("."))


def _from_csv(source: Path) -> list[Photograph]:
    photographs: list[Photograph] = []
    line_of: dict[str, int] = {}
    for line, row in enumerate(_read_rows(source), 2):  # line 1 is the header
        path, label = (str(row.get(column) or "").strip() for column in ("path", "label"))
        if not path or not label:
            raise FlowersError(f"`{source}` line {line}: {row} needs a path and a label, under the header path,label")
        if path in line_of:
            raise FlowersError(
                f"`{source}` line {line}: {path} is listed in line {line_of[path]} too; remove one of the lines"
            )
        line_of[path] = line
        photographs.append(Photograph(path, source.parent / path, label))
    return photographs


def _read_rows(source: Path) -> list[dict[str, str]]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets write a byte order mark
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FlowersError(
            f"`{source}` is not a CSV file in UTF-8 ({error}); it needs the columns path,label"
        ) from None
