"""Each kernel is pushed once, adopted if Kaggle has it, followed to its end, and pushed again only if it must be."""

import json
import re
from datetime import timedelta

import numpy as np
import pytest
from kaggle_helpers import (
    ALL_NOTEBOOKS,
    MEMBERS,
    NOTEBOOKS,
    POLL,
    REFS,
    arrivals,
    assert_fails,
    first_cell,
    pushed,
)


@pytest.mark.usefixtures("submission_of_ensemble")
def test_an_ensemble_of_older_outputs_is_sent_again(server, kaggle):
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    versions = [f"{REFS[name]}/1" for name in MEMBERS]
    assert f"# reads {' '.join(versions)}\n" in first_cell(server.kernels[REFS["20_ensemble"]][0])
    assert kaggle("push", "12_resnet152v2").returncode == 0
    done = kaggle("run", *NOTEBOOKS, *POLL)
    assert done.returncode == 0, done.stderr
    assert "20_ensemble: version 1 read other versions of its sources, and is pushed again" in done.stdout
    assert sorted(pushed(server)) == sorted([*ALL_NOTEBOOKS, "12_resnet152v2", "20_ensemble"])
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    assert len(pushed(server)) == len(ALL_NOTEBOOKS) + 2


def test_one_that_runs_without_its_data_is_sent_again(server, kaggle):
    server.competitions.clear()
    assert_fails(
        kaggle("run", "01_eda", *POLL), "started 01_eda without competition tpu-getting-started", "stop it at https"
    )
    server.competitions.add("tpu-getting-started")
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0
    assert "01_eda: version 1 runs without tpu-getting-started, and is pushed again" in done.stdout
    assert pushed(server) == ["01_eda", "01_eda"]


def test_a_kernel_that_was_there_and_is_not_shown_is_an_error(server, kaggle, folder):
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    server.fail_next("GetKernel", ("http", 403, "Permission 'kernels.get' was denied"))
    assert_fails(kaggle("run", "01_eda", *POLL), f"Kaggle does not show {REFS['01_eda']}, of which it had version 1")
    assert pushed(server) == ["01_eda"]


