"""The endpoint: metrics and health over HTTP, for Prometheus and for whoever restarts services.

`/metrics` is Prometheus text; `/healthz` says whether the loop goes round, `/readyz` whether files
can be loaded right now (the database answers).

Whoever can reach the port can do no more than ask. Connections are few and short: each has a few
seconds for everything, and when all places are taken, the oldest makes room for the newest. So
neither idle, nor slow, nor many clients take descriptors or threads that loading needs, or keep
others from being answered.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from pipeline.errors import ConfigurationError
from pipeline.metrics import REGISTRY

MOST_CONNECTIONS = 24
# For everything: the request, however it dribbles in, and the answer, however slowly it is read.
CONNECTION_SECONDS = 10.0
_REQUEST_BYTES = 16_384
_WAITING = 128  # connections that the kernel holds until they are accepted
_PATIENCE = 1.0  # seconds until a connection that was ended has left its place


class Endpoint:
    """Serves the metrics until it is closed.

    Args:
        host: address to listen on; the loopback unless there is a reason.
        port: port to listen on; 0 for any free one.
        looped_at: returns when the loop last went round (`time.monotonic`).
        ready: returns whether files can be loaded.
        stuck_seconds: a loop that has not gone round for longer is stuck.

    Raises:
        ConfigurationError: the port is taken, or may not be opened.
    """

    def __init__(
        self,
        host: str,
        port: int,
        looped_at: Callable[[], float],
        ready: Callable[[], bool],
        stuck_seconds: float,
    ) -> None:
        class Handler(_Handler):
            def answer(self, path: str) -> tuple[int, bytes, str]:
                match path:
                    case "/metrics":
                        return 200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST
                    case "/healthz":
                        alive = time.monotonic() - looped_at() < stuck_seconds
                        return (200, b"ok\n", _PLAIN) if alive else (503, b"stuck\n", _PLAIN)
                    case "/readyz" if ready():
                        return 200, b"ready\n", _PLAIN
                    case "/readyz":
                        return 503, b"the database is away\n", _PLAIN
                return 404, b"try /metrics, /healthz or /readyz\n", _PLAIN

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            message = f"[metrics] port: cannot listen on {host}:{port}: {error.strerror}"
            raise ConfigurationError(message) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(2.0)


_PLAIN = "text/plain; charset=utf-8"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _WAITING

    def __init__(self, address: tuple[str, int], handler: type[_Handler]) -> None:
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}  # the oldest first
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError:
            # Without a descriptor the connection stays where it is, and would be tried at once.
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, if there is a place; else the oldest gives up its own."""
        if not self._places.acquire(blocking=False):
            self._end(1)
            if not self._places.acquire(timeout=_PATIENCE):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and leave the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def service_actions(self) -> None:
        """End connections whose time is up. Called by the base class twice a second."""
        now = time.monotonic()
        with self._lock:
            late = [since for since in self._open.values() if now - since > CONNECTION_SECONDS]
        self._end(len(late))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is not worth a line."""

    def _end(self, number: int) -> None:
        """Cut off the oldest connections: their threads wake up and end."""
        with self._lock:
            for request in list(self._open)[:number]:
                del self._open[request]
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def _leave(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)
        self._places.release()


class _Handler(BaseHTTPRequestHandler):
    server_version = "sofia-air"
    sys_version = ""
    timeout = CONNECTION_SECONDS

    def answer(self, path: str) -> tuple[int, bytes, str]:
        """Return code, body and content type of a page."""
        raise NotImplementedError

    def setup(self) -> None:
        """Read no more of a request than one may have."""
        super().setup()
        self.rfile = _Bounded(self.rfile)  # type: ignore[assignment]  # what http.server needs of it

    def do_GET(self) -> None:  # the base class asks for it
        """Answer with a page."""
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with a page's headers."""
        self._send(with_body=False)

    def _send(self, *, with_body: bool) -> None:
        code, body, kind = self.answer(self.path.partition("?")[0])
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Scrapes are not worth a line."""


class _Bounded:
    """The request's bytes, of which there are not many."""

    def __init__(self, file: BinaryIO | Any) -> None:
        self._file = file
        self._left = _REQUEST_BYTES

    def readline(self, size: int) -> bytes:
        """Return a line.

        Raises:
            LineTooLong: the request is too long; http.server answers that itself.
        """
        line: bytes = self._file.readline(min(size, self._left))
        self._left -= len(line)
        if not self._left:
            what = "header"
            raise http.client.LineTooLong(what)
        return line

    def close(self) -> None:
        """Close what is beneath."""
        self._file.close()
