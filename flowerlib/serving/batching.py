"""Dynamic batching: the images of all requests that wait are the network's next batch."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

import numpy as np

from flowerlib.parallel import num_cores
from flowerlib.photos.classification import BATCH_SIZE as MAX_BATCH_SIZE
from flowerlib.photos.classification import ActivationMap, Classifier
from flowerlib.serving.limits import Limits, Overloaded
from flowerlib.serving.metrics import Metrics

Result = TypeVar("Result")
Waiting = tuple[np.ndarray, "asyncio.Future[np.ndarray]"]  # an image, and where its probabilities go
BATCHING_SECONDS = 0.005  # that the first image waits for others: little beside what the network takes
BYTES_PER_PIXEL = 4  # of an image while it is decoded
FIRST_ESTIMATE = 0.05  # seconds that an image takes, until a batch has been measured


class PixelSemaphore:
    """A counting semaphore, first in first out, that bounds the pixels decoded at one time, and so the memory."""

    def __init__(self, pixels: int) -> None:
        self._free = self._total = pixels
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def acquire(self, count: int) -> Iterator[None]:
        """Wait until so many pixels are free, and hold them; all there are if `count` is more."""
        count = min(count, self._total)
        with self._changed:
            self._waiting.append(ticket := object())
            self._changed.wait_for(lambda: self._waiting[0] is ticket and count <= self._free)
            self._waiting.popleft()
            self._free -= count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


class DynamicBatcher:
    """Decodes images in a thread for each core, and runs the network on batches of them in one thread."""

    def __init__(self, classifier: Classifier, limits: Limits, metrics: Metrics) -> None:
        self._classifier, self._limits, self._metrics = classifier, limits, metrics
        self._reserved = 0
        self._waiting: deque[Waiting] = deque()
        self._arrived = asyncio.Event()
        self._seconds_per_image = FIRST_ESTIMATE
        self._network = ThreadPoolExecutor(1, "network")
        self._decoders = ThreadPoolExecutor(num_cores(), "decoder")
        self._pixels = PixelSemaphore(limits.pixels)

    @contextmanager
    def reserve(self, count: int) -> Iterator[None]:
        """Reserve capacity for so many images.

        Raises:
            Overloaded: there is not enough.
        """
        if self._reserved + count > self._limits.queue:
            raise Overloaded(self.retry_after())
        self._change_reserved(count)
        try:
            yield
        finally:
            self._change_reserved(-count)

    def _change_reserved(self, count: int) -> None:
        self._reserved += count
        self._metrics.images.set(self._reserved)

    def retry_after(self) -> int:
        """Return in how many seconds the images under way should be done."""
        return max(1, math.ceil(self._reserved * self._seconds_per_image))

    async def decode(self, file: BinaryIO) -> np.ndarray:
        """Return `Classifier.pixels` of a file; errors as there."""
        limit = self._limits.pixels
        return await self.compute(lambda: self._classifier.pixels(file, limit, self._pixels.acquire))

    async def compute_within(self, num_bytes: int, function: Callable[[], Result]) -> Result:
        """Run a function that takes so much memory, once it is free; all of what images have if it takes more."""
        num_pixels = min(num_bytes // BYTES_PER_PIXEL, self._limits.pixels)

        def hold_and_run() -> Result:
            with self._pixels.acquire(num_pixels):
                return function()

        return await self.compute(hold_and_run)

    async def compute(self, function: Callable[[], Result]) -> Result:
        """Run a function in a decoder's thread: the event loop stays free for other requests."""
        return await _run_in(self._decoders, function)

    async def probabilities(self, images: list[np.ndarray]) -> np.ndarray:
        """Return the probabilities `(B, num_classes)` of images `(S, S, 3)`."""
        rows = [asyncio.get_running_loop().create_future() for _ in images]
        self._waiting.extend(zip(images, rows, strict=True))
        self._arrived.set()
        return np.stack(await asyncio.gather(*rows))

    async def activation_map(self, image: np.ndarray) -> ActivationMap:
        """Return `Classifier.activation_map` of an image, between two batches."""
        return await _run_in(self._network, lambda: self._classifier.activation_map(image))

    async def run(self) -> None:
        """Run batches until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < MAX_BATCH_SIZE:
                await asyncio.sleep(BATCHING_SECONDS)
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH_SIZE, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            if batch := [(image, row) for image, row in batch if not row.done()]:  # a client may have given up
                await self._run_batch(batch)

    async def _run_batch(self, batch: list[Waiting]) -> None:
        start = time.perf_counter()
        images = [image for image, _ in batch]
        try:
            rows = await _run_in(self._network, lambda: self._classifier.probabilities(np.stack(images)))
        except Exception as error:  # such as out of memory: these requests fail, the service goes on
            for _, row in batch:
                if not row.done():
                    row.set_exception(error)
            return
        for (_, row), probabilities in zip(batch, rows, strict=True):
            if not row.done():
                row.set_result(probabilities)
        self._seconds_per_image = (time.perf_counter() - start) / len(batch)
        self._metrics.batch_size.observe(len(batch))

    def warm_up(self) -> None:
        """Compile the network, so that no request waits for it.

        XLA compiles it for every size of batch. TensorFlow traces it for the first size, then once for all others.
        """
        size = self._classifier.image_size
        black = np.zeros((MAX_BATCH_SIZE, size, size, 3), np.float32)
        self._classifier.activation_map(black[0])
        for power in range(MAX_BATCH_SIZE.bit_length() if self._classifier.model.jit_compile else 2):
            self._classifier.probabilities(black[: 1 << power])

    def close(self) -> None:
        """Finish what the threads are at, and end them."""
        self._decoders.shutdown()
        self._network.shutdown()


async def _run_in(pool: ThreadPoolExecutor, function: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(pool, function)
