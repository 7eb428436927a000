"""The commands that talk to Kaggle, in processes of their own, through the real `kaggle` package, to a server here."""

import json
import os
import re
import signal
import subprocess
import sys
import time
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
        "rehearsal": False,
        "val_macro_f1": 0.5,
        "val_accuracy": 0.5,
        "val_loss": 1.0,
        "seconds_per_epoch": 2.0,
        "epochs": 3,
        "retrained": True,
        "weights": "pretrained",
        "parameters": 1000,
        "layers": 10,
        "choices": {"image_size": 512},
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
    recap = (out / "recap.csv").read_text()
    assert all(name in recap for name in (*FEEDING, "equal average", "fitted average"))
    assert 'src="input/10_densenet201/runs/10_densenet201/curves.png"' in (out / "index.html").read_text()
    [submission] = server.submissions
    assert (submission["kernelSlug"], submission["kernelVersion"], submission["fileName"]) == (
        REFS["20_ensemble"].split("/")[1],
        1,
        "submission.csv",
    )
    assert "Successfully submitted" in done.stdout


NAMED = ("20_ensemble", "01_eda")  # and so the six that feed the ensemble
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
    fails(done, "failed: 13_efficientnetb7: ended in " + end, "the same command sends only what failed again")
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


def test_inputs_that_kaggle_drops_are_an_error(server, kaggle):
    fails(
        kaggle("push", "20_ensemble"),
        "started 20_ensemble without kernel someone/flowers-00-quickstart-on-a-cpu, someone/flowers-10-densenet201",
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


def test_a_full_queue_is_waited_out_with_growing_pauses(server, kaggle):
    server.queue_full(3)
    began = time.monotonic()
    done = kaggle("run", "10_densenet201", "--poll", "0.2")
    assert done.returncode == 0
    assert time.monotonic() - began > 0.2 + 0.4 + 0.8
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
    server.fail_next("GetKernelSessionStatus", ("cut",), ("http", 503, "busy"), ("cut",))
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trying again") == 3
    assert sent(server) == ["01_eda"]


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


@pytest.mark.usefixtures("made", "heeded")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_called_again_it_sends_nothing_twice(server, folder, tmp_path, how):
    server.polls = 10**6  # nothing ends
    options = {"cwd": folder, "env": os.environ | server.environment(tmp_path), "text": True}
    process = subprocess.Popen(
        clone.command("kaggle", "run", *NAMED, *POLL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    while len(server.kernels) < len(FEEDING) + 1 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(how)
    printed, _ = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command takes it up again" in printed
    with server.lock:
        server.polls = 2
        for [session] in server.kernels.values():
            session.polls = 0
    done = subprocess.run(clone.command("kaggle", "run", *NAMED, *POLL), capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    assert sorted(sent(server)) == ALL_NAMED


def test_a_series_that_cannot_fit_is_refused_with_the_figures(server, kaggle):
    server.quota["tpu"] = (18.5, 20)
    fails(
        kaggle("run", *POLL),
        "TPU hours do not suffice: about 4.6 h to run 6, 1.5 h of 20 h left until Saturday 05 January, 00:00 UTC",
        "; name fewer notebooks, or wait",
    )
    assert sent(server) == []
    assert kaggle("run", "12_resnet152v2", *POLL).returncode == 0  # 45 minutes fit


def test_a_kernel_that_is_not_fit_is_not_sent(server, kaggle, folder):
    notebook = folder / "notebooks/01_eda.ipynb"
    notebook.write_text(notebook.read_text().replace("SEED = 0", "SEED = 0\\npassword = 'rosebud'"))
    done = kaggle("run", "01_eda", *POLL)
    assert done.returncode == 1
    assert "looks like a password" in done.stderr
    assert sent(server) == []


def test_check_says_what_is_wrong_and_then_that_nothing_is(server, kaggle):
    fails(kaggle("check"), "nothing is built in build/kernels; run `flowerlib kaggle build`")
    fails(kaggle("build", KAGGLE_USERNAME=""), "whose kernels are they? Give `--user NAME`")
    assert kaggle("build").returncode == 0
    assert kaggle("check").stdout.count("build/kernels/") == len(kernels.SERIES)
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
    server.outputs[REFS["01_eda"]] = {"submission.csv": b"id,label\n1,2\n", "model.keras": b"large"}
    server.kernels[REFS["01_eda"]][0].polls = 0
    for state in ("QUEUED", "RUNNING", "COMPLETE"):
        assert re.search(rf"01_eda +version 1, content [0-9a-f]{{16}}: {state}$", kaggle("status", "01_eda").stdout)
    fails(kaggle("output", "01_eda", "--out", "here"), "model.keras of someone/flowers-01-before-any-network did not")
    del server.kernels[REFS["01_eda"]][0].files["model.keras"]
    assert kaggle("output", "01_eda", "--out", "here").returncode == 0
    assert (folder / "here/input/01_eda/submission.csv").read_bytes() == b"id,label\n1,2\n"
    assert "Successfully submitted" in kaggle("submit", "01_eda", "--message", "a test").stdout
    assert server.submissions[0]["submissionDescription"] == "a test"
    for _ in range(3):
        kaggle("status", "02_augmentation")
    fails(kaggle("submit", "02_augmentation"), "version 1 of someone/flowers-02-augmentation left no submission.csv")
    fails(kaggle("run", "01_eda", "--submit"), "only 20_ensemble is submitted; name it too")
    assert len(server.submissions) == 1


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
        "from pathlib import Path; from flowerlib import backbones; from flowerlib.kaggle import dataset\n"
        "lite = backbones.BACKBONES['EfficientNetLite0']; backbones.BACKBONES = {'EfficientNetLite0': lite}\n"
        "print('sent', dataset.send(Path('w'), poll=0.05))"
    )
    options = {"cwd": folder, "env": os.environ | server.environment(tmp_path), "capture_output": True}
    return subprocess.run([sys.executable, "-c", code], text=True, **options)


def test_the_weights_become_a_dataset_and_then_a_new_version(server, folder, tmp_path):
    server.dataset_polls = 3
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
    assert "efficientnet-lite0-57934424.pth did not reach someone/flowerlib-weights whole" in done.stderr
