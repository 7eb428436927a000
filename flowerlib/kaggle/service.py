"""Requests to Kaggle for one user, through the official `kaggle` package; every refusal is an exception."""

import io
import json
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from requests.exceptions import HTTPError

import flowerlib
from flowerlib.config import COMPETITION, FlowersError
from flowerlib.kaggle.build import BuiltKernel, write
from flowerlib.kaggle.client import connect
from flowerlib.kaggle.errors import RateLimited, is_missing, naming_the_rules, readable_errors, refusal, status_code
from flowerlib.kaggle.kernels import WEIGHTS_SLUG
from flowerlib.kaggle.remote import RemoteKernel

if TYPE_CHECKING:
    from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelResponse

P = ParamSpec("P")
T = TypeVar("T")
COMPLETE_STATES = ("COMPLETE",)
FAILED_STATES = ("ERROR", "CANCEL_ACKNOWLEDGED")
PAGE_SIZE = 200  # output files per request
SOURCE_KINDS = ("dataset", "competition", "kernel", "model")


@dataclass(frozen=True)
class Quota:
    """This week's hours of accelerator time.

    Attributes:
        remaining: what may be used yet.
        reserved: what running sessions have set aside, which is not among the remaining.
        total: all of them.
        refresh: when the next week begins.
    """

    remaining: float
    reserved: float
    total: float
    refresh: datetime | None


def _request(method: Callable[Concatenate["Service", P], T]) -> Callable[Concatenate["Service", P], T]:
    """Give a method of `Service` readable errors, and one more attempt after renewing a login that has expired."""

    @wraps(method)
    def request(self: "Service", *arguments: P.args, **options: P.kwargs) -> T:
        with readable_errors():
            try:
                return method(self, *arguments, **options)
            except (HTTPError, ValueError) as error:
                if status_code(error) != 401:
                    raise
            self.api = connect(renew=True)
            return method(self, *arguments, **options)

    return request


