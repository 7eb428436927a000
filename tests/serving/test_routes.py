"""The API as programs meet it."""

import base64
import io
import re
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image
from service_process import exchange, image_of, metric, post

PATHS = ("", "predict", "healthz", "model", "metrics", "docs", "openapi.json", "static/app.js", "nothing")


def image_in(data_url):
    kind, _, content = data_url.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert kind == f"data:image/{image.format.lower()}"
    return image


def test_every_file_gets_its_own_prediction_in_the_order_of_the_files(service, photographs_of_val, expected):
    classifier, probabilities = expected
    paths = sorted(photographs_of_val.iterdir(), reverse=True)
    answer = post(service, *((path.name, path.read_bytes()) for path in paths), params={"top": 2})
    assert answer.status_code == 200
    for path, found in zip(paths, answer.json(), strict=True):
        assert found.keys() == {"file", "predictions"}
        assert found["file"] == path.name
        wanted = classifier.top(probabilities[path.name], 2)
        assert [each["class"] for each in found["predictions"]] == [name for name, _ in wanted]
        values = [each["probability"] for each in found["predictions"]]
        np.testing.assert_allclose(values, [value for _, value in wanted], atol=1e-6)


def test_the_activation_map_is_that_of_the_most_probable_class(service, photographs_of_val, expected):
    """The overlay is transparent where the map is at its maximum, opaque where nothing supports the class."""
    classifier, probabilities = expected
    path = min(photographs_of_val.iterdir())
    (found,) = post(service, (path.name, path.read_bytes()), params={"activation_map": True}).json()
    assert found.keys() == {"file", "predictions", "activation_map"}
    ((name, _),) = classifier.top(probabilities[path.name], 1)
    assert found["activation_map"]["class"] == name
    pixels = classifier.pixels(path)
    np.testing.assert_array_equal(np.asarray(image_in(found["activation_map"]["image"])), pixels)
    overlay = np.asarray(image_in(found["activation_map"]["overlay"]))
    assert overlay.shape == (*pixels.shape[:2], 2)
    assert not overlay[..., 0].any()
    values = classifier.activation_map(pixels).values[..., classifier.classes.index(name)]
    support = Image.fromarray(np.maximum(values, 0) / values.max()).resize(pixels.shape[:2], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(overlay[..., 1] / 255, 1 - np.clip(np.asarray(support), 0, 1), atol=1 / 255)


def test_similar_training_images_are_the_nearest_ones(service, photographs_of_val, expected):
    classifier, _ = expected
    path = min(photographs_of_val.iterdir())
    (found,) = post(service, (path.name, path.read_bytes()), params={"similar": 3}).json()
    nearest = classifier.gallery.nearest(classifier.activation_map(classifier.pixels(path)).features, 3)
    for similar, (position, cosine) in zip(found["similar"], nearest, strict=True):
        assert similar["class"] == classifier.classes[classifier.gallery.labels[position]]
        assert similar["cosine"] == pytest.approx(cosine, abs=1e-5)
        assert image_in(similar["thumbnail"]).size == (96, 96)


def test_it_describes_itself(service):
    assert httpx.get(f"{service}/healthz").json() == {"status": "ok"}
    described = httpx.get(f"{service}/model").json()
    assert described["classes"] == ["daisy", "iris", "rose", "lotus"]
    assert (described["name"], described["image_size"], described["fit"]) == ("tiny", 24, "crop")
    before = metric(service, "flowerlib_requests_total", path="/predict", status="400")
    post(service, ("a.jpg", b"no image"))
    assert metric(service, "flowerlib_requests_total", path="/predict", status="400") == before + 1


def test_the_documentation_is_fetched_from_the_service_itself(service):
    places = re.findall(r'(?:src|href)="([^"]+)"', httpx.get(f"{service}/docs").text)
    assert len(places) == 3
    for place in places:
        assert "//" not in place
        assert httpx.get(f"{service}/{place}").status_code == 200


@pytest.mark.parametrize(
    ("path", "allowed"), [("predict", "POST"), ("model", "GET, HEAD"), ("metrics", "GET, HEAD"), ("", "GET, HEAD")]
)
def test_other_methods_are_refused_with_those_that_are_allowed(service, path, allowed):
    answer = httpx.delete(f"{service}/{path}")
    assert (answer.status_code, answer.headers.get("allow")) == (405, allowed)
    assert answer.json()["detail"] == f"method not allowed; use {allowed}"
    assert ("example" in answer.json()) == (path == "predict")


@pytest.mark.parametrize(
    "path", ["nothing", "static/", "static/nothing.js", "static/../app.py", "static/%2e%2e/app.py"]
)
def test_what_does_not_exist_is_not_found(service, path):
    request = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert exchange(service, request.encode()).startswith(b"HTTP/1.1 404 ")


BAD = {
    "no image": ([("a.jpg", b"hello")], 400, "`a.jpg` is no image"),
    "nothing": ([("a.jpg", b"")], 400, "`a.jpg` is empty"),
    "cut short": ([("a.png", image_of(500)[:-100])], 400, "`a.png` cannot be read"),
    "one of two": ([("a.png", image_of(50)), ("b.txt", b"hello")], 400, "`b.txt` is no image"),
    "too many pixels": ([("a.png", image_of(5000))], 400, "has 25,000,000 pixels, more than 20,000,000"),
    "a bomb": ([("a.png", image_of(14_000))], 400, "pixels; make it smaller"),
    "many files": ([("a.png", b"x")] * 500, 400, "Maximum number of files is 4"),
    "200 MB": ([("a.png", bytes(200_000_000))], 413, "more than 2,000,000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_explained_and_the_service_goes_on(limited, name):
    files, status, words = BAD[name]
    answer = post(limited, *files)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert post(limited, ("a.png", image_of(30))).status_code == 200


@pytest.mark.parametrize(("options", "words"), [("top=0", "`top`: "), ("top=abc&similar=99", "`similar`: ")])
def test_a_wrong_option_is_named(service, options, words):
    answer = httpx.post(f"{service}/predict?{options}", content=image_of(30))
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("path", ["", "healthz", "model", "metrics", "docs", "openapi.json", "static/app.js"])
def test_head_is_answered_as_get_without_a_body(service, path):
    got = httpx.get(f"{service}/{path}")
    head = httpx.head(f"{service}/{path}")
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.headers["content-type"] == got.headers["content-type"]
    wire = exchange(service, f"HEAD /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert wire.endswith(b"\r\n\r\n")
    assert wire.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_security_headers(service, path):
    for answer in (httpx.get(f"{service}/{path}"), httpx.get(f"{service}/{path}", headers={"Host": "evil.example"})):
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["style-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
        assert "unsafe" not in str(policy)
        assert re.fullmatch(r"'self'( 'sha256-\S+')?" if path == "docs" else "'self'", policy["script-src"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-cache"


def test_the_api_keeps_what_its_description_promises(service, tmp_path):
    command = ["run", f"{service}/openapi.json", "--max-examples=40", "--seed=1", "--generation-database=none"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    tested = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *command, f"--checks={checks}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_description_has_the_names_of_the_field(service):
    schemas = httpx.get(f"{service}/openapi.json").json()["components"]["schemas"]
    assert {"ImagePrediction", "ClassProbability", "ErrorResponse", "ModelDescription"} <= schemas.keys()
