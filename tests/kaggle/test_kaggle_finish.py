"""The submission is copied and submitted once; the recap is made of the runs that were downloaded."""

import pytest
from kaggle_helpers import MEMBERS, NOTEBOOKS, POLL, REFS, assert_fails, change_library


def test_a_recap_that_fails_stops_no_submission_and_holds_no_old_runs(server, kaggle, folder, outputs):
    assert kaggle("run", *NOTEBOOKS, *POLL).returncode == 0
    recap = folder / "outputs/kaggle/recap/recap.csv"
    assert "13_efficientnetb7" in recap.read_text()
    change_library(folder)
    server.ends[REFS["13_efficientnetb7"]] = "ERROR"
    assert_fails(kaggle("run", *NOTEBOOKS, *POLL), "failed: 13_efficientnetb7")
    assert "13_efficientnetb7" not in recap.read_text()
    assert "12_resnet152v2" in recap.read_text()
    submission = folder / "outputs/kaggle/submission.csv"
    assert submission.read_bytes() == b"id,label\nmade,104\n"  # of the call before; none came in this one

    server.ends.clear()
    run = f"runs/{MEMBERS[0]}/predictions.npz"
    for session in server.kernels[REFS[MEMBERS[0]]]:
        session.files[run] = outputs[REFS[MEMBERS[0]]][run] = b"no predictions"
    (folder / "outputs/kaggle/input" / MEMBERS[0] / ".version").unlink()
    submission.unlink()
    done = kaggle("run", *NOTEBOOKS, "--submit", *POLL)
    assert_fails(done, "the recap could not be made here: ")
    assert submission.read_bytes() == b"id,label\nmade,104\n"
    assert len(server.submissions) == 1


def test_an_ensemble_without_a_submission_is_an_error(server, kaggle):
    assert_fails(kaggle("run", *NOTEBOOKS, *POLL), "20_ensemble is complete but left no submission.csv; its log is in")


@pytest.mark.usefixtures("submission_of_ensemble")
def test_a_submission_whose_answer_is_lost_is_not_made_again(server, kaggle):
    server.fail_next("CreateCodeSubmission", ("http", 400, "not today"), ("lost",))
    assert_fails(kaggle("run", *NOTEBOOKS, "--submit", *POLL), "Kaggle says: not today")
    assert server.submissions == []
    assert_fails(kaggle("run", *NOTEBOOKS, "--submit", *POLL), "the submission may or may not have arrived")
    assert len(server.submissions) == 1
    assert_fails(
        kaggle("run", *NOTEBOOKS, "--submit", *POLL), "version 1 may have been submitted before: check your submissions"
    )
    assert len(server.submissions) == 1


@pytest.mark.usefixtures("submission_of_ensemble")
@pytest.mark.parametrize("refusals", [[("http", 401, "Unauthenticated")] * 2, [("http", 429, "too many")]])
def test_a_submission_that_is_refused_is_made_the_next_time(server, kaggle, refusals):
    server.fail_next("CreateCodeSubmission", *refusals)
    assert kaggle("run", *NOTEBOOKS, "--submit", *POLL).returncode == 1
    assert server.submissions == []
    assert kaggle("run", *NOTEBOOKS, "--submit", *POLL).returncode == 0
    assert len(server.submissions) == 1


@pytest.mark.usefixtures("submission_of_ensemble")
def test_a_failure_that_does_not_feed_the_ensemble_keeps_no_submission_back(server, kaggle):
    server.ends[REFS["01_eda"]] = "ERROR"
    assert_fails(kaggle("run", *NOTEBOOKS, "--submit", *POLL), "failed: 01_eda")
    assert len(server.submissions) == 1
