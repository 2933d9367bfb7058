"""Damage: the ways in which a line can be faulty, and what the pipeline has to say of each.

The ways come from real files, from the firmware's habits and from what spreadsheets and joined
files do to a CSV. What is expected follows from the contract's rules alone, never from the
pipeline's own verdict.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.contract import EARLIEST, MAX_ID, Contract, Quantity
from pipeline.simulate.layout import Layout, clean_range
from pipeline.simulate.spec import Reasons

# Fields are changed as text in which a character is a byte of the file.
ENCODING = "latin-1"

_NOT_A_NUMBER = ("unavailable", "n/a", "unknown", "ERROR")
_NOT_FINITE = ("nan", "inf", "-inf", "NaN")
_SPREADSHEET_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001  # day 0 of its day numbers


@dataclass(frozen=True, slots=True)
class Bench:
    """Where lines are damaged.

    Attributes:
        layout: the lines' columns.
        contract: what is accepted.
        random: what decides.
    """

    layout: Layout
    contract: Contract
    random: random.Random

    @property
    def readings(self) -> list[str]:
        """The columns that carry readings."""
        return [name for name in self.layout.columns if name in self.layout.model.columns]

    def quantity(self, column: str) -> Quantity:
        """Return what a column carries."""
        return self.contract.quantities[self.layout.model.columns[column]]

    def at(self, column: str) -> int:
        """Return a column's position."""
        return self.layout.columns.index(column)


# ---- one cell: what it holds instead -----------------------------------------------------------

# From the bench, the column and the cell's text to the damaged text.
_Cell = Callable[[Bench, str, str], str]


def _one_of(*texts: str) -> _Cell:
    return lambda bench, _column, _old: bench.random.choice(texts)


def _out_of_range(bench: Bench, column: str, _old: str) -> str:
    """Too high or too low, but neither a code for "no reading" nor right in another unit."""
    quantity = bench.quantity(column)
    low, high = quantity.file_range
    codes = bench.contract.sentinels_of(bench.layout.model, column)
    mistaken = quantity.mistaken_unit
    while True:
        beyond = bench.random.uniform(0.01, 0.4) * (high - low)
        text = f"{low - beyond if bench.random.random() < 0.5 else high + beyond:.2f}"
        number = float(text)
        if number in codes or (mistaken and mistaken[1] <= number <= mistaken[2]):
            continue
        if not low <= number <= high:
            return text


def _sentinel(bench: Bench, column: str, _old: str) -> str:
    code = bench.random.choice(bench.contract.sentinels_of(bench.layout.model, column))
    return f"{code:.2f}" if bench.random.random() < 0.5 else f"{code:g}"


def _other_unit(bench: Bench, column: str, old: str) -> str:
    quantity = bench.quantity(column)
    _, low, high = quantity.mistaken_unit or ("", *quantity.accept)
    return f"{min(max(float(old) / quantity.file_scale, low), high):.2f}"


def _decimal_comma(bench: Bench, _column: str, old: str) -> str:
    text = old.replace(".", ",")
    # Where the comma separates fields, whoever wrote this had to quote it.
    return f'"{text}"' if bench.layout.delimiter == "," else text


def _no_time(bench: Bench, _column: str, old: str) -> str:
    return bench.random.choice(
        (f"{old[:4]}-13-45T00:00:00", f"{old[:4]}-02-30{old[10:]}", "yesterday", old[:10])
    )


def _spreadsheet_date(bench: Bench, _column: str, old: str) -> str:
    time = datetime.fromisoformat(old)
    number = (time - _SPREADSHEET_EPOCH).total_seconds() / 86_400
    return bench.random.choice(
        (
            f"{time:%d/%m/%Y %H:%M}",
            f"{time.month}/{time.day}/{time.year} {time.hour}:{time:%M}",
            f"{time:%d.%m.%y %H:%M}",
            f"{number:.5f}",
        )
    )


_WRONG_TIMES = (f"{EARLIEST.replace(year=1970):%Y-%m-%dT%H:%M:%S}", "2999-12-31T23:59:59")
_WRONG_IDS = ("-5", "0", str(MAX_ID + 1), "99999999999")

