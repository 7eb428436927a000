"""Send the series to Kaggle in the order in which the kernels feed each other, wait, and bring everything back."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowerlib.config import FlowersError, atomic_write, exclusive_lock
from flowerlib.kaggle import build, check, kernels
from flowerlib.kaggle.build import Built, code_digest
from flowerlib.kaggle.service import ENDED_BADLY, ENDED_WELL, UNKNOWN, Busy, QueueFull, Remote, Service, Unreachable

SESSION_HOURS = 9.0  # the longest that Kaggle lets an accelerator work at a time
ENSEMBLE = "20_ensemble"
LONGEST_PAUSE = 20  # times the usual one
PATIENCE = 5  # times that something is asked before its failure is believed
ADOPTED = ("QUEUED", "RUNNING", "CANCEL_REQUESTED", *ENDED_WELL)  # states of a run that is taken over
TAIL = 20  # lines of a failed kernel's log
RECAP = ("run.json", "predictions.npz", "curves.png")  # what the recap needs of a run

P, T = ParamSpec("P"), TypeVar("T")


@dataclass
class Job:
    """One kernel on its way: to send, refused (no free session), queued, running, fetching; complete, failed, left out.

    In between it may be unsure: sent, perhaps, but the answer was lost.
    """

    built: Built
    state: str = "to send"
    version: int = 0
    began: datetime | None = None
    minutes: float = 0.0
    note: str = ""
    failures: int = 0  # to be told how it stands, or to be given what it left, in a row
    looks: int = 0  # for one that is unsure

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

    def __init__(self, jobs: list[Job], service: Service, out: Path, hours: float, poll: float) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.service, self.out, self.seconds, self.poll = service, out, int(3600 * hours), poll
        self.refused: dict[str, tuple[int, float]] = {}  # kind -> times in a row, when to ask again
        self.trouble = ""  # what is wrong with the connection, if anything

    def look(self, job: Job) -> None:
        """Take over what Kaggle has already: a run of this very content, and inputs, under way or complete."""
        remote = self.service.remote(job.built.ref)
        if remote is None:
            self._require_unknown(job)
            return
        if remote.content != job.built.content or remote.version <= job.version:
            return
        if wrong := self._wrong(job, remote):
            job.note = f"version {remote.version} {wrong}"
            return
        state, _ = self.service.status(job.built.ref, remote.version)
        job.version = remote.version
        if state in ADOPTED or job.state == "unsure":  # then it was sent just now, even if it failed at once
            self.log_file(job).unlink(missing_ok=True)  # of an earlier version
            job.state, job.note, job.began = "queued", f"version {job.version}, found on Kaggle", remote.last_run

    def _require_unknown(self, job: Job) -> None:
        label = self._label(job)
        if label.exists() and (known := json.loads(label.read_text()))["kernel"] == job.built.ref:
            raise FlowersError(
                f"Kaggle does not show {job.built.ref}, of which it had version {known['version']}; is somebody else "
                f"logged in? If you deleted it, remove {label.parent} to send it anew"
            )

    def _wrong(self, job: Job, remote: Remote) -> str:
        """What keeps a version with the right content hash from being this very run; nothing where it is."""
        metadata = job.built.metadata
        wanted = [source for kind in ("dataset", "kernel", "competition") for source in metadata[f"{kind}_sources"]]
        attached = {_unversioned(source) for source in remote.sources}
        if lacking := [source for source in wanted if _unversioned(source) not in attached]:
            return f"runs without {', '.join(lacking)}"
        if list(remote.reads) != self._read_by(job):
            return "did not read what its sources leave now"
        return "" if remote.code == code_digest(job.built.notebook) else "was edited on Kaggle"

    def _read_by(self, job: Job) -> list[str]:
        """The versions that a job reads."""
        sources = [self.jobs[name] for name in job.built.kernel.sources]
        return [f"{source.built.ref}/{source.version}" for source in sources]

    def step(self, job: Job) -> None:
        """Do what can be done for a job now.

        Raises:
            Unreachable: nothing was done, or it is not known; call again.
        """
        try:
            if job.state == "unsure":
                self._look_again(job)
            if job.state in ("to send", "refused"):
                self._send(job)
            elif not job.ended:
                self._follow(job)
            job.failures = 0
        except Unreachable:
            raise
        except RuntimeError as error:
            job.failures += 1
            if job.failures < PATIENCE:
                raise Unreachable(f"{job.name}: {error}") from None
            job.state, job.note = "failed", str(error)

    def _look_again(self, job: Job) -> None:
        """Find out whether a kernel arrived whose answer was lost; it may take a while to show."""
        self.look(job)
        if job.state == "unsure":
            job.looks += 1
            if job.looks < PATIENCE:
                raise Unreachable(f"{job.name}: the answer to sending it was lost, and Kaggle does not show it yet")
            job.state, job.looks = "to send", 0

    def _send(self, job: Job) -> None:
        sources = [self.jobs[name] for name in job.built.kernel.sources]
        if bad := [source.name for source in sources if source.state in ("failed", "left out")]:
            job.state, job.note = "left out", f"needs {', '.join(bad)}"
        elif all(source.state == "complete" for source in sources) and self._may_ask(job):
            self.log_file(job).unlink(missing_ok=True)  # of an earlier version
            try:
                built = job.built.reading(self._read_by(job)) if sources else job.built
                job.version = self.service.push(built, self.seconds)
                job.state, job.note = "queued", f"version {job.version}"
            except QueueFull as full:
                times = self.refused.get(job.kind, (0, 0.0))[0]
                pause = self.poll * min(2**times, LONGEST_PAUSE)
                self.refused[job.kind] = times + 1, time.monotonic() + pause
                job.state, job.note = "refused", str(full)
            except Unreachable:
                job.state = "unsure"  # the request may have been carried out, and only the answer be lost
                raise
            except RuntimeError as error:
                job.state, job.note = "failed", str(error)

    def _may_ask(self, job: Job) -> bool:
        return time.monotonic() >= self.refused.get(job.kind, (0, 0.0))[1]

    def _follow(self, job: Job) -> None:
        state, message = self.service.status(job.built.ref, job.version)
        if state == "RUNNING":
            job.state, job.began = "running", job.began or datetime.now(UTC)
        if job.state == "running":
            job.minutes = (datetime.now(UTC) - job.began).total_seconds() / 60
        if state in ENDED_WELL:
            job.state = "fetching"
            self._fetch(job)
            job.state = "complete"
            self.refused.pop(job.kind, None)  # a session is free again
        elif state in ENDED_BADLY:
            job.state, job.note = "failed", f"ended in {state}{message and f': {message}'}"
            self.refused.pop(job.kind, None)
            self._save_log(job)

    def folder(self, job: Job) -> Path:
        """Where a kernel's output goes."""
        return self.out / "input" / job.name

    def log_file(self, job: Job) -> Path:
        """Where the log of a failed kernel goes."""
        return self.out / "logs" / f"{job.name}.log"

    def _label(self, job: Job) -> Path:
        """The file that says which version's output is in a job's folder."""
        return self.folder(job) / ".version"

    def _fetch(self, job: Job) -> None:
        """Download a kernel's output, whole or not at all, unless this version's is here."""
        this = json.dumps({"kernel": job.built.ref, "version": job.version, "content": job.built.content})
        if not self._label(job).exists() or self._label(job).read_text() != this:
            with atomic_write(self.folder(job)) as temporary:
                self.service.output(job.built.ref, job.version, temporary)
                (temporary / self._label(job).name).write_text(this)

    def _save_log(self, job: Job) -> None:
        """Keep a failed kernel's log; that it cannot be had hides no failure."""
        for _ in range(PATIENCE):
            try:
                text = self.service.log(job.built.ref, job.version)
            except RuntimeError as error:
                trouble = error
                time.sleep(self.poll)
            else:
                with atomic_write(self.log_file(job)) as temporary:
                    temporary.write_text(text)
                return
        job.note += f"; its log cannot be had: {trouble}"


