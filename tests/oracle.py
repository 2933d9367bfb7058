"""An oracle: what must become of a file, worked out a second time.

Nothing in here comes from the pipeline. The rules are written down again from the description of
the data, for one row after the other, with `csv`, `struct` and `math` only: slow, and simple
enough to be checked by reading. Where the pipeline and this page disagree, one of them is wrong.

An `Oracle` is given the files in the order of their delivery and keeps what a database has to
hold afterwards. Of readings with the same sensor and time the first that was delivered stays; an
equal one is a duplicate, and one with other values is a conflict. `python -m tests.oracle FILE…`
prints what it says of files of your own.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import re
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

# (column, rule) of every cell that is wrong; the column is None when the row as a whole is.
Broken = frozenset[tuple[str | None, str]]
Key = tuple[int, datetime]
G = TypeVar("G", bound=Hashable)

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}")
FIRST_TIME = datetime(2010, 1, 1, tzinfo=UTC)
HIGHEST_ID = 2**31 - 1
PLACE_UNKNOWN = 1


@dataclass(frozen=True)
class Column:
    """A column of readings: where it goes, what is accepted, what is suspect.

    `low` and `high` are in the file's unit, and `suspect` judges the value as it is stored.
    """

    table: str
    quantity: str
    low: float
    high: float
    suspect: Callable[[float], bool]
    flag: int
    no_reading: tuple[float, ...]
    divisor: float = 1.0


COLUMNS = {
    "P1": Column("raw_particulate", "pm10", 0, 1999.9, lambda v: v > 999.9, 2, (-1, -999, -9999)),
    "P2": Column("raw_particulate", "pm25", 0, 1999.9, lambda v: v >= 999.9, 4, (-1, -999, -9999)),
    "P0": Column("raw_particulate", "pm1", 0, 1999.9, lambda v: v > 999.9, 8, (-1, -999, -9999)),
    "temperature": Column(
        "raw_climate", "temperature", -50, 50, lambda v: v < -30 or v > 45, 2, (-128, -999, -9999)
    ),
    "humidity": Column(
        "raw_climate", "humidity", 0, 100, lambda v: v <= 1 or v >= 99.9, 4, (-1, -999, -9999)
    ),
    "pressure": Column(
        "raw_climate",
        "pressure",
        30_000,
        110_000,
        lambda _: False,
        8,
        (-1, -999, -9999),
        divisor=100,
    ),
}
QUANTITIES = {
    table: tuple(c.quantity for c in COLUMNS.values() if c.table == table)
    for table in ("raw_particulate", "raw_climate")
}

_DUST = ("P1", "P2")
_DHT, _BMP, _BME = (
    ("temperature", "humidity"),
    ("pressure", "temperature"),
    ("pressure", "temperature", "humidity"),
)
# Sensor type → the columns that may not be empty.
TYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("sds011", "sds021", "hpm"), _DUST),
    **dict.fromkeys(("pms1003", "pms3003", "pms5003", "pms6003", "pms7003"), _DUST),
    **dict.fromkeys(("sps30", "nextpm", "ips-7100"), _DUST),
    **dict.fromkeys(("dht11", "dht22", "htu21d", "scd30"), _DHT),
    **dict.fromkeys(("sht10", "sht11", "sht12", "sht15", "sht30", "sht31", "sht35", "sht85"), _DHT),
    **dict.fromkeys(("bmp180", "bmp280"), _BMP),
    "bme280": _BME,
    "ds18b20": ("temperature",),
}
# Sensor type → further columns, which may be empty or missing.
OPTIONAL: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("pms1003", "pms3003", "pms5003", "pms6003", "pms7003", "sps30", "nextpm", "ips-7100"), ("P0",)
)
NOT_STORED = {"ppd42ns", "laerm"}
# A Sofia file does not name its sensors' type: its columns do, the richest first.
SOFIA_TYPES = ("pms5003", "bme280", "sds011", "dht22", "bmp280", "ds18b20")


def columns_of(kind: str) -> tuple[str, ...]:
    """Return all columns of a sensor type that are stored."""
    return (*TYPES[kind], *OPTIONAL.get(kind, ()))


class Reading(NamedTuple):
    """A row as a raw table has to hold it; `values` as in `QUANTITIES`, None for no value."""

    values: tuple[float | None, ...]
    flags: int
    location_id: int | None
    lat: float | None
    lon: float | None
    sha256: str


class Statistics(NamedTuple):
    """Of a group of readings; `std` is the sample standard deviation, None of one reading."""

    n: int
    min: float
    max: float
    mean: float
    std: float | None


@dataclass(frozen=True)
class Bad:
    """A row that belongs in quarantine: its line, verbatim, and everything wrong with it."""

    line: bytes
    broken: Broken


@dataclass
class Book:
    """What one file brought."""

    name: str
    sha256: str
    size: int
    dialect: str
    read: int = 0
    loaded: int = 0
    duplicates: list[int] = field(default_factory=list)
    bad: dict[int, Bad] = field(default_factory=dict)
    types: set[str] = field(default_factory=set)
    first: datetime | None = None
    last: datetime | None = None


class Oracle:
    """What the database has to hold after some files.

    Attributes:
        now: the present; readings may be at most a day ahead of it.
        books: SHA-256 → what the file brought.
        raw: raw table → (sensor, time) → its reading.
        types: sensor → its type.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.books: dict[str, Book] = {}
        self.raw: dict[str, dict[Key, Reading]] = {table: {} for table in QUANTITIES}
        self.types: dict[int, str] = {}

    def take(self, path: Path) -> Book:
        """Take a file as the next one delivered; the same bytes again change nothing."""
        return self.take_bytes(path.name, path.read_bytes())

    def take_bytes(self, name: str, raw: bytes) -> Book:
        """Take a file's bytes, as `take` does."""
        sha256 = hashlib.sha256(raw).hexdigest()
        if sha256 in self.books:
            return self.books[sha256]
        lines = _lines(gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw)
        _, header = next(lines)
        text = header.removeprefix(b"\xef\xbb\xbf").decode()
        delimiter = ";" if text.count(";") > text.count(",") else ","
        names = text.split(delimiter)
        book = Book(name, sha256, len(raw), "archive" if "sensor_type" in names else "sofia")
        self.books[sha256] = book
        for number, line in lines:
            if found := _header(line):
                delimiter, names = found
                continue
            book.read += 1
            broken = self._row(book, number, line, delimiter, names)
            if broken:
                book.bad[number] = Bad(line, broken)
        return book

    def _row(
        self, book: Book, number: int, line: bytes, delimiter: str, names: list[str]
    ) -> Broken:
        """Load or count one row; return what is wrong with it."""
        fields = split(line, delimiter, len(names))
        if isinstance(fields, str):
            return frozenset({(None, fields)})
        row = dict(zip(names, fields, strict=True))
        if "sensor_type" in names:
            kind = row["sensor_type"].strip().lower()
            if not kind:
                return frozenset({("sensor_type", "null")})
            if kind in NOT_STORED:
                return frozenset({("sensor_type", "not_stored")})
            if not set(TYPES.get(kind, ["unknown"])) <= set(names):
                return frozenset({("sensor_type", "model")})
        else:
            kind = next(kind for kind in SOFIA_TYPES if set(columns_of(kind)) <= set(names))
        if broken := self._judged(row, kind):
            return broken
        book.types.add(kind)
        table = COLUMNS[TYPES[kind][0]].table
        key = (whole(row["sensor_id"]), moment(row["timestamp"]))
        reading = stored(row, kind, book.sha256)
        known = self.raw[table].setdefault(key, reading)
        if known is not reading:
            # A kind without some quantity says nothing about it.
            own = {COLUMNS[name].quantity for name in columns_of(kind)}
            pairs = zip(QUANTITIES[table], reading.values, known.values, strict=True)
            if all(ours == theirs for name, ours, theirs in pairs if name in own):
                book.duplicates.append(number)
                return frozenset()
            return frozenset({(None, "conflict")})
        book.loaded += 1
        self.types.setdefault(key[0], kind)
        book.first = min(book.first or key[1], key[1])
        book.last = max(book.last or key[1], key[1])
        return frozenset()

    def _judged(self, row: dict[str, str], kind: str) -> Broken:
        broken = set(place_faults(row["sensor_id"], row["location"], row["lat"], row["lon"]))
        if rule := time_fault(row["timestamp"], self.now):
            broken.add(("timestamp", rule))
        for name in TYPES[kind]:
            if rule := reading_fault(row[name], name, kind):
                broken.add((name, rule))
        for name in OPTIONAL.get(kind, ()):
            text = row.get(name, "")
            if text.strip() and (rule := reading_fault(text, name, kind)):
                broken.add((name, rule))
        return frozenset(broken)

    def by_file(self) -> dict[tuple[str, int, str], Statistics]:
        """Return the statistics per file (its SHA-256), sensor and quantity."""
        return _grouped(
            ((reading.sha256, sensor, quantity), value)
            for sensor, _, reading, quantity, value in self._values()
        )

    def hourly(self) -> dict[tuple[int, str, datetime], Statistics]:
        """Return the statistics per sensor, quantity and hour."""
        return _grouped(
            ((sensor, quantity, time.replace(minute=0, second=0, microsecond=0)), value)
            for sensor, time, _, quantity, value in self._values()
        )

    def _values(self) -> Iterator[tuple[int, datetime, Reading, str, float]]:
        for table, rows in self.raw.items():
            for (sensor, time), reading in rows.items():
                for quantity, value in zip(QUANTITIES[table], reading.values, strict=True):
                    if value is not None:
                        yield sensor, time, reading, quantity, value


