"""Read the photographs of a CSV file as people have them: any usual separator, encoding, header and form of path."""

import csv
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from flowerlib.config import FlowersError
from flowerlib.photos import formats
from flowerlib.photos.tree import SPLIT_NAMES, file_name, listed

SEPARATORS = (",", ";", "\t", "|")
NAMES = {  # of columns, in the order of preference
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_name"),
        *("img", "img_path", "photo", "photograph", "picture", "image_id", "id", "name"),
    ),
    "label": ("label", "class", "class_name", "classname", "category", "species", "target", "flower", "breed", "tag"),
    "split": ("split", "set", "subset", "fold", "partition"),
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".JPG")  # tried where a path has none


@dataclass(frozen=True)
class Row:
    """One photograph in a CSV file.

    Attributes:
        line: of the file, from 1.
        id: the path as it stands there.
        path: where the file is.
        label: its class; empty for a test image without one.
        split: `train`, `val` or `test`; empty where nothing is said.
    """

    line: int
    id: str
    path: Path
    label: str
    split: str = ""


@dataclass(frozen=True)
class _Table:
    """The rows of a CSV file with their lines, and which column is which."""

    rows: list[tuple[int, list[str]]]
    columns: dict[str, int]


def read(
    source: Path, columns: Sequence[str] = (), root: Path | None = None, ignore_splits: bool = False
) -> tuple[list[Row], list[str]]:
    """Read a CSV file; return its rows and sentences about what was recognized.

    Args:
        source: the file.
        columns: the names of the columns of path, label and, perhaps, split; or their numbers, from 1, in a file
            without a header. Recognized unless given.
        root: the folder that paths lie below; that of the file unless given.
        ignore_splits: whether a split that is none is passed over, instead of an error.

    Raises:
        FlowersError: it is no such file, a column is missing, a row lacks a value, lists a file twice or names no
            split, or no file is found.
    """
    notes: list[str] = []
    text = _text(source, notes)
    if columns and len(columns) not in (2, 3):
        raise FlowersError(
            f"--columns {','.join(columns)} must name two or three columns: PATH,LABEL or PATH,LABEL,SPLIT"
        )
    table = _table(source, text, list(columns), notes)
    rows = list(_rows(source, table, ignore_splits))
    place = _Paths(root or source.parent, [row.id for row in rows])
    if place.dropped:
        notes.append(f"Paths begin with `{'/'.join(place.dropped)}`, in place of which `{place.root}` is taken.")
    rows = [Row(row.line, row.id, place.find(row.id), row.label, row.split) for row in rows]
    if rows and not any(row.path.exists() for row in rows):
        raise FlowersError(
            f"`{source}` line {rows[0].line}: `{rows[0].path}` does not exist, nor does any other of its files; name "
            "the folder they lie in with --root"
        )
    return rows, notes


def _text(source: Path, notes: list[str]) -> str:
    content = source.read_bytes()
    if content[:2] == b"PK" and not zipfile.is_zipfile(source):
        raise FlowersError(f"`{source}` is a zip file that is damaged or cut short; download it again")
    if content[:2] == b"PK" or content[:4] == b"\xd0\xcf\x11\xe0":
        raise FlowersError(f"`{source}` is a workbook of Excel; save it as CSV")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if b"\0" in content[:200]:  # UTF-16 without the mark of its byte order
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", "replace")
    try:
        return content.decode("utf-8-sig")  # spreadsheets write the mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        notes.append(f"`{source.name}` is not UTF-8 (line {line}); it is read as Windows-1252 (Latin-1).")
        return content.decode("cp1252", "replace")


def _table(source: Path, text: str, columns: list[str], notes: list[str]) -> _Table:
    lines = text.splitlines(keepends=True)
    skipped = 0
    separators: Sequence[str] = SEPARATORS
    if lines and (told := re.fullmatch(r"sep=(.)\s*", lines[0], re.IGNORECASE)):  # Excel's
        separators, skipped = (told[1],), 1
    first = next((line for line in lines[skipped:] if line.strip()), "")
    separator = max(separators, key=first.count)
    rows = list(_numbered(source, lines[skipped:], separator, skipped))
    if not rows:
        raise FlowersError(f"`{source}` is empty; it needs the columns path,label")
    header = [cell.lower().replace(" ", "_") for cell in rows[0][1]]
    if columns and all(name.isdecimal() for name in columns):
        found = dict(zip(NAMES, (int(name) - 1 for name in columns), strict=False))
        if max(found.values()) >= len(header) or min(found.values()) < 0:
            raise FlowersError(f"`{source}` has {len(header)} columns; --columns {','.join(columns)} names others")
        return _Table(rows, found)
    if columns:
        given = [name.lower().replace(" ", "_") for name in columns]
        if missing := [name for name, key in zip(columns, given, strict=True) if key not in header]:
            raise FlowersError(f"`{source}` has no column {missing[0]!r}; it has {', '.join(rows[0][1])}")
        return _Table(rows[1:], dict(zip(NAMES, map(header.index, given), strict=False)))
    found = {kind: next((header.index(name) for name in names if name in header), -1) for kind, names in NAMES.items()}
    if found["path"] >= 0 and found["label"] < 0 and (one_hot := _one_hot(rows, found, notes)):
        return one_hot
    if found["path"] < 0 or found["label"] < 0:
        return _without_header(source, rows, notes)
    unused = [name for at, name in enumerate(rows[0][1]) if at not in found.values()]
    if unused:
        notes.append(f"Columns that are not used: {listed(unused, 10)}.")
    return _Table(rows[1:], {kind: at for kind, at in found.items() if at >= 0})


