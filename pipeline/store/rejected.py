"""Rejected rows as columns: read from the database by the ten thousand, not one by one.

The server puts each column of a page into one value, and beside it the length of each cell. So what
a row costs on its way is what its bytes cost: it is never a message, nor an object, of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.rows import tuple_row

from pipeline.core.records import Ints
from pipeline.store.sql import statement

ROWS = 20_000  # at a time
BYTES = 32 << 20  # of text at a time: lines may be long, and no value may have a gigabyte

_TYPES = {
    "line": pa.string(),
    "line_bytes": pa.binary(),
    "told": pa.string(),
    "replay_line": pa.string(),
    "state": pa.string(),
    "note": pa.string(),
}
_OPEN = ("line", "line_bytes", "told", "replay_line")  # the others say that they are open
_REASONS = "row.reasons::text"
# What the reasons say to people.
_MESSAGES = """CASE WHEN jsonb_array_length(row.reasons) = 1 THEN row.reasons -> 0 ->> 'message'
            ELSE (SELECT string_agg(reason ->> 'message', ' | ' ORDER BY position)
                    FROM jsonb_array_elements(row.reasons)
                         WITH ORDINALITY AS each (reason, position)) END"""


# What is asked for of the reasons. Taking them out of their column is most of what reading costs.
Told = Literal["reasons", "messages", "nothing"]
_TOLD: dict[Told, str] = {"reasons": _REASONS, "messages": _MESSAGES, "nothing": "NULL"}


class RejectedRow(NamedTuple):
    """A rejected row.

    Attributes:
        line_no: its line in its file.
        line: its text, readable.
        exact: the line as it stood in its file.
        present: the line as it stands now: as somebody repaired it once, else as in its file.
        state: `open`, `repaired` or `discarded`.
        replay_file_id: the file that brought it back.
        note: why it was discarded.
    """

    line_no: int
    line: str
    exact: bytes
    present: bytes
    state: str
    replay_file_id: int | None
    note: str | None


@dataclass(frozen=True)
class RejectedRows:
    """Rejected rows of one file, in its order.

    Attributes:
        table: their columns; `told` is `reasons`, or the sentences in it.
    """

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def line_no(self) -> Ints:
        """The number of each one's line."""
        numbers: Ints = self._column("line_no").to_numpy()
        return numbers

    @cached_property
    def told(self) -> pa.Array:
        """What is wrong with each, as it was asked for."""
        return self._column("told")

    @cached_property
    def exact(self) -> pa.Array:
        """Each line as it stood in its file, as bytes."""
        lines = self._column("line").cast(pa.binary())
        exact = self._column("line_bytes")
        return lines if exact.null_count == len(exact) else pc.coalesce(exact, lines)

    @cached_property
    def repaired(self) -> pa.Array:
        """Whether each one was repaired once, by a replay that may have been taken back."""
        return self._column("replay_line").is_valid()

    @cached_property
    def present(self) -> pa.Array:
        """Each line as it stands now: as somebody repaired it once, else as in its file."""
        later = self._column("replay_line")
        if later.null_count == len(later):
            return self.exact
        return pc.coalesce(later.cast(pa.binary()), self.exact)

    @cached_property
    def state(self) -> list[str]:
        """The state of each."""
        states: list[str] = self._column("state").to_pylist()
        return states

    def where(self, mask: Any) -> RejectedRows:
        """Return those for which the mask holds."""
        return self if mask.all() else RejectedRows(self.table.filter(pa.array(mask)))

    def part(self, start: int, end: int) -> RejectedRows:
        """Return those from one position to before another."""
        whole = start == 0 and end == len(self)
        return self if whole else RejectedRows(self.table.slice(start, end - start))

    @cached_property
    def rows(self) -> list[RejectedRow]:
        """Each of them as a row."""
        names = ("state", "replay_file_id", "note")
        columns = [
            self.line_no.tolist(),
            self._column("line").to_pylist(),
            self.exact.to_pylist(),
            self.present.to_pylist(),
            *(self._column(name).to_pylist() for name in names),
        ]
        return list(map(RejectedRow._make, zip(*columns, strict=True)))

    def _column(self, name: str) -> pa.Array:
        column = self.table[name]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def open_rows(
    cursor: psycopg.Cursor[Any],
    file_id: int,
    *,
    rule: str | None = None,
    after: int = 0,
    told: Told = "reasons",
    limit: int = ROWS,
) -> RejectedRows:
    """Return open rows of a file, some at a time.

    Args:
        cursor: where to ask.
        file_id: the file.
        rule: only rows that broke this rule.
        after: only later lines.
        told: what is wanted of the reasons.
        limit: how many at most; fewer come if they are long, but at least one.
    """
    # By the key, which has them in order: before a table is analysed, the planner thinks that files
    # are small, and would read and sort all rows of the file for each of the pages.
    cursor.execute("SET LOCAL enable_sort = off")
    asked = {"file_id": file_id, "rule": rule, "after": after, "limit": limit, "bytes": BYTES}
    found = _fetched(cursor, statement("rejected_open", told=_TOLD[told]), asked, _OPEN)
    cursor.execute("SET LOCAL enable_sort = DEFAULT")
    return found


