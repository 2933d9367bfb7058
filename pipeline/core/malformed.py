"""Malformed: which cells of a column of text are not written plainly.

Arrow casts a column as a whole or not at all. To cast the others when some cells are damaged, those
have to be known first; here that is told by their bytes, since patterns would take longer than
everything else. A cell may be called malformed that Arrow would have read; never the other way
round. Empty cells are malformed.

Most damage shows in a letter that has no business there, and that is found at once (`foreign`).
What is made of the right letters in the wrong way takes a closer look (`malformed_…`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.records import Bools, Ints

Bytes = npt.NDArray[np.uint8]

_MOST_DIGITS = 18
_TIME = "0000-00-00T00:00:00"
_DIGITS = [at for at, character in enumerate(_TIME) if character == "0"]
_DAYS = np.array([0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


class Letters:
    """The letters that plain cells are made of: digits, and few others.

    Args:
        others: the letters that are no digits.
        length: how many letters a cell has; None for any number but zero.
    """

    def __init__(self, others: bytes = b"", length: int | None = None) -> None:
        self._others = others
        self._length = length

    def foreign(self, text: pa.Array) -> Bools:
        """Return which cells have other letters, or the wrong number of them."""
        letters, starts, ends = _bytes(text)
        lengths = ends - starts
        foreign: Bools = lengths == 0 if self._length is None else lengths != self._length
        found = letters - np.uint8(ord("0")) > 9
        for letter in self._others:
            found &= letters != letter
        # Empty cells start where the next one does: the last of those that start there has it.
        foreign[np.searchsorted(starts, np.flatnonzero(found), side="right") - 1] = True
        return foreign


NUMBERS = Letters(b".-")
IDS = Letters()
TIMES = Letters(b"-:T ", len(_TIME))


def malformed_numbers(text: pa.Array) -> Bools:
    """Return which cells are not digits with at most one point within, and a minus in front."""
    letters, starts, ends = _bytes(text)
    digits = _count((letters >= ord("0")) & (letters <= ord("9")), starts, ends)
    points = _count(letters == ord("."), starts, ends)
    minus = _first(letters, starts, ends) == ord("-")
    malformed: Bools = (digits == 0) | (points > 1) | (digits + points + minus != ends - starts)
    return malformed


def malformed_ids(text: pa.Array) -> Bools:
    """Return which cells are not digits alone, or too many of them."""
    letters, starts, ends = _bytes(text)
    digits = _count((letters >= ord("0")) & (letters <= ord("9")), starts, ends)
    malformed: Bools = (digits == 0) | (digits > _MOST_DIGITS) | (digits != ends - starts)
    return malformed


def malformed_times(text: pa.Array) -> Bools:
    """Return which cells are not an existing moment, written as 2017-07-01T00:02:09."""
    letters, starts, ends = _bytes(text)
    malformed: Bools = ends - starts != len(_TIME)
    some = np.flatnonzero(~malformed)
    cells = letters[starts[some, np.newaxis] + np.arange(len(_TIME))]
    digits = cells[:, _DIGITS].astype(np.int64) - ord("0")
    plain = ((digits >= 0) & (digits <= 9)).all(axis=1)
    for at, sign in ((4, "-"), (7, "-"), (13, ":"), (16, ":")):
        plain &= cells[:, at] == ord(sign)
    plain &= (cells[:, 10] == ord("T")) | (cells[:, 10] == ord(" "))
    month, day, hour, minute, second = (
        digits[:, at] * 10 + digits[:, at + 1] for at in range(4, 14, 2)
    )
    year = digits[:, :4] @ np.array([1000, 100, 10, 1])
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    last = _DAYS[np.clip(month, 0, 12)] - ((month == 2) & ~leap)
    plain &= (year > 0) & (month <= 12) & (day >= 1) & (day <= last)
    plain &= (hour <= 23) & (minute <= 59) & (second <= 59)
    malformed[some] = ~plain
    return malformed


def _bytes(text: pa.Array) -> tuple[Bytes, Ints, Ints]:
    """Return the letters of all cells, and where each starts and ends; an empty one is of none."""
    _, offsets, data = text.buffers()
    every = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1]
    letters = np.frombuffer(data or b"", np.uint8)[every[0] : every[-1]]
    cells = every.astype(np.int64) - every[0]
    return letters, cells[:-1], cells[1:]


def _count(marks: Bools, starts: Ints, ends: Ints) -> Ints:
    """Return how many marks each cell has."""
    until = np.zeros(len(marks) + 1, np.int32)  # a cell may be as long as a block
    np.cumsum(marks, out=until[1:])
    counts: Ints = (until[ends] - until[starts]).astype(np.int64)
    return counts


def _first(letters: Bytes, starts: Ints, ends: Ints) -> Bytes:
    """Return the first letter of each cell; 0 when it has none."""
    first = np.zeros(len(starts), np.uint8)
    some = ends > starts
    first[some] = letters[starts[some]]
    return first
