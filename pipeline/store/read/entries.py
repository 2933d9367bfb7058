"""Entries: ledger rows, for whoever looks closer at a file or reworks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.store.read.fetch import fetch
from pipeline.store.read.reader import Connection


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger row. Attributes: as the columns of `air.source_file`, and its `sections`.

    `sections` are the first line and the header of each later section, in order; None for none.
    """

    file_id: int
    name: str
    sha256: str
    bytes: int
    dialect: str | None
    sensor_model: str | None
    state: str
    rows_read: int
    rows_loaded: int
    rows_duplicate: int
    rows_quarantined: int
    first_ts: datetime | None
    last_ts: datetime | None
    loaded_at: datetime
    contract_version: str
    app_version: str
    parent_file_id: int | None
    rule: str | None
    reason: str | None
    header: str | None
    decided_at: datetime | None
    decided_by: str | None
    note: str | None
    sections: list[tuple[int, str]] | None


def entries(connection: Connection, key: str) -> list[Entry]:
    """Return ledger rows with this number, name or hash (8 digits at least), newest first."""
    return _entries(connection, key=key)


def entry(connection: Connection, file_id: int) -> Entry | None:
    """Return the ledger row of this number."""
    return next(iter(_entries(connection, file_id=file_id)), None)


def with_open_rows(connection: Connection, rule: str | None) -> list[Entry]:
    """Return the files with open rows (of a reason), oldest first."""
    return _entries(connection, open_rows=True, rule=rule)[::-1]


def refused(connection: Connection, rule: str | None) -> list[Entry]:
    """Return the files that were refused and that nobody has settled, oldest first."""
    return _entries(connection, refused=True, rule=rule)[::-1]


def children(connection: Connection, file_id: int) -> list[Entry]:
    """Return the files that name this one as their parent, oldest first."""
    return _entries(connection, parent=file_id)[::-1]


def dropped_sheets(connection: Connection, sha256: str) -> list[Entry]:
    """Return the quarantine files of a file that were dropped into data/, oldest first."""
    return _entries(connection, copies=sha256[:12])[::-1]


def with_duplicates(
    connection: Connection, spans: Sequence[tuple[int, datetime, datetime]]
) -> list[Entry]:
    """Return the loaded files that may have duplicates of some readings, oldest first.

    Args:
        connection: where to ask.
        spans: sensors, each with first and last time.
    """
    sensors, firsts, lasts = (list(column) for column in zip(*spans, strict=True))
    return fetch(
        connection,
        Entry,
        "rework_with_duplicates",
        sensor_ids=sensors,
        firsts=firsts,
        lasts=lasts,
    )


def parent_of_replay(entry: Entry, find: Callable[[int], Entry | None]) -> Entry | None:
    """Return the file of which an entry brought rows back; None when it is no replay.

    A file may also name a parent that it replaces as a whole: one that was refused.

    Args:
        entry: the entry.
        find: returns the entry of a number.
    """
    parent = find(entry.parent_file_id) if entry.parent_file_id else None
    return None if parent is None or parent.state == "refused" else parent


def _entries(connection: Connection, **wanted: object) -> list[Entry]:
    names = ("key", "file_id", "open_rows", "refused", "parent", "rule", "copies")
    return fetch(connection, Entry, "rework_entries", **{**dict.fromkeys(names), **wanted})
