"""Request limits: how many bytes a request may have, how long it may take, how many are processed at once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowerlib.config import FlowersError
from flowerlib.serving.metrics import Metrics

MAX_BUFFERED = 8  # bodies of the largest size that may be in memory at once: uploads are never written to disk
CLOSE = {"Connection": "close"}  # the rest of a request that is refused is not read


@dataclass(frozen=True)
class Limits:
    """What the service accepts.

    Attributes:
        bytes: of a request; `MAX_BUFFERED` times as many of all requests together.
        pixels: of an image, and of all that are decoded at one time.
        files: of a request.
        seconds: for a request to arrive, and again for its answer.
        queue: requests at once, and images at once; clients beyond that get 503.
    """

    bytes: int = 32_000_000
    pixels: int = 50_000_000
    files: int = 32
    seconds: float = 30.0
    queue: int = 256

    def __post_init__(self) -> None:
        if self.files > self.queue:
            raise FlowersError(f"`files` (={self.files}) must be at most `queue` (={self.queue}): a request must fit")


class Overloaded(HTTPException):
    """The service has no capacity left, and should have in `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        detail = f"server busy; try again in {retry_after} s"
        super().__init__(503, detail, CLOSE | {"Retry-After": str(retry_after)})


class RequestLimits:
    """ASGI middleware that applies `Limits` to POST requests, and counts them.

    Args:
        app: the application behind it.
        limits: what to accept.
        metrics: where requests are counted.
        retry_after: returns in how many seconds a client should try again.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, retry_after: Callable[[], int]) -> None:
        self._app, self._limits, self._metrics, self._retry_after = app, limits, metrics, retry_after
        self._requests = 0
        self._buffered = 0  # bytes of all bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        path, start = path if path == "/predict" else "other", time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, message["status"]).inc()
                self._metrics.seconds.labels(path).observe(time.perf_counter() - start)
            await send(message)

        try:
            await self._post(scope, receive, counted)
        except Exception:
            self._metrics.requests.labels(path, 500).inc()
            raise

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            _check_size(int(dict(scope["headers"]).get(b"content-length", 0)), self._limits)
            if self._requests >= self._limits.queue:
                raise Overloaded(self._retry_after())
        except HTTPException as refusal:
            answer = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
            return await answer(scope, receive, send)
        body = _Body(receive, self._limits, self._reserve)
        self._requests += 1
        try:
            await self._app(scope, body.receive, send)
        finally:
            self._requests -= 1
            self._buffered -= body.size

    def _reserve(self, count: int) -> None:
        """Reserve memory for so many bytes."""
        if self._buffered + count > MAX_BUFFERED * self._limits.bytes:
            raise Overloaded(self._retry_after())
        self._buffered += count


class _Body:
    """A request's body as it arrives: `receive` raises `HTTPException` once it exceeds a limit."""

    def __init__(self, receive: Receive, limits: Limits, reserve: Callable[[int], None]) -> None:
        self._receive, self._limits, self._reserve = receive, limits, reserve
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._complete = False
        self.size = 0

    async def receive(self) -> Message:
        """Return the next message."""
        if self._complete:
            return await self._receive()
        message = await self._next()
        count = len(message.get("body", b""))
        self._reserve(count)
        self.size += count
        _check_size(self.size, self._limits)
        self._complete = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            late = f"the request took longer than {self._limits.seconds:g} s to arrive"
            raise HTTPException(408, late, CLOSE) from None


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.bytes:
        too_large = f"the request has more than {limits.bytes:,} bytes; send fewer files, or smaller ones"
        raise HTTPException(413, too_large, CLOSE)
