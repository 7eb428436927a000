"""Images of many requests in one batch, and the event loop that stays free."""

import asyncio
import concurrent.futures
import subprocess
import sys
import threading
import time

import pytest
from service_process import metric, post

from flowerlib.config import FlowersError
from flowerlib.serving.batching import DynamicBatcher, PixelSemaphore
from flowerlib.serving.limits import Limits
from flowerlib.serving.metrics import Metrics


def test_requests_that_arrive_together_are_batched_and_never_mixed_up(service, photographs_of_val, expected):
    classifier, probabilities = expected
    paths = sorted(photographs_of_val.iterdir()) * 20
    batches, images = (metric(service, f"flowerlib_batch_images_{part}") for part in ("count", "sum"))
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda path: post(service, (path.name, path.read_bytes())), paths))
    for path, answer in zip(paths, answers, strict=True):
        (found,) = answer.json()
        ((name, value),) = classifier.top(probabilities[path.name], 1)
        assert found["predictions"][0]["class"] == name
        assert found["predictions"][0]["probability"] == pytest.approx(value, abs=1e-6)
    assert metric(service, "flowerlib_batch_images_sum") - images == 180
    assert metric(service, "flowerlib_batch_images_count") - batches < 150


def test_pixels_are_acquired_first_in_first_out_and_never_too_many():
    """Of ten: the six has to wait for the seven, and what would still fit waits behind it."""
    semaphore, order, held, totals = PixelSemaphore(10), [], [], []

    def hold(count, released):
        with semaphore.acquire(count):
            held.append(count)
            order.append(count)
            totals.append(sum(held))
            released.wait(10)
            held.remove(count)

    releases = {count: threading.Event() for count in (7, 6, 2, 1, 10)}
    threads = [threading.Thread(target=hold, args=each) for each in releases.items()]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    assert order == [7]
    releases[7].set()
    threads[0].join(10)
    until = time.monotonic() + 10
    while len(order) < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert sorted(order[1:]) == [1, 2, 6]
    for count in (1, 2, 6, 10):
        releases[count].set()
    for thread in threads:
        thread.join(10)
    assert order[-1] == 10
    assert max(totals) == 10


def test_an_image_that_cannot_be_read_releases_its_pixels():
    semaphore = PixelSemaphore(10)
    for _ in range(3):
        with pytest.raises(FlowersError), semaphore.acquire(10):
            raise FlowersError("is damaged")


PROFILED = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from flowerlib.photos import classification
from flowerlib.serving import app

called = set()

def profile(frame, event, argument):
    called.add(argument.__name__ if event == "c_call" else frame.f_code.co_name)

app = app.create_app(classification.load(Path(sys.argv[1])))
with TestClient(app, base_url="http://localhost") as client:
    client.portal.call(sys.setprofile, profile)
    options = {"activation_map": True, "similar": 6}
    answer = client.post("/predict", params=options, files={"files": open(sys.argv[2], "rb")})
    client.portal.call(sys.setprofile, None)
(found,) = answer.json()
assert found["activation_map"] and len(found["similar"]) == 6
print(*called)
"""


def test_nothing_heavy_is_computed_in_the_event_loops_thread(trained, photographs_of_val):
    command = [sys.executable, "-c", PROFILED, trained, min(photographs_of_val.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = set(done.stdout.split())
    assert {"run_in_executor", "probabilities"} <= called  # those of `DynamicBatcher`, which hands the work on
    assert called & {"resize", "nearest", "save", "fromarray", "b64encode"} == set()


@pytest.mark.parametrize("num_bytes", [400, 404, 10**12])
def test_what_is_parsed_takes_of_the_memory_for_images(num_bytes):
    """All of a hundred pixels of four bytes: what comes next has to wait, and what is larger need not wait for ever."""

    async def run():
        batcher, release, order = DynamicBatcher(None, Limits(pixels=100), Metrics()), threading.Event(), []
        first = asyncio.create_task(batcher.compute_within(num_bytes, lambda: order.append(release.wait(10))))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.compute_within(4, lambda: order.append("second")))
        await asyncio.sleep(0.05)
        assert order == []
        release.set()
        await asyncio.gather(first, second)
        batcher.close()
        return order

    assert asyncio.run(run()) == [True, "second"]
