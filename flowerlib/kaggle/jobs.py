"""The state of one kernel on its way through Kaggle (`Job`), and the steps of all kernels of a call (`Series`)."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.errors import QueueFull, Unreachable
from flowerlib.kaggle.outputs import Outputs
from flowerlib.kaggle.service import COMPLETE_STATES, FAILED_STATES, Service

ADOPTABLE_STATES = ("QUEUED", "RUNNING", "CANCEL_REQUESTED", *COMPLETE_STATES)  # Kaggle's: such a run is not repeated
MAX_ATTEMPTS = 5  # before a failure that may be temporary counts
MAX_BACKOFF = 20  # times the polling interval


class State(StrEnum):
    """How a job stands, as it is shown."""

    PENDING = "pending"
    QUEUE_FULL = "queue full"  # Kaggle allows no more sessions for now
    UNCONFIRMED = "unconfirmed"  # pushed, perhaps: the response was lost
    QUEUED = "queued"
    RUNNING = "running"
    DOWNLOADING = "downloading"
    COMPLETE = "complete"
    FAILED = "failed"
    SKIPPED = "skipped"  # a source failed


ENDED = (State.COMPLETE, State.FAILED, State.SKIPPED)


@dataclass
class Job:
    """One kernel on its way through Kaggle.

    Attributes:
        built: the kernel.
        state: how it stands.
        version: its number on Kaggle; 0 until it is known.
        started: when its run started, as far as known.
        minutes: for how long it has been running.
        note: about its state, for the user.
        num_failures: consecutive failures to poll it or to download its output.
        num_confirmations: attempts to find an unconfirmed push on Kaggle.
    """

    built: BuiltKernel
    state: State = State.PENDING
    version: int = 0
    started: datetime | None = None
    minutes: float = 0.0
    note: str = ""
    num_failures: int = 0
    num_confirmations: int = 0

    @property
    def name(self) -> str:
        """The notebook's name."""
        return self.built.kernel.notebook

    @property
    def ref(self) -> str:
        """Owner and slug."""
        return self.built.ref

    @property
    def kind(self) -> str:
        """The hardware it runs on: `tpu`, `gpu` or `cpu`; Kaggle limits the sessions of each."""
        return next((kind for kind in ("tpu", "gpu") if self.built.metadata[f"enable_{kind}"]), "cpu")

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    @property
    def duration(self) -> str:
        """How long it has been running, as text; empty if it was not seen running."""
        return f"{self.minutes:.0f} min" if self.state == State.RUNNING or self.minutes else ""

    def __str__(self) -> str:
        return f"{self.name:<20} {self.state:<11} {self.duration:>7}  {self.note}".rstrip()


