"""Hostile files are bounded before they are looked at, and looked at in linear time."""

from __future__ import annotations

import gzip
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.budget import Bounds, Budget, Costs
from pipeline.contract import Contract
from pipeline.contract.header import MAX_COLUMNS, MAX_HEADER_BYTES, MAX_NAME, recognise
from pipeline.core.checks import TooManyReasons, watched
from pipeline.core.parse import parse
from pipeline.core.process import process
from pipeline.core.records import Block, Segment
from pipeline.core.rejected import Rejected
from pipeline.core.validate import validate
from pipeline.errors import FileRefused
from pipeline.files import read
from pipeline.inflate import decoded
from pipeline.reading import cut
from pipeline.rework.sheet import Sheet, Unreadable, decode
from tests.fuzz.hostile import Hostile, files
from tests.fuzz.target import take

CONTRACT = Contract.default()
NOW = datetime(2020, 1, 1, tzinfo=UTC)
NAMES = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2"
HEADER = recognise(NAMES, CONTRACT)
LIMITS = read.Limits(2**22, 2**20, 2**30)


class Stop(Exception):  # what a check raises here
    """Asked to stop."""


def stop_at(calls: int) -> Callable[[], None]:
    """Return what raises when it is called so many times."""
    left = itertools.count(calls - 1, -1)

    def check() -> None:
        if next(left) <= 0:
            raise Stop

    return check


def block(*lines: bytes) -> Block:
    return Block(HEADER, b"".join(line + b"\n" for line in lines), (Segment(0, 2, len(lines)),))


def refusal(raw: bytes, tmp_path: Path, limits: read.Limits = LIMITS) -> FileRefused:
    path = tmp_path / "some.csv"
    path.write_bytes(raw)
    with pytest.raises(FileRefused) as told:
        list(read.blocks(read.content(path, 2**24), 0, CONTRACT, limits))
    return told.value


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b";" * 1_000_000,
        b";".join(b"c%d" % i for i in range(100_000)),
        NAMES.encode() + b";x" * 100_000,
        NAMES.encode() + b"".join(b";c%d" % i for i in range(MAX_COLUMNS)),
        NAMES.encode() + b";" + b"n" * MAX_HEADER_BYTES,
        NAMES.encode() + b";" + b"n" * (MAX_NAME + 1),
        NAMES.encode() + b";" + "д".encode() * (MAX_HEADER_BYTES // 2),
        b'"' * 1_000_000,
    ],
    ids=["delimiters", "names", "twice", "columns", "bytes", "a name", "letters", "quotes"],
)
def test_a_header_is_bounded(first: bytes, tmp_path: Path) -> None:
    began = time.thread_time()
    refused = refusal(gzip.compress(first + b"\n92;SDS011\n"), tmp_path)
    assert refused.rule == "unknown_header"
    assert len(refused.message) < 1000
    assert time.thread_time() - began < 1


def test_columns_beside_the_known_ones_are_welcome() -> None:
    more = ";".join(f"note {number}" for number in range(MAX_COLUMNS - 8))
    assert recognise(f"{NAMES};{more}", CONTRACT).models == HEADER.models


def test_many_names_that_come_twice_are_not_all_told() -> None:
    header = recognise(NAMES + "".join(f";c{n};c{n}" for n in range(200)), CONTRACT)
    assert len(set(header.names)) == len(header.names)  # nobody asks for them
    with pytest.raises(FileRefused) as told:
        recognise(NAMES + f";{NAMES}" * 20, CONTRACT)
    assert "twice: 'P1', 'P2', 'lat'" in told.value.message
    assert len(told.value.message) < 600


# --- compressed files -----------------------------------------------------------------------------


def inflated(raw: bytes, most: int = 2**30, size: int = 1000) -> bytes:
    chunks = list(decoded(io.BytesIO(raw), itertools.repeat(size), most, "max_amplification"))
    assert all(len(chunk) == size for chunk in chunks[:-1])
    return b"".join(chunks)


TEXT = b"".join(b"%d;" % number for number in range(20_000))


