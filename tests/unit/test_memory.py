"""What is in memory at a time is bounded, whatever the bytes of a file are."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.core.malformed import malformed_numbers
from pipeline.core.parse import _lines_with
from pipeline.core.records import Block, Segment
from pipeline.errors import FileChanged, FileRefused, forget_frames
from pipeline.files.read import _of_few_lines, merged
from pipeline.records import Content
from pipeline.singling import Singling
from pipeline.transaction import Batch

CONTRACT = Contract.default()
HEADER = recognise("sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2", CONTRACT)
MIB = 2**20


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that were taken at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def drained(text: bytes, most: int) -> int:
    return sum(len(ends) for _, ends in _of_few_lines(text, most))


@pytest.mark.parametrize("most", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    "text", [b"a\n", b"\n" * 7, b"a\nbb\n\nccc\n", b"x" * 50 + b"\n" + b"y\n" * 20]
)
def test_text_is_cut_at_every_so_many_lines(text: bytes, most: int) -> None:
    parts = list(_of_few_lines(text, most))
    assert b"".join(part for part, _ in parts) == text
    for part, ends in parts:
        assert ends.tolist() == [at + 1 for at, byte in enumerate(part) if byte == ord("\n")]
    assert all(len(ends) == most for _, ends in parts[:-1])
    assert 0 < len(parts[-1][1]) <= most


def test_cutting_blank_lines_takes_no_more_than_their_text() -> None:
    text = b"\n" * (4 * MIB)
    assert peak(lambda: drained(text, 87_381)) < 4 * MIB


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_lines_with_marks_are_found(share: float) -> None:
    random = np.random.default_rng(1)
    marks = random.random(600_000) <= share
    ends = np.unique(np.append(random.integers(0, len(marks), 5_000), len(marks)))
    assert _lines_with(marks, ends).tolist() == sorted(
        set(np.searchsorted(ends, np.flatnonzero(marks)).tolist())
    )


def test_looking_for_lines_takes_no_more_than_their_text() -> None:
    marks, ends = np.ones(4 * MIB, bool), np.array([4 * MIB])
    assert peak(lambda: _lines_with(marks, ends)) < 8 * MIB


def test_looking_at_a_long_number_takes_a_few_times_its_text() -> None:
    text = pa.array(["9" * 4 * MIB])
    assert peak(lambda: malformed_numbers(text)) < 10 * 4 * MIB


def test_files_of_short_lines_share_blocks_of_few() -> None:
    files = [Block(HEADER, b"x\n" * 5_000, (Segment(number, 2, 5_000),)) for number in range(100)]
    blocks = list(merged(files, 4 * MIB))
    lines = [sum(segment.lines for segment in block.segments) for block in blocks]
    assert sum(lines) == 500_000
    assert max(lines) <= 4 * MIB // 48
    assert len(blocks) == 6


class Held:
    """Something that takes a lot of memory."""


@pytest.mark.parametrize("kind", [FileRefused, FileChanged])
def test_a_failed_attempt_is_not_in_memory_while_the_next_is_made(
    kind: type[FileRefused | FileChanged],
) -> None:
    files = [Content(None, 1, str(number), None, (0,) * 5) for number in range(4)]  # type: ignore[arg-type]  # not read
    batch = Batch(files=files)
    alive: list[weakref.ref[Held]] = []

    def attempt(members: Sequence[int]) -> None:
        assert [one for one in alive if one() is not None] == []
        left = [position for position in members if position not in batch.settled]
        if not left:
            return
        held = Held()
        alive.append(weakref.ref(held))
        error = FileRefused("rule", "text") if kind is FileRefused else FileChanged("text")
        noted = batch.refused if kind is FileRefused else batch.left
        noted[left[0]] = error  # type: ignore[assignment]  # of its own kind
        raise error

    Singling().commit(batch, [0, 1, 2, 3], attempt)
    assert len(alive) == 4
    assert {*batch.refused, *batch.left} == {0, 1, 2, 3}


def test_an_error_is_kept_without_its_frames_and_with_its_causes() -> None:
    def fail() -> None:
        try:
            int("x")
        except ValueError as error:
            message = "text"
            raise FileChanged(message) from error

    with pytest.raises(FileChanged) as caught:
        fail()
    error = caught.value
    cause = error.__cause__
    assert cause is not None
    forget_frames(error)
    assert error.__cause__ is cause
    assert error.__traceback__ is None
    assert cause.__traceback__ is None
