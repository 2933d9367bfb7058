"""The books: what the ledger adds up to, the files taken last, and the server that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.store.read.fetch import fetch, fetch_one
from pipeline.store.read.reader import Connection


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole ledger's sums, of loaded files; the span of time, and the number of sensors."""

    files_loaded: int
    files_refused: int
    files_retracted: int
    rows_read: int
    rows_loaded: int
    rows_duplicate: int
    rows_quarantined: int
    first_ts: datetime | None
    last_ts: datetime | None
    last_loaded_at: datetime | None
    sensors: int
    rows_open: int


@dataclass(frozen=True, slots=True)
class RecentFile:
    """A ledger row. Attributes: as the columns of `air.source_file`."""

    file_id: int
    name: str
    state: str
    sensor_model: str | None
    rows_read: int
    rows_loaded: int
    rows_duplicate: int
    rows_quarantined: int
    first_ts: datetime | None
    last_ts: datetime | None
    loaded_at: datetime
    rule: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """The server's version, and the size of the database in bytes."""

    version: str
    bytes: int


def totals(connection: Connection) -> Totals:
    """Return the whole ledger's sums."""
    return fetch_one(connection, Totals, "totals")


def recent_files(connection: Connection, limit: int) -> list[RecentFile]:
    """Return the ledger rows written last, newest first."""
    return fetch(connection, RecentFile, "recent_files", limit=limit)


def server(connection: Connection) -> Server:
    """Return what is known of the server."""
    return fetch_one(connection, Server, "server")
