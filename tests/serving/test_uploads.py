"""The ways in which clients send images, and what they are told when they err."""

import base64
import io
import json
import re
import subprocess
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image
from service_process import connect, exchange, image_of, metric

from flowerlib.photos import formats
from flowerlib.serving import uploads
from flowerlib.serving.limits import Limits

KINDS = {"heic": "HEIF", "jxl": "JXL", "avif": "AVIF"}


@pytest.fixture
def photograph(photographs_of_val):
    return min(photographs_of_val.iterdir())


def probabilities(answer):
    assert answer.status_code == 200, answer.text
    return [{each["class"]: each["probability"] for each in image["predictions"]} for image in answer.json()]


def require_answer(answer, expected, photograph, count=1):
    classifier, rows = expected
    wanted = dict(zip(classifier.classes, rows[photograph.name], strict=True))
    found = probabilities(answer)
    assert len(found) == count
    for each in found:
        assert each == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("name", ["files", "file", "image", "photo", "picture", "images[]", "upload", "Bild ü", ""])
@pytest.mark.parametrize("path", ["predict", "predict/"])
def test_a_field_of_any_name_holds_an_image(service, photograph, expected, name, path):
    answer = httpx.post(f"{service}/{path}", files={name: photograph.read_bytes()}, data={"token": "x"})
    require_answer(answer, expected, photograph)


@pytest.mark.parametrize(
    "kind", ["image/jpeg", "image/jpg", "application/octet-stream", "binary/octet-stream", "image/*", "", None]
)
@pytest.mark.parametrize("path", ["predict", "predict/"])
def test_the_body_is_an_image_whatever_its_type(service, photograph, expected, kind, path):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = httpx.post(f"{service}/{path}", content=photograph.read_bytes(), headers=headers)
    require_answer(answer, expected, photograph)
    assert answer.json()[0]["file"] == "body"


def test_curl_sends_a_body_without_a_header(service, photograph, expected):
    """It then says that the body is a form's, `application/x-www-form-urlencoded`."""
    command = ["curl", "-s", "--data-binary", f"@{photograph}", f"{service}/predict"]
    answer = httpx.Response(200, content=subprocess.run(command, capture_output=True, check=True).stdout)
    require_answer(answer, expected, photograph)


def test_a_body_in_chunks_of_unknown_length_is_an_image(service, photograph, expected):
    content = photograph.read_bytes()
    answer = httpx.post(f"{service}/predict", content=iter([content[:100], content[100:]]))
    assert "content-length" not in answer.request.headers
    require_answer(answer, expected, photograph)


ENCODINGS = {
    "base64": lambda content: base64.b64encode(content).decode(),
    "in lines": lambda content: base64.encodebytes(content).decode(),
    "without padding": lambda content: base64.b64encode(content).decode().rstrip("="),
    "safe in addresses": lambda content: base64.urlsafe_b64encode(content).decode(),
    "data URL": lambda content: "data:image/jpeg;base64," + base64.b64encode(content).decode(),
    "data URL with a parameter": lambda content: "data:image/jpeg;x=1;base64," + base64.b64encode(content).decode(),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_holds_an_image_in_base64(service, photograph, expected, encoding):
    text = ENCODINGS[encoding](photograph.read_bytes())
    require_answer(httpx.post(f"{service}/predict/", json={"image": text, "name": "Rösé"}), expected, photograph)
    answer = httpx.post(f"{service}/predict", json={"images": [text, text], "photo": text})
    require_answer(answer, expected, photograph, count=3)
    assert [each["file"] for each in answer.json()] == ["images[0]", "images[1]", "photo"]


@pytest.mark.parametrize("escape", [("/", "\\/"), ("+", "\\u002B")], ids=["PHP", ".NET"])
def test_json_that_escapes_what_it_need_not_is_read(service, photograph, expected, escape):
    text = base64.b64encode(photograph.read_bytes()).decode().replace(*escape)
    body = f'{{"image": "{text}"}}'
    kind = {"Content-Type": "application/json; charset=utf-8"}
    require_answer(httpx.post(f"{service}/predict", content=body, headers=kind), expected, photograph)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/ld+json"])
def test_json_is_known_without_its_type(service, photograph, expected, kind):
    """`curl -d` and `fetch` with a text send another one."""
    body = f'\n{{"image": "{ENCODINGS["base64"](photograph.read_bytes())}"}}'
    headers = {} if kind is None else {"Content-Type": kind}
    require_answer(httpx.post(f"{service}/predict", content=body, headers=headers), expected, photograph)


COMMANDS = re.findall(r"^    (.*curl .*/predict\S*)", (Path(__file__).parents[2] / "docs/serving.md").read_text(), re.M)


def test_the_documentation_has_a_command_for_each_way():
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_documentation_work(service, photograph, tmp_path, command):
    for name in ("rose.jpg", "iris.jpg", "rose.heic"):  # a file is known by what is in it
        (tmp_path / name).write_bytes(photograph.read_bytes())
    command = command.replace("http://127.0.0.1:8000", service).replace("curl ", "curl -s ")
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)[0]["predictions"]


@pytest.mark.parametrize("suffix", KINDS)
def test_what_telephones_write_is_classified(service, photograph, suffix):
    if KINDS[suffix] not in formats.FORMATS:
        pytest.skip(f"Pillow needs a plug-in to read {suffix}")
    Image.open(photograph).resize((160, 120)).save(buffer := io.BytesIO(), KINDS[suffix])
    content = buffer.getvalue()
    assert f".{suffix}" in httpx.get(f"{service}/model").json()["suffixes"]
    text = base64.b64encode(content).decode()
    answers = [
        httpx.post(f"{service}/predict", files={"file": (f"a.{suffix}", content)}),
        httpx.post(f"{service}/predict", content=content, headers={"Content-Type": f"image/{suffix}"}),
        httpx.post(f"{service}/predict", json={"image": f"data:image/{suffix};base64,{text}"}),
    ]
    (first,), *others = map(probabilities, answers)
    assert all(other == pytest.approx(first, abs=1e-6) for (other,) in others)


