"""Edits: what a person has changed in a sheet of rejected rows, and what is wrong with the sheet.

A sheet is the CSV in quarantine/, or an exported one. Spreadsheets save it with other separators,
a byte order mark, other line ends, columns in another order; all that is read as it is meant. A
row is found by its line number, never by its place. Only a row whose cells differ from what was
written counts as edited: all others are taken as they stood in their file, byte for byte. A row
that lacks nothing but empty cells at its end looks whole in a spreadsheet: it counts as edited
when its reasons were cleared.

A row that stands there exactly as it was written is passed over without being taken apart, so that
a million untouched rows cost little. What was edited is held as columns.

What cannot be understood is a `Problem` that names row and column and says what to do. Nothing is
guessed, and whatever is not taken stays where it is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.contract.header import Header
from pipeline.core.records import Ints
from pipeline.files.quarantine import LEADING, fields, own_names, written
from pipeline.rework.changes import NONE, Changes, Edits
from pipeline.rework.columns import Columns, cell, trimmed
from pipeline.rework.headers import Headers
from pipeline.rework.layout import Layout
from pipeline.rework.lines import Record
from pipeline.rework.sheet import (
    FILE_ID,
    Piece,
    Problem,
    Sheet,
    is_header,
)
from pipeline.spreadsheet import restored
from pipeline.store.read.entries import Entry
from pipeline.store.rejected import RejectedRow, RejectedRows, Told

_CHUNK = 20_000
_MISSES = 3  # blocks that are not as they were written, before no more are expected to be
_MOST_PROBLEMS = 1_000  # told one by one
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


class Stored(Protocol):
    """Who knows the rows of a file: a `Workbench`."""

    def open_rows(self, file_id: int, *, told: Told) -> Generator[RejectedRows]:
        """Yield all open rows of a file, in its order, some thousands at a time."""

    def rows_at(self, file_id: int, lines: Sequence[int]) -> RejectedRows:
        """Return the rows of a file at some of its lines, whatever became of them."""


def edits(sheet: Sheet, entry: Entry, headers: Headers, rows: Stored) -> Edits:
    """Compare a sheet with the rows of a file as they were rejected.

    Args:
        sheet: what a person has left.
        entry: the file.
        headers: what names its columns.
        rows: the file's rows.

    Raises:
        Unreadable: columns that decide are missing.
        DiskTrouble: the sheet cannot be read any more.
    """
    reading = _Reading(sheet, entry, headers)
    misses = 0 if reading.layout else _MISSES
    with closing(rows.open_rows(entry.file_id, told="messages")) as waiting:
        for piece in sheet.pieces(entry.file_id):
            rest: Piece | None = piece
            while rest is not None:
                # Most of a sheet stands there as it was written, in the order of its lines.
                block = next(waiting, None) if misses < _MISSES else None
                if block is not None and (after := reading.untouched(rest, block)):
                    rest, misses = after, 0
                    continue
                misses += 1
                chunk, rest = reading.rows(rest, _CHUNK if block is None else len(block))
                if chunk:
                    numbers = [row.number for row in chunk]
                    reading.take(chunk, rows.rows_at(entry.file_id, numbers))
    return reading.finish()


@dataclass(slots=True)
class _Row:
    """A row of the sheet: its line number, and its cells where they were needed already."""

    number: int
    row: int
    text: str
    cells: list[str] | None


def _likeness(head: Sequence[str], names: Sequence[str]) -> tuple[int, bool]:
    """Return how many of the names a sheet's header has, and whether they are all it has."""
    lower = [restored(name).strip().casefold() for name in head]
    named = [name for name in lower if name][len(LEADING) :]
    return sum(name in lower for name in names), named == [
        name for name in names if not name.startswith("unnamed_")
    ]


