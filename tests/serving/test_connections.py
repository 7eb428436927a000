"""Connections that nobody uses are closed."""

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from service_process import connect, exchange, image_of, post, served


def seconds_until_closed(wire):
    """In how many seconds from now the service closes or resets a connection, without an answer."""
    start = time.monotonic()
    wire.settimeout(20)
    with suppress(ConnectionResetError):
        assert wire.recv(1000) == b""
    return time.monotonic() - start


def test_what_is_not_http_is_refused(limited):
    assert exchange(limited, b"\x16\x03\x01 this is not HTTP\r\n\r\n").startswith(b"HTTP/1.1 400")
    nonsense = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n"
    assert exchange(limited, nonsense).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{limited}/healthz").status_code == 200


@pytest.mark.parametrize("head", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Half: "])
def test_a_connection_without_a_whole_request_is_closed(limited, head):
    with connect(limited) as wire:
        wire.sendall(head)
        assert 1.5 < seconds_until_closed(wire) < 10


def test_a_head_that_arrives_byte_by_byte_is_as_late(limited):
    with connect(limited) as wire, suppress(ConnectionError):
        start = time.monotonic()
        wire.settimeout(0.2)
        wire.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        while time.monotonic() - start < 20:
            wire.sendall(b"x")
            with suppress(TimeoutError):
                assert wire.recv(1) == b""
                break
    assert 1.5 < time.monotonic() - start < 10


def test_after_an_answer_the_next_head_has_its_time_too(limited):
    with connect(limited) as wire:
        for _ in range(4):  # longer than `--seconds` in all
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                answer += wire.recv(10_000)
            time.sleep(1)
        wire.sendall(b"GET /healthz HT")
        assert seconds_until_closed(wire) < 10


def test_a_client_that_does_not_read_its_answers_is_disconnected(limited):
    with connect(limited) as wire:
        wire.settimeout(0.5)
        script = b"GET /static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
        wire.sendall(script * 1000)
        until = time.monotonic() + 30
        with suppress(ConnectionError):
            while time.monotonic() < until:
                with suppress(TimeoutError):
                    wire.sendall(b"GET")
                time.sleep(0.1)
            pytest.fail("the connection is still open")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_more_connections_than_allowed_close_those_that_are_idle(trained, tmp_path):
    with served(trained, tmp_path, "--queue", "1", "--max-files", "1") as (address, process), ExitStack() as wires:
        for _ in range(400):
            with suppress(ConnectionError):  # closed already
                wires.enter_context(connect(address)).sendall(b"GET / HT")
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert post(address, ("a.png", image_of(30))).status_code == 200
        most, until = 1 + 128 + 10, time.monotonic() + 20  # those that are being closed still count
        while count_sockets(process) >= most and time.monotonic() < until:
            time.sleep(0.1)
        assert count_sockets(process) < most


def count_sockets(process):
    count = 0
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += "socket:" in os.readlink(descriptor)
    return count
