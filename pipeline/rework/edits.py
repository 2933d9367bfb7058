"""Edits: what a person has changed in a sheet of rejected rows, and what is wrong with the sheet.

A sheet is the CSV in quarantine/, or an exported one. Spreadsheets save it with other separators,
a byte order mark, other line ends, columns in another order; all that is read as it is meant. A
row is found by its line number, never by its place. Only a row whose cells differ from what was
written counts as edited: all others are taken as they stood in their file, byte for byte. A row
that lacks nothing but empty cells at its end looks whole in a spreadsheet: it counts as edited
when its reasons were cleared.

What cannot be understood is a `Problem` that names row and column and says what to do. Nothing is
guessed, and whatever is not taken stays where it is.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.contract.header import Header
from pipeline.errors import DiskTrouble, FileChanged
from pipeline.steps.quarantine import LEADING, fields, written
from pipeline.steps.read import opened
from pipeline.steps.split import wanted_columns
from pipeline.store.rework import Entry, QuarantinedRow

DELIMITERS = (";", ",", "\t")
FILE_ID, FILE, EXTRA = "file_id", "file", "extra_"
_CHUNK = 5_000
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a sheet, and what to do.

    Attributes:
        sheet: its name.
        row: the row as a spreadsheet counts them, the header being 1; None for the sheet itself.
        column: the column's name, or None.
        message: the sentence.
        harmless: whether all rows were taken all the same.
    """

    sheet: str
    row: int | None
    column: str | None
    message: str
    harmless: bool = False

    def __str__(self) -> str:
        """Return where, and what."""
        where = [self.sheet]
        where += [f"row {self.row:,}"] if self.row is not None else []
        where += [f"column '{self.column}'"] if self.column is not None else []
        return f"{', '.join(where)}: {self.message}"


class Unreadable(Exception):  # a finding, not an error: the sheet is left alone
    """A sheet of which no row can be taken."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Edit:
    """A row of a sheet that differs from what was written there.

    Attributes:
        row: where it stands in the sheet; the header is row 1.
        fields: the file's own columns, as the person left them.
        text: the line they make.
    """

    row: int
    fields: tuple[str, ...]
    text: bytes


@dataclass(slots=True)
class Edits:
    """What a sheet says about the rows of one file.

    Attributes:
        changed: line number → its edit.
        present: the line numbers that the sheet has, edited or not.
        problems: what is wrong.
        surplus: whether it holds something that is written down nowhere else.
    """

    changed: dict[int, Edit] = field(default_factory=dict)
    present: set[int] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    surplus: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet, decoded.

    Attributes:
        name: what to call it.
        names: its header.
        text: its text.
        delimiter: what separates its cells.
        skipped: how many lines stand before the header.
    """

    name: str
    names: tuple[str, ...]
    text: str
    delimiter: str
    skipped: int

    def at(self, name: str) -> int | None:
        """Return the position of a column, whatever its case."""
        wanted = name.casefold()
        return next((i for i, n in enumerate(self.names) if n.casefold() == wanted), None)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the cells of every row below the header; blank ones are passed."""
        lines = io.StringIO(self.text, newline="")
        for number, cells in enumerate(csv.reader(lines, delimiter=self.delimiter), start=1):
            if number > self.skipped + 1 and any(cells):
                yield number, cells

    def files(self) -> set[int]:
        """Return the numbers of the files that an exported sheet has rows of."""
        at = self.at(FILE_ID)
        if at is None:
            return set()
        return {
            int(cells[at])
            for _, cells in self.rows()
            if len(cells) > at and cells[at].strip().isdecimal()
        }


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a sheet.

    Raises:
        DiskTrouble: it cannot be read.
    """
    try:
        with opened(path) as file:
            return file.readall() if isinstance(file, io.RawIOBase) else file.read()
    except FileChanged as error:
        raise DiskTrouble(str(error)) from error


