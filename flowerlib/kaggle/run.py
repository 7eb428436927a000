"""Send the series to Kaggle in the order in which the kernels feed each other, wait, and bring everything back."""

import json
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowerlib.config import FlowersError, written_whole
from flowerlib.kaggle import build, check, kernels
from flowerlib.kaggle.build import Built
from flowerlib.kaggle.service import ENDED_BADLY, ENDED_WELL, QueueFull, Service, Unreachable

SESSION_HOURS = 9.0  # the longest that Kaggle lets an accelerator work at a time
ENSEMBLE = "20_ensemble"
LONGEST_PAUSE = 20  # times the usual one
TAIL = 20  # lines of a failed kernel's log


@dataclass
class Job:
    """One kernel on its way: to send, refused (no free session), queued, running, then complete, failed or left out."""

    built: Built
    state: str = "to send"
    version: int = 0
    began: datetime | None = None
    minutes: float = 0.0
    note: str = ""

    @property
    def name(self) -> str:
        """The notebook's name."""
        return self.built.kernel.notebook

    @property
    def kind(self) -> str:
        """What it runs on: `tpu`, `gpu` or `cpu`; Kaggle counts the sessions of each."""
        return next((kind for kind in ("tpu", "gpu") if self.built.metadata[f"enable_{kind}"]), "cpu")

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("complete", "failed", "left out")

    def __str__(self) -> str:
        return f"{self.name:<20} {self.state:<9} {self.time:>7}  {self.note}".rstrip()

    @property
    def time(self) -> str:
        """How long it has been running, as far as that was seen."""
        return f"{self.minutes:.0f} min" if self.state == "running" or self.minutes else ""


class Series:
    """The jobs of one call of `run`, and where their outputs go."""

    def __init__(self, jobs: list[Job], service: Service, out: Path, hours: float, poll: float, root: Path) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.service, self.out, self.seconds, self.poll, self.root = service, out, int(3600 * hours), poll, root
        self.refused: dict[str, tuple[int, float]] = {}  # kind -> times in a row, when to ask again

    def look(self, job: Job) -> None:
        """Take over what Kaggle has already: a run of this very content that is under way or complete."""
        remote = self.service.remote(job.built.ref)
        if remote is None or remote.content != job.built.content or remote.version <= job.version:
            return
        state, _ = self.service.status(job.built.ref, remote.version)
        job.version = remote.version
        if state not in ENDED_BADLY or job.state == "unsure":  # then it was sent just now, even if it failed at once
            job.state, job.note = "queued", f"version {job.version}, found on Kaggle"
            job.began = remote.last_run and remote.last_run.replace(tzinfo=UTC)

    def step(self, job: Job) -> None:
        """Do what can be done for a job now.

        Raises:
            Unreachable: nothing was done, or it is not known; call again.
        """
        try:
            if job.state == "unsure":
                self.look(job)
                job.state = "to send" if job.state == "unsure" else job.state
            if job.state in ("to send", "refused"):
                self._send(job)
            elif not job.ended:
                self._follow(job)
        except Unreachable:
            raise
        except RuntimeError as error:
            job.state, job.note = "failed", str(error)

    def _send(self, job: Job) -> None:
        sources = [self.jobs[name] for name in job.built.kernel.sources]
        if bad := [source.name for source in sources if source.state in ("failed", "left out")]:
            job.state, job.note = "left out", f"needs {', '.join(bad)}"
        elif all(source.state == "complete" for source in sources) and self._may_ask(job):
            try:
                job.version = self.service.push(self.root / build.DEFAULT / job.name, self.seconds)
                job.state, job.note = "queued", f"version {job.version}"
            except QueueFull as full:
                times = self.refused.get(job.kind, (0, 0.0))[0]
                pause = self.poll * min(2**times, LONGEST_PAUSE)
                self.refused[job.kind] = times + 1, time.monotonic() + pause
                job.state, job.note = "refused", str(full)
            except Unreachable:
                job.state = "unsure"  # the request may have been carried out, and only the answer be lost
                raise

    def _may_ask(self, job: Job) -> bool:
        return time.monotonic() >= self.refused.get(job.kind, (0, 0.0))[1]

    def _follow(self, job: Job) -> None:
        state, message = self.service.status(job.built.ref, job.version)
        if job.state == "running":
            job.minutes = (datetime.now(UTC) - job.began).total_seconds() / 60
        if state in ENDED_WELL:
            self._fetch(job)
            job.state = "complete"
            self.refused.pop(job.kind, None)  # a session is free again
        elif state in ENDED_BADLY:
            job.state, job.note = "failed", f"ended in {state}{message and f': {message}'}"
            self.refused.pop(job.kind, None)
            self._save_log(job)
        elif state == "RUNNING":
            job.state, job.began = "running", job.began or datetime.now(UTC)

    def folder(self, job: Job) -> Path:
        """Where a kernel's output goes; below `input`, as Kaggle mounts it for the kernel that reads it."""
        return self.out / "input" / job.name

    def log_file(self, job: Job) -> Path:
        """Where the log of a failed kernel goes."""
        return self.out / "logs" / f"{job.name}.log"

    def _fetch(self, job: Job) -> None:
        """Download a kernel's output, whole or not at all, unless this version's is here."""
        label = self.folder(job) / ".version"
        this = json.dumps({"kernel": job.built.ref, "version": job.version, "content": job.built.content})
        if not label.exists() or label.read_text() != this:
            for left in self.out.glob(f"input/.*.{job.name}"):  # by a call that was killed
                shutil.rmtree(left)
            with written_whole(self.folder(job)) as temporary:
                self.service.output(job.built.ref, job.version, temporary)
                (temporary / ".version").write_text(this)

    def _save_log(self, job: Job) -> None:
        """Keep a failed kernel's log, instead of an earlier one; that it cannot be had hides no failure."""
        self.log_file(job).unlink(missing_ok=True)
        try:
            text = self.service.log(job.built.ref, job.version)
        except RuntimeError as error:
            job.note += f"; its log cannot be had: {error}"
            return
        with written_whole(self.log_file(job)) as temporary:
            temporary.write_text(text)


