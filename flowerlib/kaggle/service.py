"""What we ask of Kaggle, through the official `kaggle` package: its credentials, its configuration, its requests.

The package answers a refusal with an ordinary return value, or prints it and exits 0; here each is an exception.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import requests
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.exceptions import HTTPError, RequestException

import flowerlib
from flowerlib.config import COMPETITION, FlowersError
from flowerlib.kaggle.build import CONTENT, READS, Built, code_digest, code_sources, write
from flowerlib.kaggle.kernels import WEIGHTS_SLUG

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

P, T = ParamSpec("P"), TypeVar("T")
LOGIN = "log in with `kaggle auth login`, or put an API token from kaggle.com/settings/api into KAGGLE_API_TOKEN"
ENDED_WELL, ENDED_BADLY = ("COMPLETE",), ("ERROR", "CANCEL_ACKNOWLEDGED")
# What to do where the answer to a submission was lost.
UNKNOWN = "look at your submissions on the competition's page; `flowerlib kaggle submit` submits it again"
SILENCE = 120.0  # seconds without a byte after which an answer is given up


class Unreachable(RuntimeError):
    """The network or the server is out of order for now; ask again later."""


class Busy(Unreachable):
    """Kaggle did not do what was asked, because it is asked too much; ask again later."""


class QueueFull(RuntimeError):
    """As many sessions run as Kaggle allows; ask again when one has ended."""


@dataclass(frozen=True)
class Remote:
    """The newest version of a kernel on Kaggle.

    Attributes:
        version: its number.
        content: the content hash in its notebook, None where there is none.
        reads: the versions of other kernels that its notebook says it was sent to read, as owner/slug/number.
        sources: what is attached to it: datasets and kernels as owner/slug, competitions as slug.
        code: the digest of its notebook's code, as `build.code_digest` makes it.
        last_run: when it was last run, in UTC, None where that is not known.
    """

    version: int
    content: str | None
    reads: tuple[str, ...]
    sources: frozenset[str]
    code: str
    last_run: datetime | None


@dataclass(frozen=True)
class Quota:
    """Hours of this week's accelerator time: left, all of them, and when the next week begins."""

    left: float
    total: float
    refresh: datetime | None


class _Impatient(HTTPAdapter):
    """Give up an answer after a while's silence: the package would wait for ever on a connection that died."""

    def send(self, request: PreparedRequest, **options: object) -> Response:
        return super().send(request, **options | {"timeout": options.get("timeout") or SILENCE})


def connect(*, renew: bool = False) -> "KaggleApi":
    """Return the package's API with the user's credentials.

    Args:
        renew: exchange the login for a new one first, where it is one that runs out; the package does so half an hour
            too late.

    Raises:
        FlowersError: there are none.
    """
    requests.sessions.HTTPAdapter = _Impatient  # in every session that the package opens, by its import already
    with redirect_stdout(io.StringIO()):  # without credentials, importing it prints a page
        from kaggle.api.kaggle_api_extended import KaggleApi
        from kagglesdk.kaggle_creds import KaggleCredentials

        api = KaggleApi()
        try:
            if renew:
                with api.build_kaggle_client() as client:
                    if login := KaggleCredentials.load(client):
                        login.refresh_access_token()
            api.authenticate()
        except SystemExit:
            api.config_values = {}
    if not api.config_values.get(api.CONFIG_NAME_USER):
        raise FlowersError(f"no Kaggle credentials: {LOGIN}")
    return api


def logged_in() -> str | None:
    """Return the user's name on Kaggle, None where nobody is logged in or Kaggle cannot be asked."""
    try:
        with _told():
            return connect().config_values["username"]
    except (FlowersError, RuntimeError):
        return None


