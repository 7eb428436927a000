"""A stand-in for kaggle.com, a copy of the repository, and the command that runs in it."""

import json
import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta

import clone
import pytest
from kaggle_helpers import MEMBERS, POLL, REFS, random_run
from kaggle_server import KaggleServer

from flowerlib import predictions
from flowerlib.kaggle import build
from flowerlib.kaggle import run as kaggle_run
from flowerlib.kaggle.clock import Clock


@pytest.fixture
def server():
    """Return a stand-in for kaggle.com; at the end all its faults must have happened and all requests been known."""
    with KaggleServer() as server:
        yield server
        assert server.unknown == []
        assert not any(server.faults.values())


@pytest.fixture
def folder(tmp_path):
    """Return a copy of the repository."""
    return clone.make(tmp_path / "clone")


@pytest.fixture
def kaggle(server, folder, tmp_path):
    """Return `kaggle(*arguments)`, which runs `flowerlib kaggle` in the copy."""

    def run(*arguments, **environment):
        return clone.flowerlib(folder, "kaggle", *arguments, **server.environment(tmp_path) | environment)

    return run


class QuickClock(Clock):
    """A clock that goes on by as long as it is asked to sleep, at once."""

    def __init__(self):
        self.time = datetime.now(UTC)

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    """Return a clock that a test can read, and that waits for nobody."""
    return QuickClock()


@pytest.fixture
def here(server, tmp_path, monkeypatch):
    """Have this process speak to the stand-in."""
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def run_here(here, clock, tmp_path):
    """Return `run_here(*notebooks, **options)`, which runs them in this process, by the clock, a poll every 10 min."""

    def run(*notebooks, **options):
        return kaggle_run.run(notebooks, out=tmp_path / "out", poll=600, clock=clock, **options)

    return run


@pytest.fixture
def outputs(server, tmp_path):
    """Have the members of the ensemble leave runs, and the ensemble a recognisable submission."""
    for seed, name in enumerate(MEMBERS):
        splits, record = random_run(name, seed)
        predictions.save(tmp_path / f"{name}.npz", *splits, ("rose", "iris", "daisy"))
        server.outputs[REFS[name]] = {
            f"runs/{name}/run.json": json.dumps(record).encode(),
            f"runs/{name}/predictions.npz": (tmp_path / f"{name}.npz").read_bytes(),
            f"runs/{name}/curves.png": b"png",
            "submission.csv": b"id,label\nt0,1\n",
        }
    server.outputs[REFS["20_ensemble"]] = {"submission.csv": b"id,label\nmade,104\n"}
    return server.outputs


@pytest.fixture
def submission_of_ensemble(server):
    """Have the ensemble leave a submission."""
    server.outputs[REFS["20_ensemble"]] = {"submission.csv": b"id,label\nmade,104\n"}


@pytest.fixture
def default_interrupts():
    """Have processes that are started here heed Ctrl-C, which a shell's background job, and all it starts, ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stopped(server, folder, tmp_path):
    """Return `stopped(when, notebooks, how)`: start `run`, stop it when the server says so, return the process."""

    def stop(when, *notebooks, how=signal.SIGKILL):
        process = subprocess.Popen(
            clone.command("kaggle", "run", *notebooks, *POLL),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | server.environment(tmp_path),
            text=True,
        )
        while not when() and process.poll() is None:
            time.sleep(0.02)
        for _ in range(30):  # Python loses an interrupt that meets a finalizer: then one presses Ctrl-C again
            process.send_signal(how)
            try:
                process.printed, _ = process.communicate(timeout=5)
                return process
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError("the process goes on")

    return stop


@pytest.fixture(scope="session")
def built_clone(tmp_path_factory):
    """Return a copy of the repository in which all kernels are built, for tests that only read it."""
    folder = clone.make(tmp_path_factory.mktemp("clone"))
    build.build(user="someone", root=folder)
    return folder