class Service:
    """Kaggle, for one user. Every method raises `Unreachable` if trying again may help, else an error to act on."""

    def __init__(self) -> None:
        with readable_errors():
            self.api = connect()
        self.user: str = self.api.config_values[self.api.CONFIG_NAME_USER]

    @_request
    def push(self, built: BuiltKernel, timeout: int) -> int:
        """Push a kernel, which then runs for at most `timeout` seconds; return its version.

        Raises:
            QueueFull: no version was made; push it again later.
            RuntimeError: Kaggle refused it, or dropped some of its sources, or has no quota left.
        """
        name = built.kernel.notebook
        with TemporaryDirectory() as temporary:
            write(built, folder := Path(temporary, name))
            response = self.api.kernels_push(str(folder), timeout=str(timeout))
        if response.error:
            raise refusal(response.error, speaker=f"Kaggle refused {name}")
        _require_all_sources(name, response)
        return response.version_number

    @_request
    def newest_version(self, ref: str) -> RemoteKernel | None:
        """Return the newest version of a kernel on Kaggle, None if there is none."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = ref.split("/")
        try:
            with self.api.build_kaggle_client() as client:
                response = client.kernels.kernels_api_client.get_kernel(request)
        except HTTPError as error:
            if is_missing(error):
                return None
            raise
        return RemoteKernel.from_response(response)

    @_request
    def status(self, ref: str, version: int) -> tuple[str, str]:
        """Return the state of a version's run, such as RUNNING or COMPLETE, and Kaggle's message about a failure."""
        response = self.api.kernels_status(f"{ref}/{version}")
        return response.status.name, response.failure_message or ""

    @_request
    def delete(self, ref: str) -> None:
        """Delete a kernel, with all its versions and their outputs; that ends its sessions.

        Kaggle answers alike of a kernel that is gone and of one that may not be deleted: look for it afterwards.
        """
        try:
            with redirect_stdout(io.StringIO()):  # the package says so itself
                self.api.kernels_delete(ref, no_confirm=True)
        except HTTPError as error:
            if not is_missing(error):
                raise

    @_request
    def output(self, ref: str, version: int, folder: Path, pattern: str | None = None) -> None:
        """Download the output files and the log of a version's run.

        Args:
            ref: owner and slug of the kernel.
            version: its number.
            folder: gets the files.
            pattern: a regular expression that the names of the files must match; all unless given.
        """
        options = {"force": True, "quiet": True, "page_size": PAGE_SIZE}
        self.api.kernels_output(f"{ref}/{version}", str(folder), pattern, **options)

    @_request
    def log(self, ref: str, version: int) -> str:
        """Return what a version's run printed."""
        text = self.api.kernels_logs(f"{ref}/{version}")
        try:
            return "".join(entry["data"] for entry in json.loads(text))
        except (ValueError, TypeError, KeyError):
            return text

    @_request
    def quota(self, kind: str) -> Quota | None:
        """Return this week's hours of `tpu` or `gpu`, None if Kaggle does not tell."""
        try:
            response = self.api.quota_view()
        except HTTPError as error:
            if is_missing(error):
                return None
            raise
        quota = getattr(response, f"{kind}_quota")
        if quota is None or quota.total_time_allowed is None:
            return None
        total = quota.total_time_allowed / timedelta(hours=1)
        used, reserved = ((time or timedelta()) / timedelta(hours=1) for time in (quota.time_used, quota.time_reserved))
        return Quota(max(0.0, total - used - reserved), reserved, total, response.quota_refresh_time)

    @_request
    def submit(self, ref: str, version: int, message: str) -> str:
        """Submit the `submission.csv` of a kernel's version to the competition; return Kaggle's response."""
        options = {"quiet": True}
        return self.api.competition_submit_code("submission.csv", message, COMPETITION, ref, version, **options).message

    @_request
    def competition_files(self) -> dict[str, int]:
        """Return the paths of the competition's files, with their sizes in bytes."""
        files: dict[str, int] = {}
        token = None
        with naming_the_rules():
            while True:
                response = self.api.competition_list_files(COMPETITION, token, PAGE_SIZE)
                files |= {file.name: file.total_bytes for file in response.files or () if file}
                if not (token := response.next_page_token):
                    return files

    @_request
    def download_competition_file(self, path: str, folder: Path) -> Path:
        """Download one of the competition's files to its path below a folder; one that was cut off goes on there.

        Raises:
            RateLimited: Kaggle answered with something else.
        """
        with naming_the_rules():
            self.api.competition_download_file(COMPETITION, path, str(folder), quiet=True, unzip=True)
        if not (folder / path).exists():
            raise RateLimited(f"Kaggle answered with a page instead of {path}")
        return folder / path

    def require_datasets(self, metadata: Iterable[dict]) -> None:
        """Make sure that the datasets in the metadata of kernels can be attached.

        Raises:
            FlowersError: a dataset does not exist, or is not ready.
        """
        for ref in sorted({source for kernel in metadata for source in kernel["dataset_sources"]}):
            if (state := self.dataset_state(ref)) != "ready":
                remedy = "wait, or make it first"
                if ref.endswith(f"/{WEIGHTS_SLUG}"):
                    remedy = "`flowerlib kaggle weights-dataset` uploads it, and `--online` does without it"
                raise FlowersError(f"the dataset {ref} is {state or 'not on Kaggle'}; {remedy}")

    @_request
    def dataset_state(self, ref: str) -> str | None:
        """Return the state of a dataset, such as `ready` or `blobs_received`; None if there is none."""
        try:
            return self.api.dataset_status(ref)
        except HTTPError as error:
            if is_missing(error):
                return None
            raise

    @_request
    def upload_dataset(self, folder: Path, files: Iterable[str], *, new: bool) -> None:
        """Upload files of a folder, described by its dataset-metadata.json, as a new dataset or a new version.

        Raises:
            RuntimeError: Kaggle refused it.
        """
        others = {path.name for path in folder.iterdir()} - set(files)
        options = {"ignore_patterns": [pattern for name in others for pattern in (escape(name), f"{escape(name)}/")]}
        if new:
            response = self.api.dataset_create_new(str(folder), **options)
        else:
            response = self.api.dataset_create_version(str(folder), f"flowerlib {flowerlib.__version__}", **options)
        if response.error or (response.status or "").lower() != "ok":
            reason = response.error or str(response.status)
            remedy = "; it may just have been made: run the same command again" if "in use" in reason else ""
            raise RuntimeError(f"Kaggle refused the dataset in {folder}: {reason}{remedy}")


def _require_all_sources(name: str, response: "ApiSaveKernelResponse") -> None:
    """Refuse a kernel that Kaggle started without some of its sources."""
    for kind in SOURCE_KINDS:
        if dropped := getattr(response, f"invalid_{kind}_sources"):
            raise RuntimeError(
                f"Kaggle started {name} without {kind} {', '.join(dropped)}, which does not exist or you may not use; "
                f"stop it at {response.url}, then accept the competition's rules or make the source first"
            )
