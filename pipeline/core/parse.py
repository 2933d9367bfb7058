"""Parse: from a block of lines to columns of text, with every line accounted for.

A row is a line. No accepted value holds a line break, so a quotation mark that is still open at
the end of its line is out of place, and the damage stays within that line. Lines that cannot be
told apart into as many fields as the header names are rejected here, verbatim, with their number;
blank lines hold no data and are not rows. Everything else becomes an Arrow table of strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from pipeline.contract import KEY_COLUMNS, Reason
from pipeline.contract.header import Header, header_again
from pipeline.core.checks import nothing, watched
from pipeline.core.records import Block, Bools, Ints, RejectedRow, Rows

_BOM = b"\xef\xbb\xbf"
# Each run of returns is looked at once, whether or not a line ends behind it.
_LINE_END = re.compile(rb"(?<!\r)\r++\n")
_QUOTED = re.compile(rb'"[^"]*"')
_BLANKS = b" \t\r\v\f;,|"
_IS_BLANK = np.zeros(256, bool)
_IS_BLANK[[*_BLANKS, *b'"\n']] = True
_MARKS = 2**18  # bytes that are looked at together: the place of each may take eight
_MOST_UNEVEN = 1000  # lines of a block that Arrow tells of one by one


def parse(block: Block, check: Callable[[], None] = nothing) -> Rows:
    """Split a block's lines into columns of text.

    Args:
        block: the lines.
        check: called now and then; what it raises ends the work.
    """
    if b"\r\r" in block.text:
        # Python's csv module, on Windows, in a file that was opened as text.
        block = replace(block, text=_LINE_END.sub(b"\n", block.text))
    raw = np.frombuffer(block.text, np.uint8)
    newlines = np.flatnonzero(raw == ord("\n"))
    starts = np.concatenate([np.zeros(min(1, len(newlines)), np.int64), newlines[:-1] + 1])
    ends = newlines.copy()
    if b"\r" in block.text:
        ends -= (newlines > starts) & (raw[newlines - 1] == ord("\r"))
    counts = [segment.lines for segment in block.segments]
    file = np.repeat([segment.file for segment in block.segments], counts)
    line_no = _line_numbers(block, len(newlines))

    blank = _blank(block.text, raw, starts, ends)
    faults = _faults(block, raw, starts, ends, blank, check)
    keep = ~blank
    keep[list(faults)] = False
    table, uneven = _parsed(block, raw, starts, newlines, keep)
    if table is None:
        check()
        uneven = _all_uneven(block, raw, starts, ends, keep, check)
        keep[uneven.lines] = False
        table, others = _parsed(block, raw, starts, newlines, keep)
        if table is None or len(others.lines):  # pragma: no cover  # if we and Arrow disagreed
            message = "a block could not be split"
            raise AssertionError(message)
    keep[uneven.lines] = False
    faults |= _ragged(block, starts, ends, uneven, check)

    at_fault = np.array(sorted(faults), np.int64)
    columns = (at_fault, *(column[at_fault] for column in (file, line_no, starts, ends)))
    rejected = [
        RejectedRow(of, number, block.text[start:end], (faults[i],))
        for i, of, number, start, end in watched(
            zip(*(c.tolist() for c in columns), strict=True), check
        )
    ]
    files, read = np.unique(file[~blank], return_counts=True)
    return Rows(
        header=block.header,
        table=table,
        file=file[keep],
        line_no=line_no[keep],
        rejected=rejected,
        read=dict(zip(files.tolist(), read.tolist(), strict=True)),
        text=block.text,
        starts=starts[keep],
        ends=ends[keep],
    )


def _blank(text: bytes, raw: npt.NDArray[np.uint8], starts: Ints, ends: Ints) -> Bools:
    """Return which lines hold nothing, or spaces and delimiters only."""
    blank: Bools = ends == starts
    some = np.flatnonzero(_IS_BLANK[raw[starts]] & ~blank)
    some = some[_IS_BLANK[raw[starts[some] + 1]]]  # a line that ends here has a line end here
    for i in some.tolist():
        blank[i] = not text[starts[i] : ends[i]].replace(b'""', b"").strip(_BLANKS)
    return blank


def _line_numbers(block: Block, total: int) -> Ints:
    numbers = np.empty(total, np.int64)
    at = 0
    for segment in block.segments:
        numbers[at : at + segment.lines] = np.arange(
            segment.first_line, segment.first_line + segment.lines
        )
        at += segment.lines
    return numbers


def wanted_columns(header: Header) -> list[str]:
    """Return the columns of a header that are read: the keys and every model's readings."""
    wanted = dict.fromkeys(KEY_COLUMNS)
    for model in header.models:
        wanted.update(dict.fromkeys(model.columns))
    if header.dialect == "archive":
        wanted["sensor_type"] = None
    return [name for name in header.names if name in wanted]