# --- Lines and fields ----------------------------------------------------------------------------


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of every line that is not blank; the first line is number 1."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        kept = line.removesuffix(b"\r")
        if kept.replace(b'""', b"").strip(b" \t\r\v\f;,|"):
            yield number, kept


def _header(line: bytes) -> tuple[str, list[str]] | None:
    """Return the delimiter and the columns that a line names, if it is a header."""
    text = line.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    delimiter = ";" if text.count(";") > text.count(",") else ","
    names = text.split(delimiter)
    if not {"sensor_id", "location", "lat", "lon", "timestamp"} <= set(names):
        return None
    return (delimiter, names) if any(set(each) <= set(names) for each in TYPES.values()) else None


def split(line: bytes, delimiter: str, width: int) -> list[str] | str:
    """Return a line's fields, or the rule that it breaks as a whole."""
    if b"\0" in line:
        return "nul_byte"
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "encoding"
    if "\r" in text:
        return "width"
    if '"' not in text:
        fields = text.split(delimiter)
    else:
        # What is left without the properly quoted fields must be free of quotation marks.
        mark = re.escape(delimiter)
        if '"' in re.sub(rf'(?<![^{mark}])"(?:[^"]|"")*"(?![^{mark}])', "", text):
            return "quote"
        fields = next(csv.reader([text], delimiter=delimiter))
    if len(fields) != width:
        return "width"
    return fields


