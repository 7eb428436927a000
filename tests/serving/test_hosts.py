"""Which hosts and origins may use the service: the rules, then the service itself."""

import socket

import httpx
import pytest
from service_process import exchange, image_of, post, served

from flowerlib.config import FlowersError
from flowerlib.serving.hosts import allowed_hosts


def headers(host=None, origin=None):
    sent = {b"host": host, b"origin": origin}
    return [(name, value.encode()) for name, value in sent.items() if value is not None]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8000", "127.0.0.1", "192.168.1.7:80", "0.0.0.0:8000", "[::1]:8000", "[fe80::1]", "8.8.8.8"),
        *("localhost", "LOCALHOST:8000", "localhost.", "flowers.localhost:8000"),
        *(socket.gethostname(), socket.gethostname().upper() + ":1", f"{socket.gethostname().split('.')[0]}.local"),
        *("listens.example:8000", "extra.example", "Extra.Example.:443"),
    ],
)
def test_addresses_and_names_of_this_machine_are_allowed(host):
    hosts = allowed_hosts("listens.example", ["extra.example"])
    assert hosts.refusal(headers(host)) == ""
    for scheme in ("http", "https"):
        assert hosts.refusal(headers(host, f"{scheme}://{host}")) == ""


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example"),
        *("evil.example@localhost", "localhost@evil.example", "localhost:8000:80", "localhost/", "localhost:", ""),
        *("a..localhost", ".localhost", "[localhost]", "[::1", "::1", "localhost evil.example", "localhost,evil"),
    ],
)
def test_other_names_are_refused_with_the_remedy(host):
    refusal = allowed_hosts().refusal(headers(host))
    assert f"`Host` (={host})" in refusal
    assert "--allow-host" in refusal


def test_two_hosts_are_refused():
    assert allowed_hosts().refusal(headers()) == ""  # as health checks may ask
    assert "not 2" in allowed_hosts().refusal(headers("localhost") + headers("localhost"))


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "http://evil.example", "https://evil.example:8000", "http://localhost", "http://localhost:80"),
        *("http://127.0.0.1:8000", "localhost:8000", "file://", "chrome-extension://localhost:8000", "http://", ""),
    ],
)
def test_other_sites_are_refused(origin):
    hosts, same = allowed_hosts(extra=["extra.example"]), headers("localhost:8000", "http://localhost:8000")
    assert f"`Origin` (={origin})" in hosts.refusal(headers("localhost:8000", origin))
    assert f"`Origin` (={origin})" in hosts.refusal(same + headers(None, origin))


def test_the_same_site_and_extra_ones_are_allowed():
    hosts = allowed_hosts(extra=["extra.example"])
    for origin in ("http://localhost:8000", "https://extra.example", "http://EXTRA.example:1"):
        assert hosts.refusal(headers("LocalHost:8000", origin)) == ""


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "a b", "", "*", "a..b", "[::1]"])
def test_an_extra_host_must_be_a_name(name):
    with pytest.raises(FlowersError, match="--allow-host"):
        allowed_hosts(extra=["sound.example", name])


def test_what_a_proxy_says_of_the_host_lets_in_no_other_one():
    """A page of evil.example, whose name leads here, may send any header but another `Host` and `Origin`."""
    hosts = allowed_hosts(extra=["extra.example"])
    evil = headers("evil.example", "http://evil.example")
    for forwarded in ("localhost", "extra.example", "evil.example"):
        assert "`Host` (=evil.example)" in hosts.refusal(evil, forwarded)
    site = headers("127.0.0.1:8000", "http://evil.example")
    for forwarded in ("localhost", "evil.example", ""):
        assert "`Origin` (=http://evil.example)" in hosts.refusal(site, forwarded)
    proxied = headers("127.0.0.1:8000", "http://192.168.1.7")
    assert "`Origin`" in hosts.refusal(proxied)
    assert hosts.refusal(proxied, "192.168.1.7") == ""
    assert hosts.refusal(headers("127.0.0.1:8000", "http://192.168.1.7:81"), "192.168.1.7") != ""


def test_pages_of_allowed_origins_and_of_no_others_are_let_in():
    hosts = allowed_hosts(origins=["https://Shop.example/", "http://other.example:80", "capacitor://localhost"])
    for origin in ("https://shop.example", "http://other.example", "capacitor://localhost"):
        assert hosts.refusal(headers("localhost:8000", origin)) == ""
        assert "`Host`" in hosts.refusal(headers("shop.example", origin))
    for origin in ("http://shop.example", "https://shop.example:81", "https://a.shop.example", "null", "capacitor://b"):
        assert "`Origin`" in hosts.refusal(headers("localhost:8000", origin))


