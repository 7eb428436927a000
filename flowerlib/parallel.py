"""Spread work over all cores, in processes of their own."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from types import ModuleType
from typing import TypeVar

MAX_WORKERS = 16  # workers: beyond that, starting them costs more than they save
Job, Result = TypeVar("Job"), TypeVar("Result")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _end_with_the_caller() -> None:
    """Let a worker end when the process that started it is killed: it would wait for work for ever."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


@contextmanager
def parallel_map(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Iterator[Result]]:
    """Yield `function` of each job, in their order, computed by all cores."""
    # Fresh processes: forking one that runs TensorFlow's threads can hang. They would first run the caller's script
    # again, which is slow and, unless the script is guarded by `if __name__ == "__main__"`, fails: so they get none.
    pool = ProcessPoolExecutor(min(num_cores(), MAX_WORKERS), get_context("spawn"), initializer=_end_with_the_caller)
    main = sys.modules["__main__"]
    try:
        sys.modules["__main__"] = ModuleType("__main__")
        results = pool.map(function, jobs, chunksize=8)
        sys.modules["__main__"] = main
        yield results
    finally:
        sys.modules["__main__"] = main
        pool.shutdown(cancel_futures=True)