# Kind of column → rule that can be broken there → how.
_CELLS: Mapping[str, Mapping[str, _Cell]] = {
    "reading": {
        "null": _one_of(""),
        "type": _one_of(*_NOT_A_NUMBER),
        "not_finite": _one_of(*_NOT_FINITE),
        "range": _out_of_range,
        "sentinel": _sentinel,
        "unit": _other_unit,
        "decimal_comma": _decimal_comma,
    },
    "sensor_id": {
        "null": _one_of(""),
        "type": lambda _bench, _column, old: f"{old}.5",
        "range": _one_of(*_WRONG_IDS),
    },
    "location": {"type": _one_of("Sofia", "?"), "range": _one_of("-5", "99999999999")},
    "timestamp": {
        "null": _one_of(""),
        "range": _one_of(*_WRONG_TIMES),
        "timestamp": _no_time,
        "spreadsheet_date": _spreadsheet_date,
    },
    "lat": {"type": _one_of("north", "42N41"), "range": _one_of("95.0", "-90.001", "42697")},
    "lon": {"type": _one_of("east", "23-19"), "range": _one_of("181.0", "-180.001", "23321")},
    "sensor_type": {"null": _one_of(""), "model": _one_of("XYZ99", "unknown")},
}


def _break(bench: Bench, fields: list[str], column: str, rule: str) -> tuple[str, str]:
    at = bench.at(column)
    group = "reading" if column in bench.layout.model.columns else column
    fields[at] = _CELLS[group][rule](bench, column, fields[at])
    return column, rule


def _breakable(bench: Bench, column: str) -> list[str]:
    """Return the rules that a cell of this column can break."""
    if column not in bench.layout.model.columns:
        return list(_CELLS[column])
    impossible = set()
    if not bench.quantity(column).mistaken_unit:
        impossible.add("unit")
    if not bench.contract.sentinels_of(bench.layout.model, column):
        impossible.add("sentinel")
    if column in bench.layout.model.optional:
        impossible.add("null")
    return [rule for rule in _CELLS["reading"] if rule not in impossible]


# ---- one line: changed in place, told as its reasons -------------------------------------------

_Line = Callable[[Bench, list[str]], Reasons]


def _reading(rule: str) -> _Line:
    def apply(bench: Bench, fields: list[str]) -> Reasons:
        able = [column for column in bench.readings if rule in _breakable(bench, column)]
        return (_break(bench, fields, bench.random.choice(able), rule),)

    return apply


def _key(rule: str, *columns: str) -> _Line:
    def apply(bench: Bench, fields: list[str]) -> Reasons:
        return (_break(bench, fields, bench.random.choice(columns), rule),)

    return apply


def _null_island(bench: Bench, fields: list[str]) -> Reasons:
    zero = bench.random.choice(("0", "0.0", "0.000"))
    fields[bench.at("lat")] = fields[bench.at("lon")] = zero
    return (("lat,lon", "null_island"),)


def _two_cells(bench: Bench, fields: list[str]) -> Reasons:
    candidates = ["sensor_id", "lat", "timestamp", *bench.readings]
    columns = sorted(bench.random.sample(candidates, 2), key=bench.at)
    return tuple(
        _break(bench, fields, column, bench.random.choice(_breakable(bench, column)))
        for column in columns
    )


def _width(bench: Bench, fields: list[str]) -> Reasons:
    at = bench.random.randrange(len(fields))
    if bench.random.random() < 0.5:
        del fields[at]
    else:
        fields.insert(at, "1")
    return ((None, "width"),)


def _inside(character: str, rule: str) -> _Line:
    """Put a character that does not belong there in the middle of a field."""

    def apply(bench: Bench, fields: list[str]) -> Reasons:
        at = bench.at(bench.random.choice(("timestamp", *bench.readings)))
        middle = len(fields[at]) // 2
        fields[at] = fields[at][:middle] + character + fields[at][middle:]
        return ((None, rule),)

    return apply


def _header_again(bench: Bench, fields: list[str]) -> Reasons:
    fields[:] = bench.layout.columns
    return ()