def _unversioned(source: str) -> str:
    """A source without its version, which a third part may be, and in small letters, as Kaggle may write it."""
    return "/".join(source.split("/")[:2]).lower()


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
    """Make, check and send kernels, wait for them, fetch what they leave, and put the recap together here.

    Called again, it goes on from what Kaggle has: a kernel whose notebook holds the same content hash and read the
    same versions of its sources is not sent again, unless its run failed.

    Args:
        notebooks: their names; all unless given. Those that feed them belong to it.
        user: the owner on Kaggle; the one who is logged in unless given.
        out: gets `input/<notebook>/` (what a kernel left), `logs/`, the recap in `recap/`, and `submission.csv`.
        accelerator: as in `build.build`.
        online: as in `build.build`.
        hours: the most that a kernel may run.
        submit: also submit the ensemble's answers to the competition, unless this version's were.
        poll: seconds between two looks at a kernel; pauses grow from it where Kaggle refuses or is out of reach.
        root: of the repository.

    Returns:
        The submission's path, None where no ensemble was asked for.

    Raises:
        FlowersError: no credentials, a notebook or its metadata is not fit to be sent, the week's accelerator hours
            do not suffice, or another `run` is at work in `out`; nothing was sent.
        RuntimeError: a kernel failed. What the others left has been fetched.
    """
    names = [kernel.notebook for kernel in kernels.chosen(notebooks, with_sources=True)]
    if submit and ENSEMBLE not in names:
        raise FlowersError(f"only {ENSEMBLE} is submitted; name it too, or no notebook at all")
    service, console = Service(), Console()
    built = build.make_all(names, user=user or service.user, accelerator=accelerator, online=online, root=root)
    check.require_built(built)
    series = Series([Job(each) for each in built], service, out, hours, poll)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowersError(f"`out` (={out}) cannot be made ({error}); name another folder") from None

    def refuse(process: str) -> None:
        raise FlowersError(f"process {process} is another `run` at work in {out}; let it end, or stop it")

    with exclusive_lock(out / ".lock", refuse):
        _patiently(console, poll, service.require_datasets, [each.metadata for each in built])
        for job in series.jobs.values():
            _patiently(console, poll, series.look, job)
            if job.note and job.state == "to send":
                _print(console, f"{job.name}: {job.note}, and is sent again")
        _require_quota([job for job in series.jobs.values() if job.state == "to send"], service, console, poll)
        _until_ended(series, console)
        return _finish(series, console, submit)


