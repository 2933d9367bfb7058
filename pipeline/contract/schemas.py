"""The pandera schemas, derived from the contract.

A schema judges a frame in which every cell was already turned into a number, in the file's own
columns and units. Three kinds of cell are kept apart, so that one vectorised pass sees them all:
a number is itself, an empty cell is null, and text that is not a finite number is infinite (which
no range accepts). Ids cannot be null in NumPy, so there −1 stands for empty and −2 for unreadable.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa

from pipeline.contract import EARLIEST, LATEST_AHEAD_DAYS, MAX_ID, Contract, Model

EMPTY_ID = -1
UNREADABLE_ID = -2

# Names of the checks; `core.validate` turns them into words for a person.
RANGE = "range"
SENTINEL = "sentinel"
NULL_ISLAND = "null_island"
NO_READING = "no_reading"


def time_window(now: datetime) -> tuple[datetime, datetime]:
    """Return the earliest and latest accepted time of a reading, inclusive, in UTC.

    The present counts by its minute, so that a schema lasts for a while.
    """
    minute = now.replace(second=0, microsecond=0)
    return EARLIEST, minute + timedelta(days=LATEST_AHEAD_DAYS)


def reading_schema(contract: Contract, model: Model, now: datetime) -> pa.DataFrameSchema:
    """Return the schema for readings of one model.

    The frame has `sensor_id` and `location` (int64), `lat`, `lon` and the model's columns
    (float64, in the file's unit) and `timestamp` (datetime64[us], UTC without a zone).

    Args:
        contract: the ranges in force.
        model: the sensor model.
        now: the present, for the latest accepted time, in UTC.
    """
    return _schema(contract.version, Named(contract, model), now.replace(second=0, microsecond=0))


def failing_cells(
    schema: pa.DataFrameSchema, frame: pd.DataFrame, core: Sequence[str] = ()
) -> dict[str, npt.NDArray[np.int64]]:
    """Ask every check of a schema for the rows that fail it.

    `schema.validate` would name them too, but its report takes longer than all the rest of the
    work, and a dirty file has one a block. It has the last word on the rows that pass here.

    Args:
        schema: from `reading_schema`.
        frame: what to judge, its rows numbered from 0.
        core: the columns of which one at least may not be empty, where the schema asks for that.

    Returns:
        Column → positions of the rows that fail there; `lat,lon` is the place as a whole.
    """
    failing = {
        name: _failing(_doubtful(frame[name], column), column)
        for name, column in schema.columns.items()
    }
    for check in schema.checks:
        rows = _failed(check, frame)
        if check.name == NULL_ISLAND:
            failing["lat,lon"] = rows
        elif len(rows):
            # An empty cell fails no check of its own, so it is noted here, in each of them.
            for name in core:
                failing[name] = np.union1d(failing[name], rows)
    return {name: rows for name, rows in failing.items() if len(rows)}


def _doubtful(cells: pd.Series, column: pa.Column) -> pd.Series:
    """Return the cells that a plain comparison does not find within range: only those are asked."""
    if [check.name for check in column.checks] != [RANGE]:
        return cells
    limits = column.checks[0].statistics
    return cells[~cells.between(limits["min_value"], limits["max_value"])]


def _failing(cells: pd.Series, column: pa.Column) -> npt.NDArray[np.int64]:
    if not len(cells):
        return np.zeros(0, np.int64)
    rows = [_failed(check, cells) for check in column.checks]
    if not column.nullable:
        rows.append(cells.index.to_numpy()[cells.isna()])
    return np.unique(np.concatenate(rows))


def _failed(check: pa.Check, given: pd.Series | pd.DataFrame) -> npt.NDArray[np.int64]:
    # An empty cell is not asked, so it is not among the answers.
    passed = check(given).check_output
    failed: npt.NDArray[np.int64] = passed.index.to_numpy()[~passed.to_numpy(bool)]
    return failed.astype(np.int64)


class Named:
    """A contract and model that compare by name: the version stands for the whole contract."""

    def __init__(self, contract: Contract, model: Model) -> None:
        self.contract = contract
        self.model = model

    def __hash__(self) -> int:
        return hash(self.model.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.model.name == self.model.name


@lru_cache(maxsize=64)
def _schema(_version: str, key: Named, now: datetime) -> pa.DataFrameSchema:
    earliest, latest = (pd.Timestamp(t).tz_localize(None) for t in time_window(now))
    columns = {
        "sensor_id": pa.Column("int64", pa.Check.in_range(1, MAX_ID, name=RANGE)),
        "location": pa.Column("int64", pa.Check.in_range(EMPTY_ID, MAX_ID, name=RANGE)),
        "lat": pa.Column("float64", pa.Check.in_range(-90, 90, name=RANGE), nullable=True),
        "lon": pa.Column("float64", pa.Check.in_range(-180, 180, name=RANGE), nullable=True),
        "timestamp": pa.Column(
            "datetime64[us]", pa.Check.in_range(earliest, latest, name=RANGE), nullable=False
        ),
    }
    core = list(key.model.core)
    partial = key.model.name in key.contract.partial
    some = pa.Check(lambda frame: ~frame[core].isna().all(axis=1), name=NO_READING)
    for name, target in key.model.columns.items():
        low, high = key.contract.quantities[target].file_range
        checks = [pa.Check.in_range(low, high, name=RANGE)]
        # A code outside the range fails there already; only one inside it needs a look of its own.
        codes = [c for c in key.contract.sentinels_of(key.model, name) if low <= c <= high]
        if codes:
            checks.append(pa.Check.notin(codes, name=SENTINEL))
        nullable = partial or name in key.model.optional
        columns[name] = pa.Column("float64", checks, nullable=nullable)
    nowhere = pa.Check(lambda frame: ~((frame["lat"] == 0) & (frame["lon"] == 0)), name=NULL_ISLAND)
    return pa.DataFrameSchema(columns, checks=[nowhere, *([some] if partial else [])], strict=False)