def _conflict(bench: Bench, fields: list[str]) -> Reasons:
    """Other values, each as believable as the ones they contradict."""
    for column in bench.readings:
        at = bench.at(column)
        low, high = clean_range(bench.quantity(column))
        # Far more than what is lost in the 32-bit floats that are stored.
        step = min((high - low) / 4, bench.random.uniform(0.5, 3.0))
        value = float(fields[at])
        fields[at] = f"{value + step if value + step <= high else value - step:.2f}"
    return ((None, "conflict"),)


def _unchanged(_bench: Bench, _fields: list[str]) -> Reasons:
    return ()


# ---- the kinds ---------------------------------------------------------------------------------


# A line of this kind is no row.
NO_ROW = "repeated_header"


def _always(_layout: Layout, _contract: Contract) -> bool:
    return True


def _archive_only(layout: Layout, _contract: Contract) -> bool:
    return layout.dialect == "archive"


def _has_mistaken_unit(layout: Layout, contract: Contract) -> bool:
    targets = layout.model.columns.values()
    return any(contract.quantities[target].mistaken_unit for target in targets)


@dataclass(frozen=True, slots=True)
class Kind:
    """One way in which a line can be faulty.

    Attributes:
        what: what it does, in words.
        apply: changes a line's fields, and returns what has to be reported.
        extra: whether the faulty line is put in after a clean one that stays, instead of
            replacing it.
        fits: whether files of a layout can have it.
    """

    what: str
    apply: _Line
    extra: bool = False
    fits: Callable[[Layout, Contract], bool] = _always


KINDS: Mapping[str, Kind] = {
    "null_reading": Kind("a reading is empty", _reading("null")),
    "null_sensor_id": Kind("the sensor id is empty", _key("null", "sensor_id")),
    "null_timestamp": Kind("the time is empty", _key("null", "timestamp")),
    "null_sensor_type": Kind(
        "the sensor type is empty (archive only)", _key("null", "sensor_type"), fits=_archive_only
    ),
    "type_reading": Kind("a reading is a word", _reading("type")),
    "type_sensor_id": Kind("the sensor id has a decimal point", _key("type", "sensor_id")),
    "type_place": Kind(
        "a coordinate or the location is a word", _key("type", "lat", "lon", "location")
    ),
    "not_finite": Kind("a reading is nan or infinite", _reading("not_finite")),
    "range_reading": Kind("a reading is too high or too low", _reading("range")),
    "range_sensor_id": Kind(
        "the sensor id is negative, zero or too large", _key("range", "sensor_id")
    ),
    "range_timestamp": Kind("the time is in 1970 or 2999", _key("range", "timestamp")),
    "range_place": Kind(
        "a coordinate or the location is impossible", _key("range", "lat", "lon", "location")
    ),
    "sentinel": Kind("a reading is a code for 'no reading'", _reading("sentinel")),
    "unit": Kind(
        "a pressure is in hPa, where Pa are due (models with pressure only)",
        _reading("unit"),
        fits=_has_mistaken_unit,
    ),
    "decimal_comma": Kind("a reading has a decimal comma", _reading("decimal_comma")),
    "timestamp": Kind("the time is no time", _key("timestamp", "timestamp")),
    "spreadsheet_date": Kind(
        "the time was rewritten by a spreadsheet", _key("spreadsheet_date", "timestamp")
    ),
    "null_island": Kind("latitude and longitude are both 0", _null_island),
    "model": Kind(
        "the sensor type is unknown (archive only)",
        _key("model", "sensor_type"),
        fits=_archive_only,
    ),
    "two_cells": Kind("two cells are broken, each in its own way", _two_cells),
    "width": Kind("a field is missing, or there is one too many", _width),
    "quote": Kind("a stray quotation mark stands inside a field", _inside('"', "quote")),
    "nul_byte": Kind("a NUL byte stands inside a field", _inside("\0", "nul_byte")),
    "encoding": Kind("a Latin-1 letter stands inside a field", _inside("\xe9", "encoding")),
    NO_ROW: Kind("the header stands there again", _header_again, extra=True),
    "conflict": Kind(
        "an earlier line's sensor and time stand there again with other values",
        _conflict,
        extra=True,
    ),
    "duplicate": Kind("an earlier line stands there again", _unchanged, extra=True),
}

# What a caller needs to know: kind → what it does, in words.
FAULT_KINDS: Mapping[str, str] = {name: kind.what for name, kind in KINDS.items()}
