"""Process: from a block to readings, repeated rows, rejected rows and, if asked, statistics.

All that can be known of a block without asking what is stored. Nothing here changes once it is
made, so a transaction that is tried again starts from the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from pipeline.contract import Contract
from pipeline.contract.header import Header
from pipeline.core import tables
from pipeline.core.aggregate import Summary, summarise
from pipeline.core.checks import nothing
from pipeline.core.normalise import first_rows_first, normalise
from pipeline.core.parse import parse
from pipeline.core.records import NO_LINES, Block, Lines, Readings, Repeats, Segment
from pipeline.core.rejected import Rejected, joined
from pipeline.core.validate import validate

# Given the name of a stage, returns what is entered for as long as it takes.
Stage = Callable[[str], AbstractContextManager[None]]


def unmeasured(_: str) -> AbstractContextManager[None]:
    """Stand in for the measuring of stages."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Group:
    """The valid rows of one kind of sensor model.

    Attributes:
        readings: each key once.
        repeats: the rows whose key an earlier row of the group has.
        summary: of `readings`; None unless it was asked for.
        later: whether an earlier group has a row with each of these keys, from a line before.
    """

    readings: Readings
    repeats: Repeats
    summary: Summary | None = None
    later: bool = False

    def summary_of(self, written: Readings) -> Summary:
        """Summarise those of the readings that were loaded; of all of them it may be known."""
        if self.summary is not None and written is self.readings:
            return self.summary
        return summarise(written)


@dataclass(frozen=True, slots=True)
class Processed:
    """What became of a block.

    For the database's loading, as columns in the form that is fastest to go on with: `groups` and
    `rejected_rows`. For everybody else, as Arrow tables, made when asked for, whose rows are known
    by `source` and `line_no`: `readings`, `repeats`, `rejected` and `summaries`.

    Attributes:
        header: what named its columns.
        segments: whose lines they were.
        read: file → how many rows it had here, rejected ones included.
        lines: where the lines of valid rows are; none if there are no valid rows.
        groups: the valid rows.
        rejected_rows: the others, of those that need no comparing with what is stored; by file and
            line.
        text_bytes: how much text they were.
    """

    header: Header
    segments: tuple[Segment, ...]
    read: dict[int, int]
    lines: Lines
    groups: tuple[Group, ...]
    rejected_rows: Rejected
    text_bytes: int

    @property
    def sources(self) -> dict[int, str]:
        """File, as a position in the batch → what it is known by."""
        return {segment.file: segment.source for segment in self.segments}

    @property
    def readings(self) -> pa.Table:
        """The valid rows, each key once: of equal ones the first. Columns: `tables.READINGS`."""
        firsts = [group for group in self.groups if not group.later]
        parts = [tables.of_readings(each.readings, self.lines, self.sources) for each in firsts]
        return tables.together(tables.READINGS, parts)

    @property
    def repeats(self) -> pa.Table:
        """The other valid rows: duplicates and conflicts. Columns as in `readings`."""
        parts = []
        for each in self.groups:
            frames = [each.repeats.frame, *([each.readings.frame] if each.later else [])]
            parts += [
                tables.of_frame(frame, each.readings, self.lines, self.sources) for frame in frames
            ]
        return tables.together(tables.READINGS, parts)

    @property
    def rejected(self) -> pa.Table:
        """The rejected rows. Columns: `tables.REJECTED`."""
        return tables.of_rejected(self.rejected_rows, self.sources)

    @property
    def summaries(self) -> tables.Summaries:
        """Statistics of `readings`, worked out unless that was done already."""
        summaries = [each.summary_of(each.readings) for each in self.groups if not each.later]
        return tables.of_summaries(summaries, self.sources)


def process(
    block: Block,
    contract: Contract,
    now: datetime,
    check: Callable[[], None] = nothing,
    most_reasons: int | None = None,
    *,
    summaries: bool = False,
    stage: Stage = unmeasured,
) -> Processed:
    """Parse, validate and normalise a block.

    Args:
        block: the lines.
        contract: what is accepted.
        now: the present, in UTC; readings may be at most a day ahead of it.
        check: called now and then; what it raises ends the work.
        most_reasons: how many different reasons its rows may be rejected for; None for any number.
        summaries: whether to work out statistics as well.
        stage: entered for each stage of the work: `split`, `validate`, `normalise`, `aggregate`.

    Raises:
        TooManyReasons: there are more.
    """
    with stage("split"):
        rows = parse(block, check)
    with stage("validate"):
        valid, rejected = validate(rows, contract, now, check, most_reasons)
    groups = []
    for group, later in first_rows_first(valid, contract):
        check()
        with stage("normalise"):
            readings, repeats = normalise(group, rows, contract)
        summary = None
        if summaries:
            with stage("aggregate"):
                summary = summarise(readings)
        groups.append(Group(readings, repeats, summary, later))
    every = joined([rejected, Rejected.of(rows.rejected)])
    # Lines are asked for only of rows that may still turn out to contradict others.
    lines = NO_LINES
    if any(len(group.readings.frame) for group in groups):
        lines = Lines(rows.file, rows.line_no, rows.text, rows.starts, rows.ends)
    return Processed(
        block.header, block.segments, rows.read, lines, tuple(groups), every, len(block.text)
    )
