"""The service as its users meet it: a process of its own, real requests, a real browser."""

import concurrent.futures
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from flowerlib.config import FlowersError
from flowerlib.photos import classification
from flowerlib.serving import app

LIMITED = ("--max-bytes", "2000000", "--max-pixels", "20000000", "--max-files", "4", "--seconds", "2", "--queue", "6")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(model, place, *options):
    """Start `flowerlib serve`; yield its address and process, then stop it and see that it leaves nothing behind."""
    port = free_port()
    uploads = place / "uploads"
    uploads.mkdir()
    command = [sys.executable, "-m", "flowerlib", "serve", "--model", model, "--port", port, *options]
    with open(place / "log", "w") as log:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=log, env=os.environ | {"TMPDIR": str(uploads)}
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                assert process.poll() is None, (place / "log").read_text()
                httpx.get(f"{address}/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            pytest.fail((place / "log").read_text())
        yield address, process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM), (place / "log").read_text()
        assert not any(uploads.iterdir())
    finally:
        process.kill()


@pytest.fixture(scope="module")
def service(trained, tmp_path_factory):
    place = tmp_path_factory.mktemp("service")
    with served(trained, place) as (address, _):
        yield address
    assert "Traceback" not in (place / "log").read_text()


@pytest.fixture(scope="module")
def limited(trained, tmp_path_factory):
    with served(trained, tmp_path_factory.mktemp("limited"), *LIMITED) as (address, _):
        yield address


@pytest.fixture(scope="module")
def expected(trained, photographs_of_val):
    """Name -> the probabilities of each file of val."""
    model = classification.load(trained)
    return model, {
        path.name: said for path, said in classification.classify(model, sorted(photographs_of_val.iterdir()))
    }


def image_of(side, kind="PNG"):
    Image.new("1" if side > 10_000 else "RGB", (side, side)).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def post(address, *files, **settings):
    return httpx.post(f"{address}/predict", files=[("files", file) for file in files], timeout=60, **settings)


def metric(address, name, **labels):
    families = text_string_to_metric_families(httpx.get(f"{address}/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_files_get_their_own_answers_in_their_order(service, photographs_of_val, expected):
    model, probabilities = expected
    paths = sorted(photographs_of_val.iterdir(), reverse=True)
    answer = post(service, *((path.name, path.read_bytes()) for path in paths), params={"top": 2})
    assert answer.status_code == 200
    for path, found in zip(paths, answer.json(), strict=True):
        assert found["file"] == path.name
        wanted = model.top(probabilities[path.name], 2)
        assert [guess["class"] for guess in found["predictions"]] == [name for name, _ in wanted]
        said = [guess["probability"] for guess in found["predictions"]]
        np.testing.assert_allclose(said, [value for _, value in wanted], atol=1e-6)


def test_requests_that_arrive_together_are_run_together_and_never_mixed_up(service, photographs_of_val, expected):
    model, probabilities = expected
    paths = sorted(photographs_of_val.iterdir()) * 20
    batches, images = (metric(service, f"flowerlib_batch_images_{part}") for part in ("count", "sum"))
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda path: post(service, (path.name, path.read_bytes())), paths))
    for path, answer in zip(paths, answers, strict=True):
        (found,) = answer.json()
        ((name, value),) = model.top(probabilities[path.name], 1)
        assert found["predictions"][0]["class"] == name
        assert found["predictions"][0]["probability"] == pytest.approx(value, abs=1e-6)
    assert metric(service, "flowerlib_batch_images_sum") - images == 180
    assert metric(service, "flowerlib_batch_images_count") - batches < 150


def test_it_describes_itself(service, trained):
    assert httpx.get(f"{service}/healthz").json() == {"status": "ok"}
    described = httpx.get(f"{service}/model").json()
    assert described["classes"] == ["daisy", "iris", "rose", "lotus"]
    assert (described["name"], described["image_size"], described["fit"]) == ("tiny", 24, "crop")
    before = metric(service, "flowerlib_requests_total", path="/predict", status="400")
    post(service, ("a.jpg", b"no image"))
    assert metric(service, "flowerlib_requests_total", path="/predict", status="400") == before + 1
    documents = httpx.get(f"{service}/docs").text
    assert all(place.startswith("/") for place in re.findall(r'(?:src|href)="([^"]+)"', documents))


