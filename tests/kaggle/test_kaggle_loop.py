"""Interruptions are waited out, the quota is compared, progress is shown."""

import contextlib
import os
import pty
import re
import subprocess

import clone
import numpy as np
from kaggle_helpers import POLL, arrivals, assert_fails, pushed
from kaggle_server import Dataset


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


def test_a_series_that_cannot_fit_is_refused_with_the_figures(server, kaggle):
    server.quota["tpu"] = (18.5, 20)
    assert_fails(
        kaggle("run", *POLL),
        "TPU hours do not suffice: about 4.9 h to run 7, 1.5 h of 20 h left until Saturday 05 January, 00:00 UTC",
        "; name fewer notebooks, or wait",
    )
    assert pushed(server) == []
    assert kaggle("run", "12_resnet152v2", *POLL).returncode == 0  # 45 minutes fit
    server.quota["gpu"] = (24, 30)
    assert_fails(
        kaggle("run", "11_xception", "--accelerator", "NvidiaTeslaT4", *POLL),
        "GPU hours do not suffice: about 6.8 h to run 1, 6.0 h of 30 h left",  # 45 minutes, 9 times slower
    )


def test_a_quota_that_is_not_told_refuses_nothing(server, kaggle):
    server.quota["tpu"] = (None, 20)  # what is not told is none, as everywhere in this format
    done = kaggle("run", "12_resnet152v2", *POLL)
    assert "TPU: about 0.8 h to run 1, 20.0 h of 20 h left this week." in done.stdout
    server.fail_next("GetAcceleratorQuotaStatistics", ("http", 404, "Not found"))
    done = kaggle("run", "11_xception", *POLL)
    assert "TPU: about 0.8 h needed; Kaggle does not say how many are left." in done.stdout
    assert pushed(server) == ["12_resnet152v2", "11_xception"]