def run(
    notebooks: Iterable[str] = (),
    *,
    user: str | None = None,
    out: Path = Path("outputs/kaggle"),
    accelerator: str | None = None,
    online: bool | None = None,
    hours: float = SESSION_HOURS,
    submit: bool = False,
    poll: float = 30.0,
    root: Path = kernels.ROOT,
) -> Path | None:
    """Build, check and send kernels, wait for them, fetch what they leave, and put the recap together here.

    Called again, it goes on from what Kaggle has: a kernel whose notebook holds the same content hash is not sent
    again, unless its run failed.

    Args:
        notebooks: their names; all unless given. Those that feed them belong to it.
        user: the owner on Kaggle; the one who is logged in unless given.
        out: gets `input/<notebook>/` (what a kernel left), `logs/`, the recap as `index.html`, and `submission.csv`.
        accelerator: as in `build.build`.
        online: as in `build.build`.
        hours: the most that a kernel may run.
        submit: also submit the ensemble's answers to the competition.
        poll: seconds between two looks at a kernel; pauses grow from it where Kaggle refuses or is out of reach.
        root: of the repository.

    Returns:
        The submission's path, None where no ensemble was asked for.

    Raises:
        FlowersError: no credentials, a notebook or its metadata is not fit to be sent, or the week's accelerator hours
            do not suffice; nothing was sent.
        RuntimeError: a kernel failed. What the others left has been fetched.
    """
    names = [kernel.notebook for kernel in kernels.chosen(notebooks, with_sources=True)]
    if submit and ENSEMBLE not in names:
        raise FlowersError(f"only {ENSEMBLE} is submitted; name it too, or no notebook at all")
    service = Service()
    built = build.build(names, user=user or service.user, accelerator=accelerator, online=online, root=root)
    check.require([root / build.DEFAULT / name for name in names])
    series = Series([Job(each) for each in built], service, out, hours, poll, root)
    console = Console()
    service.require_datasets(each.metadata for each in built)
    for job in series.jobs.values():
        series.look(job)
    _require_quota([job for job in series.jobs.values() if job.state == "to send"], service, console)
    _until_ended(series, console)
    return _finish(series, console, submit)


def _require_quota(to_send: list[Job], service: Service, console: Console) -> None:
    """Refuse a series that cannot fit into this week's hours; Kaggle would stop it half-way."""
    for kind, factor in (("tpu", 1), ("gpu", kernels.GPU_SLOWDOWN)):
        needing = [job for job in to_send if job.kind == kind]
        if not needing:
            continue
        hours = factor * sum(job.built.kernel.minutes for job in needing) / 60
        if (quota := service.quota(kind)) is None:
            console.print(f"{kind.upper()}: about {hours:.1f} h needed; Kaggle does not say how many are left.")
            continue
        figures = f"about {hours:.1f} h to run {len(needing)}, {quota.left:.1f} h of {quota.total:.0f} h left"
        if hours > quota.left:
            refresh = f" until {quota.refresh:%A %d %B, %H:%M} UTC" if quota.refresh else ""
            remedy = "or wait" if hours <= quota.total else "and the others in later weeks"
            raise FlowersError(
                f"{kind.upper()} hours do not suffice: {figures}{refresh}; name fewer notebooks, {remedy}"
            )
        console.print(f"{kind.upper()}: {figures} this week.")


