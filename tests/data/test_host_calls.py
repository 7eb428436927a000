import subprocess
import sys

import numpy as np
import pytest

from flowerlib.accelerator import tf
from flowerlib.data import host_calls

# Calls take 0.2 s, so that some are always running; they sleep in turns, so that each must come back from sleep.
SLOW = """
import time
from flowerlib.data import host_calls
from flowerlib import data
from flowerlib.accelerator import tf

def slow(number):
    for _ in range(10):
        time.sleep(0.02)
    return number

numbers = tf.data.Dataset.counter().map(lambda number: host_calls.numpy_function(slow, [number], tf.int64), 3)
iterator = iter(data.prefetch(numbers))
print(int(next(iterator)))
"""
LEFT_TO_THE_COLLECTOR = """
class Ring:
    pass

ring = Ring()
ring.itself, ring.iterator = ring, iterator
del ring, iterator
"""


@pytest.mark.parametrize(
    "end", ["data.held = iterator\ndel iterator", LEFT_TO_THE_COLLECTOR], ids=["held", "left to the collector"]
)
def test_a_process_ends_though_a_pipeline_still_works_ahead(end):
    done = subprocess.run([sys.executable, "-c", SLOW + end], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


FAILS = """
import time
import numpy as np
from flowerlib.data import host_calls
from flowerlib import data, predictions
from flowerlib.accelerator import keras, tf

def slow(number):
    for _ in range(10):
        time.sleep(0.02)
    return np.zeros((4, 3), np.float32)

def batch(number):
    inputs = tf.ensure_shape(host_calls.numpy_function(slow, [number], tf.float32), (4, 3))
    return inputs, tf.zeros(4), tf.fill([4], "a")

model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
for _ in predictions.iterate_outputs(model, data.prefetch(tf.data.Dataset.range(100).map(batch, 3)), 4):
    raise SystemExit("an error")
"""


def test_a_process_ends_with_the_error_that_stopped_predicting():
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "an error")


def test_a_process_that_called_nothing_does_not_wait(monkeypatch):
    monkeypatch.setattr(host_calls, "_over", False)  # and afterwards as before
    monkeypatch.setattr(host_calls, "_begun", 0)
    monkeypatch.setattr(host_calls, "_ended", 0)
    monkeypatch.setattr(host_calls.time, "sleep", pytest.fail)
    host_calls._finish()


def test_one_that_never_comes_back_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(host_calls, "_over", False)  # and afterwards as before
    monkeypatch.setattr(host_calls, "_begun", host_calls._ended + 1)
    monkeypatch.setattr(host_calls, "MAX_WAIT_SECONDS", 0.2)
    host_calls._finish()


def test_it_returns_what_the_function_returns_and_fails_as_it_fails():
    doubled = host_calls.numpy_function(lambda array: 2 * array, [tf.constant([1, 2])], tf.int32)
    assert np.array_equal(doubled, [2, 4])

    def fails(array):
        raise ValueError(f"cannot take {array}")

    for _ in range(2):
        with pytest.raises(ValueError, match="cannot take 3"):
            host_calls.numpy_function(fails, [tf.constant(3)], tf.int32)
    assert host_calls._begun == host_calls._ended
