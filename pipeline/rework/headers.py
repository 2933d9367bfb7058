"""Headers: by which header each rejected row of a file is read.

Most files have one. A file that was joined of several has sections, each with its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.contract.header import Header
from pipeline.core.records import Block, Ints, Segment
from pipeline.files.read import merged

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of a file, and which of its lines each one is for.

    Attributes:
        first: the header at its top.
        starts: the first lines of its later sections, in order.
        later: the header of each of these.
    """

    first: Header
    starts: tuple[int, ...] = ()
    later: tuple[Header, ...] = ()

    def at(self, line_no: int) -> Header:
        """Return the header that a line is read by."""
        section = bisect_right(self.starts, line_no)
        return self.later[section - 1] if section else self.first

    def runs(self, lines: Ints) -> Iterator[tuple[Header, int, int]]:
        """Yield headers, and from where to where in ascending lines each is the one."""
        if not len(lines):
            return
        section = np.searchsorted(np.array(self.starts, np.int64), lines, side="right")
        starts = np.flatnonzero(np.diff(section, prepend=-1))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(lines)], strict=True):
            yield self.at(int(lines[start])), start, end

    @property
    def every(self) -> tuple[Header, ...]:
        """All different ones, in the order of the file."""
        return tuple({each.line: each for each in (self.first, *self.later)}.values())


def as_blocks(headers: Headers, numbers: Ints, lines: pa.Array) -> list[Block]:
    """Return lines as blocks of file 0, one for each header.

    Args:
        headers: what names their columns.
        numbers: the number of each line, ascending.
        lines: the lines, as bytes.
    """
    if not headers.starts:
        return [as_block(headers.first, numbers, lines)]
    parts = [
        as_block(header, numbers[start:end], lines.slice(start, end - start))
        for header, start, end in headers.runs(numbers)
    ]
    return list(merged(parts, sum(len(part.text) for part in parts)))


def as_block(header: Header, numbers: Ints, lines: pa.Array) -> Block:
    """Return lines below one header as a block of file 0."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1) != 1)
    lengths = np.diff(np.append(starts, len(numbers)))
    segments = tuple(
        Segment(0, first, length)
        for first, length in zip(numbers[starts].tolist(), lengths.tolist(), strict=True)
    )
    return Block(header, text_of_lines(lines), segments)


def text_of_lines(lines: pa.Array) -> bytes:
    """Return lines, given as text or as bytes, as one text: each with its end."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # What makes the end of a line, and what stands between the two.
    ends = [pa.scalar(each, pa.binary()).cast(lines.type) for each in (b"", b"\n")]
    ended = pc.binary_join_element_wise(lines, *ends)
    offsets = np.frombuffer(ended.buffers()[1], np.int32)[ended.offset :]
    letters = ended.buffers()[2]
    if letters is None:
        return b""
    return bytes(memoryview(letters)[offsets[0] : offsets[len(ended)]])
