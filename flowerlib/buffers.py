"""Memory for batches of images, used again: getting it anew for each takes up to a third of the time of decoding.

What a Python function returns to TensorFlow is not copied if it begins at a multiple of Eigen's alignment.
"""

import math
import weakref
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64  # bytes, the largest of EIGEN_MAX_ALIGN_BYTES


class _Room(np.ndarray):
    """A type of its own, so that views of a part hold the part; of one type, NumPy has them hold the whole alone."""


class Buffers:
    """Makes arrays whose memory goes to a later one as soon as nobody holds the array, TensorFlow included."""

    def __init__(self) -> None:
        self._free: SimpleQueue[_Room] = SimpleQueue()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Return an array with anything in it, as `np.empty`; several threads may ask."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        room = self._room(size + ALIGNMENT)
        first = -room.ctypes.data % ALIGNMENT
        part = room[first : first + size]
        weakref.finalize(part, self._free.put, room).atexit = False
        return part.view(np.ndarray).view(dtype).reshape(shape)

    def _room(self, size: int) -> _Room:
        try:
            if (room := self._free.get_nowait()).size >= size:
                return room
        except Empty:
            pass
        return np.empty(size, np.uint8).view(_Room)
