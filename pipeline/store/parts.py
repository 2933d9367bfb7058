"""Parts: readings on their way into a raw table, put in order for a COPY. Memory only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.groups import group_sizes, group_starts
from pipeline.core.records import Bools, Ints, Readings

_SENSORS = 500_000
_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Part:
    """Readings on their way into a raw table.

    Attributes:
        position: among those that were given.
        readings: as they were given.
        columns: the same as the table's columns; none if there are no readings.
        late: those that the transaction may have brought before, if they are few.
        alone: they are many: asking for each would cost more than it spares.
    """

    position: int
    readings: Readings
    columns: dict[str, pa.Array]
    late: Bools
    alone: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """Parts that can be copied in one go.

    Attributes:
        parts: they follow each other, and have the same columns.
        columns: all that is not late of them, by sensor and time; none if there is nothing.
    """

    parts: Sequence[Part]
    columns: dict[str, pa.Array]


class Latest:
    """The latest reading of each sensor that a transaction has brought.

    What is later than that collides with nothing that the transaction brought.
    """

    def __init__(self) -> None:
        self._times: dict[tuple[str, int], int] = {}
        self._lost_track = False

    def not_after(self, readings: Readings) -> Bools:
        """Return which readings are no later than what came before, and take note of them all."""
        # Bounded, whatever ids a file has. Then anything may have come before.
        self._lost_track |= len(self._times) > _SENSORS
        if self._lost_track:
            return np.ones(len(readings.frame), bool)
        sensor = readings.frame["sensor_id"].to_numpy()
        time = readings.frame["ts"].to_numpy().view(np.int64)
        starts = group_starts(sensor)
        sizes = group_sizes(starts, len(sensor))
        keys = [(readings.table, number) for number in sensor[starts].tolist()]
        before = np.array([self._times.get(key, _NEVER) for key in keys])
        latest = np.maximum(before, time[starts + sizes - 1])
        self._times |= zip(keys, latest.tolist(), strict=True)
        late: Bools = time <= np.repeat(before, sizes)
        return late


def raw_columns(
    readings: Readings, location_keys: npt.NDArray[np.int32], file_ids: Ints
) -> dict[str, pa.Array]:
    """Return readings as the columns of their raw table.

    Args:
        readings: what goes in.
        location_keys: the place of each.
        file_ids: a file's position in the batch → its number.
    """
    frame = readings.frame
    return {
        **measured(readings),
        "location_key": pa.array(location_keys, pa.int32()),
        "file_id": pa.array(file_ids[frame["file"].to_numpy()].astype(np.int32)),
        "flags": pa.array(frame["flags"].to_numpy(), pa.int16()),
    }


def measured(readings: Readings) -> dict[str, pa.Array]:
    """Return what was measured, by which sensor and when."""
    frame = readings.frame
    columns = {
        "sensor_id": pa.array(frame["sensor_id"].to_numpy(), pa.int32()),
        "ts": pa.array(frame["ts"].to_numpy(), pa.timestamp("us", "UTC")),
    }
    for name in readings.quantities:
        # from_pandas: NaN is "no value", and that is NULL in the database.
        columns[name] = pa.array(frame[name].to_numpy(), pa.float32(), from_pandas=True)
    return columns


def in_order(parts: Sequence[Part]) -> dict[str, pa.Array]:
    """Return the columns of all readings that are not late, by sensor and time."""
    some = [
        rows_where(part.columns, ~part.late) if part.late.any() else part.columns
        for part in parts
        if part.columns
    ]
    if len(some) < 2:
        return some[0] if some else {}
    columns = {name: pa.concat_arrays([part[name] for part in some]) for name in some[0]}
    # Of each sensor, every part has only what is later than the parts before it.
    return rows_at(columns, np.argsort(columns["sensor_id"].to_numpy(), kind="stable"))


def rows_where(columns: dict[str, pa.Array], mask: Bools) -> dict[str, pa.Array]:
    """Return those rows of columns for which `mask` holds."""
    chosen = pa.array(mask)
    return {name: values.filter(chosen) for name, values in columns.items()}


def rows_at(columns: dict[str, pa.Array], at: Ints) -> dict[str, pa.Array]:
    """Return the rows of columns at these positions, in that order."""
    indices = pa.array(at)
    return {name: values.take(indices) for name, values in columns.items()}