@contextmanager
def _told() -> Iterator[None]:
    """Turn what the package raises into one line that says what to do."""
    try:
        yield
    except FlowersError:
        raise
    except HTTPError as error:
        raise _refusal(error, _code(error)) from None
    except RequestException as error:  # no connection, silence, or an answer that is cut or garbled
        raise Unreachable(f"Kaggle cannot be reached: {error}") from None
    except OSError as error:
        raise RuntimeError(f"{error}; make room, or name another folder") from None
    except ValueError as error:
        raise _refusal(error, _code(error)) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"Kaggle answers what the kaggle package does not understand: {error!r}") from error


def _refusal(error: Exception, code: int) -> Exception:
    if code == 401:
        return FlowersError(f"Kaggle refuses these credentials ({error}): {LOGIN}")
    if code == 429:
        return Busy(f"Kaggle is asked too much ({error})")
    if code >= 500:
        return Unreachable(f"Kaggle is out of order for now ({error})")
    return RuntimeError(f"Kaggle says: {error}")


def _code(error: Exception) -> int:
    """The HTTP status behind an error of the package, which turns some into a ValueError; 0 where there is none."""
    for cause in (error, error.__context__):
        if isinstance(cause, HTTPError) and cause.response is not None:
            return cause.response.status_code
    return 0


def _asking(method: Callable[Concatenate["Service", P], T]) -> Callable[Concatenate["Service", P], T]:
    """Have a method of `Service` tell errors as `_told` does, and log in once more where a login has run out."""

    @wraps(method)
    def asking(self: "Service", *arguments: P.args, **options: P.kwargs) -> T:
        with _told():
            try:
                return method(self, *arguments, **options)
            except (HTTPError, ValueError) as error:
                if _code(error) != 401:
                    raise
            self.api = connect(renew=True)
            return method(self, *arguments, **options)

    return asking


