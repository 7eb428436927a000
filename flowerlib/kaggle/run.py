"""Run the series on Kaggle: push the kernels, sources first, wait for them, download their outputs."""

from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flowerlib.config import FlowersError, exclusive_lock
from flowerlib.kaggle import build, check, client, duration, kernels
from flowerlib.kaggle.build import BuiltKernel
from flowerlib.kaggle.clock import Clock
from flowerlib.kaggle.finish import ENSEMBLE, delete_overdue, finish
from flowerlib.kaggle.jobs import Job, State
from flowerlib.kaggle.loop import print_line, require_quota, retry, wait_until_ended
from flowerlib.kaggle.outputs import Outputs
from flowerlib.kaggle.service import Service
from flowerlib.kaggle.steps import Series


def run(
    notebooks: Iterable[str] = (),
    *,
    user: str | None = None,
    out: Path = Path("outputs/kaggle"),
    accelerator: str | None = None,
    online: bool | None = None,
    hours: float = duration.SESSION_HOURS,
    submit: bool = False,
    models: bool = False,
    ignore_quota: bool = False,
    confirm_deletion: Callable[[str], bool] | None = None,
    poll: float = 30.0,
    clock: Clock | None = None,
    root: Path = kernels.ROOT,
) -> Path | None:
    """Build, check and push kernels, wait for them, download their outputs, and make the recap here.

    An interrupted call resumes: a kernel is not pushed again if Kaggle has a version with the same content hash that
    read the same versions of its sources, unless that run failed.

    Args:
        notebooks: their names; all unless given. The kernels whose outputs they read are added.
        user: the owner on Kaggle; the logged-in user unless given.
        out: gets `input/<notebook>/` (of a kernel's output, what the recap needs), `logs/`, `recap/` and
            `submission.csv`.
        accelerator: as in `build.build`.
        online: as in `build.build`.
        hours: the maximum run time of a kernel.
        submit: also submit the ensemble's predictions to the competition, each version once.
        models: download all that kernels leave, models too.
        ignore_quota: push the kernels even if the week's hours seem too few for them.
        confirm_deletion: asked before a kernel that is overdue is deleted; none is deleted unless given.
        poll: seconds between two polls of a kernel; pauses grow from it while Kaggle refuses or cannot be reached.
        clock: the time; this machine's unless given.
        root: the folder of the repository.

    Returns:
        The submission's path; None if the ensemble is not among the notebooks.

    Raises:
        FlowersError: no credentials, an invalid notebook or metadata, too little quota, or another `run` is at work
            in `out`; nothing was pushed.
        RuntimeError: a kernel failed or is overdue; the outputs of the others have been downloaded.
    """
    names = [kernel.notebook for kernel in kernels.select(notebooks, with_sources=True)]
    if submit and ENSEMBLE not in names:
        raise FlowersError(f"only {ENSEMBLE} is submitted; name it too, or no notebook at all")
    service, console = Service(), Console()
    built = build.make_all(names, user=user or service.user, accelerator=accelerator, online=online, root=root)
    check.require_built(built)
    jobs, outputs = [Job(kernel) for kernel in built], Outputs(out, service, models=models)
    series = Series(jobs, service, outputs, int(3600 * hours), poll, clock or Clock())
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FlowersError(f"`out` (={out}) cannot be made ({error}); name another folder") from None

    def refuse(process: str) -> None:
        raise FlowersError(f"process {process} is another `run` at work in {out}; wait until it ends, or stop it")

    with exclusive_lock(out / ".lock", refuse):
        _prepare(series, console, ignore_quota=ignore_quota)
        wait_until_ended(series, console)
        if confirm_deletion:
            delete_overdue(series, console, confirm_deletion)
        return finish(series, console, submit=submit)


def dry_run(
    notebooks: Iterable[str] = (),
    *,
    user: str | None = None,
    accelerator: str | None = None,
    online: bool | None = None,
    root: Path = kernels.ROOT,
) -> None:
    """Build and check the kernels of a `run` and print them, with the accelerator time they need; push nothing.

    Arguments and errors as in `run`; no credentials are needed.
    """
    names = [kernel.notebook for kernel in kernels.select(notebooks, with_sources=True)]
    user = user or client.logged_in_user() or "you"
    built = build.make_all(names, user=user, accelerator=accelerator, online=online, root=root)
    check.require_built(built)
    show_plan(built, Console())


def show_plan(built: Iterable[BuiltKernel], console: Console) -> None:
    """Print a table of kernels, what each reads and how long it takes, and the hours of accelerators for all."""
    table = Table(box=None, pad_edge=False)
    for column in ("notebook", "machine", "about", "reads"):
        table.add_column(column)
    for each in built:
        machine = each.metadata["machine_shape"] or "CPU"
        reads = ("competition_sources", "dataset_sources", "kernel_sources")
        sources = ", ".join(source.split("/")[-1] for key in reads for source in each.metadata[key])
        minutes = duration.minutes(each.kernel, each.metadata["machine_shape"])
        table.add_row(each.kernel.notebook, machine, f"{minutes} min", sources)
    console.print(table)
    for kind, total in duration.WEEKLY_HOURS.items():
        if jobs := [job for job in map(Job, built) if job.kind == kind]:
            hours = duration.hours(job.built for job in jobs)
            print_line(console, f"{kind.upper()}: about {hours:.1f} h, of {total} h a week.")


def _prepare(series: Series, console: Console, *, ignore_quota: bool) -> None:
    """Adopt what Kaggle already has; make sure that the rest can be pushed."""
    jobs = list(series.jobs.values())
    retry(series, console, series.service.require_datasets, [job.built.metadata for job in jobs])
    for job in jobs:
        retry(series, console, series.poll_version, job)
        if job.note and job.state == State.PENDING:
            print_line(console, f"{job.name}: {job.note}, and is pushed again")
    require_quota(series, console, [job for job in jobs if job.state == State.PENDING], ignore=ignore_quota)
