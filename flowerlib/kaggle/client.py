"""Log in to Kaggle with the official `kaggle` package, and limit how long its requests may hang.

The one place that relies on a private part of the package: the session of its HTTP client, which has no public handle.
"""

import io
import json
import os
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from flowerlib.config import FlowersError
from flowerlib.kaggle.errors import LOGIN_HINT, readable_errors

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.kaggle_http_client import KaggleHttpClient

READ_TIMEOUT = 120.0  # seconds without a byte from Kaggle
SEEN_WITH = "0.1.38"  # the version of kagglesdk whose HTTP client this was written for


class _TimeoutAdapter(HTTPAdapter):
    """Give up a request after `READ_TIMEOUT` of silence: the package would wait for ever on a dead connection."""

    def send(self, request: PreparedRequest, *arguments: Any, **options: Any) -> Response:
        return super().send(request, *arguments, **options | {"timeout": options.get("timeout") or READ_TIMEOUT})


@cache
def set_read_timeout() -> None:
    """Mount `_TimeoutAdapter` on every session that the Kaggle SDK opens, the one of its login at import included."""
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    open_session = KaggleHttpClient.__enter__

    def open_session_with_timeout(client: "KaggleHttpClient") -> "KaggleHttpClient":
        open_session(client)
        session = getattr(client, "_session", None)
        if not isinstance(session, Session):
            raise RuntimeError(
                f"kagglesdk {version('kagglesdk')} has no `KaggleHttpClient._session` as {SEEN_WITH} had, so requests "
                f"cannot be given a timeout: pip install kagglesdk=={SEEN_WITH}, or adapt flowerlib/kaggle/client.py"
            )
        for scheme in ("http://", "https://"):
            session.mount(scheme, _TimeoutAdapter())
        return client

    KaggleHttpClient.__enter__ = open_session_with_timeout


def connect(*, renew: bool = False) -> "KaggleApi":
    """Return the package's API with the user's credentials.

    Args:
        renew: first exchange a login that expires for a new one; the package itself does so half an hour too late.

    Raises:
        FlowersError: there are no credentials, or their file is damaged.
    """
    set_read_timeout()
    try:
        with redirect_stdout(io.StringIO()):  # without credentials, importing the package prints a page
            api = _authenticated(renew)
    except (TypeError, AttributeError, ValueError):
        _require_sound_file()
        raise
    if not api.config_values.get(api.CONFIG_NAME_USER):
        _require_sound_file()
        raise FlowersError(f"no Kaggle credentials: {LOGIN_HINT}")
    return api


def _authenticated(renew: bool) -> "KaggleApi":
    from kaggle.api.kaggle_api_extended import KaggleApi

    api = KaggleApi()
    try:
        if renew:
            _renew_login(api)
        api.authenticate()
    except SystemExit:
        api.config_values = {}
    return api


def _require_sound_file() -> None:
    """Refuse a `kaggle.json` that holds no credentials; the package passes over one without a word."""
    home = Path.home()
    folders = [Path(os.environ.get("KAGGLE_CONFIG_DIR") or home / ".kaggle"), home / ".config/kaggle"]
    for path in (folder / "kaggle.json" for folder in folders):
        if not path.exists():
            continue
        content, reason = None, "username and key are missing"
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            reason = str(error)
        if not isinstance(content, dict) or not {"username", "key"} <= content.keys():
            raise FlowersError(f"`{path}` is damaged ({' '.join(reason.split())}); remove it, and {LOGIN_HINT}")


def _renew_login(api: "KaggleApi") -> None:
    from kagglesdk.kaggle_creds import KaggleCredentials

    with api.build_kaggle_client() as client:
        if login := KaggleCredentials.load(client):
            login.refresh_access_token()


def logged_in_user() -> str | None:
    """Return the user's name on Kaggle; None if nobody is logged in or Kaggle cannot be reached."""
    try:
        with readable_errors():
            api = connect()
            return api.config_values[api.CONFIG_NAME_USER]
    except (FlowersError, RuntimeError):
        return None
