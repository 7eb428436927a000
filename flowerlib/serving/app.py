"""A trained model as a web service: an API for programs, a page for people."""

import asyncio
import math
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, TypeVar

import numpy as np
import uvicorn
from fastapi import FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowerlib import __version__
from flowerlib.config import FlowersError
from flowerlib.parallel import num_cores
from flowerlib.photos import classification
from flowerlib.photos.classification import Classifier
from flowerlib.serving import page
from flowerlib.serving.connections import Connection, Connections
from flowerlib.serving.hosts import Hosts, known_hosts

Result = TypeVar("Result")
BATCH = classification.BATCH_SIZE  # images that the network gets at once, at most
WAIT = 0.005  # seconds that a first image waits for others: little beside what the network takes
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
CLOSE = {"Connection": "close"}  # the rest of a request that is refused is not read
CONNECTIONS = 128  # besides those whose requests are under way: who reads, and browsers that keep six each
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes:
        bytes: of a request.
        pixels: of an image, and of all that are decoded at one time.
        files: of a request.
        seconds: for a request to arrive, and again for its answer.
        queue: requests at once, and images at once; others are told to come back.
    """

    bytes: int = 32_000_000
    pixels: int = 50_000_000
    files: int = 32
    seconds: float = 30.0
    queue: int = 256

    def __post_init__(self) -> None:
        if self.files > self.queue:
            raise FlowersError(f"`files` (={self.files}) must be at most `queue` (={self.queue}): a request must fit")


class Busy(FlowersError):
    """There is no room; `retry_after` says in how many seconds there should be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too much to do; try again in {retry_after} s")
        self.retry_after = retry_after


class Metrics:
    """What `/metrics` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        place = {"registry": self.registry}
        self.requests = Counter("flowerlib_requests", "POST requests answered.", ["path", "status"], **place)
        self.seconds = Histogram("flowerlib_request_seconds", "From first byte to answer.", ["path"], **place)
        self.batch = Histogram("flowerlib_batch_images", "Images run together.", buckets=(1, 2, 4, 8, 16, 32), **place)
        self.under_way = Gauge("flowerlib_images_under_way", "Images decoded, waiting or run.", **place)


class Pixels:
    """Bounds how many pixels are decoded at one time, in all threads, and with them the memory that this takes."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait until there is room for so many, at most as many as there are in all; who came first goes first."""
        with self._changed:
            self._waiting.append(me := object())
            self._changed.wait_for(lambda: self._waiting[0] is me and count <= self._left)
            self._waiting.popleft()
            self._left -= count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += count
                self._changed.notify_all()


