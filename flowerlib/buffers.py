"""Memory for batches of images, used again: a batch at 512 px is 50 MB, which the system would have to clear each time.

What a Python function returns to TensorFlow is not copied if it begins at a multiple of Eigen's alignment.
"""

import math
import weakref
from collections import deque

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64  # bytes, the largest of EIGEN_MAX_ALIGN_BYTES


class _Room(np.ndarray):
    """A type of its own, so that views of a part hold the part; of one type, NumPy has them hold the whole alone."""


_free: deque[_Room] = deque(maxlen=8)  # while batches are made, few are free; afterwards the others are let go


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array with anything in it, as `np.empty`, aligned.

    Its memory is that of an earlier one which nobody holds any more, TensorFlow included. Threads may call it at once.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = _room(size + ALIGNMENT)
    first = -room.ctypes.data % ALIGNMENT
    part = room[first : first + size]
    weakref.finalize(part, _free.append, room).atexit = False
    return part.view(np.ndarray).view(dtype).reshape(shape)


def _room(size: int) -> _Room:
    try:
        if size <= (room := _free.popleft()).size:
            return room
    except IndexError:
        pass
    return np.empty(size, np.uint8).view(_Room)