def _patiently(console: Console, poll: float, ask: Callable[P, T], *arguments: P.args) -> T:
    """Ask, and ask again after growing pauses where Kaggle is out of reach, a few times."""
    for times in range(PATIENCE):
        try:
            return ask(*arguments)
        except Unreachable as error:
            if times == PATIENCE - 1:
                raise
            pause = poll * 2**times
            _print(console, f"{error}; trying again in {pause:.0f} s ({times + 1} of {PATIENCE - 1})")
            time.sleep(pause)


def _print(console: Console, text: str) -> None:
    """Print text as it is, whatever is in it, and a line as one line."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _require_quota(to_send: list[Job], service: Service, console: Console, poll: float) -> None:
    """Refuse a series that cannot fit into this week's hours; Kaggle would stop it half-way."""
    for kind, factor in (("tpu", 1), ("gpu", kernels.GPU_SLOWDOWN)):
        needing = [job for job in to_send if job.kind == kind]
        if not needing:
            continue
        hours = factor * sum(job.built.kernel.minutes for job in needing) / 60
        if (quota := _patiently(console, poll, service.quota, kind)) is None:
            _print(console, f"{kind.upper()}: about {hours:.1f} h needed; Kaggle does not say how many are left.")
            continue
        figures = f"about {hours:.1f} h to run {len(needing)}, {quota.left:.1f} h of {quota.total:.0f} h left"
        if hours > quota.left:
            refresh = f" until {quota.refresh:%A %d %B, %H:%M} UTC" if quota.refresh else ""
            remedy = "or wait" if hours <= quota.total else "and the others in later weeks"
            raise FlowersError(
                f"{kind.upper()} hours do not suffice: {figures}{refresh}; name fewer notebooks, {remedy}"
            )
        _print(console, f"{kind.upper()}: {figures} this week.")


def _until_ended(series: Series, console: Console) -> None:
    """Go from job to job until all have ended: one live line each, or, where no terminal is, a line a change."""
    jobs = list(series.jobs.values())
    shown = {job.name: "" for job in jobs}
    pause = series.poll
    live = Live(get_renderable=lambda: _table(series), console=console) if console.is_terminal else nullcontext()
    with live:
        while True:
            _step_all(series)
            pause = min(2 * pause, LONGEST_PAUSE * series.poll) if series.trouble else series.poll
            for job in jobs:
                if not console.is_terminal and shown[job.name] != job.state:
                    shown[job.name] = job.state
                    _print(console, str(job))
            if series.trouble and not console.is_terminal:
                _print(console, f"{series.trouble}; trying again")
            if all(job.ended for job in jobs):
                return
            time.sleep(pause)


def _step_all(series: Series) -> None:
    """Do a step of every job."""
    trouble = ""
    for job in series.jobs.values():
        try:
            series.step(job)
        except Unreachable as error:
            trouble = str(error)
    series.trouble = trouble


