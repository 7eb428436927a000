"""Sixty-four clients at once on `flowerlib serve`: how fast, how late, how much memory; beside no service at all."""

import http.client
import json
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import Report, Row
from flowerlib import data
from flowerlib.accelerator import tf

CLIENTS = 64
SECONDS = 60
FILES = 512

ALONE = """
import json, sys, time
from pathlib import Path
from flowerlib.photos import classification
model, files = classification.load(Path(sys.argv[1])), sorted(Path(sys.argv[2]).iterdir())
list(classification.classify(model, files[:64]))  # compiled
began, done = time.perf_counter(), 0
while time.perf_counter() - began < float(sys.argv[3]):
    done += len(list(classification.classify(model, files)))
print(done / (time.perf_counter() - began))
"""


def run(root: str, quick: bool) -> Report:
    """Train the quickstart's model, then ask it: `classify`, the service, `classify` again."""
    seconds = 5 if quick else SECONDS
    with TemporaryDirectory() as place:
        folder = Path(place)
        learned = str(folder / "sample") if quick else root
        if quick:
            sample = ["-m", "flowerlib", "sample", learned, "--images", "300"]
            subprocess.run([sys.executable, *sample], check=True, capture_output=True)
        notebook = ["-m", "flowerlib", "run", "00_quickstart", "--data", learned, "--out", place]
        subprocess.run([sys.executable, *notebook], check=True, capture_output=True)
        model, photographs = folder / "runs/00_quickstart", folder / "photographs"
        photographs.mkdir()
        _write(root, photographs)
        alone = [] if quick else [_alone(model, photographs, seconds / 3)]
        port = _free_port()
        command = ["-m", "flowerlib", "serve", "--model", model, "--port", port]
        service = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, text=True)
        try:
            _wait(port)
            found = _ask(port, [path.read_bytes() for path in sorted(photographs.iterdir())], service.pid, seconds)
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(60)
        alone.append(_alone(model, photographs, seconds / 3))
    ratio = found["images/s"] / statistics.mean(alone)
    rows = [
        Row("classify: files, no service", statistics.mean(alone), "images/s"),
        Row(f"serve: {CLIENTS} clients, an image a request", found["images/s"], "images/s"),
        Row("serve / classify", ratio, "x", ">= 0.8"),
        Row("serve: median time to an answer", found["median"], "s"),
        Row("serve: 99 % are answered within", found["p99"], "s"),
        Row("serve: answers that are neither 200 nor 503", found["failed"], "answers", "<= 0"),
        Row("serve: told to come back (503)", found["full"], "answers"),
        Row("serve: more memory at the end than after a sixth of the time", found["MB"], "MB", "<= 50"),
    ]
    return Report("serve", rows, {"classify images/s": alone, "serve": found})


def _alone(model: Path, photographs: Path, seconds: float) -> float:
    """Images a second of `classify`, in a process of its own."""
    command = [sys.executable, "-c", ALONE, model, photographs, seconds]
    return float(subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout)


def _write(root: str, folder: Path) -> None:
    """Write photographs of val as files."""
    records = tf.data.TFRecordDataset(list(data.find(192, root).shards["val"])).take(FILES)
    for number, record in enumerate(records.as_numpy_iterator()):
        image = tf.train.Example.FromString(record).features.feature["image"].bytes_list.value[0]
        (folder / f"{number:04d}.jpg").write_bytes(image)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(port: int) -> None:
    """Wait until the service answers."""
    for _ in range(120):
        try:
            http.client.HTTPConnection("127.0.0.1", port).request("GET", "/healthz")
            return
        except ConnectionRefusedError:
            time.sleep(1)
    sys.exit("error: the service does not answer")


def _ask(port: int, images: list[bytes], service: int, seconds: float) -> dict[str, float]:
    """Let all clients ask again and again; return what they met."""
    met: list[tuple[int, float]] = []  # status and seconds of each request
    began = time.perf_counter()
    until = began + seconds

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        number = first
        while time.perf_counter() < until:
            body = head + images[number % len(images)] + b"\r\n--b--\r\n"
            number += CLIENTS
            start = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "multipart/form-data; boundary=b"})
                answer = connection.getresponse()
                json.loads(answer.read())
                status = answer.status
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                status = 0  # counts as failed
            met.append((status, time.perf_counter() - start))

    clients = [threading.Thread(target=client, args=(first,)) for first in range(CLIENTS)]
    for each in clients:
        each.start()
    time.sleep(seconds / 6)
    early = _megabytes(service)
    for each in clients:
        each.join()
    statuses = [status for status, _ in met]
    answered = [seconds for status, seconds in met if status == 200]
    return {
        "images/s": len(answered) / (time.perf_counter() - began),
        "median": float(np.median(answered)),
        "p99": float(np.percentile(answered, 99)),
        "failed": sum(status not in (200, 503) for status in statuses),
        "full": statuses.count(503),
        "MB": _megabytes(service) - early,
    }


def _megabytes(process: int) -> float:
    """Memory that a process holds."""
    status = Path(f"/proc/{process}/status").read_text("utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