@pytest.mark.usefixtures("submission_of_ensemble")
@pytest.mark.parametrize("end", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_one_that_fails_leaves_the_others_and_is_all_that_is_sent_again(server, kaggle, folder, end):
    server.ends[REFS["13_efficientnetb7"]] = end
    server.logs[REFS["13_efficientnetb7"]] = [f"line {number}\n" for number in range(50)]
    server.outputs[REFS["12_resnet152v2"]] = {"submission.csv": b"kept"}
    done = kaggle("run", *NOTEBOOKS, *POLL)
    assert_fails(done, "failed: 13_efficientnetb7: ended in " + end, "the same command runs only what failed")
    assert "\nline 49\n" in done.stdout
    assert "\nline 29\n" not in done.stdout
    assert re.search(r"^20_ensemble +skipped +needs 13_efficientnetb7$", done.stdout, re.MULTILINE)
    out = folder / "outputs/kaggle"
    assert (out / "logs/13_efficientnetb7.log").read_text().splitlines() == [f"line {number}" for number in range(50)]
    assert (out / "input/12_resnet152v2/submission.csv").read_bytes() == b"kept"
    assert "20_ensemble" not in pushed(server)

    before = len(pushed(server))
    server.ends.clear()
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    assert pushed(server)[before:] == ["13_efficientnetb7", "20_ensemble"]


def test_the_log_of_an_earlier_failure_is_not_shown_for_a_refusal(server, kaggle):
    server.ends[REFS["01_eda"]] = "ERROR"
    assert "all is not well" in kaggle("run", "01_eda", *POLL).stdout
    server.fail_next("SaveKernel", ("error", "Your notebook is too good."))
    assert "all is not well" not in kaggle("run", "01_eda", *POLL).stdout


def test_a_full_queue_is_waited_out_with_growing_pauses(server, kaggle):
    server.queue_full(4)
    done = kaggle("run", "10_densenet201", *POLL)
    assert done.returncode == 0
    pauses = np.diff(arrivals(server, "SaveKernel"))
    assert (pauses >= 0.05 * np.array([1, 2, 4, 8])).all()
    assert pauses[0] < 5  # and not a minute, as with --poll unset
    assert "queue full" in done.stdout
    assert "Maximum batch TPU session count of 1 reached." in done.stdout
    assert pushed(server) == ["10_densenet201"]


@pytest.mark.usefixtures("submission_of_ensemble")
def test_as_many_run_at_once_as_kaggle_allows(server, kaggle):
    server.max_sessions = 2
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    assert sorted(pushed(server)) == ALL_NOTEBOOKS
    sessions = [sessions[0] for sessions in server.kernels.values()]
    for session in sessions:
        assert sum(other.began <= session.began < other.ended for other in sessions) <= 2


def test_a_running_kernel_fails_only_when_it_is_denied_again_and_again(server, kaggle):
    server.polls = 6
    server.fail_next("GetKernelSessionStatus", *[("http", 404, "no such thing")] * 4)
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    server.fail_next("GetKernelSessionStatus", *[("http", 404, "no such thing")] * 5)
    assert_fails(kaggle("run", "02_augmentation", *POLL), "02_augmentation: Kaggle says: no such thing")


def test_one_that_was_edited_on_kaggle_is_not_taken_for_ours(server, kaggle):
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    [session] = server.kernels[REFS["01_eda"]]
    notebook = json.loads(session.body["text"])
    notebook["cells"][-1] = {**notebook["cells"][-1], "cell_type": "code", "source": "print('edited')"}
    session.body["text"] = json.dumps(notebook)
    done = kaggle("run", "01_eda", *POLL)
    assert "01_eda: version 1 was edited on Kaggle, and is pushed again" in done.stdout
    assert pushed(server) == ["01_eda", "01_eda"]


def test_one_that_was_only_saved_is_run(server, kaggle):
    server.polls = 10**6
    assert kaggle("push", "01_eda").returncode == 0
    server.polls, server.kernels[REFS["01_eda"]][0].state = 2, "NEW_SCRIPT"
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert pushed(server) == ["01_eda", "01_eda"]


def test_a_lost_answer_sends_nothing_twice(server, kaggle):
    server.fail_next("SaveKernel", ("lost",))
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert pushed(server) == ["01_eda"]
    server.ends[REFS["02_augmentation"]] = "ERROR"
    kaggle("run", "02_augmentation", *POLL)
    server.ends.clear()
    server.fail_next("SaveKernel", ("lost",))  # of a second version with the content of the first, which failed
    assert kaggle("run", "02_augmentation", *POLL).returncode == 0
    assert pushed(server) == ["01_eda", "02_augmentation", "02_augmentation"]


def test_a_lost_answer_of_one_that_fails_at_once_sends_nothing_twice(server, kaggle):
    server.polls, server.ends[REFS["01_eda"]] = 0, "ERROR"
    server.fail_next("SaveKernel", ("lost",))
    assert_fails(kaggle("run", "01_eda", *POLL), "01_eda: ended in ERROR")
    assert pushed(server) == ["01_eda"]


def test_a_log_that_cannot_be_had_hides_no_failure(server, kaggle):
    server.ends[REFS["01_eda"]] = "ERROR"
    server.fail_next("ListKernelSessionOutput", ("http", 500, "oops"))
    assert "all is not well" in kaggle("run", "01_eda", *POLL).stdout
    server.fail_next("ListKernelSessionOutput", *[("http", 500, "oops")] * 5)
    assert_fails(kaggle("run", "01_eda", *POLL), "01_eda: ended in ERROR", "its log cannot be downloaded")


def test_an_unsent_one_is_sent_after_a_cut(server, kaggle):
    server.fail_next("SaveKernel", ("cut",))
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert pushed(server) == ["01_eda"]


def test_killed_while_sending_it_sends_nothing_twice(server, kaggle, stopped):
    server.fail_next("SaveKernel", ("stall",))
    stopped(lambda: server.kernels, "01_eda")
    server.released.set()
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert pushed(server) == ["01_eda"]


def test_the_minutes_of_one_found_running_are_counted_from_its_start(server, kaggle, stopped):
    server.polls = 10**6
    stopped(lambda: server.kernels, "01_eda")
    session = server.kernels[REFS["01_eda"]][0]
    session.began, session.polls, server.polls = session.began - timedelta(hours=2), 1, 4
    done = kaggle("run", "01_eda", *POLL)
    assert re.search(r"^01_eda +running +120 min +version 1, found on Kaggle$", done.stdout, re.MULTILINE)
