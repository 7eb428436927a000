"""The web service assembled: the API, its documentation, the page, and the server that runs them."""

import asyncio
import math
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from flowerlib import __version__
from flowerlib.config import FlowersError
from flowerlib.photos import classification
from flowerlib.photos.classification import Classifier
from flowerlib.serving import proxies
from flowerlib.serving.batching import DynamicBatcher
from flowerlib.serving.connections import Connection, Connections, ConnectionTimeouts
from flowerlib.serving.errors import explain
from flowerlib.serving.headers import SecurityHeaders, policy_with_inline_scripts
from flowerlib.serving.hosts import AllowedHosts, HostCheck, allowed_hosts
from flowerlib.serving.limits import Limits, RequestLimits
from flowerlib.serving.metrics import Metrics
from flowerlib.serving.proxies import LOCAL_PEERS, RootPath
from flowerlib.serving.routes import Service, router

STATIC = Path(__file__).parent / "static"
SWAGGER_UI = "/static-offline-docs"
SPARE_CONNECTIONS = 128  # besides those whose requests are under way: who reads, and browsers that keep six each
LOCAL = ("127.0.0.1", "localhost", "::1")
MultiPartParser.spool_max_size = 0  # never: uploads stay in memory, which `Limits.bytes` bounds


def create_app(
    classifier: Classifier,
    limits: Limits | None = None,
    allowed: AllowedHosts | None = None,
    announcement: str = "",
    root_path: str = "",
) -> FastAPI:
    """Return the service: `POST /predict`, `/healthz`, `/model`, `/metrics`, `/docs`, and the page at `/`.

    Args:
        classifier: the model that is served.
        limits: what it accepts; `Limits()` unless given.
        allowed: the names it answers to; this machine's unless given.
        announcement: what to print once it can answer.
        root_path: below which a reverse proxy shows the service, such as `/flowers`.

    Raises:
        FlowersError: `root_path` begins as a path of the service does.
    """
    limits, metrics, allowed = limits or Limits(), Metrics(), allowed or allowed_hosts()
    batcher = DynamicBatcher(classifier, limits, metrics)
    app = FastAPIOffline(  # with Swagger UI's files, which FastAPI alone would have a browser fetch from elsewhere
        title="flowerlib",
        summary="Classifies photographs.",
        version=__version__,
        lifespan=_lifespan(batcher, announcement),
        docs_url=None,
        static_url=SWAGGER_UI,
    )
    app.state.service = Service(classifier, batcher, limits, metrics)
    app.include_router(router)
    _add_pages(app)
    _require_other_path(app, root_path)
    app.add_exception_handler(HTTPException, explain)
    app.add_exception_handler(RequestValidationError, explain)
    # The last one added sees a request first.
    app.add_middleware(RequestLimits, limits=limits, metrics=metrics, retry_after=batcher.retry_after)
    app.add_middleware(HeadAsGet)
    if allowed.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(allowed.origins),
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=("Retry-After",),
        )
    app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[*LOCAL_PEERS])
    app.add_middleware(RootPath, root_path=root_path)
    app.add_middleware(HostCheck, allowed=allowed)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(ConnectionTimeouts)
    return app


def _lifespan(batcher: DynamicBatcher, announcement: str) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what runs batches from the service's start to its end."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.warm_up()
        app.state.batching = asyncio.create_task(batcher.run())
        print(announcement, end="", flush=True)
        yield
        app.state.batching.cancel()
        batcher.close()

    return lifespan


def _add_pages(app: FastAPI) -> None:
    """Add the page at `/`, and the API's documentation at `/docs`."""
    documentation = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url=f"{SWAGGER_UI[1:]}/swagger-ui-bundle.js",
        swagger_css_url=f"{SWAGGER_UI[1:]}/swagger-ui.css",
        swagger_favicon_url="static/favicon.svg",
    )
    policy = policy_with_inline_scripts(bytes(documentation.body).decode())

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(documentation.body, headers={"Content-Security-Policy": policy})

    app.mount("/static", StaticFiles(directory=STATIC))


def _require_other_path(app: FastAPI, root_path: str) -> None:
    """Raise `FlowersError` where it would be open whether a proxy has stripped a path's beginning."""
    own = {f"{getattr(route, 'path', '')}/".split("/")[1] for route in (*app.routes, *router.routes)}
    if root_path and root_path.split("/")[1] in own:
        raise FlowersError(f"`--root-path` (={root_path}) is a path of the service itself; name another one")


class HeadAsGet:
    """ASGI middleware that answers HEAD as GET, of which the server then leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        method = {"method": "GET"} if scope.get("method") == "HEAD" else {}
        await self._app({**scope, **method}, receive, send)


def serve(
    run: Path,
    host: str,
    port: int,
    limits: Limits,
    extra_hosts: Sequence[str] = (),
    origins: Sequence[str] = (),
    root_path: str = "",
) -> None:
    """Answer requests until told to stop (Ctrl-C, SIGTERM); then finish those under way.

    Args:
        run: the model's run, as in `classification.load`.
        host: where to listen.
        port: where to listen.
        limits: what to accept.
        extra_hosts: names that it answers to besides this machine's own and `host`.
        origins: sites whose pages may use it, such as `https://shop.example`.
        root_path: below which a reverse proxy shows it, such as `/flowers`.

    Raises:
        FlowersError: the port is taken, there is no such host, a name is none, or the model cannot be loaded.
    """
    allowed, root_path = allowed_hosts(host, extra_hosts, origins), proxies.root_path(root_path)
    _check_port(host, port)
    print(f"loading `{run}` ...", file=sys.stderr)
    if host not in LOCAL:
        print(
            f"--host {host}: whoever reaches this machine can send pictures; nothing asks for a password or encrypts. "
            "Put a web server that does both in front before strangers can reach it, and name it by --allow-host.",
            file=sys.stderr,
        )
    where = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    address = f"http://{where}:{port}{root_path}"
    announcement = f"page: {address}/   API: {address}/docs   stop: Ctrl-C\n"
    uvicorn.run(
        create_app(classification.load(run), limits, allowed, announcement, root_path),
        host=host,
        port=port,
        http=cast(Any, partial(Connection, Connections(limits.queue + SPARE_CONNECTIONS, limits.seconds))),
        ws="none",
        log_level="warning",
        proxy_headers=False,  # `create_app` adds them, behind the check of hosts
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )


def _check_port(host: str, port: int) -> None:
    """Raise `FlowersError` where the port cannot be listened at: before the model is loaded, which takes seconds."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FlowersError(f"--host {host} --port {port}: {error.strerror}; name others") from None