# --- Cells: the rule that one breaks, or an empty text -------------------------------------------


@cache
def place_faults(sensor_id: str, location: str, lat: str, lon: str) -> Broken:
    """Judge which sensor it was, and where; an empty place is a place unknown."""
    found = {
        "sensor_id": _id_fault(sensor_id) if sensor_id.strip() else "null",
        "location": _id_fault(location, least=0) if location.strip() else "",
        "lat": _degrees_fault(lat, 90),
        "lon": _degrees_fault(lon, 180),
    }
    if not found["lat"] and not found["lon"] and _zero(lat) and _zero(lon):
        found["lat,lon"] = "null_island"
    return frozenset((column, rule) for column, rule in found.items() if rule)


def _id_fault(text: str, least: int = 1) -> str:
    if not re.fullmatch(r"[+-]?[0-9]+(\.0*)?", text.strip()):
        return "type"
    return "" if least <= whole(text) <= HIGHEST_ID else "range"


def whole(text: str) -> int:
    """Return a whole number, which may be written with .0 at its end."""
    return int(text.partition(".")[0])


def _degrees_fault(text: str, most: float) -> str:
    return _number_fault(text) or (
        "range" if text.strip() and not -most <= float(text) <= most else ""
    )


def _zero(text: str) -> bool:
    return bool(text.strip()) and float(text) == 0


def time_fault(text: str, now: datetime) -> str:
    """Judge a time."""
    try:
        time = moment(text)
    except ValueError:
        text = text.strip()
        if not text:
            return "null"
        day_number = re.fullmatch(r"[0-9]{5}([.,][0-9]+)?", text)
        day_first = re.match(r"[0-9]{1,2}([./-])[0-9]{1,2}\1([0-9]{4}|[0-9]{2})\b", text)
        return "spreadsheet_date" if day_number or day_first else "timestamp"
    return "" if FIRST_TIME <= time <= now + timedelta(days=1) else "range"


@cache
def reading_fault(text: str, name: str, kind: str) -> str:
    """Judge a reading."""
    if not text.strip():
        return "null"
    if fault := _number_fault(text):
        return fault
    number, column = float(text), COLUMNS[name]
    if column.low <= number <= column.high:
        return ""
    if number in column.no_reading or (kind == "ds18b20" and number in {85, -127}):
        return "sentinel"
    if name == "pressure" and 300 <= number <= 1100:
        return "unit"
    return "range"


def _number_fault(text: str) -> str:
    text = text.strip()
    if not text or re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
        return ""
    if text.lstrip("+-").lower() in {"nan", "inf", "infinity"}:
        return "not_finite"
    return "decimal_comma" if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", text) else "type"


# --- Values as they are stored -------------------------------------------------------------------


