"""Metrics: what the daemon counts, and the loopback endpoint that Prometheus reads it from.

`/metrics` is Prometheus text; `/healthz` says whether the loop goes round, `/readyz` whether files
can be loaded right now (the database answers).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from pipeline import __version__
from pipeline.errors import ConfigurationError

REGISTRY = CollectorRegistry()

FILES = Counter(
    "sofia_air_files", "Files taken, by what became of them.", ["outcome"], registry=REGISTRY
)
ROWS = Counter(
    "sofia_air_rows", "Rows read, by what became of them.", ["outcome"], registry=REGISTRY
)
REASONS = Counter(
    "sofia_air_reasons", "Rules broken by quarantined rows.", ["rule"], registry=REGISTRY
)
STAGE_SECONDS = Counter(
    "sofia_air_stage_seconds",
    "Seconds of work, by stage; several go on at a time, so they add up to more than the clock.",
    ["stage"],
    registry=REGISTRY,
)
BATCH_SECONDS = Histogram(
    "sofia_air_batch_seconds",
    "Seconds from a batch's turn to its files being moved; what was read ahead is not in them.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)
BACKLOG_FILES = Gauge("sofia_air_backlog_files", "Files waiting in data/.", registry=REGISTRY)
BACKLOG_BYTES = Gauge("sofia_air_backlog_bytes", "Bytes waiting in data/.", registry=REGISTRY)
BACKLOG_AGE = Gauge(
    "sofia_air_backlog_oldest_seconds",
    "How long the oldest file has been waiting in data/.",
    registry=REGISTRY,
)
DATABASE_UP = Gauge(
    "sofia_air_database_up", "1 while the database answers, else 0.", registry=REGISTRY
)
RETRIES = Counter("sofia_air_database_retries", "Transactions tried again.", registry=REGISTRY)
FAILURES = Counter(
    "sofia_air_failures",
    "Batches that failed for another reason than the database.",
    ["error"],
    registry=REGISTRY,
)
WATCHER_RESTARTS = Counter(
    "sofia_air_watcher_restarts", "Times the file watcher was started anew.", registry=REGISTRY
)
LAST_SUCCESS = Gauge(
    "sofia_air_last_success_timestamp_seconds",
    "When a file was last loaded, in Unix time.",
    registry=REGISTRY,
)
LAST_LOOP = Gauge(
    "sofia_air_last_loop_timestamp_seconds",
    "When the daemon's loop last went round, in Unix time.",
    registry=REGISTRY,
)
INFO = Gauge("sofia_air_info", "The running version.", ["version"], registry=REGISTRY)
INFO.labels(__version__).set(1)
# A counter that is not there before it is 1 has no increase that an alert could see.
for _outcome in ("loaded", "refused", "known", "left"):
    FILES.labels(_outcome)
for _outcome in ("loaded", "duplicate", "quarantined"):
    ROWS.labels(_outcome)
for _error in ("DiskTrouble", "StoreError", "ConfigurationError", "unexpected"):
    FAILURES.labels(_error)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the seconds of a stage."""
    started = time.perf_counter()
    try:
        yield
    finally:
        STAGE_SECONDS.labels(name).inc(time.perf_counter() - started)


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
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the base class asks for it
                match self.path.partition("?")[0]:
                    case "/metrics":
                        self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
                    case "/healthz":
                        alive = time.monotonic() - looped_at() < stuck_seconds
                        self._answer(200 if alive else 503, b"ok\n" if alive else b"stuck\n")
                    case "/readyz":
                        up = ready()
                        self._answer(
                            200 if up else 503, b"ready\n" if up else b"the database is away\n"
                        )
                    case _:
                        self._answer(404, b"try /metrics, /healthz or /readyz\n")

            def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Scrapes are not worth a line."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Nor is a client that hung up."""

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            message = f"metrics_port: cannot listen on {host}:{port}: {error.strerror}"
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
