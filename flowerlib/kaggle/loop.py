"""Wait for the kernels: retries, the weekly quota, polling until all have ended, and the progress display."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowerlib.config import FlowersError
from flowerlib.kaggle import kernels
from flowerlib.kaggle.errors import Unreachable
from flowerlib.kaggle.jobs import MAX_ATTEMPTS, MAX_BACKOFF, Job, Series
from flowerlib.kaggle.service import Service

T = TypeVar("T")


def print_line(console: Console, text: str) -> None:
    """Print text literally and without wrapping."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def retry(console: Console, interval: float, request: Callable[..., T], *arguments: object) -> T:
    """Repeat a request while Kaggle is unreachable, at most `MAX_ATTEMPTS` times with exponential backoff."""
    for attempt in range(MAX_ATTEMPTS - 1):
        try:
            return request(*arguments)
        except Unreachable as error:
            pause = interval * 2**attempt
            print_line(console, f"{error}; trying again in {pause:.0f} s ({attempt + 1} of {MAX_ATTEMPTS - 1})")
            time.sleep(pause)
    return request(*arguments)


def expected_hours(jobs: list[Job], kind: str) -> float:
    """Return about how many hours the jobs take together on a kind of accelerator."""
    slowdown = kernels.GPU_SLOWDOWN if kind == "gpu" else 1
    return slowdown * sum(job.built.kernel.minutes for job in jobs) / 60


def require_quota(pending: list[Job], service: Service, console: Console, interval: float) -> None:
    """Compare the expected hours of the pending jobs with this week's quota.

    Raises:
        FlowersError: the quota is too small; Kaggle would stop the series half-way.
    """
    for kind in ("tpu", "gpu"):
        jobs = [job for job in pending if job.kind == kind]
        if not jobs:
            continue
        hours = expected_hours(jobs, kind)
        if (quota := retry(console, interval, service.quota, kind)) is None:
            print_line(console, f"{kind.upper()}: about {hours:.1f} h needed; Kaggle does not say how many are left.")
            continue
        figures = f"about {hours:.1f} h to run {len(jobs)}, {quota.remaining:.1f} h of {quota.total:.0f} h left"
        if hours > quota.remaining:
            refresh = f" until {quota.refresh:%A %d %B, %H:%M} UTC" if quota.refresh else ""
            remedy = "or wait" if hours <= quota.total else "and the others in later weeks"
            raise FlowersError(
                f"{kind.upper()} hours do not suffice: {figures}{refresh}; name fewer notebooks, {remedy}"
            )
        print_line(console, f"{kind.upper()}: {figures} this week.")


def wait_until_ended(series: Series, console: Console) -> None:
    """Step all jobs until each has ended; show a live table, or without a terminal one line per change of state."""
    shown = dict.fromkeys(series.jobs, "")
    pause = series.interval
    is_live = console.is_terminal
    with Live(get_renderable=lambda: _table(series), console=console) if is_live else nullcontext():
        while True:
            _step_all(series)
            if not is_live:
                _print_changes(series, shown, console)
            if all(job.ended for job in series.jobs.values()):
                return
            failing = bool(series.connection_error)
            pause = min(2 * pause, MAX_BACKOFF * series.interval) if failing else series.interval
            time.sleep(pause)


def _step_all(series: Series) -> None:
    connection_error = ""
    for job in series.jobs.values():
        try:
            series.step(job)
        except Unreachable as error:
            connection_error = str(error)
    series.connection_error = connection_error


def _print_changes(series: Series, shown: dict[str, str], console: Console) -> None:
    """Print a line for each job whose state is not the one in `shown`, and update that."""
    for job in series.jobs.values():
        if shown[job.name] != job.state:
            shown[job.name] = job.state
            print_line(console, str(job))
    if series.connection_error:
        print_line(console, f"{series.connection_error}; trying again")


def _table(series: Series) -> Table:
    caption = f"{series.connection_error}; trying again" if series.connection_error else ""
    table = Table("notebook", "state", "", "", box=None, caption=Text(caption))
    for job in series.jobs.values():
        table.add_row(job.name, job.state, job.duration, Text(job.note))
    return table
