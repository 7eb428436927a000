"""The server from start to stop, and what it leaves on the disk: nothing."""

import concurrent.futures
import io
import re
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service_process import SERVE, image_of, metric, post, served

AUDITED = """
import os, sys

def audit(event, arguments):
    if event == "open":
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)
    else:
        writes = event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "tempfile.mkstemp", "tempfile.mkdtemp")
    if writes:
        os.write(2, f"AUDIT {event} {arguments[0]!r}\\n".encode())

sys.addaudithook(audit)
open(os.devnull, "w").close()  # shows that the hook sees what writes
from flowerlib.cli import main
main()
"""


@pytest.fixture(scope="module")
def large_and_small():
    """Files of 10 kB to 3 MB: web frameworks put those above 1 MB into temporary files."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    files = []
    for side in (60, 1000):
        Image.fromarray(noise[:side, :side]).save(buffer := io.BytesIO(), "PNG")
        files.append(buffer.getvalue())
    assert len(files[0]) < 20_000
    assert len(files[1]) > 2_900_000
    return files


def test_no_file_is_written_while_200_uploads_are_answered(trained, tmp_path, large_and_small):
    with served(trained, tmp_path, command=(sys.executable, "-c", AUDITED, "serve")) as (address, _):
        written = (tmp_path / "log").read_text().count("AUDIT")
        assert written >= 1
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            files = [("a.png", large_and_small[number % 2]) for number in range(199)]
            options = {"activation_map": True, "similar": 2}
            answers = list(pool.map(lambda file: post(address, file, params=options), files))
            answers.append(post(address, *[("a.png", large_and_small[1])] * 8))
        assert {answer.status_code for answer in answers} == {200}
        assert metric(address, "flowerlib_requests_total", path="/predict", status="200") == 200
        log = (tmp_path / "log").read_text()
        assert log.count("AUDIT") == written, log


def test_the_package_has_the_files_of_the_page():
    root = Path(__file__).parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    wing = root / "flowerlib/serving"
    packaged = {path for pattern in settings["package-data"]["flowerlib.serving"] for path in wing.glob(pattern)}
    assert {path.name for path in packaged} >= {"index.html", "style.css", "app.js"}
    assert packaged == {path for path in wing.rglob("static/**/*") if path.is_file()}


def test_a_port_that_is_taken_is_named(trained):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run([*SERVE, "--model", trained, "--port", str(port)], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"--port {port}: Address already in use" in done.stderr


def test_told_to_stop_it_finishes_the_requests_under_way(trained, tmp_path):
    with served(trained, tmp_path) as (address, process), concurrent.futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(post, address, *[("a.png", image_of(5000))] * 8)
        while metric(address, "flowerlib_images_under_way") < 8:
            assert not request.done()
        process.send_signal(signal.SIGTERM)
        assert not request.done()
        answer = request.result(60)
        assert (answer.status_code, len(answer.json())) == (200, 8)
        process.wait(60)


def test_listening_to_other_machines_is_warned_about(trained, tmp_path):
    with served(trained, tmp_path, "--host", "0.0.0.0") as (address, _):
        log = (tmp_path / "log").read_text()
    assert "whoever reaches this machine can send pictures" in log
    assert re.search(rf"page: {re.escape(address)}/ ", log)
