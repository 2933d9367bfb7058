"""The metrics port: whoever connects, and however, it answers the next and takes little."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from pipeline import endpoint
from pipeline.endpoint import MOST_CONNECTIONS, Endpoint
from tests.faults.daemon import get, wait_for


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    one = Endpoint("127.0.0.1", 0, time.monotonic, lambda: True, 60)
    yield one
    one.close()


def threads() -> int:
    return sum("process_request_thread" in each.name for each in threading.enumerate())


def test_idle_clients_make_room(served: Endpoint) -> None:
    with ExitStack() as clients:
        for number in range(300):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", served.port)))
            if number % 3 == 1:
                client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
            if number % 3 == 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert get(served.port, "/healthz") == (200, "ok\n")
        assert threads() <= MOST_CONNECTIONS
    wait_for("their threads to end", lambda: threads() == 0)
    assert get(served.port, "/readyz") == (200, "ready\n")


def test_a_slow_client_is_cut_off(served: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte now and then keeps no connection open."""
    monkeypatch.setattr(endpoint, "CONNECTION_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.settimeout(0.05)

        def ended() -> bool:
            with suppress(TimeoutError):
                try:
                    client.sendall(b"G")
                    return client.recv(1) == b""
                except ConnectionError:
                    return True
            return False

        wait_for("the end of the connection", ended, 10)
    wait_for("its thread to end", lambda: threads() == 0)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.0 200 OK\r\n"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"HTTP/1.0 404 Not Found\r\n"),
        (b"GET /\x1b]52;c;x\x07 HTTP/1.1\r\n\r\n", b"HTTP/1.0 404 Not Found\r\n"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.0 501 Unsupported"),
        (b"BREW /pot HTTP/1.1\r\n\r\n", b"HTTP/1.0 501 Unsupported"),
        (b"GET / HTTP/9.9\r\n\r\n", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", b""),
        (b"\x00\xff\xfe\r\n\r\n", b""),
        (b"\r\n\r\n", b""),
        (b"", b""),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", b""),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n", b""),
        (b"GET /" + b"y" * 1_000_000 + b" HTTP/1.1\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"HTTP/1.0 404 Not Found\r\n"),
    ],
)
def test_any_request(
    served: Endpoint, request_: bytes, answer: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    found = b""
    # What is cut off in the middle of a request may be so before, or while, it is answered.
    with socket.create_connection(("127.0.0.1", served.port), 10) as client, suppress(OSError):
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        found = client.makefile("rb").read()
    assert found.startswith(answer)
    if request_.startswith(b"HEAD"):
        assert found.endswith(b"\r\n\r\n")
    wait_for("the thread to end", lambda: threads() == 0)
    assert get(served.port, "/healthz") == (200, "ok\n")
    assert capfd.readouterr().err == ""


def test_the_request_is_bounded(served: Endpoint) -> None:
    """What is too long is answered, or cut off, before it is all read."""
    with socket.create_connection(("127.0.0.1", served.port), 10) as client:
        with suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2_730)
        with suppress(ConnectionError):
            assert b" 431 " in client.recv(100)