class Series:
    """The jobs of one call, and what moves each of them to its next state.

    Args:
        jobs: sources first.
        service: Kaggle.
        outputs: where the outputs of the kernels go.
        timeout: the most seconds that a kernel may run.
        interval: seconds between two polls of a kernel.
    """

    def __init__(self, jobs: list[Job], service: Service, outputs: Outputs, timeout: int, interval: float) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.service, self.outputs, self.timeout, self.interval = service, outputs, timeout, interval
        self.connection_error = ""  # of the last round, for the user
        self._queue_full: dict[str, tuple[int, float]] = {}  # kind -> refusals in a row, when to push again

    def poll_version(self, job: Job) -> None:
        """Adopt the newest version on Kaggle, if it has this content and these sources and has not failed."""
        remote = self.service.newest_version(job.ref)
        if remote is None:
            self.outputs.require_never_fetched(job.built)
            return
        if remote.content != job.built.content or remote.version <= job.version:
            return
        if mismatch := remote.mismatch(job.built, self._source_versions(job)):
            job.note = f"version {remote.version} {mismatch}"
            return
        state, _ = self.service.status(job.ref, remote.version)
        job.version = remote.version
        if state in ADOPTABLE_STATES or job.state == State.UNCONFIRMED:  # just pushed then, even if it failed at once
            self.outputs.log_file(job.name).unlink(missing_ok=True)  # of an earlier version
            job.state, job.note = State.QUEUED, f"version {job.version}, found on Kaggle"
            job.started = remote.last_run

    def _sources(self, job: Job) -> list[Job]:
        return [self.jobs[name] for name in job.built.kernel.sources]

    def _source_versions(self, job: Job) -> list[str]:
        return [f"{source.ref}/{source.version}" for source in self._sources(job)]

    def step(self, job: Job) -> None:
        """Do what can be done for a job now.

        Raises:
            Unreachable: nothing was done, or it is not known what; call again.
        """
        try:
            if job.state == State.UNCONFIRMED:
                self._confirm_push(job)
            if job.state in (State.PENDING, State.QUEUE_FULL):
                self._push_if_ready(job)
            elif not job.ended:
                self._poll_status(job)
            job.num_failures = 0
        except Unreachable:
            raise
        except RuntimeError as error:
            job.num_failures += 1
            if job.num_failures < MAX_ATTEMPTS:
                raise Unreachable(f"{job.name}: {error}") from None
            job.state, job.note = State.FAILED, str(error)

    def _confirm_push(self, job: Job) -> None:
        """Find out whether a push arrived whose response was lost; Kaggle may show the version only after a while."""
        self.poll_version(job)
        if job.state == State.UNCONFIRMED:
            job.num_confirmations += 1
            if job.num_confirmations < MAX_ATTEMPTS:
                raise Unreachable(f"{job.name}: the response to the push was lost, and Kaggle does not show it yet")
            job.state, job.num_confirmations = State.PENDING, 0

    def _push_if_ready(self, job: Job) -> None:
        sources = self._sources(job)
        if failed := [source.name for source in sources if source.state in (State.FAILED, State.SKIPPED)]:
            job.state, job.note = State.SKIPPED, f"needs {', '.join(failed)}"
        elif all(source.state == State.COMPLETE for source in sources) and self._may_push(job.kind):
            self._push(job)

    def _push(self, job: Job) -> None:
        self.outputs.log_file(job.name).unlink(missing_ok=True)  # of an earlier version
        versions = self._source_versions(job)
        try:
            job.version = self.service.push(
                job.built.with_source_versions(versions) if versions else job.built, self.timeout
            )
            job.state, job.note = State.QUEUED, f"version {job.version}"
        except QueueFull as error:
            self._back_off(job.kind)
            job.state, job.note = State.QUEUE_FULL, str(error)
        except Unreachable:
            job.state = State.UNCONFIRMED  # the kernel may have been pushed, and only the response be lost
            raise
        except RuntimeError as error:
            job.state, job.note = State.FAILED, str(error)

    def _may_push(self, kind: str) -> bool:
        _, retry_at = self._queue_full.get(kind, (0, 0.0))
        return time.monotonic() >= retry_at

    def _back_off(self, kind: str) -> None:
        """Wait twice as long after each refusal in a row."""
        refusals, _ = self._queue_full.get(kind, (0, 0.0))
        pause = self.interval * min(2**refusals, MAX_BACKOFF)
        self._queue_full[kind] = refusals + 1, time.monotonic() + pause

    def _poll_status(self, job: Job) -> None:
        state, message = self.service.status(job.ref, job.version)
        if state == "RUNNING":
            job.state, job.started = State.RUNNING, job.started or datetime.now(UTC)
        if job.state == State.RUNNING and job.started:
            job.minutes = (datetime.now(UTC) - job.started).total_seconds() / 60
        if state in COMPLETE_STATES:
            job.state = State.DOWNLOADING
            self.outputs.download(job.built, job.version)
            job.state = State.COMPLETE
            self._queue_full.pop(job.kind, None)  # a session has become free
        elif state in FAILED_STATES:
            job.state, job.note = State.FAILED, f"ended in {state}{message and f': {message}'}"
            self._queue_full.pop(job.kind, None)
            if error := self.outputs.save_log(job.built, job.version, MAX_ATTEMPTS, self.interval):
                job.note += f"; its log cannot be downloaded: {error}"