class Batches:
    """Runs the network, in one thread, on the images of all requests together: those that wait are the next batch."""

    def __init__(self, classifier: Classifier, limits: Limits, metrics: Metrics) -> None:
        self._recogniser = classifier
        self._limits = limits
        self._metrics = metrics
        self._taken = 0
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = deque()
        self._arrived = asyncio.Event()
        self._seconds = 0.05  # an image takes, as last seen
        self._network = ThreadPoolExecutor(1, "network")
        self._decoders = ThreadPoolExecutor(num_cores(), "decoder")
        self._pixels = Pixels(limits.pixels)

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Keep room for so many images.

        Raises:
            Busy: there is not enough.
        """
        if self._taken + count > self._limits.queue:
            raise Busy(self.retry_after())
        self._taken += count
        self._metrics.under_way.set(self._taken)
        try:
            yield
        finally:
            self._taken -= count
            self._metrics.under_way.set(self._taken)

    def retry_after(self) -> int:
        """Return in how many seconds what is under way should be done."""
        return max(1, math.ceil(self._taken * self._seconds))

    async def decode(self, file: Path | BinaryIO) -> np.ndarray:
        """Return `Classifier.pixels` of a file; errors as there."""
        return await self.beside(lambda: self._recogniser.pixels(file, self._limits.pixels, self._pixels.taken))

    async def beside(self, function: Callable[[], Result]) -> Result:
        """Return what a function returns that computes: other requests are answered meanwhile."""
        return await _in(self._decoders, function)

    async def probabilities(self, images: list[np.ndarray]) -> np.ndarray:
        """Return what the network says of images `(S, S, 3)`: `(B, num_classes)`."""
        answers = [asyncio.get_running_loop().create_future() for _ in images]
        self._waiting.extend(zip(images, answers, strict=True))
        self._arrived.set()
        return np.stack(await asyncio.gather(*answers))

    async def look(self, image: np.ndarray) -> classification.Look:
        """Return `Classifier.look` of an image, between two batches."""
        return await _in(self._network, lambda: self._recogniser.look(image))

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < BATCH:
                await asyncio.sleep(WAIT)
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            batch = [(image, answer) for image, answer in batch if not answer.done()]  # who asked may have given up
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[np.ndarray, "asyncio.Future[np.ndarray]"]]) -> None:
        start = time.perf_counter()
        try:
            images = [image for image, _ in batch]
            said = await _in(self._network, lambda: self._recogniser.probabilities(np.stack(images)))
        except Exception as error:  # such as no memory: these requests fail, the service goes on
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), row in zip(batch, said, strict=True):
            if not answer.done():
                answer.set_result(row)
        self._seconds = (time.perf_counter() - start) / len(batch)
        self._metrics.batch.observe(len(batch))

    def close(self) -> None:
        """End the threads; what they are at is finished."""
        self._decoders.shutdown()
        self._network.shutdown()


async def _in(pool: ThreadPoolExecutor, function: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(pool, function)


class Gate:
    """Turns away what other sites' pages ask, what is too much or too slow, and what the page does not need of Gradio.

    HEAD is answered as GET is, of which the server then leaves out the body. POSTs are counted.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, limits: Limits, batches: Batches, metrics: Metrics) -> None:
        self._app, self._hosts, self._limits, self._batches, self._metrics = app, hosts, limits, batches, metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # a web socket: nothing here speaks over one
            return await send({"type": "websocket.close"})
        connection = scope.get("state", {}).get("connection")
        with connection.answering() if connection else nullcontext():
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if refusal := self._hosts.refusal(scope["headers"]):
            return await JSONResponse({"detail": refusal}, 403, CLOSE)(scope, receive, send)
        if not page.needs(scope["path"]):
            return await JSONResponse({"detail": "there is nothing here"}, 404)(scope, receive, send)
        if scope["method"] == "POST":
            return await self._post(scope, receive, send)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._app(scope | {"method": method}, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        path = scope["path"] if scope["path"] == "/predict" else "page"

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, message["status"]).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
            await send(message)

        if int(dict(scope["headers"]).get(b"content-length", 0)) > self._limits.bytes:
            return await JSONResponse({"detail": self._too_large()}, 413, CLOSE)(scope, receive, answer)
        if self._inside >= self._limits.queue:
            return await busy(Busy(self._batches.retry_after()))(scope, receive, answer)
        self._inside += 1
        try:
            await self._app(scope, self._limited(receive), answer)
        except Exception:
            self._metrics.requests.labels(path, 500).inc()
            raise
        finally:
            self._inside -= 1

    def _limited(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + self._limits.seconds
        whole, size = False, 0

        async def received() -> Message:
            nonlocal whole, size
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the request took longer than {self._limits.seconds:g} s to arrive", CLOSE
                ) from None
            size += len(message.get("body", b""))
            if size > self._limits.bytes:
                raise HTTPException(413, self._too_large(), CLOSE)
            whole = not message.get("more_body", False)
            return message

        return received

    def _too_large(self) -> str:
        return f"the request has more than {self._limits.bytes:,} bytes; send fewer files, or smaller ones"


def busy(error: Busy) -> JSONResponse:
    """Return the answer to who must come back."""
    return JSONResponse({"detail": str(error)}, 503, CLOSE | {"Retry-After": str(error.retry_after)})


class Guess(BaseModel):
    """A class and how likely it is."""

    class_: str = Field(serialization_alias="class")
    probability: float = Field(ge=0, le=1)


class Recognised(BaseModel):
    """One file's likeliest classes, the likeliest first."""

    file: str
    predictions: list[Guess]


class Model(BaseModel):
    """The model that answers."""

    name: str
    backbone: str
    classes: list[str]
    image_size: int = Field(description="Side of the square that the network sees, in pixels.")
    fit: str = Field(description="`crop`: it sees the middle square of a photograph; `pad`: all of it.")
    val_macro_f1: float = Field(description="On images it was not trained on, as its notebook judged it.")
    smoke_test: bool = Field(description="Trained for a trial: its answers mean nothing.")


class Health(BaseModel):
    """The service answers."""

    status: str


class Trouble(BaseModel):
    """What is wrong with a request, and what to do."""

    detail: str


