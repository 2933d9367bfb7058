"""Rollup: statistics of hours and days, and who stood where, kept with the readings they sum up.

Hours merge: what is known of an hour and what is new make the whole. A day is its hours joined, so
it is worked out from them whenever one of them changed. All of it happens in the transaction of
the readings, and equals a recompute from the raw tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import psycopg
import pyarrow as pa

from pipeline.contract.indices import COMPLETE_HOUR
from pipeline.contract.quantities import QUANTITIES, SORTED_NAMES
from pipeline.core.groups import group_sizes, group_starts, join_groups
from pipeline.core.records import Columns, Ints
from pipeline.store.copy import Cursor, copy_in, savepoint
from pipeline.store.raw import RAW_TABLES, cells
from pipeline.store.sql import statement

_DAY = 86_400_000_000  # µs


def merge(cursor: Cursor, statistics: Columns) -> None:
    """Merge statistics of newly loaded readings into the rollup.

    Args:
        cursor: of the transaction that loads the readings.
        statistics: `hourly` of a `core.aggregate.Summary`, sorted.
    """
    _hours(cursor, statistics)
    _days(cursor, statistics)


def recompute(cursor: Cursor, sensor_ids: Sequence[int], hours: Sequence[datetime]) -> None:
    """Work out hours, their days and the sensors' places anew from the raw tables.

    For whoever takes readings out again, as the retraction of a file does: delete them, then call
    this in the same transaction with what they touched. It does not matter how many readings are
    left in an hour; of those without any, nothing is left.

    Args:
        cursor: of a transaction that holds the lock of all writers.
        sensor_ids: the sensor of each touched hour.
        hours: the start of each touched hour, with its zone; a pair may come twice.
    """
    pairs = sorted(set(zip(sensor_ids, hours, strict=True)))
    if not pairs:
        return
    touched: dict[str, object] = {
        "sensor_ids": [sensor for sensor, _ in pairs],
        "hours": [hour for _, hour in pairs],
    }
    cursor.execute(statement("rollup_clear_hours"), touched)
    for table in RAW_TABLES:
        text = statement("rollup_hours", table=table, cells=cells(table))
        cursor.execute(text.encode(), touched)
    cursor.execute(statement("rollup_touched_days"), touched)
    days = cursor.fetchall()
    every = [(s, quantity.name, day) for s, day in days for quantity in QUANTITIES]
    _join_hours(cursor, *map(list, zip(*every, strict=True)))
    cursor.execute(statement("rollup_places"), touched)


class Places:
    """Which sensor stood where, from when to when, gathered while readings are loaded."""

    def __init__(self) -> None:
        self._spans: dict[tuple[int, int], tuple[int, int]] = {}

    def add(self, columns: Mapping[str, pa.Array]) -> None:
        """Note the columns of a raw table, sorted by sensor and time."""
        if not len(columns["ts"]):
            return
        sensors, keys = (columns[name].to_numpy() for name in ("sensor_id", "location_key"))
        times = columns["ts"].cast(pa.int64()).to_numpy()
        starts = group_starts(sensors, keys)
        ends = np.append(starts[1:], len(times)) - 1
        for sensor, key, first, last in zip(
            sensors[starts].tolist(),
            keys[starts].tolist(),
            times[starts].tolist(),
            times[ends].tolist(),
            strict=True,
        ):
            known = self._spans.get((sensor, key), (first, last))
            self._spans[sensor, key] = (min(known[0], first), max(known[1], last))

    def write(self, cursor: Cursor) -> None:
        """Merge what was noted into what is known, and forget it."""
        spans, self._spans = sorted(self._spans.items()), {}
        if spans:
            cursor.execute(
                statement("merge_places"),
                {
                    "sensor_ids": [sensor for (sensor, _), _ in spans],
                    "location_keys": [key for (_, key), _ in spans],
                    "firsts": [first for _, (first, _) in spans],
                    "lasts": [last for _, (_, last) in spans],
                },
            )


def _hours(cursor: Cursor, ordered: Columns) -> None:
    columns = {
        "sensor_id": pa.array(ordered["sensor_id"], pa.int32()),
        "quantity": _names(ordered["quantity"]),
        "hour": pa.array(ordered["hour"], pa.int64()).cast(pa.timestamp("us", "UTC")),
        **_statistics(ordered),
    }
    try:
        with savepoint(cursor):
            copy_in(cursor, ("air", "hourly"), columns)
    except psycopg.errors.UniqueViolation:
        # Some of these hours have readings already.
        cursor.execute("DROP TABLE IF EXISTS pg_temp.hourly_stage")
        cursor.execute(statement("hourly_stage_create"))
        copy_in(cursor, ("hourly_stage",), columns)
        cursor.execute(statement("hourly_merge"))


def _days(cursor: Cursor, ordered: Columns) -> None:
    """Bring the days of some hours up to date; the hours are in the database already."""
    sensors, quantities = ordered["sensor_id"], ordered["quantity"]
    day = ordered["hour"] // _DAY
    starts = group_starts(sensors, quantities, day)
    complete = np.add.reduceat((ordered["n"] >= COMPLETE_HOUR).astype(np.int16), starts)
    columns = {
        "sensor_id": pa.array(sensors[starts], pa.int32()),
        "quantity": _names(quantities[starts]),
        "day": pa.array(day[starts].astype(np.int32), pa.date32()),
        "hours": pa.array(group_sizes(starts, len(day)), pa.int16()),
        "complete_hours": pa.array(complete, pa.int16()),
        **_statistics(join_groups(ordered, starts)),
    }
    try:
        # If none of these days is known, then these hours are all that they have.
        with savepoint(cursor):
            copy_in(cursor, ("air", "daily"), columns)
    except psycopg.errors.UniqueViolation:
        _join_hours(
            cursor, *(columns[name].to_pylist() for name in ("sensor_id", "quantity", "day"))
        )


def _statistics(given: Columns) -> dict[str, pa.Array]:
    return {
        "n": pa.array(given["n"], pa.int64()),
        "min": pa.array(given["min"], pa.float32()),
        "max": pa.array(given["max"], pa.float32()),
        "mean": pa.array(given["mean"], pa.float64()),
        "m2": pa.array(given["m2"], pa.float64()),
    }


def _names(quantities: Ints) -> pa.Array:
    return pa.array(SORTED_NAMES, pa.string()).take(pa.array(quantities))


def _join_hours(
    cursor: Cursor, sensor_ids: list[object], quantities: list[object], days: list[object]
) -> None:
    """Make days anew from their hours; one without any is gone."""
    touched = {"sensor_ids": sensor_ids, "quantities": quantities, "days": days}
    cursor.execute(statement("rollup_clear_days"), touched)
    cursor.execute(statement("rollup_days", complete=str(COMPLETE_HOUR)).encode(), touched)