class _Reading:
    def __init__(self, sheet: Sheet, entry: Entry, headers: Headers) -> None:
        self._sheet = sheet
        self._entry = entry
        self._headers = headers
        one = not headers.starts
        self.layout = Layout.of_sheet(sheet, entry, headers.first) if one else None
        self._file_at, self._line_at = sheet.at(FILE_ID), sheet.at(LEADING[0])
        self._found = Edits()
        self._more_problems = 0
        self._numbers: list[Ints] = []
        self._rows: list[Ints] = []
        self._present: list[Ints] = []
        self._changed: list[Changes] = []
        self._commas = 0
        self._heads = [sheet.names] if one else sheet.headers()
        self._columns: dict[str, Columns] = {}
        if one:  # of several headers, only those with rows are needed
            self._columns_of(headers.first)

    def _columns_of(self, header: Header) -> Columns:
        if header.line not in self._columns:
            names = [name.casefold() for name in own_names(header)]
            best = max(self._heads, key=lambda head: _likeness(head, names))
            width = len(LEADING) + len(names)
            if len(self._heads) > 1 and not any(best[width:]):
                best = best[:width]  # a spreadsheet fills up all rows to the widest
            sheet = replace(self._sheet, names=best)
            self._columns[header.line] = Columns(sheet, self._entry, header)
        return self._columns[header.line]

    def untouched(self, piece: Piece, block: RejectedRows) -> Piece | None:
        """Take open rows if a piece begins with just these; return what comes after them."""
        if self.layout is None:
            return None
        text = self.layout.written(block)
        if not self._sheet.beginning(piece, text):
            return None
        after = piece.start + len(text)
        if piece.end is not None and after > piece.end:
            return None
        lines = block.line_no
        self._numbers.append(lines)
        self._rows.append(np.arange(piece.row, piece.row + len(lines)))
        self._present.append(lines)
        return Piece(after, piece.end, piece.row + len(lines))

    def rows(self, piece: Piece, size: int) -> tuple[list[_Row], Piece | None]:
        """Return the first rows of a piece whose line number can be read, and the rest of it."""
        found: list[_Row] = []
        for record, rest in self._sheet.records(piece):
            if len(found) == size:
                return found, rest
            if row := self._own_row(record):
                found.append(row)
        return found, None

    def _own_row(self, record: Record) -> _Row | None:
        """Return a row of this file if its line number can be read."""
        layout = self.layout
        if layout and (number := layout.number_in(record.text)) is not None:
            # Cells of a row that goes on below are not to be had later.
            quoted = record.cells() if '"' in record.text else None
            return _Row(number, record.row, record.text, quoted)
        cells = record.cells()
        file_at, own = self._file_at, str(self._entry.file_id)
        if not any(cells) or (file_at is not None and cell(cells, file_at).strip() != own):
            return None
        text = cell(cells, self._line_at).strip()
        if is_header(text):
            return None
        if not text.isdecimal() or len(text) > 18:
            self._problem(
                record.row,
                LEADING[0],
                f"'{text[:40]}' is not a line number: put back the one that stood there; "
                "the row was not taken",
            )
            return None
        return _Row(int(text), record.row, record.text, cells)

    def take(self, chunk: Sequence[_Row], stored: RejectedRows) -> None:
        """Note what some rows of the sheet say."""
        self._numbers.append(np.array([row.number for row in chunk], np.int64))
        self._rows.append(np.array([row.row for row in chunk], np.int64))
        places = {number: at for at, number in enumerate(stored.line_no.tolist())}
        layout = self.layout
        shown = layout.texts(stored)[0].to_pylist() if layout else []
        states = stored.state
        present: list[int] = []
        changed: list[tuple[int, int, bytes]] = []
        for row in chunk:
            at = places.get(row.number)
            if at is not None and layout and layout.untouched(row.text, row.number, shown[at]):
                if states[at] == "open":
                    present.append(row.number)
                continue
            text = self._edited(row, None if at is None else stored.rows[at])
            if text is not None:
                present.append(row.number)
                if text:
                    changed.append((row.number, row.row, text))
        self._present.append(np.array(present, np.int64))
        if changed:
            lines, rows, texts = zip(*changed, strict=True)
            self._changed.append(
                Changes(
                    np.array(lines, np.int64),
                    np.array(rows, np.int64),
                    pa.array(texts, pa.binary()),
                )
            )

    def _edited(self, row: _Row, stored: RejectedRow | None) -> bytes | None:
        """Return the line that a row makes; empty: it is as it was; None: it is not taken."""
        number, at = row.number, row.row
        if stored is None:
            self._problem(
                at,
                LEADING[0],
                f"line {number:,} of {self._entry.name} was never rejected: put back the number "
                "that stood there; the row was not taken",
            )
            return None
        cells = row.text.split(self._sheet.delimiter) if row.cells is None else row.cells
        header = self._headers.at(number)
        columns = self._columns_of(header)
        before = fields(header, stored.present)
        row_is = columns.row(cells, before)
        own, extra = row_is.own, row_is.extra
        if row_is.foreign:
            self._found.surplus = True
        if row_is.same and not (row_is.cleared and len(before) < len(columns.names)):
            return b"" if stored.state == "open" else None
        text = self._line(stored, own, extra)
        if stored.state != "open":
            # As it stood once, or as it came back: the sheet is only older than the decision.
            untouched = trimmed(own + extra) == trimmed(fields(header, stored.exact))
            if not untouched and text != stored.present:
                self._say_settled(stored, at)
            return None
        if b"\n" in text or b"\r" in text:
            for name, value in zip([*columns.names, *[""] * len(extra)], own + extra, strict=True):
                if "\n" in value or "\r" in value:
                    self._problem(
                        at,
                        name or None,
                        "the cell holds a line break, most often after a quotation mark that is "
                        "not closed: take it out; the row was not taken",
                    )
                    return None
        if b"," in text:
            self._commas += sum(bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in own) > 1
        return text

    def finish(self) -> Edits:
        """Return what was found, with what holds for the sheet as a whole."""
        found = self._found
        found.present = _sorted(self._present)
        found.changed = Changes.of(self._changed)
        self._drop_repeated()
        if foreign := [name for each in self._columns.values() for name in each.foreign_names]:
            names = ", ".join(f"'{name}'" for name in dict.fromkeys(foreign))
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
        if self._more_problems:
            message = f"{self._more_problems:,} more rows were not taken, for reasons like these"
            found.problems.append(Problem(self._sheet.name, None, None, message))
        return found

    def _drop_repeated(self) -> None:
        """Take none of the rows that name the same line, and say so of the later ones."""
        if not self._numbers:
            return
        lines, rows = np.concatenate(self._numbers), np.concatenate(self._rows)
        order = np.argsort(lines, kind="stable")
        lines, rows = lines[order], rows[order]
        later = np.flatnonzero(lines[1:] == lines[:-1]) + 1
        if not len(later):
            return
        found = self._found
        told = set(rows[later].tolist())
        found.problems = [problem for problem in found.problems if problem.row not in told]
        for at in later.tolist():
            first = int(rows[np.searchsorted(lines, lines[at])])
            self._problem(
                int(rows[at]),
                LEADING[0],
                f"line {int(lines[at]):,} stands in row {first:,} already: take one of the two "
                "out; neither was taken",
            )
        twice = lines[later]
        found.present = found.present[~np.isin(found.present, twice)]
        found.changed = found.changed.without(twice)

    def _line(self, row: RejectedRow, own: list[str], extra: list[str]) -> bytes:
        header = self._headers.at(row.line_no)
        delimiter = header.delimiter
        leading: list[str] = []
        if len(own_names(header)) < len(header.names):
            # A quarantine file that was dropped as it was: our two columns are its own first ones.
            try:
                first = next(csv.reader([row.line], delimiter=delimiter), [])
            except csv.Error:
                first = row.line.split(delimiter)
            leading = [*first, "", ""][: len(LEADING)]
        return written([*leading, *own, *extra], delimiter).removesuffix("\n").encode()

    def _say_settled(self, row: RejectedRow, at: int) -> None:
        if row.state == "repaired":
            told = f"line {row.line_no:,} was repaired already, in file {row.replay_file_id}"
        else:
            told = f"line {row.line_no:,} was discarded: '{row.note}'"
        self._problem(at, None, f"{told}; this edit of it was not taken")

    def _problem(self, row: int, column: str | None, message: str) -> None:
        if len(self._found.problems) < _MOST_PROBLEMS:
            self._found.problems.append(Problem(self._sheet.name, row, column, message))
        else:
            self._more_problems += 1
        self._found.surplus = True


def _sorted(parts: Sequence[Ints]) -> Ints:
    return np.unique(np.concatenate(parts)) if parts else NONE
