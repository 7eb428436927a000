import gc
import threading
import weakref

import numpy as np
import pytest

from flowerlib import buffers
from flowerlib.accelerator import tf


@pytest.fixture(autouse=True)
def _nothing_free():
    gc.collect()
    buffers._free.clear()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_array_is_as_asked_and_begins_where_tensorflow_wants_it(dtype):
    array = buffers.empty((3, 5, 7), dtype)
    assert (array.shape, array.dtype) == ((3, 5, 7), dtype)
    assert array.flags.c_contiguous
    assert array.ctypes.data % buffers.ALIGNMENT == 0


def test_memory_is_used_again_once_nobody_holds_the_array_or_a_part_of_it():
    array = buffers.empty((4, 1000), np.uint8)
    place, part = array.ctypes.data, array[2]
    del array
    other = buffers.empty((4, 1000), np.uint8)
    assert other.ctypes.data != place  # `part` is still held
    del part
    assert buffers.empty((2, 1000), np.uint8).ctypes.data == place  # a smaller one fits as well


def test_a_larger_array_gets_memory_of_its_own():
    del (small := [buffers.empty((10,), np.uint8)])[0]
    large = buffers.empty((1_000_000,), np.uint8)
    large[:] = 1
    assert large.sum() == 1_000_000
    assert small == []


def test_what_tensorflow_holds_is_not_overwritten():
    """Forty batches held at once, then half of them: each keeps its own number."""

    def filled(number):
        array = buffers.empty((100, 100), np.int64)
        array[:] = number
        return array

    numbers = tf.data.Dataset.range(80).map(lambda n: tf.numpy_function(filled, [n], tf.int64, stateful=False), 4)
    iterator = iter(numbers.prefetch(4))
    held = [next(iterator) for _ in range(40)]
    views = [np.asarray(tensor) for tensor in held[:20]]  # NumPy's view of a tensor holds it too
    del held[:20]
    gc.collect()
    rest = [next(iterator) for _ in range(40)]
    for expected, array in enumerate([*views, *held, *rest]):
        assert (np.asarray(array) == expected).all()


def test_threads_get_arrays_of_their_own():
    wrong = []

    def work(number):
        for _ in range(300):
            array = buffers.empty((2000,), np.int64)
            array[:] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tensorflow_takes_the_memory_as_it_is():
    """Of most arrays: it copies one whose other users it cannot rule out, such as one of the first."""
    places = []

    def made(number):
        places.append((array := buffers.empty((50, 50), np.uint8)).ctypes.data)
        return array

    many = tf.data.Dataset.range(40).map(lambda number: tf.numpy_function(made, [number], tf.uint8, stateful=False))
    taken = [np.asarray(tensor).ctypes.data for tensor in list(many)]
    assert sum(one == other for one, other in zip(taken, places, strict=True)) > 20


def test_only_a_few_rooms_are_kept():
    held = [buffers.empty((1000,), np.uint8) for _ in range(50)]
    memory = [weakref.ref(owner(array)) for array in held]
    held.clear()
    gc.collect()
    assert len(buffers._free) == 8
    assert sum(each() is not None for each in memory) == 8


def owner(array):
    """The array whose memory it is."""
    while array.base is not None:
        array = array.base
    return array