@pytest.mark.parametrize(
    "origin", ["*", "null", "", "shop.example", "https://shop.example/a", "https://*.example", "://a"]
)
def test_an_allowed_origin_must_be_one(origin):
    with pytest.raises(FlowersError, match=r"--allow-origin.*such as https://shop\.example"):
        allowed_hosts(origins=[origin])


PATHS = ("", "predict", "healthz", "model", "metrics", "docs", "openapi.json", "static/app.js", "nothing")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", PATHS)
def test_a_rebound_name_is_refused(limited, path, method):
    """DNS rebinding: the browser of a visitor of evil.example asks this service, and thinks it is evil.example."""
    answer = httpx.request(method, f"{limited}/{path}", headers={"Host": "evil.example:8000"})
    assert answer.status_code == 403
    if method != "HEAD":
        assert set(answer.json()) == {"detail"}
        assert "`Host` (=evil.example:8000)" in answer.json()["detail"]
        assert "--allow-host" in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
@pytest.mark.parametrize("path", ["predict", "nothing"])
def test_a_page_of_another_site_is_refused(limited, path, origin):
    answer = httpx.post(f"{limited}/{path}", headers={"Origin": origin})
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)
    assert f"`Origin` (={origin})" in answer.json()["detail"]


def test_a_request_without_host_is_answered_unless_it_comes_from_a_page(limited):
    """Health checks of load balancers may send none; browsers always do."""
    assert exchange(limited, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    origin = b"GET /healthz HTTP/1.0\r\nOrigin: http://evil.example\r\n\r\n"
    assert exchange(limited, origin).startswith(b"HTTP/1.1 403")


def test_web_sockets_are_refused(limited):
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    head = f"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n{upgrade}dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    assert exchange(limited, head.encode()).startswith(b"HTTP/1.1 403")


def test_the_service_answers_to_extra_hosts_and_to_this_machines_names(trained, tmp_path):
    options = ("--allow-host", "flowers.example", "--allow-host", "Other.Example.")
    with served(trained, tmp_path, *options) as (address, _):
        known = ["flowers.example", "other.example:80", "FLOWERS.example.", socket.gethostname(), "[::1]:1"]
        for host in known:
            assert httpx.get(f"{address}/healthz", headers={"Host": host}).status_code == 200
        proxied = {"Host": "localhost:8000", "Origin": "https://flowers.example"}
        assert post(address, ("a.png", image_of(30)), headers=proxied).status_code == 200
        assert httpx.get(f"{address}/healthz", headers={"Host": "flowers.example.evil"}).status_code == 403


def preflight(address, origin, method="POST", **others):
    return httpx.options(
        f"{address}/predict", headers={"Origin": origin, "Access-Control-Request-Method": method} | others
    )


def test_the_page_of_an_allowed_origin_uses_the_api_and_others_do_not(trained, tmp_path):
    options = ("--allow-origin", "https://shop.example", "--allow-origin", "http://localhost:5173", "--max-bytes", 9999)
    with served(trained, tmp_path, *options) as (address, _):
        for origin in ("https://shop.example", "http://localhost:5173"):
            asked = {"Access-Control-Request-Headers": "content-type, x-own"}
            answer = preflight(address, origin, **asked | {"Access-Control-Request-Private-Network": "true"})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["access-control-allow-headers"] == "content-type, x-own"
            assert answer.headers["access-control-allow-private-network"] == "true"
            assert "access-control-allow-credentials" not in answer.headers
            for content, status in ((image_of(30), 200), (b"no image", 400), (bytes(10_000), 413)):
                answer = httpx.post(f"{address}/predict", content=content, headers={"Origin": origin})
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin)
                assert "Origin" in answer.headers["vary"]
        assert preflight(address, "https://shop.example", "DELETE").status_code == 400
        for answer in (
            preflight(address, "https://evil.example"),
            httpx.post(f"{address}/predict", content=image_of(30), headers={"Origin": "https://evil.example"}),
            httpx.get(f"{address}/model", headers={"Origin": "https://shop.example", "Host": "evil.example"}),
        ):
            assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)


def test_without_allowed_origins_no_preflight_is_answered(service):
    assert preflight(service, "https://shop.example").status_code == 403
    same = httpx.post(f"{service}/predict", content=image_of(30), headers={"Origin": service})
    assert (same.status_code, same.headers.get("access-control-allow-origin")) == (200, None)
