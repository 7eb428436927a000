"""`flowerlib serve` in a process of its own, and requests to it."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

SERVE = (sys.executable, "-m", "flowerlib", "serve")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(model, folder, *options, command=SERVE):
    """Start the service; yield its address and process, then stop it and see that it leaves no file behind."""
    port = free_port()
    temporary = folder / "temporary"
    temporary.mkdir()
    arguments = [*command, "--model", model, "--port", port, *options]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(list(map(str, arguments)), stdout=log, stderr=log, env=environment)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}", process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM), (folder / "log").read_text("utf-8")
        assert not any(temporary.iterdir())
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(address, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text("utf-8")
        try:
            return httpx.get(f"{address}/healthz")
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(log.read_text("utf-8"))


def image_of(side, kind="PNG"):
    """A black image, in a file of few bytes."""
    Image.new("1" if side > 10_000 else "RGB", (side, side)).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def post(address, *files, **settings):
    return httpx.post(f"{address}/predict", files=[("files", file) for file in files], timeout=60, **settings)


def metric(address, name, **labels):
    families = text_string_to_metric_families(httpx.get(f"{address}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def connect(address, **settings):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), **settings)


def exchange(address, request):
    """What comes back for these bytes, until the service closes the connection."""
    with connect(address, timeout=20) as wire:
        wire.sendall(request)
        return b"".join(iter(lambda: wire.recv(65536), b""))
