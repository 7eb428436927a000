"""What Kaggle never ends is not waited for; what it keeps in its queue is, and that is said. No time passes here."""

from datetime import timedelta

import pytest
from kaggle_helpers import NOTEBOOKS, REFS, pushed
from kaggle_server import Dataset

from flowerlib.kaggle import dataset
from flowerlib.kaggle.service import Service

EDA = "https://www.kaggle.com/code/someone/flowers-01-exploratory-data-analysis"


@pytest.mark.parametrize(
    ("status", "hours", "words"),
    [
        ("RUNNING", 9.5, "RUNNING for 9.7 h, 9.0 h were allowed"),
        ("CANCEL_REQUESTED", 0.5, "CANCEL_REQUESTED for 0.7 h"),
        ("NEW_SCRIPT", 0.5, "NEW_SCRIPT for 0.7 h"),
    ],
)
def test_one_that_never_ends_is_overdue_and_the_others_are_waited_for(server, run_here, clock, status, hours, words):
    server.stuck[REFS["01_eda"]] = status
    before = clock.now()
    remedy = f"see {EDA}, or delete it with `--delete-overdue`"
    with pytest.raises(RuntimeError, match=f"^01_eda is overdue: {words}; {remedy}$"):
        run_here("01_eda", "02_augmentation")
    assert timedelta(hours=hours) < clock.now() - before < timedelta(hours=hours + 0.6)
    assert server.kernels[REFS["02_augmentation"]][0].status == "COMPLETE"
    assert server.deleted == []


def test_what_depends_on_an_overdue_one_is_left_out(server, run_here, capsys):
    server.stuck[REFS["13_efficientnetb7"]] = "RUNNING"
    with pytest.raises(RuntimeError, match="13_efficientnetb7 is overdue"):
        run_here(*NOTEBOOKS)
    assert "20_ensemble          skipped              needs 13_efficientnetb7\n" in capsys.readouterr().out
    assert "20_ensemble" not in pushed(server)


def test_called_again_it_says_so_at_once_and_takes_what_has_ended_meanwhile(server, run_here, clock):
    server.stuck[REFS["01_eda"]] = "RUNNING"
    with pytest.raises(RuntimeError, match="overdue"):
        run_here("01_eda")
    before = clock.now()
    with pytest.raises(RuntimeError, match=r"01_eda is overdue: RUNNING for 10\.0 h"):
        run_here("01_eda")
    assert clock.now() - before == timedelta()
    server.stuck.clear()
    run_here("01_eda")
    assert pushed(server) == ["01_eda"]


def test_the_time_in_the_queue_is_no_running_time_and_is_said(server, run_here, clock, capsys, monkeypatch):
    server.polls = 8 * 6  # polls, that is 8 h of running
    server.stuck[REFS["01_eda"]] = "QUEUED"
    slept = clock.sleep

    def sleep(seconds):
        slept(seconds)
        if clock.now() - server.kernels[REFS["01_eda"]][0].began > timedelta(hours=12):
            server.stuck.clear()

    monkeypatch.setattr(clock, "sleep", sleep)
    run_here("01_eda")
    printed = capsys.readouterr().out
    for hours in ("0.5", "1", "11.5"):
        assert f"01_eda               queued               version 1; in Kaggle's own queue for {hours} h\n" in printed
    assert printed.count("queue for") == 23


def test_a_session_that_an_overdue_one_holds_is_not_waited_for_either(server, run_here, capsys):
    server.max_sessions = 1
    server.stuck[REFS["10_densenet201"]] = "RUNNING"
    with pytest.raises(RuntimeError, match=r"^10_densenet201 is overdue"):
        run_here("10_densenet201", "11_xception", hours=1)
    assert "11_xception          skipped              waits for a session that 10_densenet201 holds" in (
        capsys.readouterr().out
    )
    assert pushed(server) == ["10_densenet201"]


@pytest.mark.parametrize("answer", [True, False])
def test_an_overdue_one_is_deleted_if_that_is_confirmed(server, run_here, answer):
    run_here("01_eda")  # its output is here, so that a kernel which Kaggle does not show would be an error
    server.kernels[REFS["01_eda"]][0].body["text"] = "{}"
    server.stuck[REFS["01_eda"]] = "RUNNING"
    asked = []

    def confirm(question):
        asked.append(question)
        return answer

    server.fail_next("DeleteKernel", *[("cut",), ("lost",)] * answer)
    with pytest.raises(RuntimeError, match="deleted, and the same command sends it again" if answer else "see http"):
        run_here("01_eda", confirm_deletion=confirm)
    [question] = asked
    assert f"Delete {REFS['01_eda']} from Kaggle, with all its versions (the newest is 2)" in question
    assert server.deleted == [REFS["01_eda"]] * answer
    if answer:
        server.stuck.clear()
        run_here("01_eda")
        assert pushed(server) == ["01_eda"]


def test_a_deletion_that_kaggle_denies_is_not_taken_for_one(server, run_here):
    server.stuck[REFS["01_eda"]] = "RUNNING"
    server.fail_next("DeleteKernel", ("http", 403, "Permission 'kernels.delete' was denied"))
    with pytest.raises(RuntimeError, match="Kaggle did not delete it"):
        run_here("01_eda", confirm_deletion=lambda _: True)
    assert server.deleted == []


def test_nobody_to_ask_is_a_no(server, kaggle):
    assert kaggle("push", "01_eda").returncode == 0
    [session] = server.kernels[REFS["01_eda"]]
    session.began, session.polls = session.began - timedelta(hours=10), 1
    server.stuck[REFS["01_eda"]] = "RUNNING"
    done = kaggle("run", "01_eda", "--delete-overdue")
    assert done.returncode == 1
    assert "Delete someone/flowers-01" in done.stdout
    assert "01_eda is overdue: RUNNING for 10.0 h, 9.0 h were allowed" in done.stderr
    assert server.deleted == []


@pytest.mark.usefixtures("here")
def test_a_dataset_that_never_becomes_ready_is_given_up(server, clock):
    server.datasets["someone/flowerlib-weights"] = Dataset({}, waits=10**6)
    before = clock.now()
    with pytest.raises(RuntimeError, match=r"is uploaded, but not ready after 2 h .*kaggle.com/datasets/someone/"):
        dataset.wait_until_ready(Service(), "someone/flowerlib-weights", 60, clock)
    assert clock.now() - before < timedelta(hours=2.1)
