"""Validate: every row against the contract, by pandera, in one lazy pass a sensor model.

Pandera decides: it names the failing cells. What is told to a person about a failing cell
(an empty value, a decimal comma, a fault code, the wrong unit, …) is worked out here from the
cell's text, and only for cells that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract import MAX_ID, Contract, Model, Reason
from pipeline.contract.explain import Explainer, explainer, shortened
from pipeline.contract.header import header_again
from pipeline.contract.models import NOT_STORED_TYPES
from pipeline.contract.schemas import EMPTY_ID, UNREADABLE_ID, failing_cells, reading_schema
from pipeline.contract.timestamps import END_OF_DAY, PATTERN
from pipeline.core.checks import TooManyReasons, nothing, watched
from pipeline.core.malformed import (
    IDS,
    NUMBERS,
    TIMES,
    Letters,
    malformed_ids,
    malformed_numbers,
    malformed_times,
)
from pipeline.core.records import Bools, Floats, Ints, Rows, Times, Valid, frame_of
from pipeline.core.rejected import Rejected

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_WHOLE = r"^[+-]?0*\d{1,18}(\.0*)?$"  # pandas writes whole numbers so beside empty cells
_SHORTEST_TIME = len("2017-07-01T00:00")
_PIECE = 1024  # cells
_FEW_ROWS = 1024  # may have any number of reasons
_DAY = np.timedelta64(1, "D")

Cells = TypeVar("Cells", bound=npt.NDArray[Any])


def validate(
    rows: Rows,
    contract: Contract,
    now: datetime,
    check: Callable[[], None] = nothing,
    most_reasons: int | None = None,
) -> tuple[list[Valid], Rejected]:
    """Judge every row of a block.

    Args:
        rows: the rows, as text.
        contract: what is accepted.
        now: the present, in UTC; readings may be at most a day ahead of it.
        check: called now and then; what it raises ends the work.
        most_reasons: how many different reasons there may be, roughly, unless the rows are few.

    Returns:
        The valid rows, a group for each kind of sensor model, and the rejected ones in row order.

    Raises:
        TooManyReasons: there are more than `most_reasons`.
    """
    findings = _Findings(rows.table.num_rows, check, most_reasons)
    valid: list[Valid] = []
    for model, members in _by_model(rows, contract, findings):
        if _tell_surplus(rows, members, model, contract, findings):
            members = members[findings.code[members] < 0]
        whole = len(members) == rows.table.num_rows
        table = rows.table if whole else rows.table.take(pa.array(members))
        check()
        frame = _as_numbers(table, model)
        check()
        schema = reading_schema(contract, model, now)
        failing = failing_cells(schema, frame, model.core)
        if failing:
            _tell(rows, table, members, failing, explainer(contract, model, now), findings)
            good = findings.code[members] < 0
            frame, members = frame[good], members[good]
        schema.validate(frame, lazy=True)
        valid.append(Valid(model, frame, members, _models_of(rows, frame, members, model)))
    bad = np.flatnonzero(findings.code >= 0)
    # Not what was told on the way to rows with several reasons: of garbage, that is most of it.
    used, code = np.unique(findings.code[bad], return_inverse=True)
    told = [findings.told[each] for each in used.tolist()]
    return valid, Rejected.among(rows, bad, told, code)


class _Findings:
    """What is wrong with rows, gathered column by column.

    Attributes:
        told: tuples of reasons.
        code: each row's position in `told`; −1 while nothing is wrong with it.
        check: called now and then; what it raises ends the work.
    """

    def __init__(self, rows: int, check: Callable[[], None], most: int | None) -> None:
        self._most = most
        self.check = check
        self.told: list[tuple[Reason, ...]] = []
        self._alone: dict[Reason, int] = {}
        self._expected = 0
        self.code = np.full(rows, -1)

    def expect(self, reasons: int) -> None:
        """Say how many more reasons there will be, before they take any room.

        Raises:
            TooManyReasons: they would take too much, and the block can be cut.
        """
        self._expected += reasons
        if self._most is None or len(self.code) <= _FEW_ROWS:
            return
        if self._expected > self._most:
            raise TooManyReasons(self._expected)

    def add(self, at: Ints, told: Sequence[Reason], code: Ints) -> None:
        """Note what is wrong with some cells of a column.

        Args:
            at: the rows.
            told: reasons.
            code: each row's position in `told`.
        """
        start = len(self.told)
        self.told += [(reason,) for reason in told]
        before = self.code[at]
        self.code[at] = start + code
        again = before >= 0
        if again.any():
            self._join(at[again], before[again], start + code[again])

    def set(self, row: int, reason: Reason) -> None:
        """Let this be all that is wrong with a row."""
        if reason not in self._alone:
            self._alone[reason] = len(self.told)
            self.told.append((reason,))
        self.code[row] = self._alone[reason]

    def _join(self, at: Ints, first: Ints, second: Ints) -> None:
        pairs, code = np.unique(first << 32 | second, return_inverse=True)
        start = len(self.told)
        told = self.told
        self.told += [
            told[pair >> 32] + told[pair & MAX_ID] for pair in watched(pairs.tolist(), self.check)
        ]
        self.code[at] = start + code


def _by_model(rows: Rows, contract: Contract, findings: _Findings) -> list[tuple[Model, Ints]]:
    """Group the rows by sensor model; those of an unknown or unfitting type get a reason."""
    everyone = np.arange(rows.table.num_rows)
    if not len(everyone):
        return []
    if rows.header.dialect == "sofia":
        return [(rows.header.models[0], everyone)]
    fitting = {model.name: model for model in rows.header.models}
    coded = rows.table.column("sensor_type").combine_chunks().dictionary_encode("encode")
    findings.expect(len(coded.dictionary))
    codes = coded.indices.to_numpy(zero_copy_only=False)
    # Sorted once, however many types there are: to look for each would take the square of them.
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(coded.dictionary)), side="right")
    groups: dict[tuple[object, ...], tuple[Model, list[Ints]]] = {}
    strangers: list[tuple[Reason, Ints]] = []
    start = 0
    types = zip(coded.dictionary.to_pylist(), ends.tolist(), strict=True)
    for text, end in watched(types, findings.check):
        members, start = order[start:end], end
        name = (text or "").strip().lower()
        if model := fitting.get(name):
            # Models with the same columns, codes and rules are judged in one go.
            alike = (
                *(*model.columns.items(), *model.sentinels.items()),
                *(model.optional, model.name in contract.partial),
            )
            groups.setdefault(alike, (model, []))[1].append(members)
        else:
            strangers.append((_unfitting(rows, text, name, contract), members))
    if strangers:
        at = np.concatenate([members for _, members in strangers])
        code = np.repeat(np.arange(len(strangers)), [len(members) for _, members in strangers])
        findings.add(at, [reason for reason, _ in strangers], code)
        _tell_headers(rows, at, findings)
    return [
        (model, parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts)))
        for model, parts in groups.values()
    ]


def _tell_surplus(
    rows: Rows, members: Ints, model: Model, contract: Contract, findings: _Findings
) -> bool:
    """Reject rows with readings that their sensor type cannot have; return whether there are any.

    Such a row is of two sensors, and only one of them would be stored.
    """
    table = contract.table_of(model)
    found = False
    for column in rows.table.column_names:
        others = [each for each in rows.header.models if column in each.columns]
        if not others or any(contract.table_of(each) == table for each in others):
            continue
        cells = rows.table.column(column)
        if cells.null_count == len(cells):
            continue
        text = pc.utf8_trim_whitespace(pc.fill_null(cells, ""))
        filled = members[pc.not_equal(text, "").to_numpy()[members]]
        if len(filled):
            found = True
            name = next(iter(others)).columns[column]
            message = (
                f"{column} holds a reading of {name}, which this sensor type does not have: the "
                "row is of two sensors; make a row of each"
            )
            reason = Reason("model", message, column, None, "an empty cell")
            findings.add(filled, [reason], np.zeros(len(filled), np.int64))
    return found


def _models_of(rows: Rows, frame: pd.DataFrame, members: Ints, model: Model) -> dict[int, str]:
    """Return sensor → its model, as the first of its rows has it."""
    sensors, first = np.unique(frame["sensor_id"].to_numpy(), return_index=True)
    if rows.header.dialect == "sofia":
        return dict.fromkeys(sensors.tolist(), model.name)
    names = rows.table.column("sensor_type").take(pa.array(members[first])).to_pylist()
    return {
        sensor: name.strip().lower() for sensor, name in zip(sensors.tolist(), names, strict=True)
    }


def _unfitting(rows: Rows, text: str | None, name: str, contract: Contract) -> Reason:
    fitting = ", ".join(model.name.upper() for model in rows.header.models)
    expected = f"one of {fitting}"
    if text is None:
        return Reason("null", "sensor_type is empty", "sensor_type", None, expected)
    if (kind := NOT_STORED_TYPES.get(name)) and name not in contract.models:
        message = f"sensor_type is {text}, whose rows hold {kind}: this is not stored"
        return Reason("not_stored", message, "sensor_type", text, expected)
    if model := contract.models.get(name):
        absent = [column for column in model.core if column not in rows.header.names]
        columns = ", ".join(f"'{column}'" for column in absent)
        message = f"sensor_type is {shortened(text)}, but the file has no column {columns}"
    else:
        message = f"sensor_type '{shortened(text)}' is not a known sensor model"
    return Reason("model", message, "sensor_type", shortened(text), expected)


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
        if name in table.column_names:
            columns[name] = _floats(_column(table, name))
        else:  # an optional one
            columns[name] = np.full(len(table), np.nan)
    return frame_of(columns)


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def _floats(text: pa.Array) -> Floats:
    return _apart(text, NUMBERS, malformed_numbers, pa.float64(), _floats_with_care)


def _floats_with_care(text: pa.Array) -> Floats:
    text = pc.utf8_trim_whitespace(text)
    readable = pc.match_substring_regex(text, _NUMBER)
    unsigned = pc.utf8_ltrim(text, characters="+")
    numbers = pc.cast(pc.if_else(readable, unsigned, None), pa.float64())
    values: Floats = numbers.to_numpy(zero_copy_only=False).copy()
    blank = pc.fill_null(pc.equal(text, ""), True)  # Arrow's own signature
    values[np.isnan(values) & ~blank.to_numpy(zero_copy_only=False)] = np.inf
    return values


def _ids(text: pa.Array) -> Ints:
    return _apart(text, IDS, malformed_ids, pa.int64(), _ids_with_care)


def _ids_with_care(text: pa.Array) -> Ints:
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.equal(text, ""), None, text)
    whole = pc.match_substring_regex(text, _WHOLE)
    trimmed = pc.utf8_ltrim(text, characters="+")
    trimmed = pc.replace_substring_regex(trimmed, r"\.0*$", "")
    return _marked(pc.cast(pc.if_else(whole, trimmed, None), pa.int64()), text)


def _marked(numbers: pa.Array, text: pa.Array) -> Ints:
    """Say for ids that are no numbers whether they are empty or unreadable."""
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


def _apart(
    text: pa.Array,
    plain: Letters,
    malformed: Callable[[pa.Array], Bools],
    kind: pa.DataType,
    carefully: Callable[[pa.Array], Cells],
) -> Cells:
    """Cast a column of which some cells cannot be cast: those are looked at with care.

    Args:
        text: the column.
        plain: the letters that most cells are made of.
        malformed: tells all the cells that Arrow may not be able to cast, empty ones included.
        kind: what to cast the others to.
        carefully: makes the column's values of any text.
    """
    apart = plain.foreign(text)
    others = _without(text, apart)
    try:
        cast = pc.cast(others, kind)
    except pa.ArrowInvalid:
        # Right letters in the wrong order, as the 30th of February has: looked for where it is.
        pieces = []
        for start in range(0, len(text), _PIECE):
            try:
                pieces.append(pc.cast(others.slice(start, _PIECE), kind))
            except pa.ArrowInvalid:
                piece, foreign = text.slice(start, _PIECE), apart[start : start + _PIECE]
                foreign |= malformed(piece)
                pieces.append(pc.cast(_without(piece, foreign), kind))
        cast = pa.concat_arrays(pieces)
    if not apart.any():
        values: Cells = cast.to_numpy(zero_copy_only=False)
        return values
    values = pc.fill_null(cast, 0).to_numpy(zero_copy_only=False).copy()
    values[apart] = carefully(text.filter(pa.array(apart)))
    return values


def _without(text: pa.Array, apart: Bools) -> pa.Array:
    return pc.if_else(pa.array(apart), None, text) if apart.any() else text


def _times(text: pa.Array) -> Times:
    """Naive times are UTC; those with an offset are brought to it."""
    kind = pa.timestamp("us")
    try:
        shortest = pc.min(pc.binary_length(text)).as_py()
        if shortest is not None and shortest >= _SHORTEST_TIME:
            times: Times = pc.cast(text, kind).to_numpy(zero_copy_only=False)
            return times
    except pa.ArrowInvalid:
        pass
    return _apart(text, TIMES, malformed_times, kind, _times_with_care)


def _times_with_care(text: pa.Array) -> Times:
    text = pc.utf8_trim_whitespace(text)
    readable = pc.match_substring_regex(text, f"^{PATTERN}$")
    ends_day = pc.match_substring_regex(text, END_OF_DAY)
    text = pc.replace_substring_regex(text, END_OF_DAY, r"\100\2")
    text = pc.replace_substring(pc.utf8_upper(text), ",", ".")
    parsed = pd.to_datetime(
        pc.if_else(readable, text, None).to_pandas(), format="ISO8601", utc=True, errors="coerce"
    )
    naive: Times = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    naive[pc.fill_null(ends_day, False).to_numpy(zero_copy_only=False)] += _DAY
    return naive


def _tell(
    rows: Rows,
    table: pa.Table,
    members: Ints,
    failing: dict[str, Ints],
    explainer: Explainer,
    findings: _Findings,
) -> None:
    """Tell each failing cell in words, in the order of the columns."""
    order = {name: position for position, name in enumerate(rows.header.names)}
    coded = {
        name: table.column(name).take(pa.array(at)).combine_chunks().dictionary_encode("encode")
        for name, at in failing.items()
        if name != "lat,lon"
    }
    findings.expect(sum(len(cells.dictionary) for cells in coded.values()))
    for column in sorted(failing, key=lambda name: order.get(name, order["lat"])):
        at = failing[column]
        if column == "lat,lon":
            findings.add(
                members[at], [explainer.explain(column, None)], np.zeros(len(at), np.int64)
            )
            continue
        cells = coded.pop(column)
        texts = watched(cells.dictionary.to_pylist(), findings.check)
        told = [explainer.explain(column, text) for text in texts]
        findings.add(members[at], told, cells.indices.to_numpy().astype(np.int64))
    if "sensor_id" in failing:
        _tell_headers(rows, members[failing["sensor_id"]], findings)


def _tell_headers(rows: Rows, at: Ints, findings: _Findings) -> None:
    """A header among the rows breaks many rules; that it is a header says it all."""
    for row in watched(at.tolist(), findings.check):
        first = findings.told[findings.code[row]][0]
        if first.column in {"sensor_id", "sensor_type"} and (again := header_again(rows.line(row))):
            findings.set(row, again)