def _one_hot(rows: list[tuple[int, list[str]]], found: dict[str, int], notes: list[str]) -> _Table | None:
    """Read a column for each class, 1 in that of the photograph; None where the columns are others."""
    classes = {at: name for at, name in enumerate(rows[0][1]) if at not in found.values()}
    labelled = []
    for line, cells in rows[1:]:
        ones = [at for at in classes if at < len(cells) and cells[at] == "1"]
        if len(ones) != 1 or any(cells[at] not in ("0", "1") for at in classes if at < len(cells)):
            return None
        labelled.append((line, [*cells, classes[ones[0]]]))
    if len(classes) < 2 or not labelled:
        return None
    notes.append(f"Its columns {listed(classes.values())} are taken for classes, 1 in that of the photograph.")
    width = len(rows[0][1])
    return _Table(labelled, {kind: at for kind, at in found.items() if at >= 0} | {"label": width})


def _without_header(source: Path, rows: list[tuple[int, list[str]]], notes: list[str]) -> _Table:
    """Recognize the two columns of a file whose first row is a photograph."""
    cells = rows[0][1]
    pictures = [at for at, cell in enumerate(cells) if Path(cell.replace("\\", "/")).suffix.lower() in formats.SUFFIXES]
    if len(cells) == 2 and len(pictures) == 1:
        notes.append(f"`{source.name}` has no header: column {pictures[0] + 1} is taken for the path.")
        return _Table(rows, {"path": pictures[0], "label": 1 - pictures[0]})
    raise FlowersError(
        f"`{source}` line {rows[0][0]}: {', '.join(cells)} is no header with the columns path,label; name them with "
        "--columns PATH,LABEL, or by number where there is no header: --columns 1,2"
    )


def _numbered(source: Path, lines: list[str], separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty with the line it begins in."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        line = skipped + 1
        for row in reader:
            if any(cell.strip() for cell in row):
                yield line, [cell.strip() for cell in row]
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise FlowersError(f"`{source}` line {skipped + reader.line_num}: {error}; is it a CSV file?") from None


def _rows(source: Path, table: _Table, ignore_splits: bool) -> Iterator[Row]:
    line_of: dict[str, int] = {}
    for line, cells in table.rows:
        value = {kind: cells[at] if at < len(cells) else "" for kind, at in table.columns.items()}
        split = SPLIT_NAMES.get(value.get("split", "").lower(), "")
        if value.get("split") and not split and not ignore_splits:
            raise FlowersError(
                f"`{source}` line {line}: {value['split']!r} is no split; write train, val or test, or use --split redo"
            )
        if re.match(r"(https?|ftp|s3|gs)://", value["path"]):
            raise FlowersError(
                f"`{source}` line {line}: {value['path']} is an address; download it, and write where the file is"
            )
        if not value["path"] or not (value["label"] or split == "test"):
            raise FlowersError(f"`{source}` line {line}: {','.join(cells)} needs a path and a label")
        if value["path"] in line_of:
            raise FlowersError(
                f"`{source}` line {line}: {value['path']} is listed in line {line_of[value['path']]} too; remove one "
                "of the lines"
            )
        line_of[value["path"]] = line
        yield Row(line, value["path"], Path(), value["label"], split)


class _Paths:
    """Where the files of a table are: below a root, whatever machine the paths were written on.

    Attributes:
        root: the folder that the files lie below.
        dropped: the folders that every path begins with, and that are left out.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root = root
        self.dropped: tuple[str, ...] = ()
        if any((root / file_name(path)).is_file() for path in paths):
            return
        every = [tuple(_parts(path)) for path in paths]
        levels = zip(*(parts[:-1] for parts in every), strict=False)
        shared = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]
        for number in range(len(shared) + 1):
            if any(self._existing(parts[number:]) for parts in every):
                self.dropped = tuple(shared[:number])
                break

    def find(self, path: str) -> Path:
        """Return where a file is, or would be."""
        as_it_is = self.root / file_name(path)
        if as_it_is.is_file():
            return as_it_is
        parts = _parts(path)[len(self.dropped) :]
        return self._existing(parts) or self.root.joinpath(*parts)

    def _existing(self, parts: Sequence[str]) -> Path | None:
        exact = self.root.joinpath(*parts)
        tried = [exact] + [exact.with_name(exact.name + suffix) for suffix in SUFFIXES if not exact.suffix]
        return next((path for path in tried if path.is_file()), None)


def _parts(path: str) -> list[str]:
    """Split a path of any system; a backslash divides."""
    if path.startswith("file://"):
        path = re.sub(r"^/(?=[A-Za-z]:)", "", unquote(path.removeprefix("file://")))
    path = file_name(path)
    if "\\" in path or re.match(r"[A-Za-z]:", path):
        return [part for part in PureWindowsPath(path).parts if not part.endswith(("\\", ":"))]
    return [part for part in Path(path).parts if part != "/"]
