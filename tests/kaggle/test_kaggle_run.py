"""The whole series through the real `kaggle` package, in processes of their own, to a server here."""

import json
import re
import signal

import pytest
from kaggle_helpers import (
    ALL_NOTEBOOKS,
    MEMBERS,
    NOTEBOOKS,
    POLL,
    REFS,
    assert_fails,
    change_library,
    first_cell,
    pushed,
)

from flowerlib.kaggle import kernels


def test_the_series_goes_out_in_order_and_the_submission_comes_back(server, kaggle, folder, outputs):
    done = kaggle("run", "--submit", *POLL)
    assert done.returncode == 0, done.stderr
    assert sorted(pushed(server)) == sorted(kernels.SERIES)
    ensemble = next(session for session in server.kernels[REFS["20_ensemble"]])
    for name in MEMBERS:
        assert server.kernels[REFS[name]][0].ended < ensemble.began
    for sessions in server.kernels.values():
        assert sessions[0].body["sessionTimeoutSeconds"] == 9 * 3600
        assert not any(sessions[0].invalid.values())
    assert server.kernels[REFS["14_efficientnetv2xl"]][0].body["machineShape"] == "TpuV5E8"

    for name in kernels.SERIES:
        states = re.findall(rf"^{name} +(pending|queued|running|complete)", done.stdout, re.MULTILINE)
        assert [state for state in states if state != "pending"] == ["queued", "running", "complete"]
    out = folder / "outputs/kaggle"
    for name in MEMBERS:
        for file, content in outputs[REFS[name]].items():
            assert (out / "input" / name / file).read_bytes() == content
    assert (out / "submission.csv").read_bytes() == b"id,label\nmade,104\n"
    recap = (out / "recap/recap.csv").read_text()
    assert all(name in recap for name in (*MEMBERS, "equal average", "fitted average"))
    page = (out / "recap/index.html").read_text()
    [curves] = re.findall(r'src="([^"]*10_densenet201/curves.png)"', page)
    assert (out / "recap" / curves).read_bytes() == b"png"
    for name, ref in REFS.items():
        label = json.loads((out / "input" / name / ".version").read_text())
        content = re.search("^# content (.*)$", first_cell(server.kernels[ref][0]), re.MULTILINE)[1]
        assert label == {"kernel": ref, "version": 1, "content": content}
    assert not (folder / "build").exists()  # it sends what it made, whatever lies there
    [submission] = server.submissions
    assert (submission["kernelSlug"], submission["kernelVersion"], submission["fileName"]) == (
        REFS["20_ensemble"].split("/")[1],
        1,
        "submission.csv",
    )
    assert "Successfully submitted" in done.stdout
    assert json.loads((out / "submitted.json").read_text())["version"] == 1

    again = kaggle("run", "--submit", *POLL)
    assert again.returncode == 0, again.stderr
    assert "Version 1 was submitted before: Successfully submitted" in again.stdout
    assert len(server.submissions) == 1
    assert sorted(pushed(server)) == sorted(kernels.SERIES)


@pytest.mark.usefixtures("submission_of_ensemble")
def test_called_again_it_sends_and_fetches_nothing(server, kaggle):
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    assert sorted(pushed(server)) == ALL_NOTEBOOKS
    before = len(server.requests)
    done = kaggle("run", *NOTEBOOKS, *POLL)
    assert done.returncode == 0
    asked = {method for method, _ in server.requests[before:]}
    assert asked == {"GetKernel", "GetKernelSessionStatus"}
    assert "version 1, found on Kaggle" in done.stdout


@pytest.mark.usefixtures("submission_of_ensemble")
def test_a_changed_line_sends_all_again(server, kaggle, folder):
    kaggle("run", *NOTEBOOKS, *POLL)
    change_library(folder)
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    assert sorted(pushed(server)) == sorted(2 * ALL_NOTEBOOKS)


def test_two_at_once_are_one_too_many(server, kaggle, stopped):
    server.polls = 10**6
    seen = []

    def second():
        if server.kernels and not seen:
            seen.append(kaggle("run", "01_eda", *POLL))
        return seen

    process = stopped(second, "01_eda")
    assert_fails(seen[0], f"process {process.pid} is another `run` at work in outputs/kaggle")
    server.polls = 2
    server.kernels[REFS["01_eda"]][0].polls = 0
    assert kaggle("run", "01_eda", *POLL).returncode == 0  # a killed one keeps nobody out
    assert pushed(server) == ["01_eda"]


@pytest.mark.usefixtures("submission_of_ensemble", "default_interrupts")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_called_again_it_sends_nothing_twice(server, kaggle, stopped, how):
    server.polls = 10**6  # nothing ends
    process = stopped(lambda: len(server.kernels) == len(MEMBERS) + 1, *NOTEBOOKS, how=how)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command resumes" in process.printed
    with server.lock:
        server.polls = 2
        for [session] in server.kernels.values():
            session.polls = 0
    done = kaggle("run", *NOTEBOOKS, *POLL)
    assert done.returncode == 0, done.stderr
    assert sorted(pushed(server)) == ALL_NOTEBOOKS


def test_a_kernel_that_is_not_fit_is_not_sent(server, kaggle, folder):
    notebook = folder / "notebooks/01_eda.ipynb"
    notebook.write_text(notebook.read_text().replace("SEED = 0", "SEED = 0\\npassword = 'rosebud'"))
    for command in (("run", *POLL), ("push",)):
        done = kaggle(*command, "01_eda")
        assert done.returncode == 1
        assert re.search(r"error: 01_eda.ipynb: cell \d+: line \d+ looks like a password", done.stderr)
    assert pushed(server) == []


def test_a_slip_in_the_metadata_that_all_kernels_share_is_told_once_and_nothing_is_sent(server, kaggle, folder):
    path = folder / "kernel-metadata.json"
    shared = json.loads(path.read_text())
    path.write_text(json.dumps(shared | {"dataset_source": [], "model_sources": ["google/efficientnet"]}))
    for command in (("run", *POLL), ("push",)):
        done = kaggle(*command, "01_eda", "02_augmentation", "14_efficientnetv2xl")
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "error: kernel-metadata.json: unknown key `dataset_source`, which Kaggle ignores; "
            "did you mean `dataset_sources`?",
            "kernel-metadata.json: `model_sources`: 'google/efficientnet' must be "
            "owner/model/framework/variation/version",
        ]
    assert pushed(server) == []


def test_a_folder_that_cannot_be_made_is_an_error(kaggle, tmp_path):
    (tmp_path / "file").touch()
    assert_fails(
        kaggle("run", "01_eda", "--out", tmp_path / "file/out"), "`out` (=", "cannot be made", "name another folder"
    )
