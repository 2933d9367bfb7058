"""Garbage takes no more memory than it must: what many rows share is told once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.core.process import Processed, process
from pipeline.core.records import Block, Segment
from pipeline.files import read

CONTRACT = Contract.default()
HEADER = recognise(",sensor_id,location,lat,lon,timestamp,P1,P2", CONTRACT)


def judged(*lines: bytes) -> Processed:
    text = b"".join(line + b"\n" for line in lines)
    return process(Block(HEADER, text, (Segment(0, 2, len(lines)),)), CONTRACT, datetime.now(UTC))


def test_lines_of_the_same_width_share_their_reason() -> None:
    rejected = judged(*[b"x"] * 500, *[b"x,y"] * 500).rejected_rows
    assert [told[0].value for told in rejected.told] == ["1", "2"]
    assert rejected.code.tolist() == [0] * 500 + [1] * 500


def test_nothing_is_told_that_is_said_of_no_row() -> None:
    lines = [b"0,a%d,b%d,c%d,d%d,e%d,f%d,g%d" % ((number,) * 7) for number in range(50)]
    rejected = judged(*lines).rejected_rows
    assert len(rejected) == len(rejected.told) == 50
    assert {len(told) for told in rejected.told} == {7}


def test_rejected_rows_are_kept_once() -> None:
    block = judged(b"x", b"x,y", b'"')
    assert len(block.rejected_rows) == 3


def test_a_block_of_short_lines_is_cut(tmp_path: Path) -> None:
    lines = [HEADER.line, *("x" * (number % 3) for number in range(100_000))]
    path = tmp_path / "short.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    limits = read.Limits(block_bytes=2**16, max_line_bytes=2**16, max_inflated_bytes=2**30)
    blocks = list(read.blocks(read.content(path, 0), 0, CONTRACT, limits))
    assert "".join(block.text.decode() for block in blocks).splitlines() == lines[1:]
    expected = 2
    for block in blocks:
        (segment,) = block.segments
        assert segment.first_line == expected
        assert segment.lines == block.text.count(b"\n") <= 2**16 // 16
        expected += segment.lines
