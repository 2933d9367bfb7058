"""Tables: what came of a block as Arrow tables, whose rows are known by source and line number.

A row is known by its file's `source`, whatever the caller said identifies it, and by its line
there. So tables of different blocks, or from different machines, can be put together in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline.contract.quantities import SORTED_NAMES
from pipeline.core.aggregate import BY_FILE, HOURLY, Summary, merge
from pipeline.core.records import Columns, Ints, Lines, Readings
from pipeline.core.rejected import Rejected

_NAME = pa.dictionary(pa.int32(), pa.string())

READINGS = pa.schema(
    [
        ("source", _NAME),
        ("line_no", pa.int64()),
        ("table", _NAME),  # the raw table that the reading goes to
        ("model", _NAME),
        ("sensor_id", pa.int32()),
        ("ts", pa.timestamp("us", "UTC")),
        ("location_id", pa.int64()),
        ("lat", pa.float64()),
        ("lon", pa.float64()),
        ("flags", pa.int16()),
        *((name, pa.float32()) for name in SORTED_NAMES),
    ]
)
REJECTED = pa.schema(
    [
        ("source", _NAME),
        ("line_no", pa.int64()),
        ("line", pa.binary()),  # verbatim, without the line end
        ("reasons", pa.string()),  # a JSON array of `ReasonRecord`
    ]
)
_STATISTICS: list[tuple[str, pa.DataType]] = [
    ("n", pa.int64()),
    ("min", pa.float32()),
    ("max", pa.float32()),
    ("mean", pa.float64()),
    ("m2", pa.float64()),
]
BY_SOURCE = pa.schema(
    [("source", _NAME), ("sensor_id", pa.int32()), ("quantity", _NAME), *_STATISTICS]
)
BY_HOUR = pa.schema(
    [
        ("sensor_id", pa.int32()),
        ("quantity", _NAME),
        ("hour", pa.timestamp("us", "UTC")),
        *_STATISTICS,
    ]
)


class Summaries(NamedTuple):
    """Statistics of readings, in a form that merges: `core.aggregate` says how.

    Attributes:
        by_source: of each source, sensor and quantity. Columns: `BY_SOURCE`.
        hourly: of each sensor, quantity and hour. Columns: `BY_HOUR`.
    """

    by_source: pa.Table
    hourly: pa.Table


def of_readings(readings: Readings, lines: Lines, sources: Mapping[int, str]) -> pa.Table:
    """Return readings as a table with the columns of `READINGS`."""
    return of_frame(readings.frame, readings, lines, sources)


def of_frame(
    frame: pd.DataFrame, group: Readings, lines: Lines, sources: Mapping[int, str]
) -> pa.Table:
    """Return a frame as in `Readings` as a table, with the columns of `READINGS`.

    Args:
        frame: the rows.
        group: readings of the same kind.
        lines: where the rows of their block stand.
        sources: file → what it is known by.
    """
    sensor = frame["sensor_id"].to_numpy()
    location = frame["location_id"].to_numpy()
    columns = {
        "source": _sources(frame["file"].to_numpy(), sources),
        "line_no": pa.array(lines.line_no[frame["row"].to_numpy()]),
        "table": _repeated(group.table, len(frame)),
        "model": _coded(sensor, group.models),
        "sensor_id": pa.array(sensor),
        "ts": pa.array(frame["ts"].to_numpy(), pa.timestamp("us", "UTC")),
        "location_id": pa.array(location, mask=location < 0),
        "lat": pa.array(frame["lat"].to_numpy(), from_pandas=True),
        "lon": pa.array(frame["lon"].to_numpy(), from_pandas=True),
        "flags": pa.array(frame["flags"].to_numpy()),
    }
    for name in SORTED_NAMES:
        if name in group.quantities:
            # from_pandas: NaN is "no value".
            columns[name] = pa.array(frame[name].to_numpy(), pa.float32(), from_pandas=True)
        else:
            columns[name] = pa.nulls(len(frame), pa.float32())
    return pa.table(columns, schema=READINGS)


def of_rejected(rejected: Rejected, sources: Mapping[int, str]) -> pa.Table:
    """Return rejected rows as a table with the columns of `REJECTED`."""
    columns = {
        "source": _sources(rejected.file, sources),
        "line_no": pa.array(rejected.line_no),
        "line": rejected.lines,
        "reasons": rejected.json.take(pa.array(rejected.code)),
    }
    return pa.table(columns, schema=REJECTED)


def of_summaries(several: Sequence[Summary], sources: Mapping[int, str]) -> Summaries:
    """Return the statistics of disjoint readings as tables."""
    if not several:
        return Summaries(BY_SOURCE.empty_table(), BY_HOUR.empty_table())
    by_file = merge([each.by_file for each in several], BY_FILE)
    hourly = merge([each.hourly for each in several], HOURLY)
    source = {"source": _sources(by_file["file"], sources)}
    hour = {"hour": pa.array(hourly["hour"]).cast(pa.timestamp("us", "UTC"))}
    return Summaries(
        pa.table(source | _statistics(by_file), schema=BY_SOURCE),
        pa.table(hour | _statistics(hourly), schema=BY_HOUR),
    )


def together(schema: pa.Schema, parts: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all parts, one table of one chunk."""
    if not parts:
        return schema.empty_table()
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()


def _statistics(columns: Columns) -> dict[str, pa.Array]:
    names = dict(enumerate(SORTED_NAMES))
    found = {"sensor_id": pa.array(columns["sensor_id"].astype(np.int32))}
    found["quantity"] = _coded(columns["quantity"].astype(np.int64), names)
    return found | {name: pa.array(columns[name]).cast(kind) for name, kind in _STATISTICS}


def _sources(file: Ints, sources: Mapping[int, str]) -> pa.Array:
    return _coded(file, sources)


def _coded(keys: npt.NDArray[np.integer], names: Mapping[int, str]) -> pa.Array:
    """Return the name of each key, each name once."""
    found, code = np.unique(keys, return_inverse=True)
    every = [names[key] for key in found.tolist()]
    distinct = list(dict.fromkeys(every))
    position = {name: at for at, name in enumerate(distinct)}
    codes = np.array([position[name] for name in every], np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(codes[code], pa.int32()), pa.array(distinct, pa.string())
    )


def _repeated(name: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int32)), pa.array([name], pa.string())
    )
