"""Sections: where another header begins in the middle of a file.

People join files: `cat *.csv`, an export that is appended to. The rows below a second header have
its columns, not those of the first, so each section is read under its own header. A line that is a
header and is not understood ends what can be read: the rows below it are rejected until a header
comes that is understood.

Headers are rare and rows are many, so lines are first looked at by single bytes, all at once. Only
what may be a header is decoded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contract import Contract
from pipeline.contract.header import (
    DELIMITERS,
    MAX_HEADER_BYTES,
    Header,
    cells_of,
    known_names,
    section_header,
    unreadable_header,
)
from pipeline.core.records import Block, Bools, Ints, Segment
from pipeline.errors import FileRefused

_BOM = "\ufeff"
_KEY = "sensor_id"
_FEW = 64  # lines of a block that are decoded without a closer look at their bytes
_LEAST_VALUES = 3  # in a line that is a header and more
_LEAST_KNOWN = 2  # names of columns that make a line a header

# A joined file has as many changes of header as it has parts. What is beyond these was made to
# waste time and memory.
_MOST_SECTIONS = 100_000
_MOST_HEADERS = 1_000
_MOST_BLOCKS = 1_000  # and one more for each _BYTES_A_BLOCK
_BYTES_A_BLOCK = 4096

# A number, a time, or what stands for a missing number: a cell of a row, not the name of a column.
_VALUE = re.compile(
    r"(?=\D*\d)[\d.,:/ TZ+-]+(e[+-]?\d+)?|[+-]?(nan|inf|infinity|null|none|n/a|unavailable)",
    re.IGNORECASE | re.ASCII,
)
_BEGINS_AS_VALUE = re.compile(r"[+-]?\d", re.ASCII)

_IS_LETTER = np.zeros(256, bool)
_IS_LETTER[[*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1), ord("_")]] = True
_IS_LETTER[0x80:] = True
_IS_DIGIT = np.zeros(256, bool)
_IS_DIGIT[ord("0") : ord("9") + 1] = True
_QUOTE = ord('"')


@dataclass(frozen=True, slots=True)
class _Found:
    """A header in the middle of a file.

    Attributes:
        header: what it says; with a `fault` if it is not understood.
        row: the end of the row that it was glued to, as text; None if the line is the header alone.
    """

    header: Header
    row: str | None = None


class Sections:
    """Cuts the text of one file, block by block, where another header begins.

    Args:
        file: the file's position in its batch, for the segments.
        header: its first header.
        contract: the models in force.
        source: what the file is known by, for the segments too.
    """

    def __init__(self, file: int, header: Header, contract: Contract, source: str = "") -> None:
        self._file = file
        self._source = source
        self._header = header
        self._contract = contract
        self._opens = False
        self._changes = 0
        self._blocks = 0
        self._bytes = 0
        self._seen: set[int] = {hash(header.line)}

    def cut(self, text: bytes, ends: Ints, first_line: int) -> list[Block]:
        """Return lines as blocks with one header each, in the order of the file.

        Args:
            text: whole lines, each ended by a newline.
            ends: where each line ends, its newline included.
            first_line: number of the first line in the file.

        Returns:
            One block at least, which may be without lines. Headers are left out, but for those that
            are not understood: these are the first rows of their sections.

        Raises:
            FileRefused: more headers than any joined file has.
        """
        self._bytes += len(text)
        blocks: list[Block] = []
        at = 0
        for line in candidates(text, ends).tolist():
            start = int(ends[line - 1]) if line else 0
            found = self._examined(text[start : int(ends[line]) - 1])
            if found is None:
                continue
            self._add(blocks, text, ends, first_line, at, line)
            if found.row is not None:
                row = found.row.encode() + b"\n"
                blocks.append(self._block(row, first_line + line, 1))
            self._change(found.header)
            at = line if found.header.fault else line + 1
        self._add(blocks, text, ends, first_line, at, len(ends))
        return blocks or [self._block(b"", first_line + len(ends), 0)]

    def count(self, blocks: int) -> None:
        """Note how many blocks a text was cut into.

        Raises:
            FileRefused: so many that it would take for ever.
        """
        self._blocks += blocks - 1
        if self._blocks > _MOST_BLOCKS + self._bytes // _BYTES_A_BLOCK:
            count = f"{self._blocks:,} times within {self._bytes:,} bytes"
            raise _too_many(count)

    def _add(
        self, blocks: list[Block], text: bytes, ends: Ints, first_line: int, start: int, end: int
    ) -> None:
        if start == 0 and end == len(ends):
            if end:
                blocks.append(self._block(text, first_line, end))
        elif start < end:
            some = text[int(ends[start - 1]) if start else 0 : int(ends[end - 1])]
            blocks.append(self._block(some, first_line + start, end - start))

    def _block(self, text: bytes, first_line: int, lines: int) -> Block:
        opens = self._opens and lines > 0
        self._opens &= not opens
        segment = Segment(self._file, first_line, lines, opens, self._source)
        return Block(self._header, text, (segment,))

    def _change(self, header: Header) -> None:
        if header.line == self._header.line:
            return
        self._header, self._opens = header, True
        self._changes += 1
        self._seen.add(hash(header.line))
        if self._changes > _MOST_SECTIONS or len(self._seen) > _MOST_HEADERS:
            count = f"{self._changes:,} times, with {len(self._seen):,} different lines"
            raise _too_many(count)

    def _examined(self, line: bytes) -> _Found | None:
        """Return the header that a line is, or holds; None if it is a row like others."""
        # What is cut off, or no text, is a header that is not understood, if it is one.
        text = line[:MAX_HEADER_BYTES].decode(errors="replace").rstrip("\r").removeprefix(_BOM)
        whole = len(line) <= MAX_HEADER_BYTES and "\N{REPLACEMENT CHARACTER}" not in text
        if whole and _KEY in text.lower():
            # What begins as a row has values among the names; no header begins with one.
            cells = [cell.strip() for cell in cells_of(text)]
            values = sum(bool(_VALUE.fullmatch(cell)) for cell in cells)
            begins_as_row = values >= _LEAST_VALUES or _BEGINS_AS_VALUE.match(cells[0])
            if begins_as_row and (glued := self._glued(text)):
                return glued
            if header := section_header(text, self._contract):
                return _Found(header)
            if glued := self._glued(text):
                return glued
        # Where nothing is understood, only what is understood makes a difference.
        if self._header.fault or not self._is_header(text):
            return None
        return _Found(unreadable_header(text, self._contract))

    def _glued(self, text: str) -> _Found | None:
        """Return the header in a line that begins as a row: a file without a last line end."""
        under = self._header
        width = len(under.names)
        parts = text.split(under.delimiter, width - 1)
        if len(parts) == width and not under.fault:
            tail = parts[-1]
            for at in self._starts(tail):
                if header := section_header(tail[at:].removeprefix(_BOM), self._contract):
                    return _Found(header, text[: len(text) - len(tail) + at])
        key = text.lower().rindex(_KEY)
        for at in (key, key - 1):
            if at > 0 and (header := section_header(text[at:], self._contract)):
                # A header without rows may be glued to the next as well.
                row = text[:at].removesuffix(_BOM)
                return _Found(header, None if section_header(row, self._contract) else row)
        return None

    def _starts(self, tail: str) -> list[int]:
        """Return where a header may begin in a text that begins with the last cell of a row."""
        end = min((at for mark in DELIMITERS if (at := tail.find(mark)) >= 0), default=len(tail))
        cell = tail[:end]
        if _BOM in cell:
            return [cell.index(_BOM)]
        names = known_names(self._contract)
        least = max(0, end - max(map(len, names)) - 2)
        named = [at for at in range(least, end) if cell[at:].strip(' "').lower() in names]
        return [*named, end]

    def _is_header(self, text: str) -> bool:
        cells = [cell.strip() for cell in cells_of(text)]
        known = known_names(self._contract)
        if sum(cell.lower() in known for cell in cells) >= _LEAST_KNOWN:
            return True
        # A header of other words matters where its rows could pass for rows of this one: they have
        # as many cells. No row has nothing but different words.
        if len(cells) != len(self._header.names):
            return False
        named = [cell for cell in cells if cell]
        if len(named) < max(3, len(cells) - 1) or len(named) > len(set(named)):
            return False
        return not any(_VALUE.fullmatch(cell) for cell in named)


def candidates(text: bytes, ends: Ints) -> Ints:
    """Return the lines that may be headers, by their index.

    Args:
        text: whole lines, each ended by a newline.
        ends: where each line ends, its newline included.
    """
    if not len(ends):
        return np.zeros(0, np.int64)
    raw = np.frombuffer(text, np.uint8)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1]
    # A row begins with a digit, but for damaged ones and those of a file with another order.
    first = raw[starts]
    found = np.flatnonzero(first - np.uint8(ord("0")) > 9)
    if len(found):
        first = first[found]
        second = raw[np.minimum(starts[found] + 1, len(raw) - 1)]
        plain = ~_IS_LETTER[first] & (_IS_DIGIT[second] | (second == ord("\n")))
        found = found[~plain & (first != ord("\n"))]
    if len(found) > _FEW:
        found = found[_wordy(raw, starts[found])]
    # The one name that every header has, wherever it stands: no row has an underscore.
    if b"_" in text:
        found = np.union1d(found, np.searchsorted(ends, _keys(raw), side="right"))
    return found


def _keys(raw: npt.NDArray[np.uint8]) -> Ints:
    """Return where the name of the sensor's column stands, in any case."""
    at = np.flatnonzero(raw == ord("_"))
    at = at[(at >= _KEY.index("_")) & (at + 2 < len(raw))]
    for offset, letter in enumerate(_KEY, start=-_KEY.index("_")):
        if letter != "_":
            at = at[(raw[at + offset] | 0x20) == ord(letter)]
    return at


def _wordy(raw: npt.NDArray[np.uint8], starts: Ints) -> Bools:
    """Return which lines have letters at the start of two of their first three cells."""
    delimiter = raw == ord(DELIMITERS[0])
    for mark in DELIMITERS[1:]:
        delimiter |= raw == ord(mark)
    at = np.append(np.flatnonzero(delimiter), [len(raw) - 2] * 2) + 1
    following = np.searchsorted(at, starts, side="right")
    words = np.zeros(len(starts), np.int64)
    for cells in (starts, at[following], at[np.minimum(following + 1, len(at) - 1)]):
        led = raw[cells]
        quoted = led == _QUOTE
        led[quoted] = raw[np.minimum(cells[quoted] + 1, len(raw) - 1)]
        words += _IS_LETTER[led]
    wordy: Bools = words > 1
    return wordy


def _too_many(count: str) -> FileRefused:
    message = (
        f"the header changes {count}: more often than in files that were joined; "
        "put rows with the same columns together"
    )
    return FileRefused("too_many_headers", message)
