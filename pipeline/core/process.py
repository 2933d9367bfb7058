"""Judge: from a block of text to readings, their statistics, and rejected rows. Memory only.

All that can be known of a block without asking the database, so that it can be worked out ahead,
in threads, while the block before it is being loaded. Nothing here changes once it is made: a
transaction that is tried again starts from the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline import memory, metrics
from pipeline.contract import Contract
from pipeline.contract.header import Header
from pipeline.core.aggregate import Summary, summarise
from pipeline.core.checks import nothing
from pipeline.core.normalise import normalise
from pipeline.core.parse import parse
from pipeline.core.records import Block, Readings, Repeats, Rows, Segment
from pipeline.core.rejected import Rejected, joined
from pipeline.core.validate import validate

memory.choose_allocators()


@dataclass(frozen=True, slots=True)
class Group:
    """The valid rows of one kind of sensor model.

    Attributes:
        readings: each key once.
        repeats: the rows whose key an earlier row of the block has.
        summary: of `readings`.
    """

    readings: Readings
    repeats: Repeats
    summary: Summary

    def summary_of(self, landed: Readings) -> Summary:
        """Summarise those of the readings that were loaded; of all of them it is known."""
        return self.summary if landed is self.readings else summarise(landed)


@dataclass(frozen=True, slots=True)
class Processed:
    """A block that was judged.

    Attributes:
        header: what named its columns.
        segments: whose lines they were.
        rows: where each row's line is; its table is empty by now.
        groups: the valid rows.
        rejected: the others, of those that need no comparing with what is loaded; by file and
            line.
        text_bytes: how much text they were.
    """

    header: Header
    segments: tuple[Segment, ...]
    rows: Rows
    groups: tuple[Group, ...]
    rejected: Rejected
    text_bytes: int


def process(
    block: Block,
    contract: Contract,
    now: datetime,
    check: Callable[[], None] = nothing,
    most_reasons: int | None = None,
) -> Processed:
    """Split, validate, normalise and summarise a block.

    Args:
        block: the lines.
        contract: what is accepted.
        now: the present, in UTC; readings may be at most a day ahead of it.
        check: called now and then; what it raises ends the work.
        most_reasons: how many different reasons its rows may be rejected for; None for any number.

    Raises:
        TooManyReasons: there are more.
    """
    with metrics.stage("split"):
        rows = parse(block, check)
    with metrics.stage("validate"):
        valid, rejected = validate(rows, contract, now, check, most_reasons)
    groups = []
    for group in valid:
        check()
        with metrics.stage("normalise"):
            readings, repeats = normalise(group, rows, contract)
        with metrics.stage("aggregate"):
            groups.append(Group(readings, repeats, summarise(readings)))
    every = joined([rejected, Rejected.of(rows.rejected)])
    # The text is all that is asked for from here on, and that only of rows that may still turn out
    # to contradict others; the rest would only take up room.
    text = rows.text if any(len(group.readings.frame) for group in groups) else b""
    lines = replace(rows, table=rows.table.schema.empty_table(), rejected=[], text=text)
    return Processed(block.header, block.segments, lines, tuple(groups), every, len(block.text))