def _until_ended(series: Series, console: Console) -> None:
    """Go from job to job until all have ended: one live line each, or, where no terminal is, a line a change."""
    jobs = list(series.jobs.values())
    shown = {job.name: "" for job in jobs}
    pause = series.poll
    live = Live(_table(jobs), console=console, auto_refresh=False) if console.is_terminal else nullcontext()
    with live:
        while True:
            trouble = _step_all(series)
            pause = min(2 * pause, LONGEST_PAUSE * series.poll) if trouble else series.poll
            if console.is_terminal:
                live.update(_table(jobs, trouble), refresh=True)
            for job in jobs:
                if not console.is_terminal and shown[job.name] != job.state:
                    shown[job.name] = job.state
                    console.print(str(job), soft_wrap=True, highlight=False, markup=False)
            if trouble and not console.is_terminal:
                console.print(f"{trouble}; trying again", soft_wrap=True, highlight=False, markup=False)
            if all(job.ended for job in jobs):
                return
            time.sleep(pause)


def _step_all(series: Series) -> str:
    """Do a step of every job; return what is wrong with the connection, if anything."""
    trouble = ""
    for job in series.jobs.values():
        try:
            series.step(job)
        except Unreachable as error:
            trouble = str(error)
    return trouble


def _table(jobs: list[Job], trouble: str = "") -> Table:
    table = Table("notebook", "state", "", "", box=None, caption=Text(trouble and f"{trouble}; trying again"))
    for job in jobs:
        table.add_row(job.name, job.state, job.time, Text(job.note))
    return table


def _finish(series: Series, console: Console, submit: bool) -> Path | None:
    """Show the logs of what failed, put the recap together, submit; raise where a kernel failed."""
    jobs = list(series.jobs.values())
    failed = [job for job in jobs if job.state == "failed"]
    for job in failed:
        if series.log_file(job).exists():
            tail = series.log_file(job).read_text().splitlines()[-TAIL:]
            console.print(f"\nThe end of {series.log_file(job)}:", *tail, sep="\n", highlight=False, markup=False)
    submission = _recap(series, console)
    if failed:
        what = f"{failed[0].name}: {failed[0].note}" if len(failed) == 1 else ", ".join(job.name for job in failed)
        raise RuntimeError(
            f"failed: {what}. What the others left is in {series.out}; the same command sends only what failed again"
        )
    if submit:
        ensemble = series.jobs[ENSEMBLE]
        message = f"flowerlib, content {ensemble.built.content}"
        console.print(series.service.submit(ensemble.built.ref, ensemble.version, message))
    return submission


def _recap(series: Series, console: Console) -> Path | None:
    """Run the ensemble's notebook here over what was fetched, for the recap; the submission is the one Kaggle made.

    Raises:
        RuntimeError: the ensemble's kernel is complete, and left none.
    """
    from flowerlib import series as local

    console.print(f"What the kernels left: {series.out / 'input'}", highlight=False, soft_wrap=True)
    if any(series.out.glob("input/*/runs/*/predictions.npz")):
        os.environ["FLOWERS_KAGGLE"] = str(series.out.resolve())
        local.run([ENSEMBLE], out=series.out)
    ensemble = series.jobs.get(ENSEMBLE)
    if ensemble is None or ensemble.state != "complete":
        console.print(f"No submission from Kaggle: it takes a complete run of {ENSEMBLE}.", highlight=False)
        if (series.out / "submission.csv").exists():
            console.print(
                f"{series.out / 'submission.csv'} was made here, of the runs that are there.", highlight=False
            )
        return None
    made = series.folder(ensemble) / "submission.csv"
    if not made.exists():
        raise RuntimeError(f"{ENSEMBLE} is complete but left no submission.csv; its log is in {made.parent}")
    with written_whole(series.out / "submission.csv") as temporary:
        shutil.copyfile(made, temporary)
    console.print(f"The submission: {series.out / 'submission.csv'}", highlight=False, soft_wrap=True)
    return series.out / "submission.csv"
