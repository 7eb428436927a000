"""Connection limits: idle and stalled connections are closed, since each takes one of a process' few descriptors."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

REQUEST_TIMEOUTS = 3  # a request may take this many timeouts: one to arrive, one to be answered, one to be read


class Connections:
    """The open connections of a service.

    Args:
        max_open: at once. One more closes the one that has been idle longest, or itself where none is idle.
        seconds: that a request's head may take to arrive, from the connection's begin or the last answer's end.
    """

    def __init__(self, max_open: int, seconds: float) -> None:
        self.max_open, self.seconds = max_open, seconds
        self.open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # the one that has been idle longest is the first


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """One connection, with timeouts that uvicorn lacks: for a first request's head, and for reading an answer.

    `ConnectionTimeouts` finds it in a request's `scope["state"]["connection"]`.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state | {"connection": self}, _loop)
        self._connections = connections
        self._requests = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for a request; where too many connections are open, close one."""
        super().connection_made(transport)
        self._abort = transport.abort
        self._timer = self._close_in(self._connections.seconds)
        self._connections.open.add(self)
        self._connections.idle[self] = None
        if len(self._connections.open) > self._connections.max_open:
            next(iter(self._connections.idle))._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        super().connection_lost(exc)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Hold the connection open while a request on it is answered."""
        self._requests += 1
        self._connections.idle.pop(self, None)
        self._timer.cancel()
        self._timer = self._close_in(REQUEST_TIMEOUTS * self._connections.seconds)
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._become_idle()

    def _become_idle(self) -> None:
        if self in self._connections.open:
            self._connections.idle[self] = None
            self._timer.cancel()
            self._timer = self._close_in(self._connections.seconds)

    def _close_in(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._close)

    def _close(self) -> None:
        self._forget()
        self._abort()

    def _forget(self) -> None:
        self._timer.cancel()
        self._connections.open.discard(self)
        self._connections.idle.pop(self, None)


class ConnectionTimeouts:
    """ASGI middleware that marks a request's connection as busy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        connection = scope.get("state", {}).get("connection") if scope["type"] == "http" else None
        with connection.busy() if connection else nullcontext():
            await self._app(scope, receive, send)
