"""Behind a reverse proxy: a prefix of the path that the proxy strips or passes on, and what it tells of the client.

Headers that begin with `X-Forwarded-` are believed of a proxy on this machine only: others may send them too.
"""

import re

from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flowerlib.config import FlowersError

LOCAL_PEERS = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
ROOT_PATH = re.compile(r"(/[a-z0-9._~-]+)*", re.ASCII | re.IGNORECASE)


def root_path(text: str) -> str:
    """Return the path below which a service is reached, such as `/flowers`; an empty text if it is none.

    Raises:
        FlowersError: it is no path.
    """
    path = "/" + text.strip("/") if text.strip("/") else ""
    if not ROOT_PATH.fullmatch(path):
        raise FlowersError(f"`--root-path` (={text}) must be a path, such as /flowers")
    return path


def forwarded(scope: Scope, what: str) -> str:
    """Return what a proxy on this machine says in `X-Forwarded-<what>`; of several proxies, the outermost."""
    if (scope.get("client") or ("",))[0] not in LOCAL_PEERS:
        return ""
    return Headers(scope=scope).get(f"x-forwarded-{what}", "").partition(",")[0].strip()


class RootPath:
    """ASGI middleware for a service below a path: each request's path begins with it, stripped by a proxy or not."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; lead one for the path without its last slash, below which the page's files are, to it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        prefix = forwarded(scope, "prefix").rstrip("/")
        prefix = prefix if prefix and ROOT_PATH.fullmatch(prefix) else self._root_path
        path = "/" + scope["path"].lstrip("/")  # a proxy may strip a slash too few
        if prefix and path == prefix:
            return await RedirectResponse(f"{prefix}/")(scope, receive, send)
        path = path if path.startswith(f"{prefix}/") else prefix + path
        await self._app({**scope, "root_path": prefix, "path": path}, receive, send)
