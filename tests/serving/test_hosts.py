"""Who may ask the service, by what a browser tells of it."""

import socket

import pytest

from flowerlib.config import FlowersError
from flowerlib.serving.hosts import known_hosts


def headers(host=None, origin=None):
    told = {b"host": host, b"origin": origin}
    return [(name, value.encode()) for name, value in told.items() if value is not None]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8000", "127.0.0.1", "192.168.1.7:80", "0.0.0.0:8000", "[::1]:8000", "[fe80::1]", "8.8.8.8"),
        *("localhost", "LOCALHOST:8000", "localhost.", "flowers.localhost:8000"),
        *(socket.gethostname(), socket.gethostname().upper() + ":1", f"{socket.gethostname().split('.')[0]}.local"),
        *("listens.example:8000", "given.example", "Given.Example.:443"),
    ],
)
def test_addresses_and_names_of_this_machine_are_answered_to(host):
    hosts = known_hosts("listens.example", ["given.example"])
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
    refusal = known_hosts().refusal(headers(host))
    assert f"`Host` (={host})" in refusal
    assert "--allow-host" in refusal


def test_more_than_one_host_there_must_not_be():
    assert known_hosts().refusal(headers()) == ""  # as load balancers ask
    assert "not 2" in known_hosts().refusal(headers("localhost") + headers("localhost"))


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "http://evil.example", "https://evil.example:8000", "http://localhost", "http://localhost:80"),
        *("http://127.0.0.1:8000", "localhost:8000", "file://", "chrome-extension://localhost:8000", "http://", ""),
    ],
)
def test_other_sites_are_refused(origin):
    hosts, same = known_hosts(given=["given.example"]), headers("localhost:8000", "http://localhost:8000")
    assert f"`Origin` (={origin})" in hosts.refusal(headers("localhost:8000", origin))
    assert f"`Origin` (={origin})" in hosts.refusal(same + headers(None, origin))


def test_the_same_site_and_those_given_are_let_in():
    hosts = known_hosts(given=["given.example"])
    for origin in ("http://localhost:8000", "https://given.example", "http://GIVEN.example:1"):
        assert hosts.refusal(headers("LocalHost:8000", origin)) == ""


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "a b", "", "*", "a..b", "[::1]"])
def test_what_is_given_must_be_a_name(name):
    with pytest.raises(FlowersError, match="--allow-host"):
        known_hosts(given=["sound.example", name])
