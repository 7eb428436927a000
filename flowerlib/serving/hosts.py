"""Whom a request takes the service for: the page of another site must not use it through the browser of who visits it.

A site may have its own name point at this machine (DNS rebinding); its page then reads what it asks here, although the
service listens to this machine only. But its requests tell that name in `Host`. Addresses need no check: no name leads
to them. What a page sends to another site without rebinding tells its own in `Origin`.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from flowerlib.config import FlowersError

NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?", re.ASCII | re.IGNORECASE)
HOST = re.compile(rf"(?P<name>\[[0-9a-f:.]+\]|{NAME.pattern})(?P<port>:[0-9]+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Hosts:
    """The names that a service answers to, besides addresses and localhost; in lower case.

    Attributes:
        own: of this machine.
        given: others, such as that of a web server in front; also of sites whose pages may use the service.
    """

    own: frozenset[str]
    given: frozenset[str]

    def refusal(self, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return why a request with these headers is refused; an empty text where it is not."""
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) > 1:
            return f"a request must have one `Host`, not {len(hosts)}"
        if hosts and not self._answers_to(hosts[0]):  # browsers tell it always, load balancers' checks may not
            return f"`Host` (={hosts[0]}) is no name of this service; start it with --allow-host NAME if it should be"
        origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        if strangers := [origin for origin in origins if not self._lets_in(origin, "".join(hosts))]:
            return f"`Origin` (={strangers[0]}) is another site; start the service with --allow-host NAME to let it in"
        return ""

    def _answers_to(self, host: str) -> bool:
        name, _ = _parts(host)
        local = name == "localhost" or name.endswith(".localhost") or _is_address(name)
        return local or name in self.own | self.given

    def _lets_in(self, origin: str, host: str) -> bool:
        scheme, _, site = origin.partition("://")
        name, port = _parts(site)
        return scheme in ("http", "https") and ((name, port) == _parts(host) or name in self.given)


def known_hosts(host: str = "localhost", given: Sequence[str] = ()) -> Hosts:
    """Return this machine's names, with that which it listens at, and the names given.

    Raises:
        FlowersError: one that is given is no name.
    """
    if wrong := [name for name in given if not NAME.fullmatch(name)]:
        raise FlowersError(f"`--allow-host` (={wrong[0]}) must be a name and no more, such as flowers.example")
    name = socket.gethostname()
    own = (name, f"{name.partition('.')[0]}.local", host)
    return Hosts(frozenset(map(_plain, own)), frozenset(map(_plain, given)))


def _parts(host: str) -> tuple[str, str]:
    """Return name and port; empty texts for what is neither."""
    found = HOST.fullmatch(host)
    return (_plain(found["name"]), found["port"] or "") if found else ("", "")


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
