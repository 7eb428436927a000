"""Host and origin checks: pages of other sites must not use the service through the browser of whoever visits them.

With DNS rebinding a site lets its own name lead to this machine; its page may then read the answers, although the
service listens to this machine only. But its requests carry that name in `Host`. Addresses need no check: no name
leads to them. Without rebinding, what a page sends to another site carries its own name in `Origin`.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flowerlib.config import FlowersError
from flowerlib.serving.proxies import forwarded

NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.ASCII | re.IGNORECASE)
HOST = re.compile(rf"(?P<name>\[[0-9a-f:.]+\]|{NAME.pattern})(?P<port>:[0-9]+)?", re.ASCII | re.IGNORECASE)

SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class AllowedHosts:
    """The names that a service answers to, besides addresses and localhost; in lower case.

    Attributes:
        own: of this machine.
        extra: such as that of a reverse proxy; pages of these sites may use the service too.
        origins: other sites whose pages may use it.
    """

    own: frozenset[str]
    extra: frozenset[str]
    origins: frozenset[str] = frozenset()

    def refusal(self, headers: Sequence[tuple[bytes, bytes]], forwarded: str = "") -> str:
        """Return why a request with these headers is refused; an empty text where it is not.

        `forwarded` is the host that the client asked for, as a trusted proxy says. The proxy's own `Host` must be
        allowed too: a page whose name leads to this machine can send any header, but not another `Host`.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) > 1:
            return f"a request must have one `Host`, not {len(hosts)}"
        if hosts and not self.allows_host(hosts[0]):  # browsers always send it, health checks may not
            return f"`Host` (={hosts[0]}) is no name of this service; start it with --allow-host NAME if it should be"
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        asked = ["".join(hosts), forwarded] if self.allows_host(forwarded) else hosts
        if others := [origin for origin in origins if not self._allows_origin(origin, asked)]:
            remedy = "--allow-host NAME if a proxy shows it there, --allow-origin to let another site in"
            return f"`Origin` (={others[0]}) is another site; start the service with {remedy}"
        return ""

    def allows_host(self, host: str) -> bool:
        """Return whether the service answers to a host, with its port or without."""
        name, _ = _name_and_port(host)
        local = name == "localhost" or name.endswith(".localhost") or _is_address(name)
        return local or name in self.own | self.extra

    def _allows_origin(self, origin: str, hosts: Sequence[str]) -> bool:
        scheme, _, site = origin.partition("://")
        name, port = _name_and_port(site)
        is_same = bool(name) and (name, port) in map(_name_and_port, hosts)
        return origin in self.origins or (scheme in ("http", "https") and (is_same or name in self.extra))


def allowed_hosts(host: str = "localhost", extra: Sequence[str] = (), origins: Sequence[str] = ()) -> AllowedHosts:
    """Return this machine's names with the one that it listens at, and `extra` ones; and other sites.

    Raises:
        FlowersError: one of `extra` is no name, or one of `origins` is no origin.
    """
    if wrong := [name for name in extra if not NAME.fullmatch(name)]:
        raise FlowersError(f"`--allow-host` (={wrong[0]}) must be a name and no more, such as flowers.example")
    name = socket.gethostname()
    own = (name, f"{name.partition('.')[0]}.local", host)
    sites = frozenset(map(_origin, origins))
    return AllowedHosts(frozenset(map(_normalize, own)), frozenset(map(_normalize, extra)), sites)


def _origin(text: str) -> str:
    """Return an origin as browsers send it: in lower case, without the port that its scheme has anyway."""
    origin = text.lower().removesuffix("/")
    scheme, _, site = origin.partition("://")
    if not (SCHEME.fullmatch(scheme) and HOST.fullmatch(site)):
        raise FlowersError(f"`--allow-origin` (={text}) must be a site's scheme and name, such as https://shop.example")
    return origin.removesuffix(DEFAULT_PORTS.get(scheme, "/"))


class HostCheck:
    """ASGI middleware that refuses requests for other hosts or from other origins, and web sockets."""

    def __init__(self, app: ASGIApp, allowed: AllowedHosts) -> None:
        self._app, self._allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "websocket":  # no endpoint speaks over one
            return await send({"type": "websocket.close"})
        if scope["type"] == "http":
            asked = forwarded(scope, "host")
            if refusal := self._allowed.refusal(scope["headers"], asked):
                answer = JSONResponse({"detail": refusal}, 403, {"Connection": "close"})
                return await answer(scope, receive, send)
            if asked and self._allowed.allows_host(asked):  # what addresses in answers begin with
                others = [(name, value) for name, value in scope["headers"] if name != b"host"]
                scope = {**scope, "headers": [*others, (b"host", asked.encode("latin-1"))]}
        await self._app(scope, receive, send)


def _name_and_port(host: str) -> tuple[str, str]:
    """Return name and port; empty texts for what is neither."""
    found = HOST.fullmatch(host)
    return (_normalize(found["name"]), found["port"] or "") if found else ("", "")


def _normalize(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
