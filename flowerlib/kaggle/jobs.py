"""The state of one kernel on its way through Kaggle."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from flowerlib.kaggle.build import BuiltKernel

LONG_QUEUE = timedelta(minutes=30)  # after which, and after each as long, it is said that a kernel waits


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
    OVERDUE = "overdue"  # Kaggle should have ended it, and has not
    SKIPPED = "skipped"  # it needs one that failed or is overdue


UNDER_WAY = (State.QUEUED, State.RUNNING)  # with a session at Kaggle
WITHOUT_OUTPUT = (State.FAILED, State.OVERDUE, State.SKIPPED)
ENDED = (State.COMPLETE, *WITHOUT_OUTPUT)


@dataclass
class Job:
    """One kernel on its way through Kaggle.

    Attributes:
        built: the kernel.
        state: how it stands.
        version: its number on Kaggle; 0 until it is known.
        status: Kaggle's word for the state of its run, such as QUEUED; empty until that is known.
        since: since when it has this status, as far as known.
        elapsed: for how long it had this status when it was last polled.
        note: about its state, for the user.
        num_failures: consecutive failures to poll it or to download its output.
        num_confirmations: attempts to find an unconfirmed push on Kaggle.
        num_restarts: times it was pushed again as its session had no accelerator.
    """

    built: BuiltKernel
    state: State = State.PENDING
    version: int = 0
    status: str = ""
    since: datetime | None = None
    elapsed: timedelta = timedelta()
    note: str = ""
    num_failures: int = 0
    num_confirmations: int = 0
    num_restarts: int = 0

    @property
    def name(self) -> str:
        """The notebook's name."""
        return self.built.kernel.notebook

    @property
    def ref(self) -> str:
        """Owner and slug."""
        return self.built.ref

    @property
    def address(self) -> str:
        """Where it is on Kaggle."""
        return f"https://www.kaggle.com/code/{self.ref}"

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
        return f"{self.elapsed / timedelta(minutes=1):.0f} min" if self.status == "RUNNING" else ""

    @property
    def remark(self) -> str:
        """The note and, if that is long, for how long it has been in Kaggle's queue."""
        if self.state != State.QUEUED or self.elapsed < LONG_QUEUE:
            return self.note
        hours = self.elapsed // LONG_QUEUE * LONG_QUEUE / timedelta(hours=1)
        return f"{self.note}; in Kaggle's own queue for {hours:g} h"

    def __str__(self) -> str:
        return f"{self.name:<20} {self.state:<11} {self.duration:>7}  {self.remark}".rstrip()
