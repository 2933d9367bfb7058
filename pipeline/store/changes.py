"""Changes: what one transaction does to readings and to quarantine, noted down for the feed.

Whoever follows `air.change` learns from it which months and sensors to look at again. The rows are
written as the last thing before the commit, in the transaction that they tell of, under the lock of
all writers: so the order of their numbers is the order of the commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa

from pipeline.contract.quantities import Table
from pipeline.core.groups import group_sizes, group_starts
from pipeline.store.copy import Cursor
from pipeline.store.sql import statement

Kind = Literal["load", "replay", "retract", "discard", "mend"]


@dataclass(slots=True)
class _Row:
    """A row of the feed in the making. Attributes: as the columns of `air.change`."""

    months: dict[date, int] = field(default_factory=dict)
    added: int = 0
    removed: int = 0
    changed: int = 0
    sensors: set[int] = field(default_factory=set)
    opened: int = 0
    closed: int = 0


class Changes:
    """What the transaction has done so far.

    Args:
        kind: what it is for.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._tables: dict[int, dict[Table, _Row]] = {}  # file → raw table → its readings
        self._files: dict[int, _Row] = {}  # file → what is about it as a whole

    def added(self, table: Table, columns: Mapping[str, pa.Array]) -> None:
        """Note readings that came into a raw table: its columns, sorted by sensor and time."""
        if not columns or not len(columns["ts"]):
            return
        files, sensors = (columns[name].to_numpy() for name in ("file_id", "sensor_id"))
        times = columns["ts"].cast(pa.int64()).to_numpy().view("datetime64[us]")
        first, last = (np.datetime64(t, "M") for t in (times.min(), times.max()))
        months = np.arange(first, last + 1)
        if len(months) == 1:
            at = np.zeros(len(times), np.int8)
        else:
            # Most neighbours are of one month, so this is faster than to convert each time.
            at = np.searchsorted(months.astype("datetime64[us]"), times, side="right") - 1
        starts = group_starts(files, sensors, at)
        days = months.astype("datetime64[D]").tolist()
        for file_id, sensor, month, rows in zip(
            files[starts].tolist(),
            sensors[starts].tolist(),
            at[starts].tolist(),
            group_sizes(starts, len(times)).tolist(),
            strict=True,
        ):
            row = self._row(file_id, table)
            row.added += rows
            row.months[days[month]] = row.months.get(days[month], 0) + rows
            row.sensors.add(sensor)

    def removed(
        self, table: Table, file_id: int, month: date, rows: int, sensors: Iterable[int]
    ) -> None:
        """Note readings of a file and month that were taken out of a raw table."""
        row = self._row(file_id, table)
        row.removed += rows
        row.months[month] = row.months.get(month, 0) - rows
        row.sensors.update(sensors)

    def changed(
        self, table: Table, file_id: int, month: date, rows: int, sensors: Iterable[int]
    ) -> None:
        """Note readings of a file and month that are others than before, where they stand."""
        row = self._row(file_id, table)
        row.changed += rows
        row.months.setdefault(month, 0)
        row.sensors.update(sensors)

    def file(
        self, file_id: int, *, opened: int = 0, closed: int = 0, sensors: Iterable[int] = ()
    ) -> None:
        """Note what is about a file as a whole; that it was touched, if nothing else.

        Args:
            file_id: the file.
            opened: how many of its rows began to wait in quarantine.
            closed: how many of its rows no longer wait there.
            sensors: sensors of its readings that have changed.
        """
        row = self._files.setdefault(file_id, _Row())
        row.opened += opened
        row.closed += closed
        row.sensors.update(sensors)

    def write(self, cursor: Cursor) -> None:
        """Write the feed's rows, and wake up who listens; what they tell of is written already."""
        rows = self._rows()
        if not rows:
            return
        every = [row for _, _, row in rows]
        cursor.execute(
            statement("insert_changes"),
            {
                "kind": self._kind,
                "file_ids": [file_id for file_id, _, _ in rows],
                "raw_tables": [table for _, table, _ in rows],
                "months": [_json(row.months) for row in every],
                "added": [row.added for row in every],
                "removed": [row.removed for row in every],
                "changed": [row.changed for row in every],
                # Arrays of unequal length do not make one array.
                "sensors": [f"{{{','.join(map(str, sorted(row.sensors)))}}}" for row in every],
                "opened": [row.opened for row in every],
                "closed": [row.closed for row in every],
            },
        )

    def _row(self, file_id: int, table: Table) -> _Row:
        return self._tables.setdefault(file_id, {}).setdefault(table, _Row())

    def _rows(self) -> list[tuple[int, Table | None, _Row]]:
        """Return the rows: of a file with readings, what is about it as a whole is in the first."""
        found: list[tuple[int, Table | None, _Row]] = []
        for file_id in sorted({*self._tables, *self._files}):
            tables = sorted(self._tables.get(file_id, {}).items())
            whole = self._files.get(file_id, _Row())
            if not tables:
                found.append((file_id, None, whole))
                continue
            first = tables[0][1]
            first.opened, first.closed = whole.opened, whole.closed
            first.sensors |= whole.sensors
            found += [(file_id, table, row) for table, row in tables]
        return found


def _json(months: Mapping[date, int]) -> str:
    return json.dumps({month.isoformat(): rows for month, rows in sorted(months.items())})