def rows_at(cursor: psycopg.Cursor[Any], file_id: int, lines: Sequence[int]) -> RejectedRows:
    """Return the rows of a file at some of its lines, whatever their state."""
    query = statement("rejected_at", told=_REASONS)
    left, parts = sorted(lines), []
    while True:
        asked = {"file_id": file_id, "lines": left, "bytes": BYTES}
        found = _fetched(cursor, query, asked, tuple(_TYPES))
        parts.append(found.table)
        left = left[bisect_right(left, int(found.line_no[-1])) :] if len(found) else []
        if not left:
            return RejectedRows(pa.concat_tables(parts))


def open_lines(cursor: psycopg.Cursor[Any], file_id: int) -> Ints:
    """Return the line numbers of all open rows of a file, in its order."""
    with cursor.connection.cursor(row_factory=tuple_row, binary=True) as rows:
        (held,) = rows.execute(statement("rejected_lines").encode(), [file_id]).fetchone() or (
            None,
        )
    return _numbers(held)


def _fetched(
    cursor: psycopg.Cursor[Any], query: str, asked: dict[str, Any], names: Sequence[str]
) -> RejectedRows:
    cells = ", ".join(
        f"string_agg(int4send(coalesce(octet_length(row.{name}), -1)), ''::bytea),"
        f" string_agg(row.{name}, ''::bytea)"
        for name in names
    )
    whole = statement("rejected_columns", cells=cells, rows=query)
    with cursor.connection.cursor(row_factory=tuple_row, binary=True) as rows:
        found = rows.execute(whole.encode(), asked).fetchone() or ()
    numbers, replays, *each = found
    lines = _numbers(numbers)
    replay = np.frombuffer(replays or b"", ">i4").astype(np.int32)
    columns = {
        "line_no": pa.array(lines),
        "replay_file_id": pa.array(replay, mask=replay == 0),
        "state": pa.repeat("open", len(lines)),
        "note": pa.nulls(len(lines), pa.string()),
    }
    for name, lengths, held in zip(names, each[::2], each[1::2], strict=True):
        columns[name] = _cells(_TYPES[name], lengths or b"", held or b"")
    return RejectedRows(pa.table(columns))


def _numbers(held: bytes | None) -> Ints:
    """Return line numbers that came one after the other, as the network has them."""
    numbers: Ints = np.frombuffer(held or b"", ">i8").astype(np.int64)
    return numbers


def _cells(kind: pa.DataType, lengths: bytes, held: bytes) -> pa.Array:
    """Return cells that came one after the other.

    Args:
        kind: text or bytes.
        lengths: the length of each in bytes, as the network has them; negative for null.
        held: all of them.
    """
    each = np.frombuffer(lengths, ">i4")
    missing = each < 0
    if missing.all():
        return pa.nulls(len(each), kind)
    offsets = np.zeros(len(each) + 1, np.int32)
    np.cumsum(np.maximum(each, 0), out=offsets[1:])
    present = pa.array(~missing).buffers()[1] if missing.any() else None
    buffers = [present, pa.py_buffer(offsets), pa.py_buffer(held)]
    return pa.Array.from_buffers(kind, len(each), buffers)
