"""Lines as a CSV for people shows them: those that go in as they are, and those that do not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import Contract
from pipeline.contract.header import Header, recognise
from pipeline.files.quarantine import fields, shown, written
from pipeline.spreadsheet import plain

HEADERS = [
    recognise(mark.join(names), Contract.default())
    for names in (
        ["sensor_id", "sensor_type", "location", "lat", "lon", "timestamp", "P1", "P2"],
        [
            "line_no",
            "reasons",
            "sensor_id",
            "sensor_type",
            "location",
            "lat",
            "lon",
            "timestamp",
            "P1",
            "P2",
        ],
    )
    for mark in ";,"
]
PARTS = [b";", b",", b'"', b"'", b"=", b"-", b"5", b".", b"@", b"x", b" ", b"\\", b"\t", b"\xff"]
lines = st.lists(
    st.lists(st.sampled_from([*PARTS, "é＝".encode()]), min_size=1, max_size=9).map(b"".join),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=300)
@given(lines, st.sampled_from(HEADERS), st.integers(0, 3))
def test_every_line_is_shown_as_its_fields_are(some: list[bytes], header: Header, cut: int) -> None:
    # What is cut off in front: an array that does not begin with its buffer.
    array = pa.array([b"=cut", *[b"x"] * cut, *some], pa.binary())[cut + 1 :]
    numbers = np.arange(2, 2 + len(some))
    for repaired in ({}, {2: ["=1", "x;y"]}):
        found, made_plain = shown(array, numbers, header, repaired)
        cells = [repaired.get(n) or fields(header, line) for n, line in enumerate(some, start=2)]
        due = [list(map(plain, each)) for each in cells]
        assert found.to_pylist() == [written(each, header.delimiter)[:-1] for each in due]
        assert made_plain.tolist() == [
            int(each != was) for each, was in zip(due, cells, strict=True)
        ]