@pytest.mark.parametrize(
    "raw",
    [
        TEXT,
        gzip.compress(TEXT),
        gzip.compress(TEXT[:77]) + gzip.compress(TEXT[77:]),
        gzip.compress(b"") * 500 + gzip.compress(TEXT) + gzip.compress(b"") * 500,
        gzip.compress(TEXT[:77]) + bytes(100_000) + gzip.compress(TEXT[77:]) + bytes(50_000),
        b"".join(gzip.compress(TEXT[i : i + 20]) for i in range(0, len(TEXT), 20)),
    ],
    ids=["plain", "one", "two", "empty ones", "zeros", "many"],
)
def test_what_is_inflated_is_what_was_compressed(raw: bytes) -> None:
    assert inflated(raw) == inflated(raw, size=2**20) == TEXT


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (gzip.compress(TEXT)[:-1], "cut short"),
        (gzip.compress(TEXT)[:11], "cut short"),
        (gzip.compress(TEXT) + gzip.compress(TEXT)[:5], "cut short"),
        (gzip.compress(TEXT) + b"\x1f", "cut short"),
        (gzip.compress(TEXT) + b"junk", "damaged"),
        (gzip.compress(TEXT) + bytes(9) + b"junk", "damaged"),
        (gzip.compress(TEXT)[:-8] + bytes(8), "CRC"),
        (gzip.compress(b"") * 100_000, "empty members"),
        (gzip.compress(TEXT)[:3] + b"\x08" + bytes(6) + b"n" * 2_000_000, "cut short"),
    ],
    ids=["end", "start", "second", "magic", "junk", "zeros and junk", "CRC", "empty ones", "name"],
)
def test_a_damaged_archive_is_refused_in_little_time(raw: bytes, words: str) -> None:
    began = time.thread_time()
    with pytest.raises(FileRefused, match="gzip stream") as told:
        inflated(raw)
    assert told.value.rule == "corrupt_gzip"
    assert words in told.value.message
    assert time.thread_time() - began < 2


def test_an_archive_inflates_in_proportion_to_its_size(tmp_path: Path) -> None:
    bomb = gzip.compress(NAMES.encode() + b"\n" + b"\n" * 25_000_000)
    refused = refusal(bomb, tmp_path)
    assert refused.rule == "too_large"
    assert "max_amplification" in refused.message
    limits = read.Limits(2**22, 2**20, 2**30, max_amplification=10_000)
    path = tmp_path / "some.csv"
    assert list(read.blocks(read.content(path, 2**24), 0, CONTRACT, limits))


def test_reading_that_yields_nothing_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "some.csv.gz"
    for raw in (
        gzip.compress(b"") * 900 + bytes(5_000_000),
        gzip.compress(b"\n" * 15_000_000),
        b"\n" * 15_000_000,
    ):
        path.write_bytes(raw)
        with pytest.raises(Stop):
            list(read.blocks(read.content(path, 0), 0, CONTRACT, LIMITS, stop_at(3)))


# --- rows -----------------------------------------------------------------------------------------

MANY = 10_000
DIRTY = {
    "short": [b"x"] * MANY,
    "NUL": [b"\0"] * MANY,
    "latin": [b"\xe4"] * MANY,
    "returns": [b"a\rb"] * MANY,
    "quotes": [b'"'] * MANY,
    "headers": [NAMES.encode()] * MANY,
    "types": [b"1;t%d;;;;2017-07-01T00:00:00;1;1" % i for i in range(10_000)],
    "garbage": [b"a%d;SDS011;b%d;c%d;d%d;e%d;f%d;g%d" % ((i,) * 7) for i in range(3_000)],
}