def create_app(
    classifier: Classifier, limits: Limits | None = None, hosts: Hosts | None = None, announced: str = ""
) -> FastAPI:
    """Return the service: `POST /predict`, `/healthz`, `/model`, `/metrics`, `/docs`, and the page at `/`.

    Args:
        classifier: what answers.
        limits: what it takes on; `Limits()` unless given.
        hosts: the names it answers to; this machine's unless given.
        announced: what to print once it can answer.
    """
    limits = limits or Limits()
    metrics = Metrics()
    batches = Batches(classifier, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        black = np.zeros((BATCH, classifier.image_size, classifier.image_size, 3), np.float32)
        classifier.look(black[0])  # compiled now, not when the first request waits
        for power in range(BATCH.bit_length()):
            classifier.probabilities(black[: 1 << power])
        app.state.answering = asyncio.create_task(batches.run())
        sweeping = asyncio.create_task(page.sweep(2 * limits.seconds))
        print(announced, end="", flush=True)
        yield
        app.state.answering.cancel()
        sweeping.cancel()
        batches.close()
        page.UPLOADS.cleanup()

    app = FastAPIOffline(
        title="flowerlib",
        summary="Names what photographs show.",
        version=__version__,
        lifespan=lifespan,
        redoc_url=None,
        form_limits={"max_files": limits.files, "max_fields": limits.files},
    )
    app.add_middleware(Gate, hosts=hosts or known_hosts(), limits=limits, batches=batches, metrics=metrics)

    @app.exception_handler(Busy)
    async def _busy(_: Request, error: Busy) -> JSONResponse:
        return busy(error)

    troubles = {
        400: "a file is no image, is damaged or has too many pixels; or there are too many files",
        408: "the request arrives too slowly",
        413: "the request has too many bytes",
        503: "too much to do; `Retry-After` says when to try again",
    }

    @app.post("/predict", responses={code: {"model": Trouble, "description": why} for code, why in troubles.items()})
    async def predict(
        files: Annotated[list[UploadFile], File(description="One image or many: JPEG, PNG, WebP and most others.")],
        top: Annotated[int, Query(ge=1, le=1000, description="How many classes for each.")] = 5,
    ) -> list[Recognised]:
        """Name what each image shows. Images are not kept."""

        async def decoded(file: UploadFile) -> np.ndarray | str:
            try:
                return await batches.decode(file.file)
            except FlowersError as error:
                return f"`{file.filename}` {error}"

        with batches.room(len(files)):
            try:
                async with asyncio.timeout(limits.seconds):
                    images = await asyncio.gather(*map(decoded, files))
                    if wrong := [image for image in images if isinstance(image, str)]:
                        raise HTTPException(400, "; ".join(wrong))
                    said = await batches.probabilities(images)
            except TimeoutError:
                raise Busy(batches.retry_after()) from None
        return [
            Recognised(
                file=file.filename or "",
                predictions=[Guess(class_=name, probability=value) for name, value in classifier.top(row, top)],
            )
            for file, row in zip(files, said, strict=True)
        ]

    @app.get("/healthz", responses={503: {"model": Trouble, "description": "the network has stopped"}})
    async def healthz() -> Health:
        """Say that the service answers."""
        if app.state.answering.done():
            raise HTTPException(503, "the network has stopped; start the service again")
        return Health(status="ok")

    @app.get("/model")
    async def model() -> Model:
        """Describe the model."""
        record = {name: classifier.record[name] for name in ("name", "backbone", "val_macro_f1", "smoke_test")}
        size = classifier.image_size
        return Model(**record, classes=list(classifier.classes), image_size=size, fit=classifier.fit)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def tell_metrics() -> Response:
        """Tell counts and times in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for path, allowed in (("/predict", "POST"), ("/healthz", "GET"), ("/model", "GET"), ("/metrics", "GET")):
        app.add_api_route(path, _refuse(allowed), methods=METHODS - {allowed}, include_in_schema=False)
    return page.mount(app, classifier, batches, limits)


def _refuse(allowed: str) -> Callable[[], None]:
    """Say which method there is, where the page, which answers whatever others do not, would say that nothing is."""

    async def refuse() -> None:
        allow = "GET, HEAD" if allowed == "GET" else allowed
        raise HTTPException(405, f"only {allow} is answered here", {"Allow": allow})

    return refuse


def serve(run: Path, host: str, port: int, limits: Limits, allowed: Sequence[str] = ()) -> None:
    """Answer requests until told to stop (Ctrl-C, SIGTERM); then finish what is under way.

    Args:
        run: what to answer with, as in `classifier.load`.
        host: where to listen.
        port: where to listen.
        limits: what to take on.
        allowed: names that it answers to besides this machine's own and `host`.

    Raises:
        FlowersError: the port is taken, there is no such host, a name is none, or the model cannot be loaded.
    """
    hosts = known_hosts(host, allowed)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((host, port))
        except OSError as error:
            raise FlowersError(f"--host {host} --port {port}: {error.strerror}; name others") from None
    print(f"loading `{run}` ...", file=sys.stderr)
    if host not in LOCAL:
        print(
            f"--host {host}: whoever reaches this machine can send pictures; nothing asks for a password or encrypts. "
            "Put a web server that does both in front before strangers can reach it, and name it by --allow-host.",
            file=sys.stderr,
        )
    where = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    announced = f"page: http://{where}:{port}/   API: http://{where}:{port}/docs   stop: Ctrl-C\n"
    uvicorn.run(
        create_app(classification.load(run), limits, hosts, announced),
        host=host,
        port=port,
        http=partial(Connection, Connections(limits.queue + CONNECTIONS, limits.seconds)),
        ws="none",
        log_level="warning",
        proxy_headers=False,  # nothing here asks for a visitor's address; Gradio looks for the scheme itself
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )
