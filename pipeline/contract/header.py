"""What a header line says: which dialect, which columns, which sensor models.

A file is dispatched on its header, never on its name. Two dialects exist: the archive's
(`sensor_type` is a column) and Sofia's (it is not; an unnamed row index may come first). Either
may be separated by comma, semicolon, tab or `|`, since people save files again.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, NoReturn

from pipeline.contract import KEY_COLUMNS, Contract, Model, Reason
from pipeline.contract.models import NOT_STORED
from pipeline.errors import FileRefused

Dialect = Literal["archive", "sofia"]

DELIMITERS = (";", ",", "\t", "|")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f]")

# Headers of the network have up to 20 columns. Longer ones are refused before they are looked at.
MAX_HEADER_BYTES = 16 * 2**10
MAX_COLUMNS = 500
MAX_NAME = 200  # characters of a column's name
_SHOWN = 200  # characters
_SHOWN_NAMES = 10


@dataclass(frozen=True)
class Header:
    """A recognised header.

    Attributes:
        line: the header line as it stands in the file, without its line end.
        delimiter: the character between fields.
        dialect: `archive` or `sofia`.
        names: every column in file order, spelled as the contract spells it; unnamed or unknown
            columns keep the file's name, made unique.
        models: the sensor models whose core columns are all there. For the Sofia dialect exactly
            one: the model that explains the header best. None where there is a fault.
        fault: why rows cannot be read by this header, which then stands in the middle of a file;
            None if they can.
    """

    line: str
    delimiter: str
    dialect: Dialect
    names: tuple[str, ...]
    models: tuple[Model, ...]
    fault: Reason | None = None

    @cached_property
    def readings(self) -> frozenset[str]:
        """The columns that carry readings, of whatever model."""
        every = {name for model in self.models for name in model.columns}
        return frozenset(every.intersection(self.names))


# Thousands of files share a header.
@lru_cache(maxsize=128)
def recognise(line: str, contract: Contract) -> Header:
    """Read a header line.

    Args:
        line: the first line of a file, decoded, without byte order mark and line end.
        contract: the models in force.

    Raises:
        FileRefused: rule `unknown_header` or `not_stored`, with what is missing, or too long.
    """
    if len(line) > MAX_HEADER_BYTES:
        _refuse_long(line, f"{MAX_HEADER_BYTES:,} characters")
    if max(map(line.count, DELIMITERS)) >= MAX_COLUMNS:
        _refuse_long(line, f"{MAX_COLUMNS:,} columns")
    found = _columns(line, contract)
    delimiter, names, matching = found.delimiter, found.names, found.matching
    if not found.understood:
        _refuse_if_not_stored(names)
        raise FileRefused("unknown_header", _unknown(line, found, contract))
    if longest := next((name for name in names if len(name) > MAX_NAME), None):
        message = (
            f"the header has a column name of more than {MAX_NAME} characters: "
            f"'{_shortened(longest)}'"
        )
        raise FileRefused("unknown_header", message)
    present, readings = set(names), _readings(contract)
    if "sensor_type" in present:
        return Header(line, delimiter, "archive", _distinct(names), tuple(matching))
    # `max` takes the first of equals, and the contract lists the most widespread model first.
    best = max(matching, key=lambda model: len(present.intersection(model.columns)))
    if left := [name for name in names if name in readings and name not in best.columns]:
        raise FileRefused("unknown_header", _two_kinds(best, names, left))
    return Header(line, delimiter, "sofia", _distinct(names), (best,))


# Rows that were taken for headers are seldom alike, headers nearly always.
@lru_cache(maxsize=256)
def section_header(line: str, contract: Contract) -> Header | None:
    """Return what a line in the middle of a file says if it is a header that is understood.

    Args:
        line: the line, decoded, without byte order mark and line end.
        contract: the models in force.
    """
    lower = line.lower()
    if not all(name in lower for name in KEY_COLUMNS) or _CONTROL.search(line):
        return None
    if len(line) > MAX_HEADER_BYTES or max(map(line.count, DELIMITERS)) >= MAX_COLUMNS:
        return None
    # Thousands of lines may be like this: why one is no header is not worked out for each.
    if not _columns(line, contract).understood:
        return None
    try:
        return recognise(line, contract)
    except FileRefused:
        return None


def unreadable_header(line: str, contract: Contract) -> Header:
    """Return the header of a section that cannot be read: it says why.

    Args:
        line: the line, decoded, without byte order mark and line end.
        contract: the models in force.
    """
    line = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", line)
    found = _columns(line, contract)
    delimiter, names = found.delimiter, found.names
    rule, why = "unknown_section", "no known sensor model has this header"
    try:
        recognise(line, contract)
    except FileRefused as refusal:
        rule = "not_stored" if refusal.rule == "not_stored" else rule
        why = refusal.message
    fault = Reason(rule, f"the line is, or is below, a header that is not understood: {why}")
    dialect: Dialect = "archive" if "sensor_type" in names else "sofia"
    return Header(line, delimiter, dialect, names, (), fault)


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line; of one whose quotes are out of place, whatever is between."""
    if '"' not in line:
        return line.split(delimiter) if line else []
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return line.split(delimiter)


def cells_of(line: str) -> list[str]:
    """Return the cells of a line, by the delimiter that it has most of."""
    return _split(line)[1]


@lru_cache(maxsize=16)
def known_names(contract: Contract) -> frozenset[str]:
    """Return the names of all columns that the contract knows, in lower case."""
    return frozenset(_spelling(contract))


def _refuse_long(line: str, limit: str) -> NoReturn:
    message = (
        f"the first line has more than {limit}: it is not a header of air-quality readings; "
        f"found: {_shown(line)}"
    )
    raise FileRefused("unknown_header", message)


_AGAIN = Reason(
    "repeated_header", "the line is a header in the middle of the file: two files were joined"
)


def header_again(line: bytes) -> Reason | None:
    """Return the reason if a line is a header in the middle of a file, else None."""
    lower = line[:MAX_HEADER_BYTES].lower()
    return _AGAIN if b"sensor_id" in lower and b"timestamp" in lower else None


def _split(line: str) -> tuple[str, list[str]]:
    delimiter = max(DELIMITERS, key=line.count)
    return delimiter, split_line(line, delimiter)


@lru_cache(maxsize=16)
def _spelling(contract: Contract) -> dict[str, str]:
    spelling = {name.lower(): name for name in (*KEY_COLUMNS, "sensor_type", *NOT_STORED)}
    for model in contract.models.values():
        spelling.update({name.lower(): name for name in (*model.columns, *model.other)})
    return spelling


class _Columns(NamedTuple):
    """What a header names.

    Attributes:
        delimiter: what separates its names.
        names: its columns, as the contract spells them.
        missing_keys: the columns that every header has and this one has not.
        matching: the models whose core readings are all among the columns.
        repeated: the names that stand there twice and must not.
    """

    delimiter: str
    names: tuple[str, ...]
    missing_keys: list[str]
    matching: list[Model]
    repeated: list[str]

    @property
    def understood(self) -> bool:
        """Whether a model's rows can be read by it."""
        return not self.missing_keys and bool(self.matching) and not self.repeated


def _columns(line: str, contract: Contract) -> _Columns:
    delimiter, found = _split(line)
    names = _canonical([name.strip() for name in found], contract)
    present = set(names)
    return _Columns(
        delimiter,
        names,
        [name for name in KEY_COLUMNS if name not in present],
        [model for model in contract.models.values() if present.issuperset(model.core)],
        _repeated(names, _readings(contract)),
    )


@lru_cache(maxsize=16)
def _readings(contract: Contract) -> frozenset[str]:
    """Return the columns that carry readings of any model."""
    return frozenset(column for model in contract.models.values() for column in model.columns)