def test_other_methods_are_told_which_one_there_is(service):
    for path, allowed in (("predict", "POST"), ("model", "GET, HEAD"), ("metrics", "GET, HEAD")):
        answer = httpx.delete(f"{service}/{path}")
        assert (answer.status_code, answer.headers.get("allow")) == (405, allowed)


BAD = {
    "no image": ([("a.jpg", b"hello")], 400, "`a.jpg` is no image"),
    "nothing": ([("a.jpg", b"")], 400, "`a.jpg` is no image"),
    "cut short": ([("a.png", image_of(500)[:-100])], 400, "`a.png` cannot be read"),
    "one of two": ([("a.png", image_of(50)), ("b.txt", b"hello")], 400, "`b.txt` is no image"),
    "too many pixels": ([("a.png", image_of(5000))], 400, "has 25,000,000 pixels, more than 20,000,000"),
    "a bomb": ([("a.png", image_of(14_000))], 400, "pixels; make it smaller"),
    "many files": ([("a.png", b"x")] * 500, 400, "Maximum number of files is 4"),
    "200 MB": ([("a.png", bytes(200_000_000))], 413, "more than 2,000,000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_and_the_service_lives_on(limited, name):
    files, status, words = BAD[name]
    answer = post(limited, *files)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert post(limited, ("a.png", image_of(30))).status_code == 200


def test_a_wrong_field_is_named(limited):
    answer = httpx.post(f"{limited}/predict", files=[("photos", ("a.png", image_of(30)))])
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "files"]
    answer = httpx.post(f"{limited}/predict", data={"files": "text"}, files={"x": b""})
    assert answer.status_code == 422


def test_a_body_of_unknown_length_is_measured_as_it_comes(limited):
    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{limited}/predict", content=endless(), headers=kind, timeout=60)
    assert (answer.status_code, "more than 2,000,000 bytes" in answer.json()["detail"]) == (413, True)


def spoken(address, text):
    """What comes back for these bytes, until the other side closes."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as wire:
        wire.sendall(text)
        return b"".join(iter(lambda: wire.recv(65536), b""))


EVERY = ("", "predict", "healthz", "model", "metrics", "docs", "openapi.json", "config", "gradio_api/upload", "nothing")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", EVERY)
def test_another_sites_name_that_leads_here_leads_nowhere(limited, path, method):
    """DNS rebinding: the browser of a visitor of evil.example asks this service, and thinks it is evil.example."""
    answer = httpx.request(method, f"{limited}/{path}", headers={"Host": "evil.example:8000"})
    assert answer.status_code == 403
    if method != "HEAD":
        assert set(answer.json()) == {"detail"}
        assert "`Host` (=evil.example:8000)" in answer.json()["detail"]
        assert "--allow-host" in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
@pytest.mark.parametrize("path", ["predict", "config", "gradio_api/queue/join"])
def test_another_sites_page_is_not_answered(limited, path, origin):
    answer = httpx.post(f"{limited}/{path}", headers={"Origin": origin})
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)
    assert f"`Origin` (={origin})" in answer.json()["detail"]


def test_a_request_without_a_host_is_answered_as_load_balancers_ask_so_and_browsers_do_not(limited):
    assert spoken(limited, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    origin = b"GET /healthz HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n"
    assert spoken(limited, origin).startswith(b"HTTP/1.1 403")


def test_a_web_socket_is_no_way_in(limited):
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    head = f"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n{upgrade}dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    assert spoken(limited, head.encode()).startswith(b"HTTP/1.1 403")


def test_names_that_are_given_lead_here_and_so_do_this_machines_own(trained, tmp_path):
    options = ("--allow-host", "flowers.example", "--allow-host", "Other.Example.")
    with served(trained, tmp_path, *options) as (address, _):
        known = ["flowers.example", "other.example:80", "FLOWERS.example.", socket.gethostname(), "[::1]:1"]
        for host in known:
            assert httpx.get(f"{address}/healthz", headers={"Host": host}).status_code == 200
        proxied = {"Host": "localhost:8000", "Origin": "https://flowers.example"}
        assert post(address, ("a.png", image_of(30)), headers=proxied).status_code == 200
        assert httpx.get(f"{address}/healthz", headers={"Host": "flowers.example.evil"}).status_code == 403


@pytest.mark.parametrize("path", ["", "healthz", "model", "metrics", "docs", "openapi.json", "config"])
def test_head_is_answered_as_get_is_without_a_body(service, path):
    got = httpx.get(f"{service}/{path}")
    head = httpx.head(f"{service}/{path}")
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.headers["content-type"] == got.headers["content-type"]
    wire = spoken(service, f"HEAD /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert wire.endswith(b"\r\n\r\n")
    assert wire.count(b"\r\n\r\n") == 1


def test_what_is_no_http_is_refused(limited):
    assert spoken(limited, b"\x16\x03\x01 this is not HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
    nonsense = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n"
    assert spoken(limited, nonsense).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{limited}/healthz").status_code == 200


def test_who_sends_too_slowly_is_told_so(limited):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    began = time.monotonic()
    answer = spoken(limited, head + b"Content-Length: 1000\r\n\r\n--b\r\n")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"longer than 2 s to arrive" in answer
    assert 1.5 < time.monotonic() - began < 10


def wired(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)))


def closed_after(wire):
    """In how many seconds from now the other side closes or resets a connection, having said nothing."""
    began = time.monotonic()
    wire.settimeout(20)
    with suppress(ConnectionResetError):
        assert wire.recv(1000) == b""
    return time.monotonic() - began


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half: "])
def test_who_never_says_what_he_wants_is_left(limited, said):
    with wired(limited) as wire:
        wire.sendall(said)
        assert 1.5 < closed_after(wire) < 10


def test_a_head_that_comes_drop_by_drop_is_as_late(limited):
    with wired(limited) as wire, suppress(ConnectionError):
        began = time.monotonic()
        wire.settimeout(0.2)
        wire.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        while time.monotonic() - began < 20:
            wire.sendall(b"x")
            with suppress(TimeoutError):
                assert wire.recv(1) == b""
                break
    assert 1.5 < time.monotonic() - began < 10


def test_after_an_answer_the_next_head_has_its_time_too(limited):
    with wired(limited) as wire:
        for _ in range(4):  # longer than `--seconds` in all
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += wire.recv(10_000)
            time.sleep(1)
        wire.sendall(b"GET /healthz HT")
        assert closed_after(wire) < 10


def test_an_answer_that_nobody_takes_in_is_given_up(limited):
    """A script of the page is asked for again and again, and not read."""
    script = re.search(r"assets/[^\"']+\.js", httpx.get(limited).text)[0]
    with wired(limited) as wire:
        wire.settimeout(0.5)
        wire.sendall(f"GET /{script} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 1000)
        until = time.monotonic() + 30
        with suppress(ConnectionError):
            while time.monotonic() < until:
                with suppress(TimeoutError):
                    wire.sendall(b"GET")
                time.sleep(0.1)
            pytest.fail("the connection is still open")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_more_connections_than_there_is_room_for_push_out_those_that_wait(trained, tmp_path):
    with served(trained, tmp_path, "--queue", "1", "--max-files", "1") as (address, process), ExitStack() as wires:
        for _ in range(400):
            with suppress(ConnectionError):  # pushed out already
                wires.enter_context(wired(address)).sendall(b"GET / HT")
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert post(address, ("a.png", image_of(30))).status_code == 200
        assert count_sockets(process) < 1 + 128 + 10


def count_sockets(process):
    count = 0
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += "socket:" in os.readlink(descriptor)
    return count


def test_who_finds_it_full_is_told_when_to_come_back(trained, tmp_path):
    room = ("--queue", "8", "--max-files", "8")
    with served(trained, tmp_path, *room) as (address, _), concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, address, *[("a.png", image_of(5000))] * 8)
        while metric(address, "flowerlib_images_under_way") < 8:
            assert not first.done()
        full = post(address, ("a.png", image_of(30)))
        assert full.status_code == 503
        assert int(full.headers["Retry-After"]) >= 1
        assert "try again in" in full.json()["detail"]
        assert first.result(60).status_code == 200
        assert post(address, ("a.png", image_of(30))).status_code == 200
        assert metric(address, "flowerlib_images_under_way") == 0


def test_images_are_decoded_in_the_order_in_which_they_came_and_never_too_many_at_once():
    """Room for ten: the six has to wait for the seven, and what would still fit waits behind it."""
    pixels, order, inside, most = app.Pixels(10), [], [], []

    def decode(count, done):
        with pixels.taken(count):
            inside.append(count)
            order.append(count)
            most.append(sum(inside))
            done.wait(10)
            inside.remove(count)

    ends = {count: threading.Event() for count in (7, 6, 2, 1, 10)}
    threads = [threading.Thread(target=decode, args=each) for each in ends.items()]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    assert order == [7]
    ends[7].set()
    threads[0].join(10)
    until = time.monotonic() + 10
    while len(order) < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert sorted(order[1:]) == [1, 2, 6]
    for count in (1, 2, 6, 10):
        ends[count].set()
    for thread in threads:
        thread.join(10)
    assert order[-1] == 10
    assert max(most) == 10


def test_an_image_that_cannot_be_read_leaves_room_for_the_next():
    pixels = app.Pixels(10)
    for _ in range(3):
        with pytest.raises(FlowersError), pixels.taken(10):
            raise FlowersError("is damaged")


def memory(process, kind):
    """What `/proc` says of a process, in bytes: `VmRSS`, or its peak, `VmHWM`."""
    (line,) = re.findall(rf"^{kind}:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    return int(line) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_large_images_that_come_together_take_the_memory_of_one(trained, tmp_path):
    """Twelve of 19 million pixels, each at most four bytes, where twenty million may be decoded at once."""
    Image.new("RGBA", (4400, 4400), (200, 0, 0, 100)).save(buffer := io.BytesIO(), "PNG")
    room = ("--max-pixels", "20000000", "--seconds", "60")
    with served(trained, tmp_path, *room) as (address, process), concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert post(address, ("a.png", buffer.getvalue())).status_code == 200
        before = memory(process, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
        answers = [pool.submit(post, address, ("a.png", buffer.getvalue())) for _ in range(12)]
        while not all(answer.done() for answer in answers):
            began = time.monotonic()
            assert httpx.get(f"{address}/healthz", timeout=60).status_code == 200
            assert time.monotonic() - began < 5
        assert {answer.result().status_code for answer in answers} == {200}
        assert memory(process, "VmHWM") - before < 4 * 20_000_000 + 40_000_000


def test_a_port_that_is_taken_is_named(trained):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "flowerlib", "serve", "--model", trained, "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"--port {port}: Address already in use" in done.stderr


def test_what_was_broken_off_is_swept_away(limited, tmp_path_factory):
    """Uploads end in a file; one that never ends must not stay."""
    (place,) = tmp_path_factory.getbasetemp().glob("limited[0-9]*/uploads/flowerlib-*")
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(100_000)
    host, port = limited.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(head + b"Content-Length: 1000000\r\n\r\n" + part)
        until = time.monotonic() + 10
        while not any(path.is_file() for path in place.rglob("*")):
            assert time.monotonic() < until
            time.sleep(0.05)
    until = time.monotonic() + 30
    while any(path.is_file() for path in place.rglob("*")):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_told_to_stop_it_finishes_what_is_under_way(trained, tmp_path):
    with served(trained, tmp_path) as (address, process), concurrent.futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(post, address, *[("a.png", image_of(5000))] * 8)
        while metric(address, "flowerlib_images_under_way") < 8:
            assert not request.done()
        process.send_signal(signal.SIGTERM)
        assert not request.done()
        answer = request.result(60)
        assert (answer.status_code, len(answer.json())) == (200, 8)
        process.wait(60)


def test_letting_others_in_is_no_silent_choice(trained, tmp_path):
    with served(trained, tmp_path, "--host", "0.0.0.0"):
        told = (tmp_path / "log").read_text()
    assert "whoever reaches this machine can send pictures" in told


def test_the_interface_keeps_what_its_description_promises(service, tmp_path):
    command = ["run", f"{service}/openapi.json", "--max-examples=40", "--seed=1", "--generation-database=none"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    tested = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *command, f"--checks={checks}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.fixture(params=[(1200, False), (390, True)], ids=["desk", "telephone"])
def browser(request):
    """A browser, of a desk's or a telephone's width."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver: apt install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for name in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    width, mobile = request.param
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": mobile}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield opened


def test_the_page_names_a_photograph(service, browser, photographs_of_val, expected, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    model, probabilities = expected
    path = min(photographs_of_val.iterdir())
    browser.get(service)
    wait = WebDriverWait(browser, 30)
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(str(path))
    name = wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "[data-testid=label-output-value]"))[0].text
    assert name == model.top(probabilities[path.name], 1)[0][0]
    assert name in wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".looked"))[0].text
    similar = wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".pictures li"))
    nearest = model.gallery.nearest(model.look(model.pixels(path)).features, 6)
    shown = [f"{model.classes[model.gallery.labels[place]]}\n{cosine:.2f}" for place, cosine in nearest]
    assert [each.text for each in similar] == shown
    wide, there = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= there
    browser.save_screenshot(str(tmp_path / "page.png"))
    outside = {
        urlsplit(message["params"]["request"]["url"]).netloc
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
        and not message["params"]["request"]["url"].startswith(("data:", "blob:"))
    }
    assert outside == {urlsplit(service).netloc}