@pytest.mark.parametrize("kind", DIRTY)
def test_judging_can_be_stopped_anywhere(kind: str) -> None:
    dirty = block(*DIRTY[kind])
    checks: list[None] = []
    process(dirty, CONTRACT, NOW, lambda: checks.append(None))
    assert len(checks) > 10
    for calls in (1, len(checks) // 2, len(checks)):
        with pytest.raises(Stop):
            process(dirty, CONTRACT, NOW, stop_at(calls))


@pytest.mark.parametrize("kind", ["NUL", "latin", "returns", "quotes", "headers", "short"])
def test_equal_rows_share_their_reason(kind: str) -> None:
    rejected = process(block(*DIRTY[kind]), CONTRACT, NOW).rejected_rows
    assert len(rejected) == MANY
    assert len(rejected.told) == 1


def test_many_sensor_types_take_no_longer_than_one() -> None:
    """To look for each of them among all rows would take minutes."""
    began = time.thread_time()
    rejected = process(block(*DIRTY["types"]), CONTRACT, NOW).rejected_rows
    assert len(rejected.told) == 10_000
    assert [row.reasons[0].value for row in rejected][:2] == ["t0", "t1"]
    assert time.thread_time() - began < 2


def test_a_long_cell_is_told_in_short() -> None:
    for cell in (b"9" * 500_000 + b",5", b"1e" + b"9" * 500_000, b"z" * 500_000):
        line = b"92;%s;1;1;1;2017-07-01T00:00:00;%s;1"
        for row in (line % (b"SDS011", cell), line % (cell, b"1")):
            (rejected,) = process(block(row), CONTRACT, NOW).rejected_rows
            assert all(len(reason.message) < 400 for reason in rejected.reasons)
            assert all(len(reason.value or "") <= 80 for reason in rejected.reasons)


def test_too_many_reasons_are_known_before_they_take_any_room() -> None:
    dirty = block(*DIRTY["garbage"])
    rows = parse(dirty)
    with pytest.raises(TooManyReasons) as told:
        validate(rows, CONTRACT, NOW, most_reasons=10_000)
    assert told.value.reasons == 21_001  # with one for the type
    pieces = list(cut(dirty, 7))
    assert b"".join(piece.text for piece in pieces) == dirty.text
    assert [piece.segments[0].first_line for piece in pieces] == [
        2 + sum(piece.segments[0].lines for piece in pieces[:i]) for i in range(len(pieces))
    ]
    apart = [
        row
        for piece in pieces
        for row in process(piece, CONTRACT, NOW, most_reasons=4_000).rejected_rows
    ]
    assert apart == list(process(dirty, CONTRACT, NOW).rejected_rows)


def test_blocks_of_several_files_are_cut_where_lines_end() -> None:
    text = b"a\nb\nc\nd\ne\n"
    whole = Block(HEADER, text, (Segment(0, 2, 2), Segment(1, 7, 1), Segment(2, 2, 2)))
    assert [(piece.text, piece.segments) for piece in cut(whole, 2)] == [
        (b"a\nb\nc\n", (Segment(0, 2, 2), Segment(1, 7, 1))),
        (b"d\ne\n", (Segment(2, 2, 2),)),
    ]
    assert [piece.segments for piece in cut(whole, 5)] == [
        (Segment(0, 2, 1),),
        (Segment(0, 3, 1),),
        (Segment(1, 7, 1),),
        (Segment(2, 2, 1),),
        (Segment(2, 3, 1),),
    ]


# --- the budget -----------------------------------------------------------------------------------


def busy(seconds: float) -> Iterator[None]:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        yield


def test_processor_time_is_bounded_by_the_text() -> None:
    bounds = Bounds(file_seconds=0.05, file_seconds_per_mb=0.1)
    budget = Budget(bounds)
    words = r"more than 0\.1 s of processor time for 0\.0 MiB"
    with pytest.raises(FileRefused, match=words) as told, budget.at_work():
        list(watched(busy(10), budget.check))
    assert told.value.rule == "over_budget"
    richer = Budget(bounds, text=2 * 2**20)
    for _ in range(2):  # what was spent before counts, too
        with richer.at_work():
            list(busy(0.1))
    with pytest.raises(FileRefused), richer.at_work():
        list(busy(0.1))


def test_waiting_costs_nothing() -> None:
    budget = Budget(Bounds(file_seconds=0.05, file_seconds_per_mb=0))
    with budget.at_work():
        time.sleep(0.2)


def rejects(lines: int, rule: bytes = b"x") -> Rejected:
    return process(block(*[rule] * lines), CONTRACT, NOW).rejected_rows


@pytest.mark.parametrize(
    ("read_", "bad", "rule"),
    [
        (9_999, 9_999, None),
        (10_000, 5_000, None),
        (10_000, 5_001, "mostly_malformed"),
        (400_000, 70_001, "too_many_rejected"),  # of a file of 100 bytes
    ],
)
def test_a_file_that_is_rubbish_is_refused(read_: int, bad: int, rule: str | None) -> None:
    refused: dict[int, FileRefused] = {}
    costs = Costs(Bounds(), [100], refused)
    if rule is None:
        costs.rejected({0: read_}, rejects(bad))
        return
    with pytest.raises(FileRefused):
        costs.rejected({0: read_}, rejects(bad))
    assert refused[0].rule == rule
    assert f"{bad:,} of its first {read_:,} rows" in refused[0].message
    assert refused[0].sample[0] == {
        "line_no": 2,
        "line": "x",
        "reason": "the row has 1 field, its header has 8",
    }


def test_rows_without_a_sensor_and_a_time_are_malformed() -> None:
    for line, malformed in [
        (b";;;;;;;", True),
        (b"q;SDS011;1;1;1;q;1;1", True),
        (b"92;SDS011;1;1;1;q;1;1", False),
        (b"92;SDS011;1;1;1;2017-07-01T00:00:00;1,5;1", False),
    ]:
        refused: dict[int, FileRefused] = {}
        try:
            Costs(Bounds(), [2**30], refused).rejected({0: 10_000}, rejects(10_000, line))
        except FileRefused:
            assert refused[0].rule == "mostly_malformed"
        # A row without a type is told so first: its sensor and time are not looked at.
        assert bool(refused) is (malformed and line != b";;;;;;;"), line


def named(files: list[int], sensors: Any = 1, places: Any = 1) -> pd.DataFrame:
    degrees = {"lat": 42.5, "lon": math.nan}
    frame = pd.DataFrame({"file": np.array(files, np.int64), **degrees})
    return frame.assign(sensor_id=sensors, location_id=places)


def test_sensors_and_places_are_bounded_for_each_file() -> None:
    refused: dict[int, FileRefused] = {}
    costs = Costs(Bounds(max_places=100), [1, 1, 1, 1], refused)
    costs.named(named([0, 1] * 100, places=np.repeat(np.arange(100), 2)))
    costs.named(named([0] * 100, places=np.arange(100), sensors=np.arange(100)))
    costs.named(named([], sensors=[], places=[]))
    with pytest.raises(FileRefused, match="names more than 100 places"):
        costs.named(named([0, 1, 0], places=[3, 100, 4]))
    with pytest.raises(FileRefused, match="names more than 100 sensors"):
        costs.named(named([2, 3] * 101, sensors=np.repeat(np.arange(101), 2)))
    assert set(refused) == {1, 2, 3}


def test_places_differ_by_any_of_what_tells_them_apart() -> None:
    for column, values in {
        "lat": np.linspace(-90, 90, 101),
        "lon": np.linspace(-180, 180, 101),
        "location_id": np.arange(-1, 100),
    }.items():
        costs = Costs(Bounds(max_places=100), [1], {})
        frame = named([0] * 101).assign(**{column: values})
        costs.named(frame[:100])
        with pytest.raises(FileRefused, match="places"):
            costs.named(frame[100:])


@pytest.mark.parametrize("size", [100, 10**9], ids=["by rows", "by bytes"])
def test_a_few_bad_rows_in_a_hundred_never_refuse_a_large_file(size: int) -> None:
    """Many more than the absolute limits allow, evenly spread or all at its start."""
    bounds = Bounds(
        max_quarantined_rows=1_000, max_quarantined_bytes=1_000_000, max_amplification=10**6
    )
    costs = Costs(bounds, [size], {})
    bad = rejects(900, b"92;SDS011;1;1;1;2017-07-01T00:00:00;9999;1")
    for _ in range(20):
        costs.rejected({0: 10_000 if size == 100 else 1_000}, bad, 650_000)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(max_quarantined_rows=1_000), "max_quarantined_rows"),
        (Bounds(max_quarantined_bytes=100_000), "max_quarantined_share"),
        (Bounds(max_quarantined_bytes=100_000, max_quarantined_share=0), "max_quarantined_bytes"),
        (Bounds(max_amplification=1), "max_amplification"),
    ],
    ids=["rows", "share", "bytes", "amplification"],
)
def test_a_share_of_bad_rows_that_is_not_small_is_bounded(bounds: Bounds, words: str) -> None:
    bad = rejects(2_000, b"92;SDS011;1;1;1;2017-07-01T00:00:00;9999;1")
    costs = Costs(bounds, [100], {})

    def many() -> None:
        for _ in range(100):
            costs.rejected({0: 10_000}, bad, 400_000)

    with pytest.raises(FileRefused, match=words) as told:
        many()
    assert told.value.rule == "too_many_rejected"