@lru_cache(maxsize=8)
def moment(text: str) -> datetime:
    """Return a time in UTC; one without a zone is UTC already.

    Raises:
        ValueError: it is not a date with a time of day.
    """
    text = text.strip()
    if not _TIME.match(text):
        raise ValueError(text)
    ends = re.fullmatch(r"(.{10}.)24(:00(?:00|:00(?:[.,]0+)?)?(?:[Zz]|[+-].*)?)", text)
    usual = f"{ends[1]}00{ends[2]}" if ends else text
    time = datetime.fromisoformat(usual.upper().replace(",", ".")) + timedelta(days=bool(ends))
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def single(value: float) -> float:
    """Round to the nearest 32-bit float."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def stored(row: dict[str, str], kind: str, sha256: str) -> Reading:
    """Return a good row as it is stored."""
    given = {
        COLUMNS[name].quantity: value(row[name], name)
        for name in columns_of(kind)
        if row.get(name, "").strip()
    }
    location_id, lat, lon = place(row["location"], row["lat"], row["lon"])
    flags = sum(flag for _, flag in given.values())
    if location_id is None or lat is None or lon is None:
        flags += PLACE_UNKNOWN
    quantities = QUANTITIES[COLUMNS[TYPES[kind][0]].table]
    values = [given[name][0] if name in given else None for name in quantities]
    return Reading(tuple(values), flags, location_id, lat, lon, sha256)


@cache
def value(text: str, name: str) -> tuple[float, int]:
    """Return a good reading as it is stored, and its flag."""
    column = COLUMNS[name]
    number = float(text) / column.divisor
    return single(number), column.flag if column.suspect(number) else 0


@cache
def place(location: str, lat: str, lon: str) -> tuple[int | None, float | None, float | None]:
    """Return a good place as it is stored; None for what is empty."""
    location, lat, lon = location.strip(), lat.strip(), lon.strip()
    return (
        whole(location) if location else None,
        float(lat) if lat else None,
        float(lon) if lon else None,
    )


# --- Statistics ----------------------------------------------------------------------------------


def statistics(values: Sequence[float]) -> Statistics:
    """Return the statistics of some values, in exact sums."""
    n = len(values)
    mean = math.fsum(values) / n
    square = math.fsum((value - mean) ** 2 for value in values)
    std = math.sqrt(square / (n - 1)) if n > 1 else None
    return Statistics(n, min(values), max(values), mean, std)


def _grouped(values: Iterable[tuple[G, float]]) -> dict[G, Statistics]:
    groups: defaultdict[G, list[float]] = defaultdict(list)
    for group, value in values:
        groups[group].append(value)
    return {group: statistics(members) for group, members in groups.items()}


# --- Comparing -----------------------------------------------------------------------------------


def assert_same(got: Mapping[G, object], due: Mapping[G, object]) -> None:
    """Compare two large mappings; show the first differences only."""
    keys = got.keys() | due.keys()
    wrong = [key for key in keys if key not in got or key not in due or got[key] != due[key]]
    _assert_none(wrong, got, due)


def assert_close(got: Mapping[G, Statistics], due: Mapping[G, Statistics]) -> None:
    """Compare statistics: number and bounds exactly, mean and spread but for rounding.

    The readings are the very same 32-bit floats on both sides, and sums are made of 64-bit floats.
    So a mean may differ by a millionth of itself, and a spread by 0.000001, which is far less than
    the readings resolve (0.00006 at 1,000 hPa).
    """
    keys = got.keys() | due.keys()
    wrong = [
        key for key in keys if key not in got or key not in due or not _close(got[key], due[key])
    ]
    _assert_none(wrong, got, due)


def _close(ours: Statistics, theirs: Statistics) -> bool:
    if ours[:3] != theirs[:3] or (ours.std is None) != (theirs.std is None):
        return False
    mean = math.isclose(ours.mean, theirs.mean, rel_tol=1e-6, abs_tol=1e-9)
    return mean and abs((ours.std or 0) - (theirs.std or 0)) <= 1e-6


def _assert_none(wrong: list[G], got: Mapping[G, object], due: Mapping[G, object]) -> None:
    shown = [f"{key}:\n  got {got.get(key)}\n  due {due.get(key)}" for key in wrong[:5]]
    if wrong:
        message = f"{len(wrong)} of {len(due)} differ, for example\n" + "\n".join(shown)
        raise AssertionError(message)


# --- By hand -------------------------------------------------------------------------------------


def main(paths: Sequence[str]) -> None:
    """Print the books of files, delivered in this order, and the rows that are not loaded."""
    oracle = Oracle(datetime.now(UTC))
    for path in paths:
        book = oracle.take(Path(path))
        print(
            f"{book.name}: {book.read} rows read, {book.loaded} loaded, "
            f"{len(book.duplicates)} duplicate, {len(book.bad)} quarantined"
        )
        for number, bad in book.bad.items():
            reasons = ", ".join(
                f"{column or 'row'} {rule}" for column, rule in sorted(bad.broken, key=str)
            )
            print(f"  line {number}: {reasons}")


if __name__ == "__main__":
    main(sys.argv[1:])
