"""The target of the fuzzer: a file through recognition, reading and judging, held to its budget."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.budget import Bounds, Budget, Tally, rejected_of
from pipeline.contract import FILE_RULES, ROW_RULES, Contract
from pipeline.contract.header import recognise, section_header
from pipeline.core.normalise import settle
from pipeline.core.process import Processed, process
from pipeline.errors import FileRefused
from pipeline.files import read
from pipeline.files.quarantine import base_name, display_name, fields, refused_name, written
from tests.fuzz.hostile import Hostile, path_name

CONTRACT = Contract.default()
NOW = datetime(2020, 1, 1, tzinfo=UTC)
LIMITS = read.Limits(4 * 2**20, 2**20, 2**30)
# What a case may take here is a fifth of what is allowed by default: a slow machine needs room.
SECONDS = 3.0
SECONDS_PER_MB = 2.0
MOST_MEMORY = 240 * 2**20  # beyond what the process held before, which is about 110 MiB


@dataclass
class Taken:
    """What became of a file.

    Attributes:
        rule: why it was refused as a whole; None if it was not.
        read: its rows.
        rules: rule → how many rows broke it.
        seconds: processor time that it took.
    """

    rule: str | None = None
    read: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def take(case: Hostile, folder: Path, *, hold: int = 16 * 2**20) -> Taken:
    """Take a file through everything that needs no database, and check what must hold of any file.

    Args:
        case: the file.
        folder: where to put it.
        hold: files of at most so many bytes are held in memory, others are streamed.

    Raises:
        AssertionError: the books do not balance, or it took too much.
    """
    path = folder / path_name(case.name)
    path.write_bytes(case.raw)
    taken = Taken()
    before, message = _memory(), ""
    began = time.process_time()
    try:
        _take(path, taken, hold)
    except FileRefused as refusal:
        taken.rule = refusal.rule
        message = refusal.message
    finally:
        path.unlink()
    taken.seconds = time.process_time() - began
    used = _memory(peak=True) - before
    assert taken.rule is None or taken.rule in FILE_RULES
    assert len(message.encode()) < 2_000, len(message)
    text = case.text
    inflated = len(text) if text is not None else case.inflates_to
    megabytes = max(len(case.raw), min(inflated, 200 * len(case.raw) + 2**24)) / 2**20
    allowed = SECONDS + SECONDS_PER_MB * megabytes
    assert taken.rule != "over_budget", "it took all that it may take by default"
    assert taken.seconds < allowed, f"{taken.seconds:.1f} s for {megabytes:.1f} MiB"
    if taken.rule is None:
        assert text is not None, "a damaged archive was taken"
        assert taken.read == rows_in(text), (taken.read, rows_in(text))
    assert used < MOST_MEMORY, f"{used / 2**20:.0f} MiB of memory"
    return taken


def rows_in(text: bytes) -> int:
    """Count the rows of a file, in the simplest way: lines that are not blank, but headers."""
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")
    lines = text.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").split(b"\n")
    return sum(
        line.replace(b'""', b"").strip(b" \t\r\v\f;,|") != b"" and not _is_header(line)
        for line in lines[1:]
    )


def _is_header(line: bytes) -> bool:
    text = line.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\r").decode(errors="replace")
    begins_as_row = re.match(r'\s*+"?+\s*+[+-]?\d', text, re.ASCII) is not None
    return not begins_as_row and section_header(text, CONTRACT) is not None


def _memory(*, peak: bool = False) -> int:
    """Return the memory of this process, in bytes: now, or the most since the last time."""
    status = Path("/proc/self/status").read_text()
    wanted = "VmHWM" if peak else "VmRSS"
    (line,) = (line for line in status.splitlines() if line.startswith(wanted))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    return int(line.split()[1]) * 1024


def _take(path: Path, taken: Taken, hold: int) -> None:
    content = read.content(path, hold)
    assert len(base_name(content).encode(errors="surrogateescape")) <= 255
    assert len(refused_name(content).encode(errors="surrogateescape")) <= 255
    display_name(path).encode()
    budget = Budget(Bounds())
    tally = Tally(Bounds(), content.size)
    stream = read.blocks(content, 0, CONTRACT, LIMITS, budget.check)
    while True:
        with budget.at_work():
            block = next(stream, None)
        if block is None:
            return
        budget.grow(len(block.text))
        if block.header.fault is None:
            assert recognise(block.header.line, CONTRACT) == block.header
        with budget.at_work():
            judged = process(block, CONTRACT, NOW, budget.check)
        _check_block(judged, taken)
        for _, own in rejected_of(judged.rejected_rows, [0]):
            tally.add(judged.read.get(0, 0), own)


def _check_block(judged: Processed, taken: Taken) -> None:
    """Check the books of a block, and that what is told of its rows can be written out."""
    loaded = repeated = 0
    for group in judged.groups:
        loaded += len(group.readings.frame)
        equal, conflicts = settle(group.readings, group.repeats, judged.lines, ["it"], {})
        repeated += sum(equal.values()) + len(conflicts)
        assert group.readings.frame["sensor_id"].gt(0).all()
    read_ = sum(judged.read.values())
    assert read_ == loaded + repeated + len(judged.rejected_rows)
    taken.read += read_
    rejected = judged.rejected_rows
    for code, told in enumerate(rejected.told):
        for reason in told:
            assert reason.rule in ROW_RULES
            assert len(reason.message) < 1_000, reason.message[:200]
            reason.message.encode()
        taken.rules[told[0].rule] += int((rejected.code == code).sum()) if code < 20 else 1
    assert len(rejected.json) == len(rejected.told)
    for row in list(rejected)[:20]:
        written(fields(judged.header, row.line), judged.header.delimiter).encode()
