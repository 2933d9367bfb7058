"""Groups: rejected rows counted by file, sensor and broken rules, kept with the rows they count.

A file can bring a million rejected rows, but few kinds of them. Each row names its group, and
`air.quarantine_summary` says how many rows of a group are open, repaired and discarded. So what
waits can be listed without reading the rows, and rows that broke a rule are found by number.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipeline.contract.header import Header
from pipeline.core.records import Bools, Ints
from pipeline.core.rejected import Rejected
from pipeline.store.copy import Cursor

# Of a transaction: a damaged file may have another text there in each of a million rows.
_MOST = 20_000
OTHERS = "…"  # what the sensor of all further groups is called
_LETTERS = 20  # a cell that is no sensor's number can be of any length

Key = tuple[int, str | None, tuple[str, ...]]  # file, sensor, rules


@dataclass(slots=True)
class Groups:
    """The groups of the rows that one transaction rejects."""

    _numbers: dict[Key, int] = field(default_factory=dict)
    _rows: dict[Key, int] = field(default_factory=dict)
    _last: dict[int, int] = field(default_factory=dict)

    def add(self, header: Header, rejected: Rejected, file_ids: Ints) -> npt.NDArray[np.int32]:
        """Count rejected rows; return the number of each one's group.

        Args:
            header: what names their columns.
            rejected: the rows.
            file_ids: a file's position in the batch → its number.
        """
        sensors = sensors_of(header, rejected.lines).dictionary_encode()
        names = [None, *sensors.dictionary.to_pylist()]
        sensor = sensors.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
        kinds, kind_of = rejected.kinds
        kind = kind_of[rejected.code]
        alike = (rejected.file * len(kinds) + kind) * len(names) + sensor
        codes, found = pd.factorize(alike)
        numbers = np.empty(len(found), np.int32)
        counts = np.bincount(codes, minlength=len(found)).tolist()
        for position, (each, rows) in enumerate(zip(found.tolist(), counts, strict=True)):
            rest, at = divmod(each, len(names))
            file, of = divmod(rest, len(kinds))
            numbers[position] = self._number((int(file_ids[file]), names[at], kinds[of]), rows)
        return numbers[codes]

    def _number(self, key: Key, rows: int) -> int:
        number = self._numbers.get(key)
        if number is None:
            file, sensor, rules = key
            if len(self._numbers) >= _MOST and sensor not in (None, OTHERS):
                return self._number((file, OTHERS, rules), rows)
            number = self._numbers[key] = self._last[key[0]] = self._last.get(key[0], 0) + 1
        self._rows[key] = self._rows.get(key, 0) + rows
        return number

    def write(self, cursor: Cursor) -> None:
        """Write the summary of what was counted, after the ledger rows of its files."""
        if not self._rows:
            return
        with cursor.copy(
            "COPY air.quarantine_summary (file_id, group_no, sensor, rules, open) FROM STDIN"
        ) as copy:
            for key, rows in self._rows.items():
                file_id, sensor, rules = key
                copy.write_row((file_id, self._numbers[key], sensor, list(rules), rows))


def sensors_of(header: Header, lines: pa.Array) -> pa.Array:
    """Return what stands in the column of the sensor, as text; null where nothing does.

    Args:
        header: what names the columns.
        lines: the lines, as bytes.
    """
    if "sensor_id" not in header.names:  # below a header that is not understood
        return pa.nulls(len(lines), pa.string())
    at = header.names.index("sensor_id")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :][: len(lines) + 1]
    first, last = (int(offsets[0]), int(offsets[-1])) if len(lines) else (0, 0)
    held = lines.buffers()[2]
    letters = np.frombuffer(b"" if held is None else held, np.uint8)[first:last]
    starts, ends = (offsets[:-1] - first).astype(np.int64), (offsets[1:] - first).astype(np.int64)
    marks = np.append(np.flatnonzero(letters == ord(header.delimiter)), [last - first] * (at + 1))
    found = np.searchsorted(marks, starts)
    begin = starts if at == 0 else marks[found + at - 1] + 1
    end = np.minimum(marks[found + at], ends)
    missing = begin > ends
    bounds = np.empty(2 * len(starts), np.int32)
    bounds[::2], bounds[1::2] = np.minimum(begin, ends), np.where(missing, ends, end)
    # What is not plain is read as CSV is: quoted, padded, or not ASCII.
    quoted = _holding(letters == ord('"'), starts)
    texts = _slices(letters, bounds, missing | quoted | (begin >= end))
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[: len(texts) + 1]
    cells = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[: offsets[-1]]
    odd = quoted | (np.diff(offsets) > _LETTERS)
    odd |= _holding((cells > 0x7E) | (cells < 0x21), offsets[:-1].astype(np.int64))
    if not odd.any():
        return texts.cast(pa.string())
    every = [None if text is None else text.decode(errors="replace") for text in texts.to_pylist()]
    for position in np.flatnonzero(odd).tolist():
        every[position] = _cell(lines[position].as_py(), header.delimiter, at)
    return pa.array(every, pa.string())


def _holding(wanted: Bools, starts: Ints) -> Bools:
    """Return for each line whether it holds a wanted byte."""
    found: Bools = np.zeros(len(starts), bool)
    if wanted.any():
        found[np.searchsorted(starts, np.flatnonzero(wanted), side="right") - 1] = True
    return found


def _slices(
    letters: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int32], empty: Bools
) -> pa.Array:
    """Return pieces of a text that come in order; those that are empty as null.

    Args:
        letters: the text.
        bounds: start and end of each piece by turns.
        empty: which are empty.
    """
    if not len(empty):
        return pa.array([], pa.binary())
    whole = pa.Array.from_buffers(
        pa.binary(), len(bounds) - 1, [None, pa.py_buffer(bounds), pa.py_buffer(letters)]
    )
    return whole.take(pa.array(2 * np.arange(len(empty)), mask=empty))


def _cell(line: bytes, delimiter: str, at: int) -> str | None:
    text = line.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    cells: Sequence[str]
    try:
        cells = next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        cells = text.split(delimiter)
    return (cells[at].strip(" \t")[:_LETTERS] or None) if at < len(cells) else None
