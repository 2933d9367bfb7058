"""Why: where a reading came from, line for line, and what else arrived for its sensor and time.

The raw tables name the file. Its line is found by reading the archived bytes again, block by
block, after their hash has been verified. Rows in quarantine are in the database. Duplicates are
only counted there, so whoever has some is read again too, as far as the bytes are to be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from pipeline.config import Settings
from pipeline.contract import PARTIAL, PLACE_UNKNOWN, Contract, flag_bits
from pipeline.contract.header import Header
from pipeline.contract.rules import ReasonRecord
from pipeline.contract.timestamps import parse_time
from pipeline.core.records import Block
from pipeline.errors import FileRefused, Transient
from pipeline.files.quarantine import fields, own_names
from pipeline.rework import sources
from pipeline.rework.headers import Headers
from pipeline.store.read.entries import Entry, parent_of_replay, with_duplicates
from pipeline.store.read.entries import entry as entry_of
from pipeline.store.read.provenance import StoredReading, neighbours, stored_readings
from pipeline.store.read.reader import Connection, Reader
from pipeline.store.read.rejected_rows import QuarantinedRow, replayed_rows, rows_of_sensor

Became = Literal["loaded", "duplicate", "conflict", "quarantined", "repaired", "discarded"]
_MOST_ROWS = 1_000
_MOST_UNREADABLE = 10
_FRACTION = re.compile(r"\.0*$")  # of a whole number


@dataclass(frozen=True, slots=True)
class Line:
    """A line that arrived for a sensor and time.

    Attributes:
        entry: the file that it came in.
        line_no: its number there.
        line: its text, readable.
        became: what became of it. `loaded`: it is the reading.
        reasons: why it was rejected, if it was.
        row: the row in quarantine, if it is or was there.
    """

    entry: Entry
    line_no: int
    line: str
    became: Became
    reasons: tuple[ReasonRecord, ...] = ()
    row: QuarantinedRow | None = None


@dataclass(slots=True)
class Reading:
    """A reading as it is stored.

    Attributes:
        table: the raw table.
        values: quantity → value, without the empty ones.
        flags: the marks on it, in words.
        place: location id, latitude, longitude.
        entry: the file that it came from; a replay's own entry, if that brought it back.
        line: where it stands; None when that is unknown.
        missing: why that is unknown.
        parent: the file whose rejected row it was.
    """

    table: str
    values: dict[str, float]
    flags: list[str]
    place: tuple[int | None, float | None, float | None]
    entry: Entry | None
    line: Line | None = None
    missing: str | None = None
    parent: Entry | None = None


@dataclass(slots=True)
class Told:
    """What is known of a sensor and time.

    Attributes:
        sensor_id: the sensor.
        ts: the time.
        model: its model; None for a sensor that never had a reading.
        readings: what is stored: none, or one.
        others: what else arrived.
        unreadable: rejected rows of the sensor from around that time whose own time cannot be
            read: any of them may be the one.
        previous: time of the reading before.
        next: time of the reading after.
        unknown: name of a file → why it is unknown whether it had a duplicate.
    """

    sensor_id: int
    ts: datetime
    model: str | None
    readings: list[Reading] = field(default_factory=list)
    others: list[Line] = field(default_factory=list)
    unreadable: list[Line] = field(default_factory=list)
    previous: datetime | None = None
    next: datetime | None = None
    unknown: dict[str, str] = field(default_factory=dict)


def why(
    settings: Settings, reader: Reader, contract: Contract, sensor_id: int, ts: datetime
) -> Told:
    """Tell everything that is known of a sensor and time.

    Raises:
        DatabaseUnavailable: the database cannot be asked.
    """
    with reader.snapshot() as connection:
        return _Search(settings, connection, contract, sensor_id, ts).told()


def moment(text: str) -> datetime | None:
    """Return a time as files and people write it, in UTC; None when it cannot be read."""
    try:
        found = parse_time(text.strip())
        return None if found is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class _Search:
    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        contract: Contract,
        sensor_id: int,
        ts: datetime,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._contract = contract
        self._sensor = sensor_id
        self._ts = ts
        self._entries: dict[int, Entry | None] = {}
        self._headers: dict[int, Headers | None] = {}
        digits = str(sensor_id).encode()
        self._digits = digits
        self._named = re.compile(rb"(?<![0-9])" + digits + rb"(?![0-9])")

    def told(self) -> Told:
        around = neighbours(self._connection, self._sensor, self._ts)
        told = Told(self._sensor, self._ts, around.model)
        told.previous, told.next = around.previous, around.next
        rejected = self._rejected(told)
        scanned: set[int] = set()
        for row in stored_readings(self._connection, self._sensor, self._ts):
            reading = self._reading(row)
            told.readings.append(reading)
            self._trace(told, reading, rejected, scanned)
        taken = {
            (reading.line.entry.file_id, reading.line.line_no)
            for reading in told.readings
            if reading.line
        }
        for file_id, line_no in sorted(rejected.keys() - taken):
            told.others += self._in_quarantine(rejected[file_id, line_no])
        if told.readings:
            self._duplicates(told, rejected, scanned)
        # Who has the reading need not wonder which other rows it might have been.
        told.unreadable = [] if told.readings else told.unreadable[:_MOST_UNREADABLE]
        told.others.sort(key=lambda line: (line.entry.file_id, line.line_no))
        return told

    # ---- what is stored ------------------------------------------------------------------------

    def _reading(self, row: StoredReading) -> Reading:
        bits = {bit: name for name, bit in flag_bits(row.table).items()}
        marks = ["the file gave no coordinates"] if row.flags & PLACE_UNKNOWN else []
        marks += ["a reading of this sensor is empty"] if row.flags & PARTIAL else []
        marks += [f"{n} is outside its typical range" for b, n in bits.items() if row.flags & b]
        return Reading(
            row.table,
            {name: value for name, value in row.values.items() if value is not None},
            marks,
            (row.location_id, row.lat, row.lon),
            self._entry(row.file_id),
        )

    def _trace(
        self,
        told: Told,
        reading: Reading,
        rejected: dict[tuple[int, int], QuarantinedRow],
        scanned: set[int],
    ) -> None:
        """Find the line of a reading."""
        entry = reading.entry
        if entry is None:
            return
        if parent := parent_of_replay(entry, self._entry):
            reading.parent = parent
            for row in replayed_rows(self._connection, entry.file_id):
                if self._matches(parent, row.line_no, row.present):
                    reading.line = next(iter(self._in_quarantine(row)), None)
                    return
            reading.missing = "no row of that replay has this time"
            return
        scanned.add(entry.file_id)
        try:
            for number, line in self._lines(entry):
                if (entry.file_id, number) in rejected:
                    continue
                text = line.decode(errors="replace")
                if reading.line is None:
                    reading.line = Line(entry, number, text, "loaded")
                else:
                    told.others.append(Line(entry, number, text, "duplicate"))
        except (FileRefused, Transient) as error:
            reading.missing = str(error)
        if reading.line is None and reading.missing is None:
            reading.missing = "the archived file holds no line with this sensor and time"

    # ---- what else arrived ---------------------------------------------------------------------

    def _rejected(self, told: Told) -> dict[tuple[int, int], QuarantinedRow]:
        """Return the rejected rows with this very key; note those whose time cannot be read."""
        found = {}
        for row in rows_of_sensor(self._connection, self._sensor, self._ts, _MOST_ROWS):
            entry = self._entry(row.file_id)
            if entry is None or entry.state == "retracted":
                continue
            if any(self._matches(entry, row.line_no, line) for line in (row.exact, row.present)):
                found[row.file_id, row.line_no] = row
            elif row.state == "open" and self._timeless(entry, row.line_no, row.exact):
                told.unreadable += self._in_quarantine(row)
        return found

    def _in_quarantine(self, row: QuarantinedRow) -> list[Line]:
        entry = self._entry(row.file_id)
        if entry is None:
            return []
        became: Became
        if row.state == "open":
            only = {reason["rule"] for reason in row.reasons} == {"conflict"}
            became = "conflict" if only else "quarantined"
        else:
            became = "repaired" if row.state == "repaired" else "discarded"
        text = row.exact.decode(errors="replace")
        return [Line(entry, row.line_no, text, became, tuple(row.reasons), row)]

    def _duplicates(
        self,
        told: Told,
        rejected: dict[tuple[int, int], QuarantinedRow],
        scanned: set[int],
    ) -> None:
        span = (self._sensor, self._ts, self._ts)
        for entry in with_duplicates(self._connection, [span]):
            if entry.file_id in scanned or parent_of_replay(entry, self._entry):
                continue  # a replay's rows are among the rejected ones
            try:
                for number, line in self._lines(entry):
                    if (entry.file_id, number) not in rejected:
                        text = line.decode(errors="replace")
                        told.others.append(Line(entry, number, text, "duplicate"))
            except (FileRefused, Transient) as error:
                told.unknown[entry.name] = str(error)

    # ---- lines ---------------------------------------------------------------------------------

    def _lines(self, entry: Entry) -> Iterator[tuple[int, bytes]]:
        """Yield the lines of a file with this sensor and time, in its order.

        Raises:
            FileRefused: its bytes are not to be had, or no longer understood.
        """
        text = sources.text_of(self._settings, entry, self._contract)
        if isinstance(text, sources.Missing):
            raise FileRefused("gone", text.reason)
        for block in text:
            if self._digits in block.text:
                yield from self._within(block)

    def _within(self, block: Block) -> Iterator[tuple[int, bytes]]:
        numbers = np.concatenate(
            [segment.first_line + np.arange(segment.lines) for segment in block.segments]
        )
        line_at, counted, end = 0, 0, -1
        for found in self._named.finditer(block.text):
            if found.start() < end:
                continue  # the line was looked at already
            start = block.text.rfind(b"\n", 0, found.start()) + 1
            end = block.text.find(b"\n", start)
            line_at += block.text.count(b"\n", counted, start)
            counted = start
            line = block.text[start:end].removesuffix(b"\r")
            if self._is_key(block.header, line):
                yield int(numbers[line_at]), line

    def _matches(self, entry: Entry, line_no: int, line: bytes) -> bool:
        header = self._header(entry, line_no)
        return header is not None and self._is_key(header, line)

    def _is_key(self, header: Header, line: bytes) -> bool:
        sensor, time = _key(header, line)
        return sensor == self._sensor and time == self._ts

    def _timeless(self, entry: Entry, line_no: int, line: bytes) -> bool:
        header = self._header(entry, line_no)
        if header is None:
            return False
        _, time = _key(header, line)
        return time is None

    def _header(self, entry: Entry, line_no: int) -> Header | None:
        if entry.file_id not in self._headers:
            try:
                found = sources.headers_of(self._settings, entry, self._contract)
            except (FileRefused, Transient):
                self._headers[entry.file_id] = None
            else:
                self._headers[entry.file_id] = found
        headers = self._headers[entry.file_id]
        return None if headers is None else headers.at(line_no)

    def _entry(self, file_id: int) -> Entry | None:
        if file_id not in self._entries:
            self._entries[file_id] = entry_of(self._connection, file_id)
        return self._entries[file_id]


def _key(header: Header, line: bytes) -> tuple[int | None, datetime | None]:
    """Return sensor and time of a line, as far as they can be read."""
    cells = dict(zip(own_names(header), fields(header, line), strict=False))
    sensor = _FRACTION.sub("", cells.get("sensor_id", "").strip().removeprefix("+"))
    number = int(sensor) if sensor.isdecimal() and len(sensor) < 18 else None
    return number, moment(cells.get("timestamp", ""))
