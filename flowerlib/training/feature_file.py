"""A file of features: filled batch by batch, so that a stopped call goes on; verified whenever it is read.

While it is filled it has a hidden name, and beside it lies a journal: a line for each batch, with its place and its
checksum. What is whole has its SHA-256 beside it. Whatever does not fit is computed again.
"""

import errno
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flowerlib.config import FlowersError, write_checksum

Shape = tuple[int, int, int]  # views, images, numbers a view of an image
TYPE = np.dtype("<f2")


class PartialFile:
    """A file that is being filled.

    Attributes:
        blocks: the places `(view, start, views, rows)` of what is in it, in the order in which they came.
    """

    def __init__(self, file: BinaryIO, first: int, shape: Shape, journal: Path) -> None:
        self._file, self._first, self._shape, self._journal = file, first, shape, journal
        lines = journal.read_text(errors="replace", encoding="utf-8").splitlines() if journal.exists() else []
        self.blocks: list[tuple[int, int, int, int]] = []
        for line in lines:
            if not (place := self._place(line)):
                break
            self.blocks.append(place)
        journal.write_text("".join(f"{line}\n" for line in lines[: len(self.blocks)]), encoding="utf-8")

    def _place(self, line: str) -> tuple[int, int, int, int] | None:
        """The place of a block as the journal tells it; None where line or block are not as they were written."""
        if not re.fullmatch(r"\d+ \d+ \d+ \d+ \d+", line, re.ASCII):
            return None
        view, start, views, rows, checksum = map(int, line.split())
        place = (view, start, views, rows)
        return place if zlib.crc32(self._read(*place)) == checksum else None

    def write_block(self, view: int, start: int, block: np.ndarray) -> None:
        """Write a block `(views, rows, d)` of float16: of so many views from `view` on, of the images from `start`."""
        for number, rows in enumerate(block.astype(TYPE)):
            self._file.seek(self._at(view + number, start))
            self._file.write(rows.tobytes())
        self._file.flush()
        place = (view, start, *block.shape[:2])
        with open(self._journal, "a", encoding="utf-8") as journal:
            print(*place, zlib.crc32(self._read(*place)), file=journal)
        self.blocks.append(place)

    def _at(self, view: int, start: int) -> int:
        _, count, width = self._shape
        return self._first + (view * count + start) * width * TYPE.itemsize

    def _read(self, view: int, start: int, views: int, rows: int) -> bytes:
        parts = []
        for number in range(view, view + views):
            self._file.seek(self._at(number, start))
            parts.append(self._file.read(rows * self._shape[2] * TYPE.itemsize))
        return b"".join(parts)


@contextmanager
def open_partial(path: Path, shape: Shape) -> Iterator[PartialFile]:
    """Yield the file to fill, with what an earlier call that was stopped had filled; at the end it is at `path`.

    Raises:
        FlowersError: the disk has no room for it; raised before anything is computed.
    """
    half, journal = path.with_name(f".{path.name}"), path.with_name(f".{path.name}.journal")
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {"descr": TYPE.str, "fortran_order": False, "shape": shape}
    there = half.exists()
    with open(half, "r+b" if there else "w+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        first = file.tell()
        size = first + int(np.prod(shape)) * TYPE.itemsize
        try:
            _reserve(file, size, half.parent)
        except (OSError, FlowersError):
            if not there:
                half.unlink()
            raise
        yield PartialFile(file, first, shape, journal)
    write_checksum(path, half)
    half.replace(path)
    journal.unlink()


def _reserve(file: BinaryIO, size: int, folder: Path) -> None:
    """Take the room now: without it the disk might be full after an hour's work."""
    try:
        file.flush()
        if hasattr(os, "posix_fallocate"):  # not on a Mac
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FlowersError(
            f"no room for features: they take {size / 1e6:,.0f} MB in `{folder}`; make room there, or name another "
            "place in XDG_CACHE_HOME"
        ) from None