class _Uneven(NamedTuple):
    """Lines with more or fewer fields than the header, by their index, and how many they have."""

    lines: Ints
    fields: Ints


_EVEN = _Uneven(np.zeros(0, np.int64), np.zeros(0, np.int64))


def _parsed(
    block: Block, raw: npt.NDArray[np.uint8], starts: Ints, newlines: Ints, keep: Bools
) -> tuple[pa.Table | None, _Uneven]:
    """Parse the kept lines with Arrow, but for uneven ones; no table when those are many."""
    columns = wanted_columns(block.header)
    types = {name: pa.string() for name in columns}
    kept = int(keep.sum())
    if not kept:
        return pa.table({name: pa.array([], pa.string()) for name in columns}), _EVEN
    if kept == len(keep):
        text = pa.py_buffer(block.text)
    else:
        text = pa.py_buffer(raw[np.repeat(keep, newlines + 1 - starts)])
    numbers: list[int] = []
    fields: list[int] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        numbers.append(row.number)
        fields.append(row.actual_columns)
        return "skip" if len(numbers) <= _MOST_UNEVEN else "error"

    if bytes(memoryview(text)[:3]) == _BOM:
        # Arrow takes one off the start; here, after the header, it is part of a field.
        text = pa.py_buffer(_BOM + text.to_pybytes())
    try:
        table: pa.Table = pa.csv.read_csv(
            pa.BufferReader(text),
            # One chunk and one thread: the other core is PostgreSQL's.
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=text.size + 1, column_names=block.header.names
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=block.header.delimiter,
                ignore_empty_lines=False,
                invalid_row_handler=note,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=types,
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None, _EVEN
    lines = np.flatnonzero(keep)[np.array(numbers, np.int64) - 1]
    uneven = _Uneven(lines, np.array(fields, np.int64))
    return (table, uneven) if table.num_rows + len(lines) == kept else (None, _EVEN)


def _faults(
    block: Block,
    raw: npt.NDArray[np.uint8],
    starts: Ints,
    ends: Ints,
    blank: Bools,
    check: Callable[[], None],
) -> dict[int, Reason]:
    """Find the lines whose bytes alone make them unusable: line index → reason."""
    text = block.text
    if block.header.fault is not None:
        return dict.fromkeys(np.flatnonzero(~blank).tolist(), block.header.fault)
    faults: dict[int, Reason] = {}
    # A block may hold very many such lines: equal reasons are shared.
    nuls: dict[int, Reason] = {}
    undecodable: dict[tuple[int, int], Reason] = {}

    def lines_with(marks: Bools) -> Iterable[int]:
        found = _lines_with(marks, ends)
        found = found[~blank[found]]
        return (i for i in watched(found.tolist(), check) if i not in faults)

    if b"\0" in text:
        for i in lines_with(raw == 0):
            at = text.index(b"\0", starts[i]) - int(starts[i]) + 1
            if at not in nuls:
                nuls[at] = Reason("nul_byte", f"the line contains a NUL byte at position {at}")
            faults[i] = nuls[at]
    if not text.isascii():
        for i in lines_with(raw >= 0x80):
            try:
                text[starts[i] : ends[i]].decode()
            except UnicodeDecodeError as error:
                fault = text[starts[i] + error.start], error.start
                if fault not in undecodable:
                    undecodable[fault] = _undecodable(*fault)
                faults[i] = undecodable[fault]
    if b"\r" in text:
        returns = raw == ord("\r")
        # The last byte is a newline, and one that follows ends the line.
        returns[:-1] &= raw[1:] != ord("\n")
        message = "the line contains a carriage return in its middle"
        reason = Reason("width", message, expected="one row a line")
        for i in lines_with(returns):
            faults[i] = reason
    if b'"' in text:
        well_formed = _quoting(block.header.delimiter)
        message = "a quotation mark is out of place, so the fields cannot be told apart"
        reason = Reason("quote", message)
        for i in lines_with(raw == ord('"')):
            line = text[starts[i] : ends[i]]
            if not well_formed.fullmatch(line):
                faults[i] = reason
    return faults


def _lines_with(marks: Bools, ends: Ints) -> Ints:
    """Return the lines that hold marked bytes; every byte of a block may be marked.

    Args:
        marks: of each byte of the block.
        ends: where each line ends, its line end left out: a carriage return belongs to that.
    """
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(marks), _MARKS):
        marked = np.flatnonzero(marks[start : start + _MARKS])
        found.append(np.unique(np.searchsorted(ends, marked + start)))
    return np.unique(np.concatenate(found))


