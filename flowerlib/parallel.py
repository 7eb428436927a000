"""Map a function over jobs in parallel, one worker process per core."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import RLock
from threading import Thread
from types import ModuleType
from typing import TypeVar

from tqdm import tqdm

MAX_WORKERS = 16  # with more, starting the processes takes longer than they save
JOBS_PER_MESSAGE = 8  # sent to a worker at a time: jobs of milliseconds would mostly wait for the next one
Job = TypeVar("Job")
Result = TypeVar("Result")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def parallel_map(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Iterator[Result]]:
    """Yield the results of `function` for each job, in the order of the jobs, computed on all cores.

    Spawns fresh processes: forking a process that runs TensorFlow's threads can deadlock.
    """
    pool = ProcessPoolExecutor(min(num_cores(), MAX_WORKERS), get_context("spawn"), initializer=_exit_with_parent)
    try:
        with _without_main_module():
            results = pool.map(function, jobs, chunksize=JOBS_PER_MESSAGE)  # starts the processes
        yield results
    finally:
        pool.shutdown(cancel_futures=True)


def _exit_with_parent() -> None:
    """End this worker when the process that started it is killed, instead of waiting for jobs for ever."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep spawned processes from running the caller's script again.

    That is slow and fails, unless the script is guarded by `if __name__ == "__main__"`; the code of a notebook is not.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor of `count` fresh processes, one for each job, which may draw progress bars on one terminal."""
    context = get_context("spawn")
    lock = context.RLock()
    pool = ProcessPoolExecutor(count, context, initializer=_begin_job, initargs=(lock,), max_tasks_per_child=1)
    try:
        with _without_main_module():
            yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_job(lock: RLock) -> None:
    """End with the caller, and share its lock on the terminal."""
    _exit_with_parent()
    tqdm.set_lock(lock)