def test_the_keyboard_alone_reaches_the_upload(service, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(service)
    WebDriverWait(browser, 30).until(lambda page: page.find_elements(By.CSS_SELECTOR, "input[type=file]"))
    ActionChains(browser).send_keys(Keys.TAB).perform()
    reached = browser.switch_to.active_element
    assert (reached.tag_name, "upload" in reached.get_attribute("aria-label")) == ("button", True)
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_a_file_that_is_no_photograph_is_named_on_the_page(service, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    (tmp_path / "broken.jpg").write_bytes(b"no image")
    browser.get(service)
    wait = WebDriverWait(browser, 30)
    field = wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0]
    field.send_keys(str(tmp_path / "broken.jpg"))
    wait.until(lambda page: "is no image that Pillow knows" in page.find_element(By.TAG_NAME, "body").text)


def named(address, path, session):
    """What the page is answered that names a file as its upload: whether it was looked at."""
    functions = httpx.get(f"{address}/config").json()["dependencies"]
    (function,) = [each["id"] for each in functions if each["targets"]]
    asked = {"data": [{"path": str(path), "meta": {"_type": "gradio.FileData"}}], "fn_index": function}
    httpx.post(f"{address}/gradio_api/queue/join", json=asked | {"session_hash": session})
    with httpx.stream("GET", f"{address}/gradio_api/queue/data", params={"session_hash": session}, timeout=20) as said:
        answer = next(line for line in said.iter_lines() if "process_completed" in line)
    return json.loads(answer.removeprefix("data: "))["success"]


WATCHED = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from flowerlib.photos import classification
from flowerlib.serving import app

called = set()

def watch(frame, event, argument):
    called.add(argument.__name__ if event == "c_call" else frame.f_code.co_name)

app = app.create_app(classification.load(Path(sys.argv[1])))
with TestClient(app, base_url="http://localhost") as client:
    client.portal.call(sys.setprofile, watch)
    (path,) = client.post("/gradio_api/upload", files={"files": open(sys.argv[2], "rb")}).json()
    (function,) = [each["id"] for each in client.get("/config").json()["dependencies"] if each["targets"]]
    asked = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": function}
    client.post("/gradio_api/queue/join", json=asked | {"session_hash": "watched"})
    said = client.get("/gradio_api/queue/data", params={"session_hash": "watched"}).text
    client.portal.call(sys.setprofile, None)
assert '"success":true' in said and "resembles" in said, said
print(*called)
"""


def test_what_the_page_computes_is_not_computed_where_requests_are_awaited(trained, photographs_of_val):
    """Of all that is called in the thread of the event loop, nothing is heavy."""
    command = [sys.executable, "-c", WATCHED, trained, min(photographs_of_val.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = set(done.stdout.split())
    assert {"run_in_executor", "probabilities"} <= called  # those of `Batches`, which hand it on
    assert called & {"resize", "nearest", "save", "fromarray", "b64encode"} == set()


def test_two_who_send_the_same_file_are_both_answered_and_it_is_gone_seconds_later(service):
    """Gradio keeps equal uploads as one file; what is never looked at would be swept away after a minute only."""
    upload = {"files": ("a.png", image_of(40))}
    (one,), (other,) = (httpx.post(f"{service}/gradio_api/upload", files=upload).json() for _ in range(2))
    assert one == other
    assert named(service, one, "first")
    assert named(service, other, "second")
    until = time.monotonic() + 20
    while Path(one).exists():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_browser_that_names_a_file_of_the_server_gets_nothing(limited, tmp_path):
    """The page's own way in: a path where that of an upload should stand."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(image_of(24))
    assert not named(limited, secret, "secret")
    assert secret.exists()
    assert httpx.get(f"{limited}/gradio_api/file={secret}").status_code == 404


def test_of_gradio_only_what_the_page_needs_is_there(limited):
    """No proxy to other places, no recorder, no copies of what others were shown."""
    for path in ("file=http://127.0.0.1:1/", "file=http:/127.0.0.1:1/", "deep_link", "process_recording", "call/name"):
        assert httpx.get(f"{limited}/gradio_api/{path}").status_code == 404
        assert httpx.post(f"{limited}/gradio_api/{path}").status_code == 404
