"""Lines: the rows of a sheet, one after the other, with bounded memory whatever the sheet holds.

Most rows are one line; a cell in quotation marks may hold more. A carriage return alone ends a
line as well, as in the files of old spreadsheets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

BOM = "\ufeff"
LONGEST = 32 << 20  # bytes of a line, and of a row
_AT_A_TIME = 1 << 20
_INNER_RETURN = re.compile(r"(?<=\r)(?!\n)(?=.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a sheet.

    Attributes:
        row: its number; the header is row 1.
        text: the line it stands on, its end left out.
        cells: returns its cells; to be called before the next row is asked for.
    """

    row: int
    text: str
    cells: Callable[[], list[str]]


class Lines:
    """Lines of a sheet, and the rows that they make.

    Args:
        file: the sheet, at the start of a row.
        start: the position of that row, in bytes.
        end: the byte after the last row; None: all rows are wanted.
        delimiter: what separates cells.

    Attributes:
        begun: the byte at which the present row begins.
        read: the byte after the lines that were given so far.
    """

    def __init__(self, file: BinaryIO, start: int, end: int | None, delimiter: str) -> None:
        self._file = file
        self._end = end
        self._delimiter = delimiter
        self._text = self._lines()
        self._given: str | None = None
        self._cells: list[str] | None = None
        self._reader = self._new_reader()
        self.begun = self.read = start

    def __iter__(self) -> Iterator[str]:
        for text in self._text:
            self._given, self._cells = text, None
            yield text

    def cells(self) -> list[str]:
        """Return the cells of the row that starts in the line given last."""
        if self._cells is None:
            body = (self._given or "").rstrip("\r\n")
            if '"' in body or "\r" in body:
                try:
                    self._cells = next(self._reader, [])
                except csv.Error:
                    self._cells = body.split(self._delimiter)
                if self._too_long():
                    self._reader = self._new_reader()
            else:
                self._cells = body.split(self._delimiter)
        return self._cells

    def finish(self) -> None:
        """Pass over what a quoted row has on further lines, also when nobody asked for it."""
        if self._cells is None and '"' in (self._given or ""):
            self.cells()
        self.begun = self.read

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._feed(), delimiter=self._delimiter)

    def _too_long(self) -> bool:
        return self.read - self.begun > LONGEST

    def _feed(self) -> Iterator[str]:
        """Yield lines to the reader of CSV, until a row is too long: its quotation has no end."""
        while True:
            if (text := self._given) is not None:
                self._given = None
                yield text
            elif not self._too_long() and (more := next(self._text, None)) is not None:
                yield more
            else:
                return

    def _lines(self) -> Iterator[str]:
        first = self.read == 0
        part = b""
        while self._end is None or self.read < self._end:
            raw = self._file.readline(_AT_A_TIME)
            if part or not raw.endswith(b"\n"):
                raw, part = _whole_lines(part + raw, last=not raw)
                if not raw:
                    if not part:
                        return
                    continue
            text = raw.decode()
            inner = "\r" in text.rstrip("\r\n")
            for piece in _INNER_RETURN.split(text) if inner else (text,):
                if inner and self._end is not None and self.read >= self._end:
                    return
                self.read += len(piece.encode()) if inner else len(raw)
                yield piece.removeprefix(BOM) if first else piece
                first = False


def _whole_lines(raw: bytes, *, last: bool) -> tuple[bytes, bytes]:
    """Return the lines of a text that have their end, and what follows them."""
    if last or raw.endswith(b"\n"):
        return raw, b""
    # The last byte may be the first half of a line end.
    at = raw.rfind(b"\r", 0, len(raw) - 1) + 1
    return raw[:at], raw[at:]
