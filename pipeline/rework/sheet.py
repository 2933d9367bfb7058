"""Sheet: a CSV of rejected rows, read as a person has saved it, a piece at a time.

Spreadsheets save with other separators, a byte order mark, other line ends. A sheet may hold a
million rows, so it is never in memory as a whole: it is read from start to end as often as needed.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.budget import ALWAYS_ALLOWED
from pipeline.contract.header import DELIMITERS, MAX_COLUMNS, MAX_HEADER_BYTES
from pipeline.errors import DiskTrouble, FileChanged
from pipeline.files.disk import trouble
from pipeline.files.quarantine import LEADING
from pipeline.files.read import opened
from pipeline.rework.lines import BOM, LONGEST, Lines, Record
from pipeline.spreadsheet import restored

FILE_ID, FILE, EXTRA = "file_id", "file", "extra_"
_CHUNK = 1 << 20
# A compressed sheet inflates to so many times its size at most; ours do to a fraction of that.
_MOST_AMPLIFICATION = 200


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
class Piece:
    """A part of a sheet that starts with a whole row.

    Attributes:
        start: its first byte.
        end: the byte after it; None: it goes on to the end.
        row: the number of its first row.
    """

    start: int
    end: int | None
    row: int


@dataclass(frozen=True)
class Sheet:
    """A sheet whose header was read.

    Attributes:
        name: what to call it.
        path: where it is.
        names: its header.
        delimiter: what separates its cells.
        skipped: how many lines stand before the header.
        below: the byte after the header.
        sha256: the hash of its bytes as they lie there.
    """

    name: str
    path: Path
    names: tuple[str, ...]
    delimiter: str
    skipped: int
    below: int
    sha256: str

    def at(self, name: str) -> int | None:
        """Return the position of a column, whatever its case."""
        wanted = name.casefold()
        return next((i for i, n in enumerate(self.names) if n.casefold() == wanted), None)

    def at_restored(self, name: str) -> int | None:
        """Return the position of a column whose name would be a formula in a spreadsheet."""
        wanted = name.casefold()
        names = (restored(n).strip().casefold() for n in self.names)
        return next((i for i, n in enumerate(names) if n == wanted), None)

    def pieces(self, file_id: int) -> list[Piece]:
        """Return where rows are: below the header, or in an exported sheet those of a file."""
        if self.at(FILE_ID) is None:
            return [Piece(self.below, None, self.skipped + 2)]
        starts, ends, rows = self._pieces[0].get(file_id, ((), (), ()))
        return [Piece(*each) for each in zip(starts, ends, rows, strict=True)]

    def records(self, piece: Piece) -> Iterator[tuple[Record, Piece]]:
        """Yield the rows of a piece, blank ones left out, and where each one starts.

        Raises:
            DiskTrouble: it cannot be read any more.
        """
        for lines, record in self._placed(piece.start, piece.end, piece.row):
            yield record, Piece(lines.begun, piece.end, record.row)

    def headers(self) -> list[tuple[str, ...]]:
        """Return all its headers: of a file that was joined of several it has one for each."""
        at = self.at(LEADING[0])
        found: dict[tuple[str, ...], None] = {self.names: None}
        for _, record in self._placed(0, None, 1):
            cells = record.cells()
            if at is not None and at < len(cells) and is_header(cells[at]):
                found[tuple(map(str.strip, cells))] = None
        return list(found)

    def beginning(self, piece: Piece, text: bytes) -> bool:
        """Return whether a piece begins with a text."""
        with _opened(self.path) as file:
            file.seek(piece.start)
            return file.read(len(text)) == text

    def files(self) -> list[int]:
        """Return the numbers of the files that an exported sheet has rows of, ascending."""
        return sorted(self._pieces[0])

    @cached_property
    def unowned(self) -> list[tuple[int, str]]:
        """Rows of an exported sheet that name no file: their number, and what stands there."""
        return self._pieces[1]

    @cached_property
    def _pieces(
        self,
    ) -> tuple[dict[int, tuple[array[int], array[int], array[int]]], list[tuple[int, str]]]:
        """Where the rows of each file are: starts and ends of pieces, first rows; and `unowned`."""
        at = self.at(FILE_ID)
        found: dict[int, tuple[array[int], array[int], array[int]]] = {}
        without: list[tuple[int, str]] = []
        last = -1
        for lines, record in self._placed(0, None, 1):
            cells = record.cells()
            start, end = lines.begun, lines.read
            text = cells[at].strip() if at is not None and at < len(cells) else ""
            # No file has a number of ten digits, and PostgreSQL would not look it up.
            if not text.isdecimal() or len(text) >= 10:
                last = -1
                if any(cells):
                    without.append((record.row, text))
                continue
            number = int(text)
            piece = found.setdefault(number, (array("q"), array("q"), array("q")))
            if number == last and piece[1][-1] == start:
                piece[1][-1] = end
            else:
                for values, value in zip(piece, (start, end, record.row), strict=True):
                    values.append(value)
            last = number
        return found, without

    def _placed(self, start: int, end: int | None, row: int) -> Iterator[tuple[Lines, Record]]:
        """Yield each row, and the lines, which know where it is."""
        with _opened(self.path) as file:
            file.seek(start)
            lines = Lines(file, start, end, self.delimiter)
            number = row - 1
            for text in lines:
                number += 1
                body = text.rstrip("\r\n")
                if number > self.skipped + 1 and body.strip(self.delimiter):
                    yield lines, Record(number, body, lines.cells)
                lines.finish()


def is_header(number: str) -> bool:
    """Whether what stands in the place of a line number makes the row a header."""
    return number.strip().casefold() == LEADING[0]


def decode(name: str, path: Path) -> Sheet:
    """Read a sheet's header, and make sure that all of it is text whose rows have an end.

    Raises:
        Unreadable: it is not one of ours, or its text cannot be read.
        DiskTrouble: it cannot be read at all.
    """
    sha256 = _checked(name, path)
    with _opened(path) as file:
        # As the rows below are read: a carriage return alone is the end of a line, too.
        start = file.read(4 * MAX_HEADER_BYTES).decode(errors="ignore")
    lines = io.StringIO(start, newline="")
    first = next(lines, "")
    below = len(first.encode())
    skipped = int(first.removeprefix(BOM).casefold().startswith("sep="))  # Excel's separator
    if skipped:
        first = next(lines, "")
        below += len(first.encode())
    first = first.removeprefix(BOM).rstrip("\r\n")
    delimiter = max(DELIMITERS, key=first.count)
    if len(first) > MAX_HEADER_BYTES or first.count(delimiter) >= 2 * MAX_COLUMNS:
        message = (
            f"its header has more than {MAX_HEADER_BYTES:,} characters or {2 * MAX_COLUMNS:,} "
            "columns: export the rows again. Nothing was taken"
        )
        raise Unreadable(Problem(name, 1, None, message))
    try:
        names = next(csv.reader([first], delimiter=delimiter), [])
    except csv.Error:
        names = first.split(delimiter)
    plain = tuple(n.strip() for n in names)
    sheet = Sheet(name, path, plain, delimiter, skipped, below, sha256)
    if sheet.at(LEADING[0]) is None:
        message = (
            f"the column '{LEADING[0]}' is missing: without it nobody can tell which row is which; "
            "put it back, or export the rows again. Nothing was taken"
        )
        raise Unreadable(Problem(name, 1, LEADING[0], message))
    return sheet


def _checked(name: str, path: Path) -> str:
    """Make sure that a sheet is text, of lines that have an end; return the hash of its bytes."""
    save = "save it as 'CSV UTF-8'; nothing of it was taken"
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    total, line, rows = 0, 0, 1
    with _opened(path) as file:
        packed = isinstance(file, gzip.GzipFile)
        most = ALWAYS_ALLOWED + _MOST_AMPLIFICATION * path.stat().st_size
        while True:
            chunk = file.read(_CHUNK)
            if not total:
                if chunk.startswith(b"PK\x03\x04"):
                    found = f"this is a workbook, not a CSV file: {save}"
                    raise Unreadable(Problem(name, None, None, found))
                if chunk.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise Unreadable(Problem(name, None, None, f"this is UTF-16 text: {save}"))
            digest.update(chunk)
            total += len(chunk)
            if packed and total > most:
                found = (
                    f"inflates to more than {most:,} bytes, which no sheet does: nothing of it "
                    "was taken"
                )
                raise Unreadable(Problem(name, None, None, found))
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                rows += error.object.count(b"\n", 0, error.start)
                found = f"byte 0x{error.object[error.start]:02X} is not UTF-8: {save}"
                raise Unreadable(Problem(name, rows, None, found)) from None
            rows += chunk.count(b"\n")
            end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            line = line + len(chunk) if end < 0 else len(chunk) - end - 1
            if line > LONGEST:
                found = f"has more than {LONGEST:,} bytes: nothing of the sheet was taken"
                raise Unreadable(Problem(name, rows, None, found))
            if not chunk:
                return digest.hexdigest()


def sha256_of(path: Path) -> str | None:
    """Return the hash of a sheet's bytes; None when it is gone.

    Raises:
        DiskTrouble: it cannot be read.
    """
    if not path.exists():
        return None
    digest = hashlib.sha256()
    with _opened(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with opened(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast("BinaryIO", file)
            else:
                yield io.BufferedReader(cast("io.RawIOBase", raw), _CHUNK)
    except FileChanged as error:
        raise DiskTrouble(str(error), path) from error
    except (OSError, EOFError, zlib.error) as error:
        raise trouble(error, path, "read") from error