def _undecodable(value: int, start: int) -> Reason:
    byte = f"0x{value:02X}"
    message = f"the line is not valid UTF-8: byte {byte} at position {start + 1}"
    return Reason("encoding", message, value=byte, expected="UTF-8")


@lru_cache(maxsize=8)
def _quoting(delimiter: str) -> re.Pattern[bytes]:
    """RFC 4180 on one line: a field is free of quotes, or wholly within them (doubled inside)."""
    field = f'(?:"(?:[^"]|"")*+"|[^"{delimiter}]*+)'
    return re.compile(f"{field}(?:{delimiter}{field})*+".encode())


def _all_uneven(
    block: Block,
    raw: npt.NDArray[np.uint8],
    starts: Ints,
    ends: Ints,
    keep: Bools,
    check: Callable[[], None],
) -> _Uneven:
    """Find the uneven lines, however many there are."""
    delimiter = block.header.delimiter
    at = np.flatnonzero(raw == ord(delimiter))
    fields = np.searchsorted(at, ends) - np.searchsorted(at, starts) + 1
    if b'"' in block.text:
        quoted = _lines_with(raw == ord('"'), ends)
        for i in watched(quoted[keep[quoted]].tolist(), check):
            # Well formed, or it would not be kept: what is between quotes holds no fields.
            outside = _QUOTED.sub(b"", block.text[starts[i] : ends[i]])
            fields[i] = outside.count(delimiter.encode()) + 1
    lines = np.flatnonzero(keep & (fields != len(block.header.names)))
    return _Uneven(lines, fields[lines])


def _ragged(
    block: Block, starts: Ints, ends: Ints, uneven: _Uneven, check: Callable[[], None]
) -> dict[int, Reason]:
    """Return line index → what is told of an uneven line."""
    due = len(block.header.names)
    ragged: dict[int, Reason] = {}
    # A block may hold millions of such lines: they share what is told.
    told: dict[int, Reason] = {}
    lines = uneven.lines
    columns = (lines, uneven.fields, starts[lines], ends[lines])
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for i, found, start, end in watched(rows, check):
        if found not in told:
            told[found] = Reason(
                "width",
                f"the row has {found} {'field' if found == 1 else 'fields'}, its header has {due}",
                value=str(found),
                expected=f"{due} fields",
            )
        ragged[i] = header_again(block.text[start:end]) or told[found]
    return ragged