def _table(series: Series) -> Table:
    caption = f"{series.trouble}; trying again" if series.trouble else ""
    table = Table("notebook", "state", "", "", box=None, caption=Text(caption))
    for job in series.jobs.values():
        table.add_row(job.name, job.state, job.time, Text(job.note))
    return table


def _finish(series: Series, console: Console, submit: bool) -> Path | None:
    """Show the logs of what failed, bring the submission, submit it, make the recap; raise where something failed."""
    failed = [job for job in series.jobs.values() if job.state == "failed"]
    for job in failed:
        if series.log_file(job).exists():
            tail = series.log_file(job).read_text().splitlines()[-TAIL:]
            _print(console, "\n".join([f"\nThe end of {series.log_file(job)}:", *tail]))
    _print(console, f"What the kernels left: {series.out / 'input'}")
    submission, wrong = None, []
    try:
        submission = _submission(series, console)
        if submit and submission:
            _submit(series, console)
    except (FlowersError, RuntimeError) as error:
        wrong.append(str(error))
    if error := _recap(series):
        wrong.append(f"the recap could not be made here: {error}")
    if failed:
        what = f"{failed[0].name}: {failed[0].note}" if len(failed) == 1 else ", ".join(job.name for job in failed)
        rest = f"What the others left is in {series.out}; the same command takes up again what failed"
        wrong.insert(0, f"failed: {what}. {rest}")
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return submission


def _submission(series: Series, console: Console) -> Path | None:
    """Bring the ensemble's submission to where users look for it.

    Raises:
        RuntimeError: the ensemble's kernel is complete, and left none.
    """
    ensemble = series.jobs.get(ENSEMBLE)
    if ensemble is None or ensemble.state != "complete":
        _print(console, f"No submission from Kaggle: it takes a complete run of {ENSEMBLE}.")
        return None
    made = series.folder(ensemble) / "submission.csv"
    if not made.exists():
        raise RuntimeError(f"{ENSEMBLE} is complete but left no submission.csv; its log is in {made.parent}")
    submission = series.out / "submission.csv"
    with atomic_write(submission) as temporary:
        shutil.copyfile(made, temporary)
    _print(console, f"The submission: {submission}")
    return submission


def _submit(series: Series, console: Console) -> None:
    """Submit what the ensemble's kernel left, once: a submission counts against the day's few."""
    ensemble, record = series.jobs[ENSEMBLE], series.out / "submitted.json"
    this = {"kernel": ensemble.built.ref, "version": ensemble.version}
    before = json.loads(record.read_text()) if record.exists() else {}
    if before.items() >= this.items():
        if before["answer"] is None:
            raise RuntimeError(f"version {ensemble.version} may have been submitted before: {UNKNOWN}")
        _print(console, f"Version {ensemble.version} was submitted before: {before['answer']}")
        return
    _write_json(record, this | {"answer": None})  # should the answer be lost, it is known to have been asked
    try:
        answer = series.service.submit(ensemble.built.ref, ensemble.version, f"flowerlib {ensemble.built.content}")
    except Unreachable as error:
        if not isinstance(error, Busy):
            raise RuntimeError(f"it is not known whether the submission arrived ({error}): {UNKNOWN}") from None
        record.unlink()
        raise
    except (FlowersError, RuntimeError):
        record.unlink()
        raise
    _write_json(record, this | {"answer": answer})
    _print(console, answer)


def _write_json(path: Path, content: dict) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _recap(series: Series) -> RuntimeError | FlowersError | None:
    """Run the ensemble's notebook here over the runs that were fetched in this call; return what stopped it, if so."""
    from flowerlib import series as local

    recap = series.out / "recap"
    shutil.rmtree(recap, ignore_errors=True)
    for job in series.jobs.values():
        for path in series.folder(job).glob("runs/*/predictions.npz") if job.state == "complete" else ():
            (there := recap / "input" / job.name / "runs" / path.parent.name).mkdir(parents=True)
            for name in RECAP:
                if path.with_name(name).exists():
                    shutil.copyfile(path.with_name(name), there / name)
    if not recap.exists():
        return None
    os.environ["FLOWERS_KAGGLE"] = str(recap.resolve())  # nothing but these
    try:
        local.run([ENSEMBLE], out=recap)
    except (FlowersError, RuntimeError) as error:
        return error
    return None
