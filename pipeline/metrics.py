"""Metrics: what the daemon counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline import __version__

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
    "sofia_air_database_up",
    "1 while the database answers and takes files, else 0.",
    registry=REGISTRY,
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
for _error in (
    *("DiskTrouble", "TooManyOpenFiles", "DatabaseTrouble"),
    *("ConfigurationError", "unexpected"),
):
    FAILURES.labels(_error)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the seconds of a stage."""
    started = time.perf_counter()
    try:
        yield
    finally:
        STAGE_SECONDS.labels(name).inc(time.perf_counter() - started)
