"""What is in quarantine, by file, reason, sensor and age, and the files refused as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.store.read.fetch import fetch, fetch_one
from pipeline.store.read.reader import Connection


@dataclass(frozen=True, slots=True)
class States:
    """How many rows are open, repaired, discarded, and in the ledger's own books."""

    open: int
    repaired: int
    discarded: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class QuarantineFile:
    """A file with open rows: how many, and how often each rule was broken in them."""

    file_id: int
    name: str
    loaded_at: datetime
    rows: int
    rules: dict[str, int]


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file that was refused as a whole."""

    file_id: int
    name: str
    loaded_at: datetime
    bytes: int
    rule: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class ByReason:
    """Open rows that broke a rule, with an example."""

    rule: str
    rows: int
    files: int
    example: str | None


@dataclass(frozen=True, slots=True)
class BySensor:
    """Open rows by what stands in the column of their sensor; None where that is unknown."""

    sensor: str | None
    rows: int
    files: int


@dataclass(frozen=True, slots=True)
class ByAge:
    """Open rows by the time since they were rejected."""

    age: str
    rows: int
    files: int
    oldest: datetime


def states(connection: Connection) -> States:
    """Return how many rows are in which state."""
    return fetch_one(connection, States, "rework_states")


def states_of(connection: Connection, file_id: int) -> States:
    """Return the same for one file."""
    return fetch_one(connection, States, "rework_states_of", file_id=file_id)


def quarantine_files(connection: Connection, rule: str | None, limit: int) -> list[QuarantineFile]:
    """Return the files with open rows (of a reason), newest first."""
    return fetch(connection, QuarantineFile, "quarantine_files", rule=rule, limit=limit)


def refused_files(connection: Connection, rule: str | None, limit: int) -> list[RefusedFile]:
    """Return the files that were refused as a whole (for a reason), newest first."""
    return fetch(connection, RefusedFile, "refused_files", rule=rule, limit=limit)


def by_reason(connection: Connection, rule: str | None) -> list[ByReason]:
    """Return open rows by reason, with an example."""
    return fetch(connection, ByReason, "rework_by_rule", rule=rule)


def by_sensor(connection: Connection, rule: str | None, limit: int) -> list[BySensor]:
    """Return open rows by sensor, most rows first."""
    return fetch(connection, BySensor, "rework_by_sensor", rule=rule, limit=limit)


def by_age(connection: Connection, rule: str | None) -> list[ByAge]:
    """Return open rows by the time since they were rejected."""
    return fetch(connection, ByAge, "rework_by_age", rule=rule)
