"""What we ask of Kaggle, through the official `kaggle` package: its credentials, its configuration, its requests.

The package answers a refusal with an ordinary return value, or prints it and exits 0; here each is an exception.
"""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from zipfile import BadZipFile, ZipFile

from requests.exceptions import HTTPError, RequestException

import flowerlib
from flowerlib.config import COMPETITION, FlowersError
from flowerlib.kaggle.build import CONTENT

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

P, T = ParamSpec("P"), TypeVar("T")
LOGIN = "log in with `kaggle auth login`, or put an API token from kaggle.com/settings/api into KAGGLE_API_TOKEN"
ENDED_WELL, ENDED_BADLY = ("COMPLETE",), ("ERROR", "CANCEL_ACKNOWLEDGED")


class Unreachable(RuntimeError):
    """The network or the server is out of order for now; ask again later."""


class QueueFull(RuntimeError):
    """As many sessions run as Kaggle allows; ask again when one has ended."""


@dataclass(frozen=True)
class Remote:
    """The newest version of a kernel on Kaggle: its number, the content hash in its notebook, when it was last run."""

    version: int
    content: str | None
    last_run: datetime | None


@dataclass(frozen=True)
class Quota:
    """Hours of this week's accelerator time: left, all of them, and when the next week begins."""

    left: float
    total: float
    refresh: datetime | None


def connect() -> "KaggleApi":
    """Return the package's API with the user's credentials.

    Raises:
        FlowersError: there are none.
    """
    with redirect_stdout(io.StringIO()):  # without credentials, importing it prints a page
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        try:
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
        code = 0 if error.response is None else error.response.status_code
        if code == 401:
            raise FlowersError(f"Kaggle refuses these credentials ({error}): {LOGIN}") from None
        if code == 429 or code >= 500:
            raise Unreachable(f"Kaggle is out of order for now ({error})") from None
        raise RuntimeError(f"Kaggle says: {error}") from None
    except RequestException as error:  # no connection, silence, or an answer that is cut or garbled
        raise Unreachable(f"Kaggle cannot be reached: {error}") from None
    except ValueError as error:
        raise RuntimeError(f"Kaggle says: {error}") from None


def _asking(method: Callable[P, T]) -> Callable[P, T]:
    @wraps(method)
    def asking(*arguments: P.args, **options: P.kwargs) -> T:
        with _told():
            return method(*arguments, **options)

    return asking


