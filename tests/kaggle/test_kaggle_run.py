"""The commands that talk to Kaggle, in processes of their own, through the real `kaggle` package, to a server here."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import clone
import numpy as np
import pytest
from kaggle_server import Dataset, KaggleServer

from flowerlib import predictions
from flowerlib.kaggle import kernels
from flowerlib.predictions import Predictions

POLL = ("--poll", "0.05")
REFS = {name: f"someone/{kernel.slug}" for name, kernel in kernels.SERIES.items()}
FEEDING = kernels.SERIES["20_ensemble"].sources


@pytest.fixture
def server():
    with KaggleServer() as server:
        yield server
        assert server.unknown == []
        assert not any(server.faults.values())


@pytest.fixture
def folder(tmp_path):
    return clone.make(tmp_path / "clone")


@pytest.fixture
def kaggle(server, folder, tmp_path):
    """Return `kaggle(*arguments)`, which runs `flowerlib kaggle` in the copy."""

    def run(*arguments, **environment):
        return clone.flowerlib(folder, "kaggle", *arguments, **server.environment(tmp_path) | environment)

    return run


def sent(server):
    """The notebooks that were sent and accepted, in order of arrival; those twice that were sent twice."""
    names = {ref: name for name, ref in REFS.items()}
    saved = [session for sessions in server.kernels.values() for session in sessions]
    return [names[session.slug] for session in sorted(saved, key=lambda session: session.began)]


def first_cell(session):
    """The source of the first code cell of what was sent."""
    return next(cell["source"] for cell in json.loads(session.body["text"])["cells"] if cell["cell_type"] == "code")


def fails(done, *words):
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last


def leave_run(name, seed):
    """What a run leaves, as bytes: random predictions over three classes, the same images for every seed."""
    rng = np.random.default_rng(seed)
    splits = [
        Predictions(rng.dirichlet(np.ones(3), 6).astype("float32"), labels, np.array([f"{kind}{i}" for i in range(6)]))
        for kind, labels in (("v", np.arange(6) % 3), ("t", np.full(6, -1)))
    ]
    record = {
        "name": name,
        "smoke_test": False,
        "val_macro_f1": 0.5,
        "val_accuracy": 0.5,
        "val_loss": 1.0,
        "seconds_per_epoch": 2.0,
        "epochs": 3,
        "trainable_parameters": 1000,
        "weights": "pretrained",
        "parameters": 1000,
        "layers": 10,
        "config": {"image_size": 512},
        "device": {"num_replicas": 8, "kind": "tpu"},
        "data": {"test": 6},
    }
    return splits, record


@pytest.fixture
def outputs(server, tmp_path):
    """Have the kernels that feed the ensemble leave runs, and the ensemble a submission like no other."""
    for seed, name in enumerate(FEEDING):
        splits, record = leave_run(name, seed)
        predictions.save(tmp_path / f"{name}.npz", *splits, ("rose", "iris", "daisy"))
        server.outputs[REFS[name]] = {
            f"runs/{name}/run.json": json.dumps(record).encode(),
            f"runs/{name}/predictions.npz": (tmp_path / f"{name}.npz").read_bytes(),
            f"runs/{name}/curves.png": b"png",
            "submission.csv": b"id,label\nt0,1\n",
        }
    server.outputs[REFS["20_ensemble"]] = {"submission.csv": b"id,label\nmade,104\n"}
    return server.outputs


def test_the_series_goes_out_in_order_and_the_submission_comes_back(server, kaggle, folder, outputs):
    done = kaggle("run", "--submit", *POLL)
    assert done.returncode == 0, done.stderr
    assert sorted(sent(server)) == sorted(kernels.SERIES)
    ensemble = next(session for session in server.kernels[REFS["20_ensemble"]])
    for name in FEEDING:
        assert server.kernels[REFS[name]][0].ended < ensemble.began
    for sessions in server.kernels.values():
        assert sessions[0].body["sessionTimeoutSeconds"] == 9 * 3600
        assert not any(sessions[0].invalid.values())
    assert server.kernels[REFS["14_efficientnetv2xl"]][0].body["machineShape"] == "TpuV5E8"

    for name in kernels.SERIES:
        states = re.findall(rf"^{name} +(to send|queued|running|complete)", done.stdout, re.MULTILINE)
        assert [state for state in states if state != "to send"] == ["queued", "running", "complete"]
    out = folder / "outputs/kaggle"
    for name in FEEDING:
        for file, content in outputs[REFS[name]].items():
            assert (out / "input" / name / file).read_bytes() == content
    assert (out / "submission.csv").read_bytes() == b"id,label\nmade,104\n"
    recap = (out / "recap/recap.csv").read_text()
    assert all(name in recap for name in (*FEEDING, "equal average", "fitted average"))
    page = (out / "recap/index.html").read_text()
    [curves] = re.findall(r'src="(.*10_densenet201/curves.png)"', page)
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
    assert sorted(sent(server)) == sorted(kernels.SERIES)


def test_a_recap_that_fails_stops_no_submission_and_holds_no_old_runs(server, kaggle, folder, outputs):
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    recap = folder / "outputs/kaggle/recap/recap.csv"
    assert "13_efficientnetb7" in recap.read_text()
    plots = folder / "flowerlib/plots.py"
    plots.write_text(plots.read_text() + "# another line\n")
    server.ends[REFS["13_efficientnetb7"]] = "ERROR"
    fails(kaggle("run", *NAMED, *POLL), "failed: 13_efficientnetb7")
    assert "13_efficientnetb7" not in recap.read_text()
    assert "12_resnet152v2" in recap.read_text()
    submission = folder / "outputs/kaggle/submission.csv"
    assert submission.read_bytes() == b"id,label\nmade,104\n"  # of the call before; none came in this one

    server.ends.clear()
    run = f"runs/{FEEDING[0]}/predictions.npz"
    for session in server.kernels[REFS[FEEDING[0]]]:
        session.files[run] = outputs[REFS[FEEDING[0]]][run] = b"no predictions"
    (folder / "outputs/kaggle/input" / FEEDING[0] / ".version").unlink()
    submission.unlink()
    done = kaggle("run", *NAMED, "--submit", *POLL)
    fails(done, "the recap could not be made here: ")
    assert submission.read_bytes() == b"id,label\nmade,104\n"
    assert len(server.submissions) == 1


NAMED = ("20_ensemble", "01_eda")  # and so the seven that feed the ensemble
ALL_NAMED = sorted([*NAMED, *FEEDING])


@pytest.fixture
def made(server):
    """Have the ensemble leave a submission."""
    server.outputs[REFS["20_ensemble"]] = {"submission.csv": b"id,label\nmade,104\n"}


def test_an_ensemble_without_a_submission_is_an_error(server, kaggle):
    fails(kaggle("run", *NAMED, *POLL), "20_ensemble is complete but left no submission.csv; its log is in")


@pytest.mark.usefixtures("made")
def test_called_again_it_sends_and_fetches_nothing(server, kaggle):
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    assert sorted(sent(server)) == ALL_NAMED
    before = len(server.requests)
    done = kaggle("run", *NAMED, *POLL)
    assert done.returncode == 0
    asked = {method for method, _ in server.requests[before:]}
    assert asked == {"GetKernel", "GetKernelSessionStatus"}
    assert "version 1, found on Kaggle" in done.stdout


@pytest.mark.usefixtures("made")
def test_an_ensemble_of_older_outputs_is_sent_again(server, kaggle):
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    versions = [f"{REFS[name]}/1" for name in FEEDING]
    assert f"# reads {' '.join(versions)}\n" in first_cell(server.kernels[REFS["20_ensemble"]][0])
    assert kaggle("push", "12_resnet152v2").returncode == 0
    done = kaggle("run", *NAMED, *POLL)
    assert done.returncode == 0, done.stderr
    assert "20_ensemble: version 1 did not read what its sources leave now, and is sent again" in done.stdout
    assert sorted(sent(server)) == sorted([*ALL_NAMED, "12_resnet152v2", "20_ensemble"])
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    assert len(sent(server)) == len(ALL_NAMED) + 2


def test_one_that_runs_without_its_data_is_sent_again(server, kaggle):
    server.competitions.clear()
    fails(kaggle("run", "01_eda", *POLL), "started 01_eda without competition tpu-getting-started", "stop it at https")
    server.competitions.add("tpu-getting-started")
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0
    assert "01_eda: version 1 runs without tpu-getting-started, and is sent again" in done.stdout
    assert sent(server) == ["01_eda", "01_eda"]


def test_a_kernel_that_was_there_and_is_not_shown_is_an_error(server, kaggle, folder):
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    server.fail_next("GetKernel", ("http", 403, "Permission 'kernels.get' was denied"))
    fails(kaggle("run", "01_eda", *POLL), f"Kaggle does not show {REFS['01_eda']}, of which it had version 1")
    assert sent(server) == ["01_eda"]


@pytest.mark.usefixtures("made")
def test_a_changed_line_sends_all_again(server, kaggle, folder):
    kaggle("run", *NAMED, *POLL)
    plots = folder / "flowerlib/plots.py"
    plots.write_text(plots.read_text() + "# another line\n")
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    assert sorted(sent(server)) == sorted(2 * ALL_NAMED)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("end", ["ERROR", "CANCEL_ACKNOWLEDGED"])
def test_one_that_fails_leaves_the_others_and_is_all_that_is_sent_again(server, kaggle, folder, end):
    server.ends[REFS["13_efficientnetb7"]] = end
    server.logs[REFS["13_efficientnetb7"]] = [f"line {number}\n" for number in range(50)]
    server.outputs[REFS["12_resnet152v2"]] = {"kept.txt": b"kept"}
    done = kaggle("run", *NAMED, *POLL)
    fails(done, "failed: 13_efficientnetb7: ended in " + end, "the same command takes up again what failed")
    assert "\nline 49\n" in done.stdout
    assert "\nline 29\n" not in done.stdout
    assert re.search(r"^20_ensemble +left out +needs 13_efficientnetb7$", done.stdout, re.MULTILINE)
    out = folder / "outputs/kaggle"
    assert (out / "logs/13_efficientnetb7.log").read_text().splitlines() == [f"line {number}" for number in range(50)]
    assert (out / "input/12_resnet152v2/kept.txt").read_bytes() == b"kept"
    assert "20_ensemble" not in sent(server)

    before = len(sent(server))
    server.ends.clear()
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    assert sent(server)[before:] == ["13_efficientnetb7", "20_ensemble"]


def test_a_refusal_is_told_in_kaggles_words(server, kaggle):
    server.fail_next("SaveKernel", ("error", "Your notebook is too good."))
    fails(kaggle("run", "01_eda", *POLL), "01_eda: Kaggle refused 01_eda: Your notebook is too good.")
    server.fail_next("SaveKernel", ("error", "Your notebook is too good."))
    fails(kaggle("push", "01_eda"), "Kaggle refused 01_eda: Your notebook is too good.")


def test_push_says_whether_it_was_sent(server, kaggle):
    server.queue_full(1)
    fails(kaggle("push", "10_densenet201"), "was not sent: Maximum batch TPU session count of 1 reached.", "Wait, or")
    server.fail_next("SaveKernel", ("lost",))
    fails(kaggle("push", "01_eda"), "cannot be reached", "arrived, `flowerlib kaggle status 01_eda` says")
    assert sent(server) == ["01_eda"]


def test_the_log_of_an_earlier_failure_is_not_shown_for_a_refusal(server, kaggle):
    server.ends[REFS["01_eda"]] = "ERROR"
    assert "all is not well" in kaggle("run", "01_eda", *POLL).stdout
    server.fail_next("SaveKernel", ("error", "Your notebook is too good."))
    assert "all is not well" not in kaggle("run", "01_eda", *POLL).stdout


def test_inputs_that_kaggle_drops_are_an_error(server, kaggle):
    fails(
        kaggle("push", "20_ensemble"),
        "started 20_ensemble without kernel someone/flowers-00-quickstart-on-a-cpu, someone/flowers-03-efficient",
        "stop it at https://",
    )


@pytest.mark.parametrize("command", [("run", *POLL), ("push",)])
def test_offline_kernels_are_not_sent_before_their_weights_are_there(server, kaggle, command):
    done = kaggle(*command, "14_efficientnetv2xl", "--offline")
    fails(done, "the dataset someone/flowerlib-weights is not on Kaggle; `flowerlib kaggle weights-dataset` sends")
    assert sent(server) == []
    server.datasets["someone/flowerlib-weights"] = Dataset({})
    assert kaggle(*command, "14_efficientnetv2xl", "--offline").returncode == 0
    assert sent(server) == ["14_efficientnetv2xl"]


def arrivals(server, method):
    return np.array(
        [when for when, (asked, _) in zip(server.arrivals, server.requests, strict=True) if asked == method]
    )


def test_a_full_queue_is_waited_out_with_growing_pauses(server, kaggle):
    server.queue_full(4)
    done = kaggle("run", "10_densenet201", *POLL)
    assert done.returncode == 0
    pauses = np.diff(arrivals(server, "SaveKernel"))
    assert (pauses >= 0.05 * np.array([1, 2, 4, 8])).all()
    assert pauses[0] < 0.2  # and not more than it takes
    assert "refused" in done.stdout
    assert "Maximum batch TPU session count of 1 reached." in done.stdout
    assert sent(server) == ["10_densenet201"]


@pytest.mark.usefixtures("made")
def test_as_many_run_at_once_as_kaggle_allows(server, kaggle):
    server.max_sessions = 2
    assert kaggle("run", *NAMED, *POLL).returncode == 0
    assert sorted(sent(server)) == ALL_NAMED
    sessions = [sessions[0] for sessions in server.kernels.values()]
    for session in sessions:
        assert sum(other.began <= session.began < other.ended for other in sessions) <= 2


def test_a_cut_connection_is_waited_out(server, kaggle):
    faults = [("cut",), ("http", 503, "busy"), ("http", 429, "slowly, please"), ("cut",)]
    server.fail_next("GetKernelSessionStatus", *faults)
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trying again") == 4
    assert sent(server) == ["01_eda"]
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
    fails(kaggle("run", "01_eda", *POLL), "Kaggle cannot be reached")
    assert sent(server) == ["10_densenet201"]


def test_a_running_kernel_fails_only_when_it_is_denied_again_and_again(server, kaggle):
    server.polls = 6
    server.fail_next("GetKernelSessionStatus", *[("http", 404, "no such thing")] * 4)
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    server.fail_next("GetKernelSessionStatus", *[("http", 404, "no such thing")] * 5)
    fails(kaggle("run", "02_augmentation", *POLL), "02_augmentation: Kaggle says: no such thing")


@pytest.mark.parametrize("late", [5, 45])  # minutes: the package itself renews after 30
def test_a_login_that_runs_out_is_renewed(server, kaggle, tmp_path, late):
    ran_out = datetime.now(UTC) - timedelta(minutes=late)
    login = {"refresh_token": "r", "access_token": "old", "username": "someone", "scopes": []}
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle/credentials.json").write_text(
        json.dumps(login | {"access_token_expiration": ran_out.isoformat()})
    )
    server.token = "new"
    no_key = dict.fromkeys(["KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"])
    done = kaggle("run", "01_eda", *POLL, **no_key)
    assert done.returncode == 0, done.stderr
    assert "trying again" not in done.stdout
    assert server.renewals == 1
    server.token = "another"
    server.fail_next("GenerateAccessToken", ("http", 401, "Unauthenticated"))
    fails(kaggle("run", "01_eda", *POLL, **no_key), "Kaggle refuses these credentials")


def test_one_that_was_edited_on_kaggle_is_not_taken_for_ours(server, kaggle):
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    [session] = server.kernels[REFS["01_eda"]]
    notebook = json.loads(session.body["text"])
    notebook["cells"][-1] = {**notebook["cells"][-1], "cell_type": "code", "source": "print('edited')"}
    session.body["text"] = json.dumps(notebook)
    done = kaggle("run", "01_eda", *POLL)
    assert "01_eda: version 1 was edited on Kaggle, and is sent again" in done.stdout
    assert sent(server) == ["01_eda", "01_eda"]


def test_one_that_was_only_saved_is_run(server, kaggle):
    server.polls = 10**6
    assert kaggle("push", "01_eda").returncode == 0
    server.polls, server.kernels[REFS["01_eda"]][0].state = 2, "NEW_SCRIPT"
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert sent(server) == ["01_eda", "01_eda"]


def ask(server, tmp_path, code):
    """Run code that has a `Service`, in a process of its own; return its output."""
    code = f"from flowerlib.kaggle import service\ns = service.Service()\n{code}"
    options = {"env": os.environ | server.environment(tmp_path), "capture_output": True, "text": True}
    return subprocess.run([sys.executable, "-c", code], **options)


def test_silence_is_a_cut_connection(server, tmp_path):
    server.fail_next("GetAcceleratorQuotaStatistics", ("stall",))
    began = time.monotonic()
    done = ask(server, tmp_path, "service.SILENCE = 0.2; s.quota('tpu')")
    assert done.stderr.splitlines()[-1].startswith("flowerlib.kaggle.service.Unreachable: Kaggle cannot be reached")
    assert time.monotonic() - began < 30  # the server is silent for 60


def test_output_and_log_are_those_of_the_version(server, kaggle, folder, tmp_path):
    for text in ("old", "new"):
        server.outputs[REFS["01_eda"]], server.logs[REFS["01_eda"]] = {"which.txt": text.encode()}, [text]
        assert kaggle("run", "01_eda", *POLL).returncode == 0
        (folder / "flowerlib/plots.py").write_text("# another line\n")
    code = f"from pathlib import Path; s.output('{REFS['01_eda']}', 1, Path('{tmp_path}/o'))"
    done = ask(server, tmp_path, f"{code}\nprint(s.log('{REFS['01_eda']}', 1), s.status('{REFS['01_eda']}', 1))")
    assert done.stdout == "old ('COMPLETE', '')\n", done.stderr
    assert (tmp_path / "o/which.txt").read_text() == "old"


def test_a_lost_answer_sends_nothing_twice(server, kaggle):
    server.fail_next("SaveKernel", ("lost",))
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert sent(server) == ["01_eda"]
    server.ends[REFS["02_augmentation"]] = "ERROR"
    kaggle("run", "02_augmentation", *POLL)
    server.ends.clear()
    server.fail_next("SaveKernel", ("lost",))  # of a second version with the content of the first, which failed
    assert kaggle("run", "02_augmentation", *POLL).returncode == 0
    assert sent(server) == ["01_eda", "02_augmentation", "02_augmentation"]


def test_a_lost_answer_of_one_that_fails_at_once_sends_nothing_twice(server, kaggle):
    server.polls, server.ends[REFS["01_eda"]] = 0, "ERROR"
    server.fail_next("SaveKernel", ("lost",))
    fails(kaggle("run", "01_eda", *POLL), "01_eda: ended in ERROR")
    assert sent(server) == ["01_eda"]


def test_a_log_that_cannot_be_had_hides_no_failure(server, kaggle):
    server.ends[REFS["01_eda"]] = "ERROR"
    server.fail_next("ListKernelSessionOutput", ("http", 500, "oops"))
    assert "all is not well" in kaggle("run", "01_eda", *POLL).stdout
    server.fail_next("ListKernelSessionOutput", *[("http", 500, "oops")] * 5)
    fails(kaggle("run", "01_eda", *POLL), "01_eda: ended in ERROR", "its log cannot be had")


def test_an_unsent_one_is_sent_after_a_cut(server, kaggle):
    server.fail_next("SaveKernel", ("cut",))
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert sent(server) == ["01_eda"]


def test_output_of_several_pages_comes_whole(server, kaggle, folder):
    files = {f"runs/a/{number}.txt": bytes([number]) * number for number in range(25)}
    server.outputs[REFS["01_eda"]], server.page_size = files, 4
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    for name, content in files.items():
        assert (folder / "outputs/kaggle/input/01_eda" / name).read_bytes() == content


def test_a_damaged_download_is_fetched_again(server, kaggle, folder):
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n"}
    server.fail_next("files", ("http", 500, "oops"))
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0
    assert (folder / "outputs/kaggle/input/01_eda/submission.csv").read_bytes() == b"id,label\n1,2\n"


def test_wrong_and_absent_credentials_send_nothing(server, kaggle):
    fails(kaggle("run", "01_eda", KAGGLE_KEY="wrong"), "Kaggle refuses these credentials", "kaggle auth login")
    fails(kaggle("push", "01_eda", KAGGLE_KEY="wrong"), "Kaggle refuses these credentials", "kaggle auth login")
    fails(kaggle("run", "01_eda", KAGGLE_USERNAME=""), "no Kaggle credentials", "kaggle auth login")
    assert sent(server) == []


@pytest.fixture
def heeded():
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
        process.send_signal(how)
        process.printed, _ = process.communicate(timeout=60)
        return process

    return stop


def test_killed_while_sending_it_sends_nothing_twice(server, kaggle, stopped):
    server.fail_next("SaveKernel", ("stall",))
    stopped(lambda: server.kernels, "01_eda")
    server.released.set()
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert sent(server) == ["01_eda"]


def test_killed_while_fetching_it_leaves_no_half(server, kaggle, folder, stopped):
    server.outputs[REFS["01_eda"]] = {"a.txt": b"a", "b.txt": b"b"}
    server.fail_next("files", ("stall",))
    stopped(lambda: not any(server.faults.values()), "01_eda")
    server.released.set()
    out = folder / "outputs/kaggle/input"
    assert [path.name for path in out.iterdir()] != ["01_eda"]
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    assert [path.name for path in out.iterdir()] == ["01_eda"]
    assert sorted(path.name for path in (out / "01_eda").glob("*.txt")) == ["a.txt", "b.txt"]
    assert sent(server) == ["01_eda"]


def test_two_at_once_are_one_too_many(server, kaggle, stopped):
    server.polls = 10**6
    seen = []

    def second():
        if server.kernels and not seen:
            seen.append(kaggle("run", "01_eda", *POLL))
        return seen

    process = stopped(second, "01_eda")
    fails(seen[0], f"process {process.pid} is another `run` at work in outputs/kaggle")
    server.polls = 2
    server.kernels[REFS["01_eda"]][0].polls = 0
    assert kaggle("run", "01_eda", *POLL).returncode == 0  # a killed one keeps nobody out
    assert sent(server) == ["01_eda"]


@pytest.mark.usefixtures("made", "heeded")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_called_again_it_sends_nothing_twice(server, kaggle, stopped, how):
    server.polls = 10**6  # nothing ends
    process = stopped(lambda: len(server.kernels) == len(FEEDING) + 1, *NAMED, how=how)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command takes it up again" in process.printed
    with server.lock:
        server.polls = 2
        for [session] in server.kernels.values():
            session.polls = 0
    done = kaggle("run", *NAMED, *POLL)
    assert done.returncode == 0, done.stderr
    assert sorted(sent(server)) == ALL_NAMED


def test_the_minutes_of_one_found_running_are_counted_from_its_start(server, kaggle, stopped):
    server.polls = 10**6
    stopped(lambda: server.kernels, "01_eda")
    session = server.kernels[REFS["01_eda"]][0]
    session.began, session.polls, server.polls = session.began - timedelta(hours=2), 0, 3
    done = kaggle("run", "01_eda", *POLL)
    assert re.search(r"^01_eda +running +120 min +version 1, found on Kaggle$", done.stdout, re.MULTILINE)


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
    fails(
        kaggle("run", *POLL),
        "TPU hours do not suffice: about 4.9 h to run 7, 1.5 h of 20 h left until Saturday 05 January, 00:00 UTC",
        "; name fewer notebooks, or wait",
    )
    assert sent(server) == []
    assert kaggle("run", "12_resnet152v2", *POLL).returncode == 0  # 45 minutes fit
    server.quota["gpu"] = (24, 30)
    fails(
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
    assert sent(server) == ["12_resnet152v2", "11_xception"]


def test_a_kernel_that_is_not_fit_is_not_sent(server, kaggle, folder):
    notebook = folder / "notebooks/01_eda.ipynb"
    notebook.write_text(notebook.read_text().replace("SEED = 0", "SEED = 0\\npassword = 'rosebud'"))
    for command in (("run", *POLL), ("push",)):
        done = kaggle(*command, "01_eda")
        assert done.returncode == 1
        assert re.match(r"error: 01_eda.ipynb: cell \d+: line \d+ looks like a password", done.stderr)
    assert sent(server) == []


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
    assert sent(server) == []


def test_check_says_what_is_wrong_and_then_that_nothing_is(kaggle, folder):
    fails(kaggle("check"), "nothing is built in build/kernels; run `flowerlib kaggle build`")
    fails(kaggle("build", KAGGLE_USERNAME=""), "whose kernels are they? Give `--user NAME`")
    assert kaggle("build").returncode == 0
    assert kaggle("check").stdout.count("build/kernels/") == len(kernels.SERIES)
    done = kaggle("build", "01_eda", "--to", "../elsewhere")
    assert done.stdout.startswith("../elsewhere/01_eda: someone/flowers-01-before-any-network, content ")
    assert (folder.parent / "elsewhere/01_eda/01_eda.ipynb").exists()
    done = kaggle("check", "notebooks")
    fails(done, "`notebooks/kernel-metadata.json` cannot be read")


def test_push_status_output_submit(server, kaggle, folder):
    assert "20_ensemble          not on Kaggle" in kaggle("status").stdout
    fails(kaggle("submit"), "no complete run to submit: not on Kaggle")
    fails(kaggle("output", "01_eda"), "someone/flowers-01-before-any-network is not on Kaggle")
    done = kaggle("push", "01_eda", "02_augmentation", "--timeout", "0.5")
    assert "01_eda: version 1, https://www.kaggle.com/code/someone/flowers-01-before-any-network" in done.stdout
    assert [body["sessionTimeoutSeconds"] for method, body in server.requests if method == "SaveKernel"] == [1800, 1800]
    fails(kaggle("output", "01_eda", "--out", "here"), "has not ended (QUEUED); what is here stays")
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n"}
    server.kernels[REFS["01_eda"]][0].polls = 0
    for state in ("QUEUED", "RUNNING", "COMPLETE"):
        assert re.search(rf"01_eda +version 1, content [0-9a-f]{{16}}: {state}$", kaggle("status", "01_eda").stdout)
    server.fail_next("files", ("http", 500, "oops"))
    fails(kaggle("output", "01_eda", "--out", "here"), "Kaggle is out of order for now")
    assert not (folder / "here/input/01_eda").exists()
    assert kaggle("output", "01_eda", "--out", "here").returncode == 0
    assert (folder / "here/input/01_eda/submission.csv").read_bytes() == b"id,label\n1,2\n"
    assert "Successfully submitted" in kaggle("submit", "01_eda", "--message", "a test").stdout
    assert server.submissions[0]["submissionDescription"] == "a test"
    for _ in range(3):
        kaggle("status", "02_augmentation")
    fails(kaggle("submit", "02_augmentation"), "version 1 of someone/flowers-02-augmentation left no submission.csv")
    fails(kaggle("run", "01_eda", "--submit"), "only 20_ensemble is submitted; name it too")
    assert len(server.submissions) == 1


@pytest.mark.usefixtures("made")
def test_a_submission_whose_answer_is_lost_is_not_made_again(server, kaggle):
    server.fail_next("CreateCodeSubmission", ("http", 400, "not today"), ("lost",))
    fails(kaggle("run", *NAMED, "--submit", *POLL), "Kaggle says: not today")
    assert server.submissions == []
    fails(kaggle("run", *NAMED, "--submit", *POLL), "it is not known whether the submission arrived")
    assert len(server.submissions) == 1
    fails(
        kaggle("run", *NAMED, "--submit", *POLL), "version 1 may have been submitted before: look at your submissions"
    )
    assert len(server.submissions) == 1


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("refusals", [[("http", 401, "Unauthenticated")] * 2, [("http", 429, "too many")]])
def test_a_submission_that_is_refused_is_made_the_next_time(server, kaggle, refusals):
    server.fail_next("CreateCodeSubmission", *refusals)
    assert kaggle("run", *NAMED, "--submit", *POLL).returncode == 1
    assert server.submissions == []
    assert kaggle("run", *NAMED, "--submit", *POLL).returncode == 0
    assert len(server.submissions) == 1


@pytest.mark.usefixtures("made")
def test_a_failure_that_does_not_feed_the_ensemble_keeps_no_submission_back(server, kaggle):
    server.ends[REFS["01_eda"]] = "ERROR"
    fails(kaggle("run", *NAMED, "--submit", *POLL), "failed: 01_eda")
    assert len(server.submissions) == 1


def test_a_folder_that_cannot_be_made_is_an_error(kaggle, tmp_path):
    (tmp_path / "file").touch()
    fails(kaggle("run", "01_eda", "--out", tmp_path / "file/out"), "`out` (=", "cannot be made", "name another folder")


def test_a_submission_by_hand_says_when_it_may_have_arrived(server, kaggle):
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n"}
    assert kaggle("run", "01_eda", *POLL).returncode == 0
    server.fail_next("CreateCodeSubmission", ("lost",))
    fails(kaggle("submit", "01_eda"), "it is not known whether the submission arrived", "look at your submissions")


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
        assert (folder / "flowerlib/data.py").read_text() in json.loads(body["text"])["cells"][1]["source"]
    first, second = server.kernels[REFS["14_efficientnetv2xl"]]
    assert first.body == second.body  # from its own folder, and from the root


def weights_dataset(server, folder, tmp_path):
    """`flowerlib kaggle weights-dataset` with the one network whose weights a pip package carries."""
    code = (
        "from pathlib import Path; from flowerlib.networks import backbones; from flowerlib.kaggle import dataset\n"
        "lite = backbones.BACKBONES['EfficientNetLite0']; backbones.BACKBONES = {'EfficientNetLite0': lite}\n"
        "print('sent', dataset.send(Path('w'), poll=0.05))"
    )
    options = {"cwd": folder, "env": os.environ | server.environment(tmp_path), "capture_output": True}
    return subprocess.run([sys.executable, "-c", code], text=True, **options)


def test_the_weights_become_a_dataset_and_then_a_new_version(server, folder, tmp_path):
    server.dataset_polls = 3
    (folder / "w/more").mkdir(parents=True)
    (folder / "w/[private].txt").write_text("not a weight, not to be sent")
    for version in (1, 2):
        done = weights_dataset(server, folder, tmp_path)
        assert "sent someone/flowerlib-weights" in done.stdout, done.stderr
        dataset = server.datasets["someone/flowerlib-weights"]
        assert dataset.versions == version
        assert dataset.waits == 0
        assert {name: len(content) for name, content in dataset.files.items()} == {
            "efficientnet-lite0-57934424.pth": (folder / "w/efficientnet-lite0-57934424.pth").stat().st_size
        }
    [create] = [body for method, body in server.requests if method == "CreateDataset"]
    assert create["licenseName"] == "apache-2.0"


def test_an_upload_that_is_lost_is_an_error(server, folder, tmp_path):
    server.fail_next("uploads", ("http", 403, "no"))
    done = weights_dataset(server, folder, tmp_path)
    assert "Upload unsuccessful: efficientnet-lite0-57934424.pth" in done.stderr
    assert server.datasets == {}
