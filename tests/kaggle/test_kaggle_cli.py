"""The other commands of `flowerlib kaggle`, and the official `kaggle` command on what is built."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from kaggle_helpers import POLL, REFS, assert_fails, pushed

from flowerlib.kaggle import duration, kernels


def test_push_says_whether_it_was_sent(server, kaggle):
    server.queue_full(1)
    assert_fails(
        kaggle("push", "10_densenet201"), "was not pushed: Maximum batch TPU session count of 1 reached.", "Wait, or"
    )
    server.fail_next("SaveKernel", ("lost",))
    assert_fails(
        kaggle("push", "01_eda"), "cannot be reached", "`flowerlib kaggle status 01_eda` shows whether 01_eda arrived"
    )
    assert pushed(server) == ["01_eda"]


def test_check_says_what_is_wrong_and_then_that_nothing_is(kaggle, folder):
    assert_fails(kaggle("check"), "nothing is built in build/kernels; run `flowerlib kaggle build`")
    assert_fails(kaggle("build", KAGGLE_USERNAME=""), "the kernels need an owner: give `--user NAME`")
    assert kaggle("build").returncode == 0
    assert kaggle("check").stdout.count("build/kernels/") == len(kernels.SERIES)
    done = kaggle("build", "01_eda", "--out", "../elsewhere")
    assert done.stdout.startswith("../elsewhere/01_eda: someone/flowers-01-exploratory-data-analysis, content ")
    assert (folder.parent / "elsewhere/01_eda/01_eda.ipynb").exists()
    done = kaggle("check", "notebooks")
    assert_fails(done, "`notebooks/kernel-metadata.json` cannot be read")


def test_push_status_output_submit(server, kaggle, folder):
    assert "20_ensemble          not on Kaggle" in kaggle("status").stdout
    assert_fails(kaggle("submit"), "no complete run to submit: not on Kaggle")
    assert_fails(kaggle("output", "01_eda"), "someone/flowers-01-exploratory-data-analysis is not on Kaggle")
    done = kaggle("push", "01_eda", "02_augmentation", "--timeout", "0.5")
    assert "01_eda: version 1, https://www.kaggle.com/code/someone/flowers-01-exploratory-data-analysis" in done.stdout
    assert [body["sessionTimeoutSeconds"] for method, body in server.requests if method == "SaveKernel"] == [1800, 1800]
    assert_fails(kaggle("output", "01_eda", "--out", "here"), "has not ended (QUEUED); nothing was downloaded")
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n", "runs/a/model/model.keras": b"large"}
    server.kernels[REFS["01_eda"]][0].polls = 0
    for state in ("QUEUED", "RUNNING", "COMPLETE"):
        assert re.search(rf"01_eda +version 1, content [0-9a-f]{{16}}: {state}$", kaggle("status", "01_eda").stdout)
    server.fail_next("files", ("http", 500, "oops"))
    assert_fails(kaggle("output", "01_eda", "--out", "here"), "Kaggle has a server error")
    assert not (folder / "here/input/01_eda").exists()
    assert kaggle("output", "01_eda", "--out", "here").returncode == 0
    assert (folder / "here/input/01_eda/submission.csv").read_bytes() == b"id,label\n1,2\n"
    assert (folder / "here/input/01_eda/runs/a/model/model.keras").read_bytes() == b"large"
    assert "Successfully submitted" in kaggle("submit", "01_eda", "--message", "a test").stdout
    assert server.submissions[0]["submissionDescription"] == "a test"
    for _ in range(3):
        kaggle("status", "02_augmentation")
    assert_fails(
        kaggle("submit", "02_augmentation"), "version 1 of someone/flowers-02-augmentation left no submission.csv"
    )
    assert_fails(kaggle("run", "01_eda", "--submit"), "only 20_ensemble is submitted; name it too")
    assert len(server.submissions) == 1


def test_a_submission_by_hand_says_when_it_may_have_arrived(server, kaggle):
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n"}
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    server.fail_next("CreateCodeSubmission", ("lost",))
    assert_fails(kaggle("submit", "01_eda"), "the submission may or may not have arrived", "check your submissions")


def test_the_official_command_sends_what_is_built(server, kaggle, folder, tmp_path):
    assert kaggle("build", "--user", "someone").returncode == 0
    official = [Path(sys.executable).parent / "kaggle", "kernels", "push", "-p"]
    folders = [*(f"build/kernels/{name}" for name in kernels.SERIES), "."]
    for place in folders:
        options = {"cwd": folder, "env": os.environ | server.environment(tmp_path), "capture_output": True}
        done = subprocess.run([*official, place], text=True, **options)
        assert "successfully pushed" in done.stdout, done.stdout
        assert "does not resolve" not in done.stdout
        assert "not valid" not in done.stdout
    for name, ref in REFS.items():
        body = server.kernels[ref][0].body
        on_tpu = kernels.SERIES[name].accelerated
        assert body.get("enableTpu", False) == on_tpu
        assert body.get("machineShape") == ("TpuV5E8" if on_tpu else "")
        assert body["competitionDataSources"] == ["tpu-getting-started"]
        assert body.get("kernelDataSources", []) == [REFS[source] for source in kernels.SERIES[name].sources]
        assert (folder / "flowerlib/config.py").read_text() in json.loads(body["text"])["cells"][1]["source"]
    first, second = server.kernels[REFS["14_efficientnetv2xl"]]
    assert first.body == second.body  # from its own folder, and from the root


def test_a_renamed_option_still_works_and_names_the_new_one(kaggle, folder):
    done = kaggle("build", "01_eda", "--to", "../elsewhere")
    assert done.returncode == 0
    assert done.stderr == "`--to` is now `--out`; the old name still works.\n"
    assert (folder.parent / "elsewhere/01_eda/01_eda.ipynb").exists()
    assert kaggle("build", "01_eda", "--out", "../elsewhere").stderr == ""


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(server, kaggle):
    done = kaggle("run", "20", "01_eda", "--dry-run", KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines()[1:] if line[:2].isdigit()]
    assert set(rows) == {"20_ensemble", "01_eda", *kernels.SERIES["20_ensemble"].sources}
    on_tpu = [kernel for name, kernel in kernels.SERIES.items() if name in rows and kernel.accelerated]
    minutes = sum(duration.minutes(kernel, "TpuV5E8") for kernel in on_tpu)
    assert f"TPU: about {minutes / 60:.1f} h, of 20 h a week." in done.stdout
    assert pushed(server) == []


def test_a_retired_accelerator_is_replaced_and_that_is_said(kaggle):
    done = kaggle("run", "10", "--dry-run", "--accelerator", "TpuV38")
    assert done.stderr == "TpuV38 is retired; Kaggle gives TpuV5E8 in its place.\n"
    assert re.search(r"^10_densenet201 +TpuV5E8 +\d+ min", done.stdout, re.MULTILINE)
    assert_fails(kaggle("run", "10", "--dry-run", "--accelerator", "TpuV2256"), "puts it on a CPU without a word; use")


def test_logs_and_quota(server, kaggle):
    assert_fails(kaggle("logs", "01"), "is not on Kaggle; `flowerlib kaggle push 01_eda` pushes it")
    assert "TPU: " in kaggle("quota").stdout


def test_times_have_units_and_a_number_alone_is_hours(server, kaggle):
    for given, seconds in (("90min", 5400), ("2h", 7200), ("3", 10800)):
        assert kaggle("push", "01_eda", "--timeout", given).returncode == 0
        session = server.kernels[REFS["01_eda"]][-1]
        assert session.body["sessionTimeoutSeconds"] == seconds
    done = kaggle("push", "01_eda", "--timeout", "soon")
    assert "must be a time of at most 12 hours" in done.stderr