def decode(name: str, raw: bytes) -> Sheet:
    """Read a sheet's header.

    Raises:
        Unreadable: it is not one of ours, or its text cannot be read.
    """
    save = "save it as 'CSV UTF-8'; nothing of it was taken"
    if raw.startswith(b"PK\x03\x04"):
        raise Unreadable(Problem(name, None, None, f"this is a workbook, not a CSV file: {save}"))
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable(Problem(name, None, None, f"this is UTF-16 text: {save}"))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{raw[error.start]:02X} is not UTF-8: {save}"
        raise Unreadable(Problem(name, row, None, found)) from None
    lines = text.split("\n", 2)
    skipped = int(lines[0].casefold().startswith("sep="))  # how Excel notes the separator
    first = lines[min(skipped, len(lines) - 1)].rstrip("\r")
    delimiter = max(DELIMITERS, key=first.count)
    names = next(csv.reader([first], delimiter=delimiter), [])
    sheet = Sheet(name, tuple(n.strip() for n in names), text, delimiter, skipped)
    if sheet.at(LEADING[0]) is None:
        message = (
            f"the column '{LEADING[0]}' is missing: without it nobody can tell which row is which; "
            "put it back, or export the rows again. Nothing was taken"
        )
        raise Unreadable(Problem(name, 1, LEADING[0], message))
    return sheet


def edits(
    sheet: Sheet,
    entry: Entry,
    header: Header,
    stored: Callable[[Sequence[int]], Sequence[QuarantinedRow]],
) -> Edits:
    """Compare a sheet with the rows of a file as they were rejected.

    Args:
        sheet: what a person has left.
        entry: the file.
        header: what names its columns.
        stored: looks up the file's rows by their line numbers.

    Raises:
        Unreadable: columns that decide are missing.
    """
    reading = _Reading(sheet, entry, header)
    rows = iter(reading.own_rows())
    while chunk := list(islice(rows, _CHUNK)):
        known = {row.line_no: row for row in stored([number for number, _, _ in chunk])}
        for number, at, cells in chunk:
            reading.take(known.get(number), number, at, cells)
    return reading.finish()


