"""Wait for the kernels: retries, the weekly quota, polling until all have ended, and the progress display."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flowerlib.config import FlowersError
from flowerlib.kaggle import duration
from flowerlib.kaggle.errors import Unreachable
from flowerlib.kaggle.jobs import Job
from flowerlib.kaggle.service import Quota
from flowerlib.kaggle.steps import MAX_ATTEMPTS, MAX_BACKOFF, Series

T = TypeVar("T")


def print_line(console: Console, text: str) -> None:
    """Print text literally and without wrapping."""
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def retry(series: Series, console: Console, request: Callable[..., T], *arguments: object) -> T:
    """Repeat a request while Kaggle is unreachable, at most `MAX_ATTEMPTS` times with exponential backoff."""
    for attempt in range(MAX_ATTEMPTS - 1):
        try:
            return request(*arguments)
        except Unreachable as error:
            pause = series.interval * 2**attempt
            print_line(console, f"{error}; trying again in {pause:.0f} s ({attempt + 1} of {MAX_ATTEMPTS - 1})")
            series.clock.sleep(pause)
    return request(*arguments)


def require_quota(series: Series, console: Console, pending: list[Job], *, ignore: bool) -> None:
    """Compare the expected hours of the pending jobs with this week's quota.

    Raises:
        FlowersError: the quota is too small, and `ignore` is not set; Kaggle would stop the series half-way.
    """
    for kind, total in duration.WEEKLY_HOURS.items():
        if jobs := [job for job in pending if job.kind == kind]:
            hours = duration.hours(job.built for job in jobs)
            quota = retry(series, console, series.service.quota, kind)
            if quota and hours > quota.remaining and not ignore:
                raise FlowersError(_too_little(kind, hours, len(jobs), quota))
            left = f"{quota.remaining:.1f} h of {quota.total:.0f} h left" if quota else f"Kaggle gives {total} h"
            print_line(console, f"{kind.upper()}: about {hours:.1f} h to run {len(jobs)}, {left} this week.")


def _too_little(kind: str, hours: float, count: int, quota: Quota) -> str:
    refresh = f" until {quota.refresh:%A %d %B, %H:%M} UTC" if quota.refresh else ""
    reserved = f", {quota.reserved:.1f} h set aside by running sessions" if quota.reserved else ""
    left = f"{quota.remaining:.1f} h of {quota.total:.0f} h left{reserved}{refresh}"
    remedy = "or wait" if hours <= quota.total else "and the others in later weeks"
    return (
        f"{kind.upper()} hours do not suffice: about {hours:.1f} h to run {count}, {left}; name fewer notebooks, "
        f"{remedy}, or send them all the same with `--ignore-quota`"
    )


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
            series.clock.sleep(pause)


def _step_all(series: Series) -> None:
    connection_error = ""
    for job in series.jobs.values():
        try:
            series.step(job)
        except Unreachable as error:
            connection_error = str(error)
    series.connection_error = connection_error


def _print_changes(series: Series, shown: dict[str, str], console: Console) -> None:
    """Print a line for each job whose state and remark are not those in `shown`, and update that."""
    for job in series.jobs.values():
        if shown[job.name] != (text := f"{job.state} {job.remark}"):
            shown[job.name] = text
            print_line(console, str(job))
    if series.connection_error:
        print_line(console, f"{series.connection_error}; trying again")


def _table(series: Series) -> Table:
    caption = f"{series.connection_error}; trying again" if series.connection_error else ""
    table = Table("notebook", "state", "", "", box=None, caption=Text(caption))
    for job in series.jobs.values():
        table.add_row(job.name, job.state, job.duration, Text(job.remark))
    return table
