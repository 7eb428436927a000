"""Interruptions are waited out, the quota is compared, progress is shown."""

import contextlib
import os
import pty
import re
import subprocess

import clone
import numpy as np
import pytest
from kaggle_helpers import POLL, arrivals, assert_fails, pushed
from kaggle_server import Dataset

from flowerlib.config import FlowersError
from flowerlib.kaggle import duration, kernels


def test_a_cut_connection_is_waited_out(server, kaggle):
    faults = [("cut",), ("http", 503, "busy"), ("http", 429, "slowly, please"), ("cut",)]
    server.fail_next("GetKernelSessionStatus", *faults)
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trying again") == 4
    assert pushed(server) == ["01_eda"]
    pauses = np.diff(arrivals(server, "GetKernelSessionStatus"))
    assert (pauses[:4] >= 0.05 * np.array([2, 4, 8, 16])).all()


def test_a_cut_before_anything_is_sent_is_waited_out_too(server, kaggle):
    for method in ("GetKernel", "GetAcceleratorQuotaStatistics", "GetDatasetStatus"):
        server.fail_next(method, ("cut",), ("http", 502, "busy"))
    server.datasets["someone/flowerlib-weights"] = Dataset({})
    done = kaggle("run", "10_densenet201", "--offline", *POLL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trying again") == 6
    server.fail_next("GetKernel", *[("cut",)] * 5)
    assert_fails(kaggle("run", "01_eda", *POLL), "Kaggle cannot be reached")
    assert pushed(server) == ["10_densenet201"]


def test_a_terminal_gets_one_live_line_a_kernel(server, folder, tmp_path):
    ours, theirs = pty.openpty()
    command = clone.command("kaggle", "run", "01_eda", "02_augmentation", "--poll", "0.3")
    environment = os.environ | server.environment(tmp_path) | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(ours, 10_000):
            written += part
    assert process.wait() == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    for state in ("queued", "running", "complete"):
        assert re.search(rf"01_eda +{state} .*\r?\n *02_augmentation +{state} ", text)
    assert b"\x1b[1A" in written  # the table is drawn over itself


def hours(machine, *notebooks):
    """The hours that the notebooks, or all that need an accelerator, are expected to take."""
    named = [kernels.SERIES[name] for name in notebooks or kernels.SERIES]
    return sum(duration.minutes(kernel, machine) for kernel in named if kernel.accelerated) / 60


def test_a_series_that_cannot_fit_is_refused_with_the_figures(server, kaggle):
    server.quota["tpu"] = (18.5, 20)
    assert_fails(
        kaggle("run", *POLL),
        f"TPU hours do not suffice: about {hours('TpuV5E8'):.1f} h to run 7, 1.5 h of 20 h left until Saturday 05 Jan",
        "; name fewer notebooks, or wait, or send them all the same with `--ignore-quota`",
    )
    assert pushed(server) == []
    assert kaggle("run", "12_resnet152v2", *POLL).returncode == 0  # 41 minutes fit
    server.quota["gpu"] = (29, 30)
    assert_fails(
        kaggle("run", "11_xception", "--accelerator", "NvidiaTeslaT4", *POLL),
        f"GPU hours do not suffice: about {hours('NvidiaTeslaT4', '11_xception'):.1f} h to run 1, 1.0 h of 30 h left",
    )


def test_what_running_sessions_have_set_aside_is_not_left(server, run_here, kaggle):
    server.quota["tpu"], server.reserved["tpu"] = (10, 20), 9.5
    aside = "0.5 h of 20 h left, 9.5 h set aside by running sessions"
    with pytest.raises(FlowersError, match=f"TPU hours do not suffice: about 0.7 h to run 1, {aside} until"):
        run_here("12_resnet152v2")
    assert pushed(server) == []
    assert f"TPU: {aside}, until Saturday" in kaggle("quota").stdout


def test_who_knows_better_sends_all_the_same(server, kaggle):
    server.quota["tpu"] = (20, 20)
    done = kaggle("run", "12_resnet152v2", "--ignore-quota", *POLL)
    assert "TPU: about 0.7 h to run 1, 0.0 h of 20 h left this week." in done.stdout
    assert pushed(server) == ["12_resnet152v2"]


def test_a_quota_that_is_not_told_refuses_nothing(server, kaggle):
    server.quota["tpu"] = (None, 20)  # what is not told is none, as everywhere in this format
    done = kaggle("run", "12_resnet152v2", *POLL)
    assert "TPU: about 0.7 h to run 1, 20.0 h of 20 h left this week." in done.stdout
    server.fail_next("GetAcceleratorQuotaStatistics", ("http", 404, "Not found"))
    done = kaggle("run", "11_xception", *POLL)
    assert "TPU: about 0.3 h to run 1, Kaggle gives 20 h this week." in done.stdout
    assert pushed(server) == ["12_resnet152v2", "11_xception"]