JSON = {"Content-Type": "application/json"}
IMAGE = base64.b64encode(image_of(30)).decode()
WRONG = {
    "nothing": ({}, "the request has no body"),
    "text": ({"content": b"hello"}, "`body` is no image"),
    "a form of addresses": ({"files": {}, "data": {"image": "rose.jpg"}}, "`body` is no image"),
    "a form with text only": ({"files": {"image": (None, "rose.jpg")}}, "the form has no file"),
    "a form with no file chosen": ({"files": {"image": ("", b"")}}, "the form has no file"),
    "a form without boundary": (
        {"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data"}},
        "leave this header to your client",
    ),
    "a damaged form": (
        {"content": b"hello", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        "",
    ),
    "an option in a form": (
        {"files": {"image": ("a.png", image_of(30))}, "data": {"top": "3"}},
        "`top` belongs in the address: /predict?top=...",
    ),
    "an option in JSON": ({"json": {"image": IMAGE, "similar": 3}}, "`similar` belongs in the address"),
    "no JSON": ({"content": b"{'image'}", "headers": JSON}, "the body is no JSON: "),
    "JSON that is no text": ({"content": b"\xff\xfe\xfd", "headers": JSON}, "the body is no JSON: "),
    "a list": ({"json": [IMAGE]}, "must be an object with `image`"),
    "another name": ({"json": {"flower": IMAGE}}, "the JSON has no `image`"),
    "an empty list": ({"json": {"images": []}}, "the JSON has no `image`"),
    "a number": ({"json": {"image": 5}}, "`image` must be an image in base64"),
    "an address": ({"json": {"image": "https://flowers.example/rose.jpg"}}, "not its path or address"),
    "other letters": ({"json": {"images": [IMAGE, "ä" + IMAGE]}}, "`images[1]` must be an image in base64"),
    "a data URL without base64": (
        {"json": {"image": "data:image/svg+xml,%3Csvg"}},
        "`image` must be an image in base64",
    ),
    "base64 of no image": ({"json": {"image": "aGVsbG8="}}, "`image` is no image that Pillow knows"),
    "many": ({"json": {"images": [IMAGE] * 5}}, "Maximum number of files is 4"),
    "too many pixels": ({"content": image_of(5000)}, "has 25,000,000 pixels, more than 20,000,000"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_request_is_told_what_is_right(limited, name):
    request, words = WRONG[name]
    answer = httpx.post(f"{limited}/predict", **request)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]
    assert answer.json()["example"] == f"curl -F file=@rose.jpg '{limited}/predict?top=3'"


def test_the_example_of_an_error_works(service, photographs_of_val, tmp_path):
    (tmp_path / "rose.jpg").write_bytes(min(photographs_of_val.iterdir()).read_bytes())
    example = httpx.get(f"{service}/predict/").json()["example"]
    done = subprocess.run(f"{example} -s", shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert len(json.loads(done.stdout)[0]["predictions"]) == 3


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "application/octet-stream"])
def test_the_limits_of_bytes_and_time_hold_for_every_type(limited, kind):
    def endless():
        for _ in range(100):
            yield bytes(100_000)

    for content in (bytes(2_000_001), endless()):
        answer = httpx.post(f"{limited}/predict", content=content, headers={"Content-Type": kind}, timeout=60)
        assert (answer.status_code, "more than 2,000,000 bytes" in answer.json()["detail"]) == (413, True)
    head = f"POST /predict/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
    assert exchange(limited, head.encode() + b"a").startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "multipart/form-data; boundary=b"])
def test_a_client_that_leaves_is_no_error_of_the_service(service, kind):
    """The log of the service must have no traceback, which its fixture sees to."""
    left = metric(service, "flowerlib_requests_total", path="/predict", status="400")
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
    with connect(service) as wire:
        wire.sendall(head.encode() + b"--b")
    until = time.monotonic() + 10
    while metric(service, "flowerlib_requests_total", path="/predict", status="400") == left:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert metric(service, "flowerlib_requests_total", path="/predict", status="500") == 0


@pytest.mark.parametrize("path", ["predict", "predict/"])
@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "text/plain"])
def test_a_page_of_another_site_sends_nothing_in_any_way(limited, path, kind):
    headers = {"Origin": "http://evil.example", "Content-Type": kind}
    assert httpx.post(f"{limited}/{path}", content=image_of(30), headers=headers).status_code == 403
    rebound = {"Host": "evil.example", "Content-Type": kind}
    assert httpx.post(f"{limited}/{path}", content=image_of(30), headers=rebound).status_code == 403


@pytest.mark.parametrize("filling", [b"{}", b"[]", b"1", b'"":1'])
def test_json_of_many_values_is_refused_before_it_takes_memory(filling):
    inside = b",".join([filling] * 100_000)
    body = b'{"images": [%s]}' % inside if b":" not in filling else b"{%s}" % inside
    with pytest.raises(HTTPException) as refused:
        uploads.parse_json(body, Limits())
    assert "too many values" in refused.value.detail


def test_json_of_as_many_images_as_are_allowed_is_read():
    texts = [ENCODINGS["data URL"](image_of(20)) for _ in range(32)]
    found = uploads.parse_json(json.dumps({"images": texts, "name": "a, b"}).encode(), Limits())
    assert [np.asarray(Image.open(io.BytesIO(each.content.read()))).shape for each in found] == [(20, 20, 3)] * 32
