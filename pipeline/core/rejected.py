"""Rejected: rows that go to quarantine, as columns.

A file can be bad from its first row to its last. As columns, a million rejected rows cost about as
much as a million good ones; as objects, ten times that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.contract import Reason
from pipeline.contract.rules import as_json
from pipeline.core.records import Ints, RejectedRow, Rows

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Rejected:
    """Rejected rows, iterable as `RejectedRow`.

    Attributes:
        file: each row's file, as its position in the batch.
        line_no: each row's line number in its file.
        lines: each row's bytes, verbatim, without the line end (Arrow binary).
        told: what is wrong with rows, each a tuple of reasons in the order of the columns.
        code: each row's position in `told`; rows may share one.
    """

    file: Ints
    line_no: Ints
    lines: pa.Array
    told: Sequence[tuple[Reason, ...]]
    code: Ints

    @classmethod
    def of(cls, rows: Iterable[RejectedRow]) -> Rejected:
        """Return rows as columns."""
        import pyarrow as pa

        every = list(rows)
        # The same reasons, not only equal ones: comparing texts would take longer than it spares.
        codes: dict[tuple[int, ...], int] = {}
        told: list[tuple[Reason, ...]] = []
        code = np.empty(len(every), np.int64)
        for position, row in enumerate(every):
            same = tuple(map(id, row.reasons))
            if same not in codes:
                codes[same] = len(told)
                told.append(row.reasons)
            code[position] = codes[same]
        return cls(
            np.array([row.file for row in every], np.int64),
            np.array([row.line_no for row in every], np.int64),
            pa.array([row.line for row in every], pa.binary()),
            told,
            code,
        )

    @classmethod
    def among(
        cls, rows: Rows, at: Ints, told: Sequence[tuple[Reason, ...]], code: Ints
    ) -> Rejected:
        """Return those rows of a block that are rejected.

        Args:
            rows: the block's rows.
            at: the positions of the rejected ones.
            told: as the attribute.
            code: as the attribute.
        """
        import pyarrow as pa

        # Lines and what is between them by turns: Arrow cuts where offsets say.
        offsets = np.empty(2 * len(rows.starts), np.int32)
        offsets[::2], offsets[1::2] = rows.starts, rows.ends
        pieces = pa.Array.from_buffers(
            pa.binary(),
            max(0, len(offsets) - 1),
            [None, pa.py_buffer(offsets), pa.py_buffer(rows.text)],
        )
        return cls(rows.file[at], rows.line_no[at], pieces.take(pa.array(2 * at)), told, code)

    @cached_property
    def json(self) -> pa.Array:
        """What `told` says, as JSON arrays."""
        import pyarrow as pa

        return pa.array(as_json(self.told), pa.string())

    @cached_property
    def kinds(self) -> tuple[list[tuple[str, ...]], Ints]:
        """The combinations of rules that were broken, and for each of `told` its position there."""
        positions: dict[tuple[str, ...], int] = {}
        each = np.empty(len(self.told), np.int64)
        for at, reasons in enumerate(self.told):
            rules = tuple([reason.rule for reason in reasons])
            each[at] = positions.setdefault(rules, len(positions))
        return list(positions), each

    def __len__(self) -> int:
        return len(self.file)

    def __iter__(self) -> Iterator[RejectedRow]:
        columns = (self.file.tolist(), self.line_no.tolist(), self.lines.to_pylist())
        for file, line_no, line, code in zip(*columns, self.code.tolist(), strict=True):
            yield RejectedRow(file, line_no, line, self.told[code])


def future_files(rejects: Rejected, now: datetime) -> list[int]:
    """Return the files with rows that were rejected because they are later than the present.

    Args:
        rejects: rejected rows.
        now: the present that they were judged against, in UTC.
    """
    future = [any(_is_future(reason, now) for reason in reasons) for reasons in rejects.told]
    if not any(future):
        return []
    found: list[int] = np.unique(rejects.file[np.array(future)[rejects.code]]).tolist()
    return found


def _is_future(reason: Reason, now: datetime) -> bool:
    # Of a time that exists, and is out of range, only that it is too early or too late is said.
    if reason.rule != "range" or reason.column != "timestamp" or reason.value is None:
        return False
    try:
        moment = datetime.fromisoformat(reason.value.strip())
    except ValueError:  # padded until it was too long to be kept whole
        return True
    return moment.replace(tzinfo=moment.tzinfo or UTC) > now


def joined(parts: Sequence[Rejected]) -> Rejected:
    """Return the rows of all parts, by file and line."""
    import pyarrow as pa

    some = [part for part in parts if len(part)] or list(parts[:1])
    if len(some) == 1:
        one = some[0]
        return _taken(one, np.lexsort((one.line_no, one.file)))
    starts = np.cumsum([0, *(len(part.told) for part in some)])
    every = Rejected(
        np.concatenate([part.file for part in some]),
        np.concatenate([part.line_no for part in some]),
        pa.concat_arrays([part.lines for part in some]),
        [reasons for part in some for reasons in part.told],
        np.concatenate([part.code + start for part, start in zip(some, starts, strict=False)]),
    )
    return _taken(every, np.lexsort((every.line_no, every.file)))


def _taken(rejects: Rejected, order: Ints) -> Rejected:
    import pyarrow as pa

    if len(order) < 2 or bool((np.diff(order) == 1).all()):
        return rejects
    return Rejected(
        rejects.file[order],
        rejects.line_no[order],
        rejects.lines.take(pa.array(order)),
        rejects.told,
        rejects.code[order],
    )
