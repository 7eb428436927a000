"""Connections that come to nothing are closed: each takes a descriptor, of which a process has about a thousand."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from uvicorn import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

LONGEST = 3  # times as long as a request may take to arrive: so long again to be answered, and to be taken in


class Connections:
    """The open connections of a service.

    Args:
        most: of them at once. One more ends the one that waits longest for a request, or itself where none waits.
        seconds: that a request's head may take to arrive, from the connection's begin or the last answer's end.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self.open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # who waits longest is the first


class Connection(AutoHTTPProtocol):
    """One of them. uvicorn itself waits for ever for the head of a first request, and for answers to be taken in.

    Applications find it in a request's `scope["state"]` by the name `connection`, and say while they are `answering`.
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
        self._all = connections
        self._under_way = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to wait for a request, where there is room."""
        super().connection_made(transport)
        self._abort = transport.abort
        self._timer = self._end_in(self._all.seconds)
        self._all.open.add(self)
        self._all.idle[self] = None
        if len(self._all.open) > self._all.most:
            next(iter(self._all.idle))._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget()
        super().connection_lost(exc)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While this lasts, a request has arrived and is answered."""
        self._under_way += 1
        self._all.idle.pop(self, None)
        self._timer.cancel()
        self._timer = self._end_in(LONGEST * self._all.seconds)
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._wait()

    def _wait(self) -> None:
        if self in self._all.open:
            self._all.idle[self] = None
            self._timer.cancel()
            self._timer = self._end_in(self._all.seconds)

    def _end_in(self, seconds: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._forget()
        self._abort()

    def _forget(self) -> None:
        self._timer.cancel()
        self._all.open.discard(self)
        self._all.idle.pop(self, None)
