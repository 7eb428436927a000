"""What is wrong on this machine is named in one line, with the remedy."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import ProxyError

from flowerlib.config import FlowersError
from flowerlib.kaggle import kernels
from flowerlib.kaggle.errors import Unreachable, readable_errors
from flowerlib.kaggle.kernels import SERIES

ROOT = Path(__file__).parents[2]


def flowerlib(*arguments, home, cwd=ROOT, **environment):
    """Run a command with an empty home, and no credentials but those that are given."""
    places = {"HOME": str(home), "PATH": "/usr/bin:/bin", "KAGGLE_CONFIG_DIR": str(home / "kaggle")}
    command = [sys.executable, "-m", "flowerlib", *arguments]
    return subprocess.run(command, cwd=cwd, env=places | environment, capture_output=True, text=True, encoding="utf-8")


def one_line(done):
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"username": "someone"', "Expecting ',' delimiter"), (b"[]", "username and key are missing"),
        (b'"KGAT_secret"', "username and key are missing"), (b"", "Expecting value"),
        (b"\xff\xfe{", "codec can't decode"),
        (b'{"username": "someone"}', "username and key are missing"),
    ],
)  # fmt: skip
def test_damaged_credentials_are_named(tmp_path, content, reason):
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle/kaggle.json").write_bytes(content)
    line = one_line(flowerlib("kaggle", "quota", home=tmp_path))
    assert f"`{tmp_path}/kaggle/kaggle.json` is damaged (" in line
    assert reason in line
    assert "secret" not in line
    assert "kaggle auth login" in line


def test_no_credentials_are_named(tmp_path):
    assert "no Kaggle credentials: log in with" in one_line(flowerlib("kaggle", "quota", home=tmp_path))


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_that_are_not_there_are_named_by_their_variable(tmp_path, variable):
    (tmp_path / "kaggle").mkdir()
    (tmp_path / "kaggle/kaggle.json").write_text(json.dumps({"username": "a", "key": "b"}), encoding="utf-8")
    done = flowerlib("kaggle", "quota", home=tmp_path, **{variable: "/nowhere/ca.pem"})
    assert f"`{variable}` (=/nowhere/ca.pem) names no file of certificates; correct it, or unset it" in one_line(done)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoConnection("NameResolutionError(\"Failed to resolve 'api.kaggle.com' ()\")"), "address of api.kaggle.com"),
        (ProxyError("Unable to connect to proxy"), "check HTTPS_PROXY"),
        (NoConnection("Connection aborted"), "Connection aborted"),
    ],
)  # fmt: skip
def test_why_kaggle_cannot_be_reached_is_said(error, words):
    with pytest.raises(Unreachable, match=f"Kaggle cannot be reached: .*{words}"), readable_errors():
        raise error


@pytest.mark.parametrize(
    "command", ["run 00", "list", "kaggle build --user bob", "kaggle lint", "kaggle run --dry-run"]
)
def test_without_a_clone_that_is_said(tmp_path, command):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "flowerlib", tmp_path / "installed/flowerlib", ignore=ignored)
    line = one_line(flowerlib(*command.split(), home=tmp_path, cwd=tmp_path / "installed"))
    assert line.startswith(f"error: no notebooks in `{tmp_path}/installed/notebooks`; work in a clone, where")


def test_the_number_of_a_kernel_stays_with_that_kernel_alone():
    shared = kernels.read(ROOT / kernels.METADATA) | {"id": f"bob/{SERIES[kernels.FLAGSHIP].slug}", "id_no": 12}
    assert kernels.metadata(SERIES[kernels.FLAGSHIP], shared, "bob")["id_no"] == 12
    assert "id_no" not in kernels.metadata(SERIES["01_eda"], shared, "bob")
    assert "id_no" not in kernels.metadata(SERIES[kernels.FLAGSHIP], shared, "alice")


def test_an_error_of_the_disk_is_still_one_of_the_disk():
    with pytest.raises(RuntimeError, match="No space left on device; make room"), readable_errors():
        raise OSError("No space left on device")
    with pytest.raises(FlowersError, match="REQUESTS_CA_BUNDLE"), readable_errors():
        raise OSError("Could not find a suitable TLS CA certificate bundle, invalid path: x")
