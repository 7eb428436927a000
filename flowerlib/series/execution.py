"""Run notebooks, side by side where cores and memory allow, and leave what they make in one folder."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import nbformat
import papermill
import psutil
from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from flowerlib.config import (
    MINOR,
    PATH_VARIABLES,
    FlowersError,
    absolute,
    atomic_write,
    exclusive_lock,
    read_record,
    remove_stale_temporaries,
    run_name,
    written_score,
)
from flowerlib.parallel import num_cores, processes
from flowerlib.series import notebooks as series
from flowerlib.series import page, pairs
from flowerlib.series.progress import LastLine

CELLS = "{l_bar}{bar}| {n_fmt}/{total_fmt} cells"  # some take a second and one an hour: they do not tell how long
NOTEBOOK_MEMORY = 4.5e9  # bytes that the largest notebook takes
READERS = ("20_ensemble",)  # notebooks that read what the others leave


class OwnKernel(AsyncKernelManager):
    """A kernel of the Python that runs flowerlib, whatever the kernel specs on this machine say of `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The spec that the kernel is started by."""
        return KernelSpec(argv=make_ipkernel_cmd(), display_name="Python 3", language="python")


@dataclass(frozen=True)
class Job:
    """One notebook to execute: where it is, under which name, with which parameters, into which folder."""

    notebook: Path
    name: str
    out: Path
    parameters: series.Parameters = field(default_factory=dict)
    row: int = 0  # of the terminal


def run(
    notebooks: Iterable[str] = (),
    *,
    data: str | None = None,
    out: Path = Path("outputs"),
    parameters: Iterable[str] = (),
    name: str | None = None,
    jobs: int | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Execute notebooks in the folder `out`, one progress line each, and write `out/index.html`.

    Args:
        notebooks: their names, numbers or words; all of them unless given.
        data: the dataset's folder or address, instead of `FLOWERS_DATA`.
        out: gets the executed notebooks, their pages and what they write.
        parameters: `NAME=VALUE`, for the cell tagged `parameters` of each notebook.
        name: of the run and of the executed notebook, so that variants of one notebook live side by side.
        jobs: how many run side by side; as cores and free memory allow unless given. The ensemble waits for all.
        prepare: is called before the first one, after all that is given was found to be right.

    Raises:
        FlowersError: an unknown notebook or parameter; a place whose name is no text; another process runs into `out`;
            or a notebook stopped with one, of which nothing is written.
        RuntimeError: a notebook stopped with another error; it stays in `out` for reading.
    """
    _require_text(str(out.resolve()), data or "")
    names = [series.resolve(each) for each in notebooks] or series.names()
    pairs.require_current(series.NOTEBOOKS / f"{each}.ipynb" for each in names)
    chosen = _jobs(names, out, parameters, name)
    _set_places(data)
    existed = out.exists()
    try:
        with exclusive_lock(out / ".lock", partial(_refuse_second, out)):
            _remove_leftovers(out)
            prepare()
            _execute_all(chosen, jobs or _num_jobs())
            with atomic_write(out / "index.html") as temporary:
                temporary.write_text(page.index(out), encoding="utf-8")
    finally:
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    print(f"All of it on one page: {out / 'index.html'}")


def _require_text(*places: str) -> None:
    """Refuse places whose names cannot be written into a notebook."""
    for place in places:
        try:
            place.encode()
        except UnicodeEncodeError:
            told = os.fsencode(place).decode("utf-8", "backslashreplace")
            raise FlowersError(
                f"`{told}` is no text in this locale, as notebooks need it; rename it, or set LC_ALL=C.UTF-8"
            ) from None


def _jobs(chosen: list[str], out: Path, given: Iterable[str], name: str | None) -> list[Job]:
    given = list(given)
    if name and len(chosen) != 1:
        raise FlowersError(f"`--name {name}` is for one notebook; {len(chosen)} are chosen")
    if name:
        given.append(f"NAME={name}")
    return [_job(each, name or each, out, series.parameters(each, given)) for each in chosen]


def _job(notebook: str, name: str, out: Path, parameters: series.Parameters) -> Job:
    """A fold, and a training on train and val, are executed under the name of their run, beside the others."""
    name = run_name(name, parameters.get("FOLD"), parameters.get("TRAIN_ON", "train"))
    return Job(series.NOTEBOOKS / f"{notebook}.ipynb", name, out, parameters)


def _num_jobs() -> int:
    """As many as there are cores, as long as each has the memory of the largest notebook."""
    return max(1, min(num_cores(), int(psutil.virtual_memory().available // NOTEBOOK_MEMORY)))


def _execute_all(chosen: list[Job], num_jobs: int) -> None:
    """Execute notebooks, first those that read no others; of several that stop, raise the first's error at the end."""
    readers = [job for job in chosen if job.notebook.stem in READERS]
    others = [job for job in chosen if job.notebook.stem not in READERS]
    for group in (others, readers):
        if min(num_jobs, len(group)) > 1:
            _side_by_side(group, num_jobs)
        else:
            for job in group:
                tqdm.write(_execute(job))


def _side_by_side(group: list[Job], num_jobs: int) -> None:
    # In processes of their own: a notebook's working folder is its process'.
    with processes(num_jobs) as pool:
        futures: list[Future[str]] = [
            pool.submit(_execute, Job(job.notebook, job.name, job.out, job.parameters, 2 * (number % num_jobs)))
            for number, job in enumerate(group)
        ]
        try:
            for future in as_completed(futures):
                tqdm.write(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _refuse_second(out: Path, process: str) -> None:
    raise FlowersError(f"process {process} runs notebooks into `{out}`; let it end, or name another folder with --out")


def _remove_leftovers(out: Path) -> None:
    """Remove what a run that was killed had half written, here and in the folders of the runs."""
    for folder in (out, *out.glob("runs/*/")):
        remove_stale_temporaries(folder)


def _set_places(data: str | None) -> None:
    """Hand the places on to the notebooks, which run in another folder."""
    if data:
        os.environ["FLOWERS_DATA"] = data
    os.environ |= {variable: absolute(place) for variable in PATH_VARIABLES if (place := os.environ.get(variable))}


def _execute(job: Job) -> str:
    """Execute one notebook, write it and its page; return the line that says how it went."""
    began, failed = time.time(), job.out / f"{job.name}-failed.ipynb"
    bar = {"position": job.row + 1, "leave": False, "disable": None, "bar_format": CELLS}
    shown = tqdm(bar_format="{desc}", miniters=1, position=job.row, leave=False, disable=None)
    printed = LastLine(shown, f"{job.name}: " if job.row else "")
    with atomic_write(made := job.out / f".{job.name}.ipynb") as temporary, shown, _peak_memory() as memory:
        try:
            papermill.execute_notebook(
                job.notebook,
                temporary,
                # papermill writes a tuple into the notebook as a string.
                parameters={key: list(v) if isinstance(v, tuple) else v for key, v in job.parameters.items()},
                cwd=job.out,
                kernel_name="python3",
                kernel_manager_class=OwnKernel,
                progress_bar={"desc": job.name} | bar,
                stdout_file=printed,
                stderr_file=printed,
                coalesce_streams=True,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        except PapermillExecutionError as error:
            if error.ename == "FlowersError":
                raise FlowersError(error.evalue) from None
            temporary.replace(failed)
            raise RuntimeError(f"{job.name} stopped: {error.ename}: {error.evalue}; read {failed}") from None
        content = nbformat.read(temporary, as_version=4)
        seconds = time.time() - began
        content.metadata["flowerlib"] = {"seconds": round(seconds, 1), "peak_memory_bytes": memory[0]}
        nbformat.write(content, temporary)
    record = newest_record(job.out, job.name)
    executed = made.replace(job.out / f"{_executed_name(job, record, began)}.ipynb")
    failed.unlink(missing_ok=True)  # of an earlier call
    with atomic_write(executed.with_suffix(".html")) as temporary:
        temporary.write_text(page.notebook_page(executed), encoding="utf-8")
    return f"{job.name:<20} {seconds:5.0f} s{score(record)}"


def _executed_name(job: Job, record: Path, began: float) -> str:
    """The notebook's name; or that of the run it has left, a smoke test or so, where a whole one is there."""
    left_now = record.exists() and record.stat().st_mtime >= began
    is_minor = left_now and MINOR.fullmatch(record.parent.name)
    return record.parent.name if is_minor and (job.out / f"runs/{job.name}/run.json").exists() else job.name


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Yield a list of one number: the most bytes that a child of this process has held, looked up twice a second."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                try:
                    peak[0] = max(peak[0], child.memory_info().rss)
                except psutil.Error:  # it has just ended
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def newest_record(out: Path, name: str) -> Path:
    """Return the record that was written last: of the run, its smoke test or what was stopped; it may not exist."""

    def is_ours(folder: str) -> bool:
        return folder == name or bool((minor := MINOR.fullmatch(folder)) and minor["name"] == name)

    records = [path for path in out.glob(f"runs/{name}*/run.json") if is_ours(path.parent.name)]
    return max(records, key=lambda path: path.stat().st_mtime, default=out / "runs" / name / "run.json")


def score(record: Path) -> str:
    """Return what a run's record says of its success, in a few words; nothing where there is no record."""
    if not record.exists():
        return ""
    run = read_record(record)
    return "   smoke test" if run["smoke_test"] else f"   macro F1 on val {written_score(run)}"