# --- sheets ---------------------------------------------------------------------------------------


def sheet_of(folder: Path, raw: bytes) -> Sheet:
    path = folder / "some.csv"
    path.write_bytes(raw)
    return decode(path.name, path)


def rows_of(sheet: Sheet) -> list[tuple[int, list[str]]]:
    (piece,) = sheet.pieces(1)
    return [(record.row, record.cells()) for record, _ in sheet.records(piece)]


@pytest.mark.parametrize(
    "raw", [b"line_no" + b";" * 1_000_000, b"line_no;" + b"n" * 10_000_000], ids=["many", "long"]
)
def test_the_header_of_a_sheet_is_bounded(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="its header has more than"):
        sheet_of(tmp_path, raw + b"\n1;2\n")


@pytest.mark.parametrize("rows", [2, 30_000])
def test_a_sheet_with_carriage_returns_for_line_ends_is_read(rows: int, tmp_path: Path) -> None:
    lines = [f"{n};'x';{n % 10}" for n in range(2, rows + 2)]
    for start in (b"", b"\xef\xbb\xbf", b"sep=;\r"):
        text = "\r".join(["line_no;reasons;P1", *lines, ""])
        sheet = sheet_of(tmp_path, start + text.encode())
        assert sheet.names == ("line_no", "reasons", "P1")
        first = 3 if start.startswith(b"sep") else 2
        assert [(row, ";".join(cells)) for row, cells in rows_of(sheet)] == [
            *enumerate(lines, start=first)
        ]


