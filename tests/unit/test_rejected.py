"""Rejected rows are the same as columns and one by one, whichever way they came together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contract import Contract, Reason
from pipeline.contract.header import recognise
from pipeline.contract.rules import as_json
from pipeline.core.records import RejectedRow, Rows
from pipeline.core.rejected import Rejected, joined

HEADER = recognise(",sensor_id,location,lat,lon,timestamp,P1,P2", Contract.default())
REASONS = [Reason("type", f"no {number}", value=str(number)) for number in range(4)]

reasons = st.lists(st.sampled_from(REASONS), min_size=1, max_size=3).map(tuple)
# Lines of any bytes, those that are no text included, but for what ends them.
lines = st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"\0"))
places = st.tuples(st.integers(0, 3), st.integers(2, 2**40))


def rejected(most: int = 8) -> st.SearchStrategy[list[RejectedRow]]:
    """Return lists of rows, each in a place of its own, in any order."""
    return st.dictionaries(places, st.tuples(lines, reasons), max_size=most).flatmap(
        lambda found: st.permutations([RejectedRow(*at, *row) for at, row in found.items()])
    )


@given(rows=rejected())
def test_rows_as_columns_are_the_same_rows(rows: list[RejectedRow]) -> None:
    columns = Rejected.of(rows)
    assert len(columns) == len(rows)
    assert list(columns) == rows
    told = columns.json.take(pa.array(columns.code)).to_pylist()
    assert told == as_json(row.reasons for row in rows)


def test_rows_that_share_their_reasons_share_what_is_told() -> None:
    shared = (REASONS[0],)
    columns = Rejected.of(
        RejectedRow(0, number, b"x", (REASONS[1],) if number == 7 else shared)
        for number in range(99)
    )
    assert list(columns.told) == [shared, (REASONS[1],)]


@given(rows=rejected(12), cuts=st.lists(st.integers(0, 12), min_size=1, max_size=3).map(sorted))
def test_parts_joined_are_all_rows_by_file_and_line(
    rows: list[RejectedRow], cuts: list[int]
) -> None:
    ends = [0, *cuts, len(rows)]
    parts = [Rejected.of(rows[start:end]) for start, end in pairwise(ends)]
    every = joined(parts)
    due = sorted(row for start, end in pairwise(ends) for row in rows[start:end])
    assert [row[:3] for row in every] == [row[:3] for row in due]
    assert {row[:2]: row.reasons for row in every} == {row[:2]: row.reasons for row in due}
    # The parts are as they were: a transaction that is tried again starts from the same.
    assert [list(part) for part in parts] == [rows[start:end] for start, end in pairwise(ends)]


@given(data=st.data(), text=st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n"]))))
def test_rows_of_a_block_keep_their_bytes(
    data: st.DataObject, text: list[tuple[bytes, bytes]]
) -> None:
    ends = np.cumsum([len(line) + len(end) for line, end in text], dtype=np.int64)
    starts = np.array([0, *ends[:-1]], np.int64)[: len(text)]
    rows = Rows(
        header=HEADER,
        table=pa.table({}),
        file=np.arange(len(text)) // 2,
        line_no=np.arange(len(text)) + 2,
        rejected=[],
        read={},
        text=b"".join(line + end for line, end in text),
        starts=starts,
        ends=starts + np.array([len(line) for line, _ in text], np.int64),
    )
    bad = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    at = np.flatnonzero(np.array(bad, bool))
    code = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(at), max_size=len(at))), int)
    told = [(reason,) for reason in REASONS]
    assert list(Rejected.among(rows, at, told, code)) == [
        RejectedRow(row // 2, row + 2, text[row][0], told[each])
        for row, each in zip(at.tolist(), code.tolist(), strict=True)
    ]
