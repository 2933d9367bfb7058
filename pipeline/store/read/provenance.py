"""Provenance: what is stored for a sensor and a time, and around it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pipeline.contract.quantities import Table
from pipeline.store.raw import RAW_TABLES, cells
from pipeline.store.read.fetch import fetch_one, fetch_text
from pipeline.store.read.reader import Connection
from pipeline.store.sql import statement


@dataclass(frozen=True, slots=True)
class StoredReading:
    """A reading as it is stored.

    Attributes:
        table: its raw table.
        file_id: the file that it came from.
        flags: the marks on it, as bits.
        location_id: its place, as the network numbers it; None where the file gave none.
        lat: its latitude.
        lon: its longitude.
        values: quantity → value; None for one that is empty.
    """

    table: Table
    file_id: int
    flags: int
    location_id: int | None
    lat: float | None
    lon: float | None
    values: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The model of a sensor, and the times of its readings before and after a time."""

    model: str | None
    previous: datetime | None
    next: datetime | None


def stored_readings(connection: Connection, sensor_id: int, ts: datetime) -> list[StoredReading]:
    """Return the readings of a sensor at a time (at most one of each raw table)."""
    each = [statement("why_reading", table=table, cells=cells(table)) for table in RAW_TABLES]
    text = " UNION ALL ".join(each)
    return fetch_text(connection, StoredReading, text, sensor_id=sensor_id, ts=ts)


def neighbours(connection: Connection, sensor_id: int, ts: datetime) -> Neighbours:
    """Return what is stored around a time of a sensor."""
    return fetch_one(connection, Neighbours, "why_neighbours", sensor_id=sensor_id, ts=ts)