def test_numbers_of_files_that_no_file_has_are_passed(tmp_path: Path) -> None:
    text = "file_id;line_no\n" + "9" * 5_000 + ";1\n12345678901;1\n٣;1\n7;1\n"
    assert sheet_of(tmp_path, text.encode()).files() == [3, 7]


def test_a_compressed_sheet_is_bounded(tmp_path: Path) -> None:
    rows = b"line_no;reasons;P1\n" + b"2;;5\n" * 8_000_000
    with pytest.raises(Unreadable, match="inflates to more than"):
        sheet_of(tmp_path, gzip.compress(rows))


def test_a_line_of_a_sheet_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="has more than"):
        sheet_of(tmp_path, b"line_no;reasons;P1\n2;;" + b"5" * 34_000_000)


def test_a_quotation_without_end_costs_its_row_only_so_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.rework.lines.LONGEST", 1_000)
    text = 'line_no;reasons;P1\n2;;"5\n' + "".join(f"{n};;6\n" for n in range(3, 2_000))
    found = rows_of(sheet_of(tmp_path, text.encode()))
    assert found[0][0] == 2
    assert len(found[0][1][2]) < 1_100
    assert found[-1][1] == ["1999", "", "6"]


# --- and whatever else comes ----------------------------------------------------------------------


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(case=files())
def test_whatever_comes_is_taken_or_refused_within_its_budget(
    tmp_path_factory: pytest.TempPathFactory, case: Hostile
) -> None:
    take(case, tmp_path_factory.mktemp("fuzz"))