def _repeated(names: Sequence[str], readings: frozenset[str]) -> list[str]:
    """Return the names that stand in a header twice and must not."""
    if len(set(names)) == len(names):
        return []
    counted = Counter(names)
    keys = {*KEY_COLUMNS, "sensor_type", *readings}
    return sorted(name for name, count in counted.items() if count > 1 and name in keys)


def _canonical(found: list[str], contract: Contract) -> tuple[str, ...]:
    spelling = _spelling(contract)
    # Unnamed columns (Sofia's row index is one) need distinct names to be told apart.
    return tuple(
        spelling.get(name.lower(), name) or f"unnamed_{position}"
        for position, name in enumerate(found, start=1)
    )


def _shown(line: str) -> str:
    return repr(_shortened(line))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names with those that stand there again made distinct: nobody asks for these."""
    seen: Counter[str] = Counter()
    found = []
    for position, name in enumerate(names, start=1):
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{position}")
    return tuple(found)


def _refuse_if_not_stored(names: tuple[str, ...]) -> None:
    for name in names:
        if kind := NOT_STORED.get(name):
            message = (
                f"this is a file of {kind} measurements (column '{name}'); "
                "only particulate matter, temperature, humidity and pressure are stored"
            )
            raise FileRefused("not_stored", message)


def _other_format(line: str, present: set[str]) -> str | None:
    """Return what a table is that holds readings in another form."""
    lower = {name.lower() for name in present}
    if {"value_type", "value"} <= lower:
        return (
            "this is a long table, with one value a row (columns 'value_type' and 'value'); make a "
            "column of each value_type, such as P1 and P2"
        )
    if line.lstrip().startswith(("#group", "#datatype", "#default")):
        return (
            "this is an annotated CSV of InfluxDB; export it pivoted and without annotations, with "
            f"the columns {', '.join(KEY_COLUMNS)} and the readings"
        )
    return None


def _two_kinds(best: Model, names: tuple[str, ...], left: list[str]) -> str:
    columns = ", ".join(f"'{name}'" for name in left[:_SHOWN_NAMES])
    own = ", ".join(f"'{name}'" for name in names if name in best.columns)
    return (
        f"no known sensor model has all the readings of this header: {own} beside {columns}; "
        "each row must be of one sensor: make a file of each, with the first columns in both"
    )


def _unknown(line: str, found: _Columns, contract: Contract) -> str:
    names, missing_keys, repeated = found.names, found.missing_keys, found.repeated
    shown = _shown(line)
    if repeated:
        columns = ", ".join(f"'{_shortened(name)}'" for name in repeated[:_SHOWN_NAMES])
        more = ", …" if len(repeated) > _SHOWN_NAMES else ""
        return f"the header names a column twice: {columns}{more}; found: {shown}"
    present = set(names)
    if said := _other_format(line, present):
        return f"{said}; found: {shown}"
    if not missing_keys and not present & {c for m in contract.models.values() for c in m.columns}:
        left = [name for name in names if name not in {*KEY_COLUMNS, "sensor_type"}]
        others = ", ".join(f"'{_shortened(name)}'" for name in left[:_SHOWN_NAMES])
        return (
            "no known sensor model has this header: none of its columns holds readings that are "
            f"stored ({others or 'it has no others'}); found: {shown}"
        )

    def distance(model: Model) -> tuple[int, int]:
        wanted = set(model.core)
        return len(wanted - present), -len(wanted & present)

    nearest = min(contract.models.values(), key=distance)
    missing = missing_keys + [name for name in nearest.core if name not in present]
    if len(missing) == len(KEY_COLUMNS) + len(nearest.core):
        return (
            "the first line is not a header of air-quality readings; found: "
            f"{shown}; expected columns such as {', '.join(KEY_COLUMNS)}, P1, P2"
        )
    columns = ", ".join(f"'{name}'" for name in missing)
    return (
        f"no known sensor model has this header; the nearest is {nearest.name.upper()}, "
        f"for which {columns} is missing; found: {shown}"
    )
