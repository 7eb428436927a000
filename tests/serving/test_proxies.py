"""Below a path and behind a proxy: the rules, then the service behind a real nginx."""

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from service_process import exchange, free_port, image_of, post, served

from flowerlib.config import FlowersError
from flowerlib.photos import classification
from flowerlib.serving import proxies
from flowerlib.serving.app import create_app

DOCUMENTATION = (Path(__file__).parents[2] / "docs/serving.md").read_text()
LOCATIONS = re.findall(r"```nginx\n(.*?)```", DOCUMENTATION, re.DOTALL)
NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    types {{ text/html html; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""


@pytest.mark.parametrize("text", ["/flowers", "flowers", "/flowers/", "flowers/"])
def test_a_root_path_may_be_written_with_and_without_slashes(text):
    assert proxies.root_path(text) == "/flowers"
    assert proxies.root_path("/") == proxies.root_path("") == ""
    assert proxies.root_path("/a/b-c.d") == "/a/b-c.d"


@pytest.mark.parametrize("text", ["https://flowers.example/flowers", "/a b", "/a//b", "/a?b", "/ä", "/%20"])
def test_a_root_path_must_be_a_path(text):
    with pytest.raises(FlowersError, match="such as /flowers"):
        proxies.root_path(text)


def scope(client, **headers):
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": client, "headers": named}


def test_only_a_proxy_on_this_machine_is_believed():
    for client in (("127.0.0.1", 5), ("::1", 5)):
        assert proxies.forwarded(scope(client, x_forwarded_prefix=" /a , /b"), "prefix") == "/a"
        assert proxies.forwarded(scope(client), "prefix") == ""
    for client in (("192.168.1.7", 5), ("127.0.0.1.evil.example", 5), None):
        assert proxies.forwarded(scope(client, x_forwarded_prefix="/a"), "prefix") == ""


@pytest.fixture(scope="module")
def below(trained, tmp_path_factory):
    """The address of a service below `/flowers`, without a proxy."""
    options = ("--root-path", "/flowers", "--allow-host", "flowers.example")
    with served(trained, tmp_path_factory.mktemp("below"), *options) as (address, _):
        yield address


@pytest.mark.parametrize("prefix", ["", "/flowers", "//flowers", "/"])
@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/model", "/static/app.js", "/healthz"])
def test_the_prefix_may_be_stripped_or_not(below, prefix, path):
    request = f"GET {prefix}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert exchange(below, request.encode()).startswith(b"HTTP/1.1 200")


def test_the_prefix_alone_leads_to_the_page(below):
    answer = httpx.get(f"{below}/flowers")
    assert (answer.status_code, answer.headers["location"]) == (307, "/flowers/")
    for path in ("/flowersx/model", "/flowers/flowers/model", "/other/model"):
        assert httpx.get(f"{below}{path}").status_code == 404


def test_the_description_names_the_prefix(below, service):
    for address in (below, f"{below}/flowers"):
        assert httpx.get(f"{address}/openapi.json").json()["servers"] == [{"url": "/flowers"}]
    assert "servers" not in httpx.get(f"{service}/openapi.json").json()


def test_addresses_in_answers_are_those_of_the_visitor(below):
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "flowers.example"}
    assert httpx.get(f"{below}/docs/", headers=told).headers["location"] == "https://flowers.example/flowers/docs"
    example = httpx.get(f"{below}/predict", headers=told).json()["example"]
    assert "'https://flowers.example/flowers/predict?top=3'" in example
    others = {"X-Forwarded-Proto": "javascript", "X-Forwarded-Host": "evil.example"}
    assert httpx.get(f"{below}/docs/", headers=others).headers["location"] == f"{below}/flowers/docs"


def test_a_proxy_may_name_the_prefix_that_it_strips(service):
    told = {"X-Forwarded-Prefix": "/roses/"}
    assert httpx.get(f"{service}/openapi.json", headers=told).json()["servers"] == [{"url": "/roses"}]
    assert httpx.get(f"{service}/roses/model", headers=told).status_code == 200
    assert httpx.get(f"{service}/roses", headers=told).headers["location"] == "/roses/"
    for wrong in ("//evil.example", "https://evil.example", "/a b", "/"):
        answer = httpx.get(f"{service}/openapi.json", headers={"X-Forwarded-Prefix": wrong})
        assert (answer.status_code, "servers" in answer.json()) == (200, False)


def test_the_host_check_holds_below_a_path(below):
    for path in ("/", "/flowers/", "/flowers", "/flowers/predict"):
        evil = {"Host": "evil.example", "X-Forwarded-Host": "flowers.example", "X-Forwarded-Prefix": "/flowers"}
        assert httpx.get(f"{below}{path}", headers=evil).status_code == 403
        page = {"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}
        assert httpx.post(f"{below}{path}", headers=page).status_code == 403


@pytest.mark.parametrize("path", ["/predict", "/static/a", "docs"])
def test_a_root_path_that_is_a_path_of_the_service_is_refused(trained, path):
    with pytest.raises(FlowersError, match="is a path of the service itself; name another one"):
        create_app(classification.load(trained), root_path=proxies.root_path(path))


@contextmanager
def behind_nginx(location, service, folder):
    """Start nginx as the documentation configures it; yield the address that visitors have."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path=f"{os.defpath}:/usr/sbin")
    if not nginx:
        pytest.skip("needs nginx: apt install nginx")
    port = free_port()
    location = location.replace("http://127.0.0.1:8000", service)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, location=location))
    with open(folder / "nginx.log", "wb") as log:
        command = [nginx, "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_open(port, process, folder / "nginx.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_open(port, process, log):
    for _ in range(100):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module", params=LOCATIONS, ids=["stripped", "not stripped"])
def visited(request, below, tmp_path_factory):
    """The address of nginx, in front of the service below a path."""
    with behind_nginx(request.param, below, tmp_path_factory.mktemp("nginx")) as address:
        yield address


def test_the_documentation_has_both_configurations():
    assert ["8000/;" in location for location in LOCATIONS] == [True, False]


def test_behind_nginx_the_page_and_its_files_are_found(visited):
    page = httpx.get(f"{visited}/flowers", follow_redirects=True)
    assert (page.status_code, str(page.url)) == (200, f"{visited}/flowers/")
    places = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(places) >= 4
    script = httpx.get(f"{visited}/flowers/static/app.js").text
    for place in [*places, *(f"static/{name[2:]}" for name in re.findall(r'from "([^"]+)"', script))]:
        assert httpx.get(page.url.join(place)).status_code == 200


def test_behind_nginx_the_documentation_is_complete(visited):
    docs = httpx.get(f"{visited}/flowers/docs/", follow_redirects=True)
    assert (docs.status_code, str(docs.url)) == (200, f"{visited}/flowers/docs")
    for place in [*re.findall(r'(?:src|href)="([^"]+)"', docs.text), "openapi.json"]:
        assert httpx.get(docs.url.join(place)).status_code == 200
    assert httpx.get(docs.url.join("openapi.json")).json()["servers"] == [{"url": "/flowers"}]


def test_behind_nginx_photographs_are_classified(visited, photographs_of_val, expected):
    classifier, probabilities = expected
    path = min(photographs_of_val.iterdir())
    wanted = classifier.top(probabilities[path.name], 1)[0][0]
    content, origin = path.read_bytes(), {"Origin": visited}
    for answer in (
        post(f"{visited}/flowers", (path.name, content), headers=origin),
        httpx.post(f"{visited}/flowers/predict/", content=content, headers=origin),
    ):
        assert answer.status_code == 200
        assert answer.json()[0]["predictions"][0]["class"] == wanted
    large = httpx.post(f"{visited}/flowers/predict", content=image_of(200) + bytes(5_000_000), timeout=60)
    assert large.status_code == 200
    refused = httpx.post(f"{visited}/flowers/predict", content=content, headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403
    assert httpx.get(f"{visited}/flowers/model", headers={"Host": "evil.example"}).status_code == 403
    assert f"'{visited}/flowers/predict" in httpx.get(f"{visited}/flowers/predict").json()["example"]


BARE = "location /flowers/ { proxy_pass http://127.0.0.1:8000/; }"
FORWARDING = BARE.replace("}", "proxy_set_header X-Forwarded-Host $http_host; }")
WITHOUT_SLASH = "location /flowers { proxy_pass http://127.0.0.1:8000/; proxy_set_header Host $http_host; }"


@pytest.mark.parametrize(("location", "page_may_post"), [(BARE, False), (FORWARDING, True), (WITHOUT_SLASH, True)])
def test_other_configurations_show_the_page_and_say_what_is_missing(below, tmp_path, location, page_may_post):
    """Without the visitor's host, what the page sends looks as if another site sent it."""
    with behind_nginx(location, below, tmp_path) as address:
        assert "static/app.js" in httpx.get(f"{address}/flowers/").text
        assert httpx.get(f"{address}/flowers/static/app.js").status_code == 200
        answer = httpx.post(f"{address}/flowers/predict", content=image_of(30), headers={"Origin": address})
        assert answer.status_code == (200 if page_may_post else 403)
        assert page_may_post or "--allow-host NAME if a proxy shows it there" in answer.json()["detail"]