class _Reading:
    def __init__(self, sheet: Sheet, entry: Entry, header: Header) -> None:
        self._sheet = sheet
        self._entry = entry
        self._header = header
        self._found = Edits()
        self._seen: dict[int, int] = {}
        self._twice: set[int] = set()
        self._commas = 0
        own = fields(header, header.line.encode())
        self._own = [name.strip() for name in own]
        self._names = list(header.names[len(header.names) - len(own) :])
        self._at = self._columns()
        ours = {*LEADING, FILE_ID, FILE}
        mapped = {at for at in self._at if at is not None}
        self._extras = []
        self._foreign = []
        exported = sheet.at(FILE_ID) is not None
        for at, name in enumerate(sheet.names):
            if at in mapped or name.casefold() in ours:
                continue
            if not name or name.casefold().startswith(EXTRA):
                self._extras.append(at)
            elif not exported:  # there, other files' columns stand beside
                self._foreign.append(at)

    def _columns(self) -> list[int | None]:
        """Return for each of the file's columns where it is in the sheet."""
        free = [at for at, name in enumerate(self._sheet.names) if not name]
        found: list[int | None] = []
        for own, name in zip(self._own, self._names, strict=True):
            at = self._sheet.at(own) if own else None
            at = self._sheet.at(name) if at is None else at
            if at is None and not own and free and free[0] < len(self._own) + len(LEADING):
                at = free.pop(0)
            found.append(at)
        wanted = set(wanted_columns(self._header))
        gone = [n for n, at in zip(self._names, found, strict=True) if at is None and n in wanted]
        if gone:
            columns = ", ".join(f"'{name}'" for name in gone)
            message = (
                f"the {'column' if len(gone) == 1 else 'columns'} {columns} of {self._entry.name} "
                f"{'is' if len(gone) == 1 else 'are'} missing: put back what was there, or export "
                "the rows again. Nothing was taken"
            )
            raise Unreadable(Problem(self._sheet.name, 1, gone[0], message))
        return found

    def own_rows(self) -> Iterator[tuple[int, int, list[str]]]:
        """Yield line number, row number and cells of the rows of this file."""
        file_at, line_at = self._sheet.at(FILE_ID), self._sheet.at(LEADING[0])
        for row, cells in self._sheet.rows():
            if file_at is not None and _cell(cells, file_at).strip() != str(self._entry.file_id):
                continue
            number = _cell(cells, line_at).strip()
            if not number.isdecimal() or len(number) > 18:
                self._problem(
                    row,
                    LEADING[0],
                    f"'{number[:40]}' is not a line number: put back the one that stood there; "
                    "the row was not taken",
                )
                continue
            if (first := self._seen.setdefault(int(number), row)) != row:
                self._problem(
                    row,
                    LEADING[0],
                    f"line {int(number):,} stands in row {first:,} already: take one of the two "
                    "out; neither was taken",
                )
                self._twice.add(int(number))
                self._found.changed.pop(int(number), None)
                self._found.present.discard(int(number))
                continue
            yield int(number), row, cells

    def take(self, row: QuarantinedRow | None, number: int, at: int, cells: list[str]) -> None:
        """Note what a row of the sheet says."""
        if number in self._twice:
            return
        if row is None:
            self._problem(
                at,
                LEADING[0],
                f"line {number:,} of {self._entry.name} was never rejected: put back the number "
                "that stood there; the row was not taken",
            )
            return
        width = len(self._names)
        before = fields(self._header, row.present)
        shown = before[:width] + [""] * (width - len(before))
        own = [
            shown[i] if place is None else _cell(cells, place) for i, place in enumerate(self._at)
        ]
        known = {place for place in self._at if place is not None}
        beyond = range(len(self._sheet.names), len(cells))
        extra = _trimmed([_cell(cells, i) for i in [*self._extras, *beyond] if i not in known])
        for place in self._foreign:
            if _cell(cells, place):
                self._found.surplus = True
        same = _trimmed(own + extra) == _trimmed(shown + before[width:])
        if same and not (self._cleared(cells) and len(before) < width):
            if row.state == "open":
                self._found.present.add(number)
            return
        text = self._line(row, own, extra)
        if row.state != "open":
            # As it stood once, or as it came back: the sheet is only older than the decision.
            untouched = _trimmed(own + extra) == _trimmed(fields(self._header, row.exact))
            if not untouched and text != row.present:
                self._told_settled(row, at)
            return
        for name, cell in zip([*self._names, *[""] * len(extra)], own + extra, strict=True):
            if "\n" in cell or "\r" in cell:
                self._problem(
                    at,
                    name or None,
                    "the cell holds a line break, most often after a quotation mark that is not "
                    "closed: take it out; the row was not taken",
                )
                return
        self._found.present.add(number)
        self._found.changed[number] = Edit(at, (*own, *extra), text)
        self._commas += sum(bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in own) > 1

    def finish(self) -> Edits:
        """Return what was found, with what holds for the sheet as a whole."""
        found = self._found
        if self._foreign:
            names = ", ".join(f"'{self._sheet.names[at]}'" for at in self._foreign)
            message = f"not a column of {self._entry.name}: {names}; ignored"
            found.problems.append(Problem(self._sheet.name, 1, None, message, harmless=True))
        if self._commas > 1 and self._commas * 2 > len(found.changed):
            message = (
                f"{self._commas:,} rows have decimal commas: the spreadsheet saved numbers in its "
                "own language; have it write points (in LibreOffice: language English for the "
                "columns; in Excel: the options' decimal separator) and save again"
            )
            found.problems.append(Problem(self._sheet.name, None, None, message))
        found.problems.sort(key=lambda problem: problem.row or 0)
        return found

    def _cleared(self, cells: list[str]) -> bool:
        """Whether somebody has taken the reasons of a row away: it is right as it stands here."""
        at = self._sheet.at(LEADING[1])
        return at is not None and not _cell(cells, at).strip()

    def _line(self, row: QuarantinedRow, own: list[str], extra: list[str]) -> bytes:
        delimiter = self._header.delimiter
        leading: list[str] = []
        if len(self._names) < len(self._header.names):
            # A quarantine file that was dropped as it was: our two columns are its own first ones.
            first = next(csv.reader([row.line], delimiter=delimiter), [])
            leading = [*first, "", ""][: len(LEADING)]
        return written([*leading, *own, *extra], delimiter).removesuffix("\n").encode()

    def _told_settled(self, row: QuarantinedRow, at: int) -> None:
        if row.state == "repaired":
            told = f"line {row.line_no:,} was repaired already, in file {row.replay_file_id}"
        else:
            told = f"line {row.line_no:,} was discarded: '{row.note}'"
        self._problem(at, None, f"{told}; this edit of it was not taken")

    def _problem(self, row: int, column: str | None, message: str) -> None:
        self._found.problems.append(Problem(self._sheet.name, row, column, message))
        self._found.surplus = True


def rows_of(found: Mapping[int, Edit]) -> dict[int, tuple[str, ...]]:
    """Return line number → its fields as the person left them."""
    return {number: edit.fields for number, edit in found.items()}


def _cell(cells: Sequence[str], at: int | None) -> str:
    return cells[at] if at is not None and at < len(cells) else ""


def _trimmed(cells: Sequence[str]) -> list[str]:
    end = len(cells)
    while end and not cells[end - 1]:
        end -= 1
    return list(cells[:end])
