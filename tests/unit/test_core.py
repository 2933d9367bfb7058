"""The core is pure: the same block gives the same tables, in this process, another, or in parts."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.core import tables
from pipeline.core.process import Processed, process
from pipeline.core.ranges import blocks_of_range
from pipeline.core.records import Block, Segment

CONTRACT = Contract.default()
NOW = datetime(2020, 1, 1, 12, tzinfo=UTC)
PARTICLES = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2;P0"
CLIMATE = "sensor_id;sensor_type;location;lat;lon;timestamp;pressure;temperature;humidity"
LINES = [
    "1;SDS011;42;42.7;23.3;2017-07-01T00:00:00;9.53;2.83;",
    "1;SDS011;42;42.7;23.3;2017-07-01T00:00:00;9.53;2.83;",
    "1;SDS011;42;42.7;23.3;2017-07-01T00:00:00;9.54;2.83;",
    "1;PMS7003;42;42.7;23.3;2017-07-01T00:00:00;9.53;2.83;1",
    "2;PMS7003;;;;2017-07-01T00:02:28;1000.5;2.83;",
    "2;SDS011;42;42.7;23.3;2017-07-01T00:02:28;1000.5;2.83;",
    "2;SDS011;42;42.7;23.3;2017-07-01T01:02:28;2;3;",
    "x;SDS011;42;42.7;23.3;2017-07-01T00:02:28;1;2;3",
    "3;SDS011;42;42.7;23.3;2020-01-02T12:00:01;1;2;3",
    "not;a;row",
    "",
    PARTICLES,
    CLIMATE,
    "4;BME280;42;42.7;23.3;2017-07-01T00:00:00;95270.27;20.1;55",
    "4;DHT22;42;42.7;23.3;2017-07-01T00:00:00;;20.1;55",
    "sensor_id;when;what",
]


def text_of(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def block_of(lines: Sequence[str] = LINES[:10], header: str = PARTICLES, file: int = 0) -> Block:
    segments = (Segment(file, 2, len(lines), source=f"file {file}"),)
    return Block(recognise(header, CONTRACT), text_of(lines), segments)


def everything(done: Processed) -> dict[str, pa.Table]:
    found = {name: getattr(done, name) for name in ("readings", "repeats", "rejected")}
    return found | done.summaries._asdict()


def rows_of(table: pa.Table) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def work(given: bytes) -> bytes:
    """Process a pickled block in whichever process this is."""
    block, contract, now = pickle.loads(given)
    return pickle.dumps(process(block, contract, now))


def test_rows_are_known_by_source_and_line() -> None:
    segments = (Segment(7, 2, 7, source="first"), Segment(9, 40, 3, source="second"))
    done = process(
        Block(recognise(PARTICLES, CONTRACT), text_of(LINES[:10]), segments), CONTRACT, NOW
    )
    places = {
        name: sorted((row["source"], row["line_no"]) for row in table.to_pylist())
        for name, table in list(everything(done).items())[:3]
    }
    assert places == {
        "readings": [("first", 2), ("first", 6), ("first", 8)],
        "repeats": [("first", 3), ("first", 4), ("first", 5), ("first", 7)],
        "rejected": [("second", 40), ("second", 41), ("second", 42)],
    }
    assert done.read == {7: 7, 9: 3}
    by_source = {(row["sensor_id"], row["quantity"]): row for row in done.summaries[0].to_pylist()}
    assert by_source[2, "pm10"]["n"] == 2
    assert by_source[2, "pm10"]["source"] == "first"
    assert by_source[2, "pm10"]["mean"] == pytest.approx(501.25)


def test_tables_have_the_columns_that_are_declared_whatever_the_block_is() -> None:
    due = [tables.READINGS, tables.READINGS, tables.REJECTED, tables.BY_SOURCE, tables.BY_HOUR]
    for lines in ([], LINES[:10], LINES[7:10], LINES[:1]):
        done = everything(process(block_of(lines), CONTRACT, NOW))
        assert [table.schema for table in done.values()] == due


def test_of_two_models_the_first_line_comes_first() -> None:
    done = process(block_of(LINES[4:6]), CONTRACT, NOW)
    assert [row["line_no"] for row in done.readings.to_pylist()] == [2]
    assert [row["line_no"] for row in done.repeats.to_pylist()] == [3]
    # Also when the other model comes first in the block.
    done = process(block_of([LINES[6], *LINES[4:6]]), CONTRACT, NOW)
    assert sorted(row["line_no"] for row in done.readings.to_pylist()) == [2, 3]
    assert [row["line_no"] for row in done.repeats.to_pylist()] == [4]
    assert [(group.later, len(group.readings.frame)) for group in done.groups] == [
        (False, 1),
        (False, 1),
        (True, 1),
    ]


def test_statistics_are_worked_out_when_asked_for_and_are_the_same_either_way() -> None:
    plain, asked = (process(block_of(), CONTRACT, NOW, summaries=each) for each in (False, True))
    assert all(group.summary is None for group in plain.groups)
    assert all(group.summary is not None for group in asked.groups)
    assert plain.summaries == asked.summaries


def test_stages_can_be_measured_from_outside() -> None:
    seen = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        seen.append(name)
        yield

    process(block_of(LINES[:3]), CONTRACT, NOW, summaries=True, stage=stage)
    assert seen == ["split", "validate", "normalise", "aggregate"]


@pytest.mark.parametrize("lines", [LINES[:10], LINES[7:10], []])
def test_what_goes_in_and_comes_out_can_be_pickled(lines: list[str]) -> None:
    block, contract = pickle.loads(pickle.dumps((block_of(lines), CONTRACT)))
    assert block == block_of(lines)
    assert contract == CONTRACT
    assert contract.version == CONTRACT.version
    done = process(block_of(lines), CONTRACT, NOW)
    again = pickle.loads(pickle.dumps(done))
    assert everything(again) == everything(done)
    assert list(again.rejected_rows) == list(done.rejected_rows)


def test_another_process_gives_the_same_tables() -> None:
    blocks = [block_of(), block_of(LINES[13:15], CLIMATE, 1), block_of([], PARTICLES, 2)]
    given_ = [pickle.dumps((block, CONTRACT, NOW)) for block in blocks]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        done = [pickle.loads(each) for each in pool.map(work, given_)]
    for block, there in zip(blocks, done, strict=True):
        assert everything(there) == everything(process(block, CONTRACT, NOW))


def rows_of_range(text: bytes, header: str, cuts: Sequence[int]) -> dict[str, list[object]]:
    """Process a text cut at some lines; return the rows of all parts, by name of the table."""
    lines = text.splitlines(keepends=True)
    found: dict[str, list[object]] = {"valid": [], "rejected": [], "blocks": []}
    in_force = recognise(header, CONTRACT)
    for start, end in pairwise([0, *cuts, len(lines)]):
        part = b"".join(lines[start:end])
        blocks = blocks_of_range(part, in_force, CONTRACT, first_line=start + 2, source="it")
        in_force = blocks[-1].header if part else in_force
        for block in blocks:
            done = process(block, CONTRACT, NOW)
            found["valid"] += rows_of(done.readings) + rows_of(done.repeats)
            found["rejected"] += rows_of(done.rejected)
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    lines=st.lists(st.sampled_from(LINES), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted),
    ended=st.booleans(),
)
def test_ranges_of_a_file_give_what_the_whole_gives(
    lines: list[str], cuts: list[int], ended: bool
) -> None:
    text = text_of(lines)
    text = text if ended else text[:-1]
    count = len(text.splitlines())
    some = [min(cut, count) for cut in cuts]
    assert rows_of_range(text, PARTICLES, some) == rows_of_range(text, PARTICLES, [])