class Service:
    """Kaggle, for one user. Every method raises `Unreachable` where asking again may help, else an error to act on."""

    def __init__(self) -> None:
        with _told():
            self.api = connect()
        self.user: str = self.api.config_values["username"]

    @_asking
    def push(self, folder: Path, seconds: int) -> int:
        """Send a built kernel, which then runs for at most so many seconds; return its version.

        Raises:
            QueueFull: no version was made; it may be sent later.
            RuntimeError: Kaggle refused it, or dropped some of its inputs.
        """
        answer = self.api.kernels_push(str(folder), timeout=str(seconds))
        if answer.error and re.search(r"session count of \d+ reached", answer.error):
            raise QueueFull(answer.error)
        if answer.error:
            raise RuntimeError(f"Kaggle refused {folder.name}: {answer.error}")
        for kind in ("dataset", "competition", "kernel", "model"):
            if dropped := getattr(answer, f"invalid_{kind}_sources"):
                raise RuntimeError(
                    f"Kaggle started {folder.name} without {kind} {', '.join(dropped)}, which it does not know or you "
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
            if error.response is not None and error.response.status_code in (403, 404):  # 403: nobody's, or another's
                return None
            raise
        found = CONTENT.search(_first_code(answer.blob.source))
        last_run = answer.metadata.last_run_time
        return Remote(answer.metadata.current_version_number, found and found[1], last_run)

    @_asking
    def status(self, ref: str, version: int) -> tuple[str, str]:
        """Return the state of a version's run, such as RUNNING or COMPLETE, and what Kaggle says of a failure."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        request = ApiGetKernelSessionStatusRequest()
        request.user_name, request.kernel_slug = ref.split("/")
        request.version_label = f"v{version}"  # before release 2.2.5 `kernels_status` asks for the newest version only
        with self.api.build_kaggle_client() as client:
            answer = client.kernels.kernels_api_client.get_kernel_session_status(request)
        return answer.status.name, answer.failure_message or ""

    @_asking
    def output(self, ref: str, version: int, folder: Path) -> None:
        """Download all that a version's run left, and its log, into a folder.

        Before release 2.2.5 the package gives what the newest version left, and saves a server's error page as if it
        were the file.

        Raises:
            Unreachable: a file did not come whole.
        """
        self.api.kernels_output(f"{ref}/{version}", str(folder), force=True, quiet=True, page_size=200)
        for path in folder.rglob("*"):
            if path.is_file() and not _whole(path):
                raise Unreachable(f"{path.name} of {ref} did not come whole")

    @_asking
    def log(self, ref: str, version: int) -> str:
        """Return what a version's run printed; before release 2.2.5 of the package, what the newest printed."""
        text = self.api.kernels_logs(f"{ref}/{version}")
        try:
            return "".join(entry["data"] for entry in json.loads(text))
        except (ValueError, TypeError, KeyError):
            return text

    @_asking
    def quota(self, kind: str) -> Quota | None:
        """Return this week's hours of `tpu` or `gpu`, None where Kaggle does not tell."""
        answer = self.api.quota_view()
        quota = getattr(answer, f"{kind}_quota")
        if quota is None:
            return None
        used, total = (time.total_seconds() / 3600 for time in (quota.time_used, quota.total_time_allowed))
        return Quota(max(0.0, total - used), total, answer.quota_refresh_time)

    @_asking
    def submit(self, ref: str, version: int, message: str) -> str:
        """Submit the `submission.csv` of a kernel's version to the competition; return Kaggle's answer.

        Raises:
            RuntimeError: it left none, or Kaggle refused it.
        """
        with TemporaryDirectory() as folder:
            self.api.kernels_output(f"{ref}/{version}", folder, r"^submission\.csv$", force=True, page_size=200)
            path = Path(folder, "submission.csv")
            if not path.exists() or not _whole(path):
                raise RuntimeError(f"version {version} of {ref} left no submission.csv")
        answer = self.api.competition_submit_code("submission.csv", message, COMPETITION, ref, version, quiet=True)
        return answer.message

    def require_datasets(self, metadata: Iterable[dict]) -> None:
        """Make sure that what kernels want attached is there.

        Raises:
            FlowersError: a dataset is not there, or not ready.
        """
        for ref in sorted({source for each in metadata for source in each["dataset_sources"]}):
            if (state := self.dataset_state(ref)) != "ready":
                raise FlowersError(
                    f"the dataset {ref} is {state or 'not on Kaggle'}; `flowerlib kaggle weights-dataset` sends "
                    "the pretrained weights, and `--online` does without it"
                )

    @_asking
    def dataset_state(self, ref: str) -> str | None:
        """Return the state of a dataset, such as `ready` or `blobs_received`; None where there is none."""
        try:
            return self.api.dataset_status(ref)
        except HTTPError as error:
            if error.response is not None and error.response.status_code in (403, 404):
                return None
            raise

    @_asking
    def send_dataset(self, folder: Path, *, new: bool) -> None:
        """Upload the files of a folder, described by its dataset-metadata.json, as a new dataset or a new version.

        Raises:
            RuntimeError: Kaggle refused it.
        """
        if new:
            answer = self.api.dataset_create_new(str(folder))
        else:
            answer = self.api.dataset_create_version(str(folder), f"flowerlib {flowerlib.__version__}")
        if answer.error or (answer.status or "").lower() != "ok":
            raise RuntimeError(f"Kaggle refused the dataset in {folder}: {answer.error or answer.status}")

    @_asking
    def dataset_files(self, ref: str) -> dict[str, int]:
        """Return the files of a dataset, at most 200, name -> bytes."""
        return {file.name: file.total_bytes for file in self.api.dataset_list_files(ref, page_size=200).files}


def _whole(path: Path) -> bool:
    """Whether a file is what its name says, for the kinds of files that a run leaves."""
    try:
        if path.suffix in (".npz", ".keras"):
            with ZipFile(path) as archive:
                return archive.testzip() is None
        if path.suffix in (".json", ".ipynb"):
            json.loads(path.read_bytes())
        return path.name != "submission.csv" or path.read_bytes().startswith(b"id,label\n")
    except (ValueError, BadZipFile):
        return False


def _first_code(notebook: str) -> str:
    """The source of a notebook's first code cell, empty where there is none."""
    try:
        cells = json.loads(notebook)["cells"]
        return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    except (ValueError, TypeError, KeyError, StopIteration):
        return ""
