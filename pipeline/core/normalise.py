"""Normalise: valid rows to stored readings, in standard names and units, each key once.

P1/P2/P0 become pm10/pm25/pm1, Pa become hPa, values become the 32-bit floats that are stored, so
that "equal" means equal as stored, here as in the database. Of rows with the same key the first
stays; what becomes of the others says `contract.repeats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from pipeline.contract import PARTIAL, PLACE_UNKNOWN, Contract, Reason, flag_bits
from pipeline.contract.explain import conflict
from pipeline.core.records import (
    Bools,
    Ints,
    Lines,
    Readings,
    RejectedRow,
    Repeats,
    Rows,
    Valid,
    frame_of,
)

_KEY = ["sensor_id", "timestamp"]


def normalise(valid: Valid, rows: Rows, contract: Contract) -> tuple[Readings, Repeats]:
    """Turn valid rows into readings.

    Args:
        valid: rows that passed validation.
        rows: the rows they come from.
        contract: the quantities in force.

    Returns:
        The readings sorted by sensor and time, each key once; the rows whose key an earlier row
        has, for `settle`.
    """
    readings = _converted(valid, rows, contract)
    frame = readings.frame
    sensor = frame["sensor_id"].to_numpy()
    time = frame["ts"].to_numpy().view(np.int64)
    # Stable, so the first of equal keys is the first that was read.
    order = np.lexsort((time, sensor))
    frame = frame.take(order)
    sensor, time = sensor[order], time[order]
    again = np.zeros(len(frame), bool)
    again[1:] = (sensor[1:] == sensor[:-1]) & (time[1:] == time[:-1])
    if not again.any():
        return replace(readings, frame=frame), Repeats(frame[:0], frame[:0])
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(frame))))
    repeats = Repeats(frame[again], frame.take(first[again]))
    return replace(readings, frame=frame[~again]), repeats


def first_rows_first(valid: Sequence[Valid], contract: Contract) -> list[tuple[Valid, bool]]:
    """Return groups of valid rows such that, of each key, the first line comes first.

    Groups are loaded one after the other. A sensor that changes its model within a block has rows
    in several of them; those that an earlier line of another group precedes come after all others.

    Returns:
        Groups, and whether each consists of such later rows.
    """
    firsts, laters = list(valid), []
    for table in dict.fromkeys(contract.table_of(each.model) for each in valid):
        some = [i for i, each in enumerate(valid) if contract.table_of(each.model) == table]
        if len(some) < 2:
            continue
        named = Counter(sensor for i in some for sensor in valid[i].models)
        shared = [sensor for sensor, groups in named.items() if groups > 1]
        if not shared:
            continue
        parts = [valid[i].frame[_KEY].assign(row=valid[i].rows, group=i) for i in some]
        every = pd.concat([part[part["sensor_id"].isin(shared)] for part in parts])
        every = every.sort_values("row")
        owner = every.groupby(_KEY)["group"].transform("first")
        beaten = every[owner != every["group"]]
        for i in some:
            later = np.isin(valid[i].rows, beaten["row"][beaten["group"] == i])
            if later.any():
                firsts[i] = _those(valid[i], ~later)
                laters.append(_those(valid[i], later))
    return [(each, False) for each in firsts] + [(each, True) for each in laters]


def _those(valid: Valid, mask: Bools) -> Valid:
    return replace(valid, frame=valid.frame[mask], rows=valid.rows[mask])


def settle(
    readings: Readings,
    repeats: Repeats,
    rows: Lines,
    names: Sequence[str],
    beaten: Mapping[int, tuple[Mapping[str, float], str]],
) -> tuple[dict[int, int], list[RejectedRow]]:
    """Tell rows that repeat an earlier one from those that contradict it.

    Args:
        readings: the readings that the repeats belong to.
        repeats: the rows in question.
        rows: the rows they come from, for line numbers and verbatim lines.
        names: the names of the batch's files, for the reasons.
        beaten: `row` of a reading that did not stay either → the values that did, and where they
            are: those are what its repeats are measured by.

    Returns:
        File → rows that repeat what stays; the rows that contradict it.
    """
    frame, quantities = repeats.frame, list(readings.quantities)
    if not len(frame):
        return {}, []
    ours = frame[quantities].to_numpy()
    # A copy: what was judged stays as it is, and of one column pandas gives only a view.
    theirs = repeats.firsts[quantities].to_numpy(copy=True)
    first = repeats.firsts["row"].to_numpy()
    for i in np.flatnonzero(np.isin(first, list(beaten))):
        values, _ = beaten[int(first[i])]
        theirs[i] = [values[name] for name in quantities]
    same = _equal(ours, theirs)
    files, at = frame["file"].to_numpy(), frame["row"].to_numpy()
    conflicts = []
    # Where many rows say the same, they share what is told of them.
    told: dict[tuple[object, ...], tuple[Reason, ...]] = {}
    for i in np.flatnonzero(~same):
        file, row, kept = int(files[i]), int(at[i]), int(first[i])
        where = f"line {rows.line_no[kept]}"
        if rows.file[kept] != file:
            where += f" of {names[rows.file[kept]]}"
        if kept in beaten:
            _, where = beaten[kept]
        key = (where, ours[i].tobytes(), theirs[i].tobytes())
        if key not in told:
            mine, stays = (
                dict(zip(quantities, values.tolist(), strict=True))
                for values in (ours[i], theirs[i])
            )
            told[key] = (conflict(mine, stays, where),)
        conflicts.append(RejectedRow(file, int(rows.line_no[row]), rows.line(row), told[key]))
    return _count(files[same]), conflicts


def _converted(valid: Valid, rows: Rows, contract: Contract) -> Readings:
    frame = valid.frame
    table = contract.table_of(valid.model)
    bits = flag_bits(table)
    unplaced = (frame["lat"].isna() | frame["lon"].isna() | (frame["location"] < 0)).to_numpy()
    flags = np.where(unplaced, PLACE_UNKNOWN, 0).astype(np.int16)
    columns: dict[str, object] = {
        "sensor_id": frame["sensor_id"].to_numpy().astype(np.int32),
        "ts": frame["timestamp"].to_numpy(),
        "location_id": frame["location"].to_numpy(),
        "lat": frame["lat"].to_numpy(),
        "lon": frame["lon"].to_numpy(),
    }
    for column, name in valid.model.columns.items():
        quantity = contract.quantities[name]
        values = frame[column].to_numpy()
        if quantity.file_scale != 1.0:
            values = values / quantity.file_scale
        low, high = quantity.typical
        flags |= np.where((values < low) | (values > high), bits[name], 0).astype(np.int16)
        columns[name] = values.astype(np.float32)
    if valid.model.name in contract.partial:
        missing = np.any([np.isnan(frame[name].to_numpy()) for name in valid.model.core], axis=0)
        flags |= np.where(missing, PARTIAL, 0).astype(np.int16)
    columns["flags"] = flags
    columns["file"] = rows.file[valid.rows]
    columns["row"] = valid.rows
    return Readings(table, tuple(valid.model.columns.values()), frame_of(columns), valid.models)


def _equal(left: np.ndarray, right: np.ndarray) -> Bools:
    equal: Bools = ((left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1)
    return equal


def _count(files: Ints) -> dict[int, int]:
    found, counts = np.unique(files, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
