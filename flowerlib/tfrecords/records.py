"""Fetch records of TFRecord files by their position: memory does not grow with the data, and any order is as good.

A TFRecord file holds, for each record, its length (8 bytes, little-endian), a checksum of that (4 bytes), the record, a
checksum of the record (4 bytes). Source: tensorflow/core/lib/io/record_writer.h. `data.check` verifies the checksums.
"""

import copy
import os
from collections.abc import Iterator, Sequence

import numpy as np


class Records:
    """The records of several files of this machine, one after the other in their order, left on disk."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        places = [(number, *place) for number, path in enumerate(self.paths) for place in _places(path)]
        self.places = np.array(places, np.int64).reshape(-1, 3)  # file, first byte, length

    def __len__(self) -> int:
        return len(self.places)

    def select(self, positions: Sequence[int]) -> "Records":
        """Return those at the positions, in that order, as records of their own."""
        chosen = copy.copy(self)
        chosen.places = self.places[np.array(positions, np.int64)]
        return chosen

    def fetch(self, indices: np.ndarray) -> np.ndarray:
        """Return the records at those positions, `(n,)` bytes. One file is open at a time, and none afterwards."""
        found, places = np.empty(len(indices), object), self.places[indices]
        for number in np.unique(places[:, 0]):
            with open(self.paths[number], "rb", buffering=0) as file:
                for position in np.flatnonzero(places[:, 0] == number):
                    _, first, length = places[position].tolist()
                    found[position] = os.pread(file.fileno(), length, first)
        return found


def _places(path: str) -> Iterator[tuple[int, int]]:
    """Yield the first byte and the length of each whole record."""
    with open(path, "rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            length = int.from_bytes(os.pread(file.fileno(), 8, at), "little")
            if at + length + 16 <= size:
                yield at + 12, length
            at += length + 16
