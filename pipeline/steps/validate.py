"""Validate: every row against the contract, by pandera, in one lazy pass a sensor model.

Pandera is the judge: it names the failing cells. What is told to a person about a failing cell
(an empty value, a decimal comma, a fault code, the wrong unit, …) is worked out here from the
cell's text, and only for cells that failed.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.errors
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import Contract, Model, Reason
from pipeline.contract.explain import Explainer
from pipeline.contract.header import header_again
from pipeline.contract.schemas import EMPTY_ID, NULL_ISLAND, UNREADABLE_ID, reading_schema
from pipeline.records import Floats, Ints, Rejected, Rows, Valid

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE = r"^[+-]?0*\d{1,18}$"
_TIME = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?$"
_SHORTEST_TIME = len("2017-07-01T00:00")


def validate(rows: Rows, contract: Contract, now: datetime) -> tuple[list[Valid], list[Rejected]]:
    """Judge every row of a block.

    Args:
        rows: the rows, as text.
        contract: what is accepted.
        now: the present, in UTC; readings may be at most a day ahead of it.

    Returns:
        The valid rows, a group for each kind of sensor model, and the rejected ones in row order.
    """
    reasons: dict[int, list[Reason]] = {}
    valid: list[Valid] = []
    for model, members in _by_model(rows, contract, reasons):
        whole = len(members) == rows.table.num_rows
        table = rows.table if whole else rows.table.take(pa.array(members))
        frame = _as_numbers(table, model)
        failing = _failing_cells(frame, contract, model, now)
        good = np.ones(len(frame), bool)
        if failing:
            explainer = Explainer(contract, model, now)
            for row, found in _reasons(rows, table, members, failing, explainer).items():
                good[row] = False
                reasons[int(members[row])] = found
            frame, members = frame[good], members[good]
        valid.append(Valid(model, frame, members, _models_of(rows, frame, members, model)))
    rejected = [
        Rejected(int(rows.file[row]), int(rows.line_no[row]), rows.line(row), tuple(reasons[row]))
        for row in sorted(reasons)
    ]
    return valid, rejected


def _by_model(
    rows: Rows, contract: Contract, reasons: dict[int, list[Reason]]
) -> list[tuple[Model, Ints]]:
    """Group the rows by sensor model; those of an unknown or unfitting type get a reason."""
    everyone = np.arange(rows.table.num_rows)
    if not len(everyone):
        return []
    if rows.header.dialect == "sofia":
        return [(rows.header.models[0], everyone)]
    fitting = {model.name: model for model in rows.header.models}
    coded = rows.table.column("sensor_type").combine_chunks().dictionary_encode("encode")
    codes = coded.indices.to_numpy(zero_copy_only=False)
    groups: dict[tuple[object, ...], tuple[Model, list[Ints]]] = {}
    for code, text in enumerate(coded.dictionary.to_pylist()):
        members = np.flatnonzero(codes == code)
        name = (text or "").strip().lower()
        if model := fitting.get(name):
            # Models with the same columns and codes are judged in one go.
            alike = (*model.columns.items(), *model.sentinels.items())
            groups.setdefault(alike, (model, []))[1].append(members)
            continue
        for row in members.tolist():
            reasons[row] = [_unfitting(rows, row, text, name, contract)]
    return [
        (model, parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts)))
        for model, parts in groups.values()
    ]


def _models_of(rows: Rows, frame: pd.DataFrame, members: Ints, model: Model) -> dict[int, str]:
    """Return sensor → its model, as the first of its rows has it."""
    sensors, first = np.unique(frame["sensor_id"].to_numpy(), return_index=True)
    if rows.header.dialect == "sofia":
        return dict.fromkeys(sensors.tolist(), model.name)
    names = rows.table.column("sensor_type").take(pa.array(members[first])).to_pylist()
    return {
        sensor: name.strip().lower() for sensor, name in zip(sensors.tolist(), names, strict=True)
    }


def _unfitting(rows: Rows, row: int, text: str | None, name: str, contract: Contract) -> Reason:
    if again := header_again(rows.line(row)):
        return again
    fitting = ", ".join(model.name.upper() for model in rows.header.models)
    expected = f"one of {fitting}"
    if text is None:
        return Reason("null", "sensor_type is empty", "sensor_type", None, expected)
    if model := contract.models.get(name):
        absent = [column for column in model.columns if column not in rows.header.names]
        columns = ", ".join(f"'{column}'" for column in absent)
        message = f"sensor_type is {text}, but the file has no column {columns}"
    else:
        message = f"sensor_type '{text}' is not a known sensor model"
    return Reason("model", message, "sensor_type", text, expected)


def _as_numbers(table: pa.Table, model: Model) -> pd.DataFrame:
    """Turn text into numbers: empty is NaN (ids: −1), unreadable is infinite (ids: −2)."""
    columns: dict[str, object] = {
        "sensor_id": _ids(_column(table, "sensor_id")),
        "location": _ids(_column(table, "location")),
        "lat": _floats(_column(table, "lat")),
        "lon": _floats(_column(table, "lon")),
        "timestamp": _times(_column(table, "timestamp")),
    }
    for name in model.columns:
        columns[name] = _floats(_column(table, name))
    return pd.DataFrame(columns, copy=False)


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _floats(text: pa.Array) -> Floats:
    empty = text.null_count
    try:
        numbers = pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(text)
        readable = pc.match_substring_regex(text, _NUMBER)
        unsigned = pc.utf8_ltrim(text, characters="+")
        numbers = pc.cast(pc.if_else(readable, unsigned, None), pa.float64())
        blank = pc.fill_null(pc.equal(text, ""), True)  # Arrow's own signature
        text = pc.if_else(blank, None, text)
        empty = text.null_count
    values: Floats = numbers.to_numpy(zero_copy_only=False)
    nan = np.isnan(values)
    if int(nan.sum()) != empty:
        values = values.copy()
        values[nan & text.is_valid().to_numpy(zero_copy_only=False)] = np.inf
    return values


def _ids(text: pa.Array) -> Ints:
    try:
        if _may_be_hexadecimal(text):
            raise pa.ArrowInvalid
        numbers = pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(text)
        text = pc.if_else(pc.equal(text, ""), None, text)
        whole = pc.match_substring_regex(text, _WHOLE)
        trimmed = pc.utf8_ltrim(text, characters="+")
        numbers = pc.cast(pc.if_else(whole, trimmed, None), pa.int64())
    values: Ints = pc.fill_null(numbers, UNREADABLE_ID).to_numpy(zero_copy_only=False)
    # A negative id in the file is as unusable as text, and must not pass for "empty".
    negative = values < 0
    if negative.any():
        values = values.copy()
        values[negative] = UNREADABLE_ID
    if text.null_count:
        values = values.copy()
        values[text.is_null().to_numpy(zero_copy_only=False)] = EMPTY_ID
    return values


def _may_be_hexadecimal(text: pa.Array) -> bool:
    """Arrow reads 0x1A as 26; to us it is not a whole number."""
    letters = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    return bool(((letters | 0x20) == ord("x")).any())


def _times(text: pa.Array) -> npt.NDArray[np.datetime64]:
    """Naive times are UTC; those with an offset are brought to it."""
    try:
        shortest = pc.min(pc.binary_length(text)).as_py()
        if shortest is not None and shortest >= _SHORTEST_TIME:
            times = pc.cast(text, pa.timestamp("us"))
            parsed_at_once: npt.NDArray[np.datetime64] = times.to_numpy(zero_copy_only=False)
            return parsed_at_once
    except pa.ArrowInvalid:
        pass
    text = pc.utf8_trim_whitespace(text)
    readable = pc.match_substring_regex(text, _TIME)
    parsed = pd.to_datetime(
        pc.if_else(readable, text, None).to_pandas(), format="ISO8601", utc=True, errors="coerce"
    )
    naive: npt.NDArray[np.datetime64] = parsed.dt.tz_localize(None).to_numpy()
    return naive.astype("datetime64[us]")


def _failing_cells(
    frame: pd.DataFrame, contract: Contract, model: Model, now: datetime
) -> dict[str, Ints]:
    """Ask pandera; return column → positions of the rows that fail there."""
    try:
        reading_schema(contract, model, now).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        islands = cases["check"] == NULL_ISLAND
        failing = {
            str(column): np.unique(group["index"].to_numpy().astype(np.int64))
            for column, group in cases[~islands].groupby("column")
        }
        if islands.any():
            failing["lat,lon"] = np.unique(cases["index"][islands].to_numpy().astype(np.int64))
        return failing
    return {}


def _reasons(
    rows: Rows, table: pa.Table, members: Ints, failing: dict[str, Ints], explainer: Explainer
) -> dict[int, list[Reason]]:
    """Tell each failing cell in words; return row of `table` → its reasons, in column order."""
    found: dict[int, list[Reason]] = {}
    order = {name: position for position, name in enumerate(rows.header.names)}
    for column in sorted(failing, key=lambda name: order.get(name, order["lat"])):
        at = failing[column]
        if column == "lat,lon":
            texts = [None] * len(at)
        else:
            texts = table.column(column).take(pa.array(at)).to_pylist()
        for row, text in zip(at.tolist(), texts, strict=True):
            found.setdefault(row, []).append(explainer.explain(column, text))
    for row, given in found.items():
        if given[0].column == "sensor_id" and (again := header_again(rows.line(members[row]))):
            found[row] = [again]
    return found
