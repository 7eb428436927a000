"""What the service refuses: too many bytes, too slow, too much at once."""

import concurrent.futures
import io
import re
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image
from service_process import connect, exchange, image_of, metric, post, served

from flowerlib.config import FlowersError
from flowerlib.serving.limits import MAX_BUFFERED, Limits

PREDICT = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'


def test_a_request_of_all_files_must_fit_into_the_queue():
    with pytest.raises(FlowersError, match=r"`files` \(=9\) must be at most `queue` \(=8\)"):
        Limits(files=9, queue=8)


def test_a_body_of_unknown_length_is_measured_as_it_arrives(limited):
    def endless():
        yield PART
        for _ in range(100):
            yield bytes(100_000)

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{limited}/predict", content=endless(), headers=kind, timeout=60)
    assert (answer.status_code, "more than 2,000,000 bytes" in answer.json()["detail"]) == (413, True)


def test_a_slow_upload_times_out(limited):
    start = time.monotonic()
    answer = exchange(limited, PREDICT + b"Content-Length: 1000\r\n\r\n--b\r\n")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"longer than 2 s to arrive" in answer
    assert 1.5 < time.monotonic() - start < 10


def test_requests_beyond_the_capacity_are_told_when_to_try_again(trained, tmp_path):
    limits = ("--queue", "8", "--max-files", "8")
    with served(trained, tmp_path, *limits) as (address, _), concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, address, *[("a.png", image_of(5000))] * 8)
        while metric(address, "flowerlib_images_under_way") < 8:
            assert not first.done()
        refused = post(address, ("a.png", image_of(30)))
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["detail"] == f"server busy; try again in {refused.headers['Retry-After']} s"
        assert first.result(60).status_code == 200
        assert post(address, ("a.png", image_of(30))).status_code == 200
        assert metric(address, "flowerlib_images_under_way") == 0


def test_bodies_in_memory_are_bounded_together(trained, tmp_path):
    """Uploads that do not end fill the memory for bodies; when their clients leave, there is room again."""
    size = 1_000_000
    with served(trained, tmp_path, "--max-bytes", size, "--seconds", "120") as (address, _):
        wires = [connect(address) for _ in range(MAX_BUFFERED)]
        for wire in wires:
            wire.sendall(PREDICT + b"Content-Length: %d\r\n\r\n" % size + PART + bytes(size - len(PART) - 1))
        refused = until_status(address, 503)
        assert refused.headers["Retry-After"]
        for wire in wires:
            wire.close()
        assert until_status(address, 200).json()[0]["predictions"]


def until_status(address, status):
    """The first answer with that status, of a small request again and again."""
    until = time.monotonic() + 60
    while (answer := post(address, ("a.png", image_of(30)))).status_code != status:
        assert time.monotonic() < until
        time.sleep(0.1)
    return answer


def memory(process, kind):
    """What `/proc` says of a process, in bytes: `VmRSS`, or its peak, `VmHWM`."""
    (line,) = re.findall(rf"^{kind}:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text("utf-8"), re.M)
    return int(line) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_large_images_that_arrive_together_take_the_memory_of_one(trained, tmp_path):
    """Twelve of 19 million pixels, each at most four bytes, where twenty million may be decoded at once."""
    Image.new("RGBA", (4400, 4400), (200, 0, 0, 100)).save(buffer := io.BytesIO(), "PNG")
    limits = ("--max-pixels", "20000000", "--seconds", "60")
    with served(trained, tmp_path, *limits) as (address, process), concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert post(address, ("a.png", buffer.getvalue())).status_code == 200
        before = memory(process, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
        answers = [pool.submit(post, address, ("a.png", buffer.getvalue())) for _ in range(12)]
        while not all(answer.done() for answer in answers):
            start = time.monotonic()
            assert httpx.get(f"{address}/healthz", timeout=60).status_code == 200
            assert time.monotonic() - start < 5
        assert {answer.result().status_code for answer in answers} == {200}
        assert memory(process, "VmHWM") - before < 4 * 20_000_000 + 40_000_000
