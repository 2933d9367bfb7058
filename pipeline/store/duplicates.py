"""Duplicates: of which sensors a file's duplicate rows may be, and from when to when.

The ledger only counts them. When another file is retracted, some of them may become readings, and
only the bytes of a file tell which. This says which files need not be read for that.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.core.groups import group_starts
from pipeline.core.records import Ints
from pipeline.store.copy import Cursor, copy_in

_MANY = 100_000


class Duplicates:
    """The spans of what may be duplicates in one transaction, gathered while it loads."""

    def __init__(self) -> None:
        self._parts: list[tuple[Ints, Ints, Ints, Ints]] = []
        self._rows = 0

    def add(self, files: Ints, sensors: Ints, times: Ints) -> None:
        """Note rows whose reading may be known already.

        Args:
            files: the number of each one's file.
            sensors: its sensor.
            times: its time, in microseconds of Unix time.
        """
        if not len(files):
            return
        self._parts.append(_joined(files, sensors, times, times))
        self._rows += len(self._parts[-1][0])
        if self._rows > _MANY:
            self._join()

    def write(self, cursor: Cursor) -> None:
        """Write what was noted, after the ledger rows of its files."""
        if not self._parts:
            return
        self._join()
        files, sensors, first, last = self._parts[0]
        columns = {
            "file_id": pa.array(files.astype(np.int32)),
            "sensor_id": pa.array(sensors.astype(np.int32)),
            "first_ts": pa.array(first).cast(pa.timestamp("us", "UTC")),
            "last_ts": pa.array(last).cast(pa.timestamp("us", "UTC")),
        }
        copy_in(cursor, ("air", "file_duplicates"), columns)

    def _join(self) -> None:
        files, sensors, first, last = (
            np.concatenate(parts) for parts in zip(*self._parts, strict=True)
        )
        self._parts = [_joined(files, sensors, first, last)]
        self._rows = 0


def _joined(files: Ints, sensors: Ints, first: Ints, last: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Return one span for each file and sensor."""
    order = np.lexsort((sensors, files))
    files, sensors = files[order], sensors[order]
    starts = group_starts(files, sensors)
    return (
        files[starts],
        sensors[starts],
        np.minimum.reduceat(first[order], starts),
        np.maximum.reduceat(last[order], starts),
    )
