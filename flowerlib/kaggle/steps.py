"""The steps of all kernels of a call: push, follow, download, and what happens where Kaggle refuses or hangs."""

from datetime import datetime, timedelta

from flowerlib.config import FlowersError
from flowerlib.kaggle.clock import Clock
from flowerlib.kaggle.errors import QueueFull, Refused, Unreachable
from flowerlib.kaggle.jobs import UNDER_WAY, WITHOUT_OUTPUT, Job, State
from flowerlib.kaggle.outputs import Outputs
from flowerlib.kaggle.service import COMPLETE_STATES, FAILED_STATES, Service

ADOPTABLE_STATES = ("QUEUED", "RUNNING", "CANCEL_REQUESTED", *COMPLETE_STATES)  # Kaggle's: such a run is not repeated
MAX_ATTEMPTS = 5  # before a failure that may be temporary counts
MAX_BACKOFF = 20  # times the polling interval
MAX_RESTARTS = 2  # of a kernel whose session starts without its accelerator
MARGIN = timedelta(minutes=30)  # after which a kernel is overdue that Kaggle should have ended, or started


class Series:
    """The jobs of one call, and what moves each of them to its next state.

    Args:
        jobs: sources first.
        service: Kaggle.
        outputs: where the outputs of the kernels go.
        timeout: the most seconds that a kernel may run.
        interval: seconds between two polls of a kernel.
        clock: the time.
    """

    def __init__(
        self, jobs: list[Job], service: Service, outputs: Outputs, timeout: int, interval: float, clock: Clock
    ) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.service, self.outputs, self.timeout, self.interval = service, outputs, timeout, interval
        self.clock = clock
        self.connection_error = ""  # of the last round, for the user
        self._queue_full: dict[str, tuple[int, datetime]] = {}  # kind -> refusals in a row, when to push again

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
            job.status, job.since = state, remote.last_run if state in ("QUEUED", "RUNNING") else None

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
        except (FlowersError, RuntimeError) as error:
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
        if failed := [source.name for source in sources if source.state in WITHOUT_OUTPUT]:
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
            job.status, job.elapsed = "", timedelta()
        except QueueFull as error:
            self._wait_for_session(job, str(error))
        except Unreachable:
            job.state = State.UNCONFIRMED  # the kernel may have been pushed, and only the response be lost
            raise
        except Refused as error:  # perhaps in new words for a full queue
            if self._of_kind(job.kind, UNDER_WAY):
                self._wait_for_session(job, str(error))
            else:
                job.state, job.note = State.FAILED, str(error)
        except RuntimeError as error:
            job.state, job.note = State.FAILED, str(error)

    def _of_kind(self, kind: str, states: tuple[State, ...]) -> list[str]:
        """Return the names of the jobs of a kind that are in one of the states."""
        return [job.name for job in self.jobs.values() if job.kind == kind and job.state in states]

    def _wait_for_session(self, job: Job, reason: str) -> None:
        """Push a job later, unless all that it could wait for is a job that is overdue, and holds a session."""
        overdue = self._of_kind(job.kind, (State.OVERDUE,))
        refusals = self._back_off(job.kind)
        if overdue and not self._of_kind(job.kind, UNDER_WAY) and refusals >= MAX_ATTEMPTS:
            job.state, job.note = State.SKIPPED, f"waits for a session that {', '.join(overdue)} holds: {reason}"
        else:
            job.state, job.note = State.QUEUE_FULL, reason

    def _may_push(self, kind: str) -> bool:
        return kind not in self._queue_full or self.clock.now() >= self._queue_full[kind][1]

    def _back_off(self, kind: str) -> int:
        """Wait twice as long after each refusal in a row; return how many there were."""
        refusals = self._queue_full[kind][0] if kind in self._queue_full else 0
        pause = self.interval * min(2**refusals, MAX_BACKOFF)
        self._queue_full[kind] = refusals + 1, self.clock.now() + timedelta(seconds=pause)
        return refusals + 1

    def _poll_status(self, job: Job) -> None:
        status, message = self.service.status(job.ref, job.version)
        if status in COMPLETE_STATES:
            job.state = State.DOWNLOADING
            self.outputs.download(job.built, job.version)
            job.state = State.COMPLETE
            self._queue_full.pop(job.kind, None)  # a session has become free
        elif status in FAILED_STATES:
            job.note = f"ended in {status}{message and f': {message}'}"
            self._queue_full.pop(job.kind, None)
            self._end_failed(job)
        else:
            self._keep_time(job, status)

    def _keep_time(self, job: Job, status: str) -> None:
        """Note for how long a job has its status; call it overdue where Kaggle should have gone on long ago."""
        if status != job.status or job.since is None:
            job.status, job.since = status, self.clock.now()
        job.elapsed = self.clock.now() - job.since
        if status == "QUEUED":
            job.state = State.QUEUED
            return
        if status == "RUNNING":
            job.state = State.RUNNING
        limit = timedelta(seconds=self.timeout) if status == "RUNNING" else timedelta()
        if job.elapsed > limit + MARGIN:
            job.state = State.OVERDUE
            allowed = f", {limit / timedelta(hours=1):.1f} h were allowed" if limit else ""
            remedy = f"see {job.address}, or delete it with `--delete-overdue`"
            job.note = f"{status} for {job.elapsed / timedelta(hours=1):.1f} h{allowed}; {remedy}"

    def _end_failed(self, job: Job) -> None:
        """Save the log of a job that failed; push it again if its session had no accelerator."""
        if error := self.outputs.save_log(job.built, job.version, MAX_ATTEMPTS, self.interval, self.clock):
            job.note += f"; its log cannot be downloaded: {error}"
        elif job.kind != "cpu" and self.outputs.lacked_accelerator(job.name):
            if job.num_restarts < MAX_RESTARTS:
                job.num_restarts += 1
                again = f"is sent again ({job.num_restarts} of {MAX_RESTARTS})"
                job.state, job.note = State.PENDING, f"version {job.version} had no {job.kind.upper()}, and {again}"
                return
            job.note = f"no session of {MAX_RESTARTS + 1} had a {job.kind.upper()}; call again later"
        job.state = State.FAILED
