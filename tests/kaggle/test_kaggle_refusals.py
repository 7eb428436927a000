"""Refusals in Kaggle's words, as others have met them: waited out, an error with the remedy, or sent again."""

import pytest
from kaggle_helpers import REFS, pushed

from flowerlib import kernel
from flowerlib.config import FlowersError


@pytest.mark.parametrize(
    "fault",
    [
        ("error", "Maximum batch GPU session count of 2 reached."),
        ("error", "session count of 2 reached"),
        ("error", "TooManyAssignments"),
        ("http", 412, "precondition failed"),
        ("http", 409, "conflict"),
    ],
)
def test_a_full_queue_is_waited_out_in_every_wording(server, run_here, fault):
    server.fail_next("SaveKernel", *[fault] * 6)
    run_here("10_densenet201")
    assert pushed(server) == ["10_densenet201"]


@pytest.mark.parametrize("words", ["no accelerator quota", "There is no quota for TPU sessions"])
@pytest.mark.parametrize("fault", [("error",), ("http", 412)])
def test_no_quota_is_an_error_with_the_remedy_and_the_others_go_on(server, run_here, words, fault):
    server.fail_next("SaveKernel", (*fault, words))
    with pytest.raises(RuntimeError, match=f"10_densenet201: .*{words}; wait for the next week .*`--accelerator`"):
        run_here("10_densenet201", "01_eda")
    assert pushed(server) == ["01_eda"]


def test_an_unknown_refusal_is_a_full_queue_while_another_of_its_kind_is_under_way(server, kaggle, run_here, capsys):
    server.fail_next("SaveKernel", ("error", "No."))
    with pytest.raises(RuntimeError, match="failed: 10_densenet201: Kaggle refused 10_densenet201: No"):
        run_here("10_densenet201")
    assert pushed(server) == []
    assert kaggle("push", "10_densenet201").returncode == 0
    server.polls = 9
    server.fail_next("SaveKernel", *[("error", "No.")] * 2)
    run_here("10_densenet201", "11_xception")
    assert "11_xception          queue full           Kaggle refused 11_xception: No." in capsys.readouterr().out
    assert pushed(server) == ["10_densenet201", "11_xception"]


def test_a_job_of_another_kind_makes_no_unknown_refusal_a_full_queue(server, run_here):
    server.polls = 50
    run_here("01_eda")
    server.kernels[REFS["01_eda"]][0].ended = None
    server.fail_next("SaveKernel", ("error", "No."))
    with pytest.raises(RuntimeError, match="failed: 10_densenet201"):
        run_here("01_eda", "10_densenet201")


@pytest.mark.parametrize("status", [200, 403, 429, 503])
@pytest.mark.parametrize("method", ["GetKernel", "SaveKernel", "GetKernelSessionStatus", "ListKernelSessionOutput"])
def test_a_page_instead_of_data_is_waited_out(server, run_here, method, status, capsys):
    server.fail_next(method, *[("page", status)] * 3)
    run_here("01_eda")
    assert pushed(server) == ["01_eda"]
    assert (
        "Kaggle sends a page instead of data: it limits requests for a while; trying again" in capsys.readouterr().out
    )


def test_credentials_that_are_refused_half_way_end_nothing_at_once(server, run_here):
    server.fail_next("GetKernelSessionStatus", *[("http", 401, "Unauthenticated")] * 4)  # each is asked twice
    run_here("01_eda")
    assert pushed(server) == ["01_eda"]


@pytest.fixture(scope="module")
def without_tpu():
    """The log of a kernel that was sent to run on a TPU and finds itself here."""
    with pytest.raises(FlowersError) as error:
        kernel.start(devices=8)
    return [f"FlowersError: {error.value}\n"]


def test_a_session_without_its_tpu_is_sent_again_twice(server, run_here, without_tpu, capsys):
    ref = REFS["10_densenet201"]
    server.ends[ref], server.logs[ref] = ["ERROR", "ERROR", "COMPLETE"], without_tpu
    run_here("10_densenet201")
    assert pushed(server) == ["10_densenet201"] * 3
    printed = capsys.readouterr().out
    for version in (1, 2):
        assert f"version {version} had no TPU, and is sent again ({version} of 2)\n" in printed


@pytest.mark.parametrize(
    "log", [None, ["\x1b[0;31mRuntimeError\x1b[0m: Unable to initialize backend 'tpu': UNAVAILABLE\n"]]
)
def test_after_three_sessions_without_a_tpu_it_gives_up(server, run_here, without_tpu, log):
    ref = REFS["10_densenet201"]
    server.ends[ref], server.logs[ref] = "ERROR", log or without_tpu
    with pytest.raises(RuntimeError, match="failed: 10_densenet201: no session of 3 had a TPU; call again later"):
        run_here("10_densenet201")
    assert pushed(server) == ["10_densenet201"] * 3


@pytest.mark.parametrize("log", [["ValueError: no\n"], ["INFO:jax: Unable to initialize backend 'tpu'\n", "Killed\n"]])
def test_another_failure_is_not_sent_again(server, run_here, log):
    server.ends[REFS["10_densenet201"]], server.logs[REFS["10_densenet201"]] = "ERROR", log
    with pytest.raises(RuntimeError, match="failed: 10_densenet201: ended in ERROR"):
        run_here("10_densenet201")
    assert pushed(server) == ["10_densenet201"]
