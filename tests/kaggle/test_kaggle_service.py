"""Logins, timeouts and refusals of the real `kaggle` package."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import requests
from kaggle_helpers import POLL, REFS, assert_fails, change_library, pushed
from kaggle_server import Dataset
from kagglesdk.kaggle_client import KaggleClient
from kagglesdk.kaggle_http_client import KaggleHttpClient

from flowerlib.kaggle import client


def ask(server, tmp_path, code):
    """Run code that has a `Service`, in a process of its own; return its output."""
    code = f"from flowerlib.kaggle import client, service\ns = service.Service()\n{code}"
    options = {"env": os.environ | server.environment(tmp_path), "capture_output": True, "text": True}
    return subprocess.run([sys.executable, "-c", code], **options)


def test_silence_is_a_cut_connection(server, tmp_path):
    server.fail_next("GetAcceleratorQuotaStatistics", ("stall",))
    began = time.monotonic()
    done = ask(server, tmp_path, "client.READ_TIMEOUT = 0.2; s.quota('tpu')")
    assert done.stderr.splitlines()[-1].startswith("flowerlib.kaggle.errors.Unreachable: Kaggle cannot be reached")
    assert time.monotonic() - began < 30  # the server is silent for 60


@pytest.fixture
def sdk(monkeypatch):
    """Have a test change the SDK's HTTP client, and the limit applied anew, for itself alone."""
    monkeypatch.setattr(KaggleHttpClient, "__enter__", KaggleHttpClient.__enter__)
    client.set_read_timeout.cache_clear()
    yield
    client.set_read_timeout.cache_clear()


@pytest.mark.usefixtures("sdk")
def test_every_session_of_the_sdk_has_a_timeout_and_no_other_session_has(monkeypatch):
    timeouts = []
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda *_, timeout=None, **__: timeouts.append(timeout))
    client.set_read_timeout()
    client.set_read_timeout()
    with KaggleClient(username="a", password="b") as kaggle:
        for url in ("https://www.kaggle.com", "http://localhost"):
            adapter = kaggle.http_client()._session.get_adapter(url)
            adapter.send(requests.Request("GET", url).prepare())
            adapter.send(requests.Request("GET", url).prepare(), timeout=3)
    assert timeouts == 2 * [client.READ_TIMEOUT, 3]
    assert type(requests.Session().get_adapter("https://www.kaggle.com")) is requests.adapters.HTTPAdapter


@pytest.mark.usefixtures("sdk")
def test_a_changed_sdk_is_named_with_the_remedy(monkeypatch):
    """When this fails or the message is raised, look how the new kagglesdk keeps its session."""
    monkeypatch.setattr(KaggleHttpClient, "__enter__", lambda self: self)  # opens no session
    client.set_read_timeout()
    with (
        pytest.raises(RuntimeError, match=rf"has no `KaggleHttpClient._session` as {client.SEEN_WITH} had.* pip inst"),
        KaggleClient(username="a", password="b"),
    ):
        pass


def test_output_and_log_are_those_of_the_version(server, kaggle, folder, tmp_path):
    for text in ("old", "new"):
        server.outputs[REFS["01_eda"]], server.logs[REFS["01_eda"]] = {"submission.csv": text.encode()}, [text]
        assert kaggle("run", "01_eda", *POLL).returncode == 0
        change_library(folder)
    code = f"from pathlib import Path; s.output('{REFS['01_eda']}', 1, Path('{tmp_path}/o'))"
    done = ask(server, tmp_path, f"{code}\nprint(s.log('{REFS['01_eda']}', 1), s.status('{REFS['01_eda']}', 1))")
    assert done.stdout == "old ('COMPLETE', '')\n", done.stderr
    assert (tmp_path / "o/submission.csv").read_text() == "old"


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
    assert_fails(kaggle("run", "01_eda", *POLL, **no_key), "Kaggle refuses these credentials")


def test_wrong_and_absent_credentials_send_nothing(server, kaggle):
    assert_fails(kaggle("run", "01_eda", KAGGLE_KEY="wrong"), "Kaggle refuses these credentials", "kaggle auth login")
    assert_fails(kaggle("push", "01_eda", KAGGLE_KEY="wrong"), "Kaggle refuses these credentials", "kaggle auth login")
    assert_fails(kaggle("run", "01_eda", KAGGLE_USERNAME=""), "no Kaggle credentials", "kaggle auth login")
    assert pushed(server) == []


def test_a_refusal_is_told_in_kaggles_words(server, kaggle):
    server.fail_next("SaveKernel", ("error", "Your notebook is too good."))
    assert_fails(kaggle("run", "01_eda", *POLL), "01_eda: Kaggle refused 01_eda: Your notebook is too good.")
    server.fail_next("SaveKernel", ("error", "Your notebook is too good."))
    assert_fails(kaggle("push", "01_eda"), "Kaggle refused 01_eda: Your notebook is too good.")


def test_inputs_that_kaggle_drops_are_an_error(server, kaggle):
    assert_fails(
        kaggle("push", "20_ensemble"),
        "started 20_ensemble without kernel someone/flowers-00-quickstart-on-a-cpu, someone/flowers-03-efficient",
        "stop it at https://",
    )


@pytest.mark.parametrize("command", [("run", *POLL), ("push",)])
def test_offline_kernels_are_not_sent_before_their_weights_are_there(server, kaggle, command):
    done = kaggle(*command, "14_efficientnetv2xl", "--offline")
    assert_fails(
        done, "the dataset someone/flowerlib-weights is not on Kaggle; `flowerlib kaggle weights-dataset` uploads"
    )
    assert pushed(server) == []
    server.datasets["someone/flowerlib-weights"] = Dataset({})
    assert kaggle(*command, "14_efficientnetv2xl", "--offline").returncode == 0
    assert pushed(server) == ["14_efficientnetv2xl"]
