"""Python functions within tf.data pipelines, finished before the interpreter is.

Pipelines work ahead. A thread that is within a Python function while the interpreter ends never comes back from it, and
TensorFlow, letting the pipeline go, would wait for it for ever.
"""

import atexit
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from flowerlib.accelerator import tf

QUIET_SECONDS = 0.05  # seconds without a call, after which none is expected: what is made ahead has been made
MAX_WAIT_SECONDS = 10.0  # seconds to wait for that, should somebody still take batches

cv2.setNumThreads(1)  # tf.data has threads enough
_lock = threading.Lock()
_begun = _ended = 0
_over = False


@contextmanager
def _counted() -> Iterator[None]:
    global _begun, _ended
    if _over:
        raise RuntimeError("the interpreter ends")
    with _lock:
        _begun += 1
    try:
        yield
    finally:
        with _lock:
            _ended += 1


def numpy_function(function: Callable[..., np.ndarray], inputs: list[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """Return what a function without side effects makes of arrays, as `tf.numpy_function`.

    Args:
        function: takes an array for each of the inputs, returns one of `dtype`.
        inputs: of any shapes.
        dtype: of the result, whose shape is not known.
    """

    def counted(*arrays: np.ndarray) -> np.ndarray:
        with _counted():
            return function(*arrays)

    return tf.numpy_function(counted, inputs, dtype, stateful=False)


@atexit.register
def _finish() -> None:
    global _over
    if _begun:
        gc.collect()  # lets pipelines go that nobody holds; later is too late
    seen, until = 0, time.monotonic() + MAX_WAIT_SECONDS
    while (_ended < _begun or seen < _begun) and time.monotonic() < until:
        seen = _begun
        time.sleep(QUIET_SECONDS)
    _over = True