class Service:
    """Kaggle, for one user. Every method raises `Unreachable` where asking again may help, else an error to act on."""

    def __init__(self) -> None:
        with _told():
            self.api = connect()
        self.user: str = self.api.config_values["username"]

    @_asking
    def push(self, built: Built, seconds: int) -> int:
        """Send a kernel, which then runs for at most so many seconds; return its version.

        Raises:
            QueueFull: no version was made; it may be sent later.
            RuntimeError: Kaggle refused it, or dropped some of its inputs.
        """
        name = built.kernel.notebook
        with TemporaryDirectory() as place:
            write(built, folder := Path(place, name))
            answer = self.api.kernels_push(str(folder), timeout=str(seconds))
        if answer.error and re.search(r"session count of \d+ reached", answer.error):
            raise QueueFull(answer.error)
        if answer.error:
            raise RuntimeError(f"Kaggle refused {name}: {answer.error}")
        for kind in ("dataset", "competition", "kernel", "model"):
            if dropped := getattr(answer, f"invalid_{kind}_sources"):
                raise RuntimeError(
                    f"Kaggle started {name} without {kind} {', '.join(dropped)}, which it does not know or you "
                    f"may not use; stop it at {answer.url}, accept the competition's rules or make the source first"
                )
        return answer.version_number

    @_asking
    def remote(self, ref: str) -> Remote | None:
        """Return what Kaggle has of a kernel, None where it has none."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = ref.split("/")
        try:
            with self.api.build_kaggle_client() as client:
                answer = client.kernels.kernels_api_client.get_kernel(request)
        except HTTPError as error:
            if _code(error) in (403, 404):  # 403: nobody's, or another's
                return None
            raise
        metadata = answer.metadata
        notebook = _read_notebook(answer.blob.source)
        cell = next((source for source in code_sources(notebook)), "")
        content, reads = CONTENT.search(cell), READS.search(cell)
        attached = (
            *(metadata.dataset_data_sources or ()),
            *(metadata.kernel_data_sources or ()),
            *(metadata.competition_data_sources or ()),
        )
        return Remote(
            version=metadata.current_version_number,
            content=content and content[1],
            reads=tuple(reads[1].split()) if reads else (),
            sources=frozenset(attached),
            code=code_digest(notebook),
            last_run=metadata.last_run_time and metadata.last_run_time.replace(tzinfo=UTC),
        )

    @_asking
    def status(self, ref: str, version: int) -> tuple[str, str]:
        """Return the state of a version's run, such as RUNNING or COMPLETE, and what Kaggle says of a failure."""
        answer = self.api.kernels_status(f"{ref}/{version}")
        return answer.status.name, answer.failure_message or ""

    @_asking
    def output(self, ref: str, version: int, folder: Path, pattern: str | None = None) -> None:
        """Download what a version's run left, and its log, into a folder.

        Args:
            ref: owner and slug of the kernel.
            version: its number.
            folder: gets the files.
            pattern: a regular expression; only files whose name matches come. All unless given.
        """
        self.api.kernels_output(f"{ref}/{version}", str(folder), pattern, force=True, quiet=True, page_size=200)

    @_asking
    def log(self, ref: str, version: int) -> str:
        """Return what a version's run printed."""
        text = self.api.kernels_logs(f"{ref}/{version}")
        try:
            return "".join(entry["data"] for entry in json.loads(text))
        except (ValueError, TypeError, KeyError):
            return text

    @_asking
    def quota(self, kind: str) -> Quota | None:
        """Return this week's hours of `tpu` or `gpu`, None where Kaggle does not tell."""
        try:
            answer = self.api.quota_view()
        except HTTPError as error:
            if _code(error) in (403, 404):
                return None
            raise
        quota = getattr(answer, f"{kind}_quota")
        if quota is None or quota.total_time_allowed is None:
            return None
        total = quota.total_time_allowed / timedelta(hours=1)
        used = (quota.time_used or timedelta()) / timedelta(hours=1)
        return Quota(max(0.0, total - used), total, answer.quota_refresh_time)

    @_asking
    def submit(self, ref: str, version: int, message: str) -> str:
        """Submit the `submission.csv` of a kernel's version to the competition; return Kaggle's answer."""
        return self.api.competition_submit_code(
            "submission.csv", message, COMPETITION, ref, version, quiet=True
        ).message

    def require_datasets(self, metadata: Iterable[dict]) -> None:
        """Make sure that what kernels want attached is there.

        Raises:
            FlowersError: a dataset is not there, or not ready.
        """
        for ref in sorted({source for each in metadata for source in each["dataset_sources"]}):
            if (state := self.dataset_state(ref)) != "ready":
                remedy = "wait, or make it first"
                if ref.endswith(f"/{WEIGHTS_SLUG}"):
                    remedy = "`flowerlib kaggle weights-dataset` sends it, and `--online` does without it"
                raise FlowersError(f"the dataset {ref} is {state or 'not on Kaggle'}; {remedy}")

    @_asking
    def dataset_state(self, ref: str) -> str | None:
        """Return the state of a dataset, such as `ready` or `blobs_received`; None where there is none."""
        try:
            return self.api.dataset_status(ref)
        except HTTPError as error:
            if _code(error) in (403, 404):
                return None
            raise

    @_asking
    def send_dataset(self, folder: Path, files: Iterable[str], *, new: bool) -> None:
        """Upload files of a folder, described by its dataset-metadata.json, as a new dataset or a new version.

        Raises:
            RuntimeError: Kaggle refused it.
        """
        others = {path.name for path in folder.iterdir()} - set(files)
        options = {"ignore_patterns": [pattern for name in others for pattern in (escape(name), f"{escape(name)}/")]}
        if new:
            answer = self.api.dataset_create_new(str(folder), **options)
        else:
            answer = self.api.dataset_create_version(str(folder), f"flowerlib {flowerlib.__version__}", **options)
        if answer.error or (answer.status or "").lower() != "ok":
            why = answer.error or str(answer.status)
            again = "; it may just have been made: run the same command again" if "in use" in why else ""
            raise RuntimeError(f"Kaggle refused the dataset in {folder}: {why}{again}")


def _read_notebook(text: str) -> dict:
    """A notebook as JSON; one without cells where the text is none."""
    try:
        notebook = json.loads(text)
        code_sources(notebook)
    except (ValueError, TypeError, KeyError):
        return {"cells": []}
    return notebook
