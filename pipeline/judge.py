"""Judge: from a block of text to readings, their statistics, and rejected rows. Memory only.

All that can be known of a block without asking the database, so that it can be worked out ahead,
in threads, while the block before it is being loaded. Nothing here changes once it is made: a
transaction that is tried again starts from the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from pipeline import memory, metrics
from pipeline.budget import nothing
from pipeline.contract import Contract
from pipeline.contract.header import Header
from pipeline.records import Block, Readings, Repeats, Rows, Segment
from pipeline.rejects import Rejects, joined
from pipeline.steps.aggregate import Summary, summarise
from pipeline.steps.normalise import normalise
from pipeline.steps.split import split
from pipeline.steps.validate import validate

T = TypeVar("T")

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
class Judged:
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
    rejected: Rejects
    text_bytes: int


def judge(
    block: Block,
    contract: Contract,
    now: datetime,
    check: Callable[[], None] = nothing,
    most_reasons: int | None = None,
) -> Judged:
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
        rows = split(block, check)
    with metrics.stage("validate"):
        valid, rejected = validate(rows, contract, now, check, most_reasons)
    groups = []
    for group in valid:
        check()
        with metrics.stage("normalise"):
            readings, repeats = normalise(group, rows, contract)
        with metrics.stage("aggregate"):
            groups.append(Group(readings, repeats, summarise(readings)))
    every = joined([rejected, Rejects.of(rows.rejected)])
    # The text is all that is asked for from here on, and that only of rows that may still turn out
    # to contradict others; the rest would only take up room.
    text = rows.text if any(len(group.readings.frame) for group in groups) else b""
    lines = replace(rows, table=rows.table.schema.empty_table(), rejected=[], text=text)
    return Judged(block.header, block.segments, lines, tuple(groups), every, len(block.text))


def ahead(
    blocks: Generator[Block],
    work: Callable[[Block], T],
    workers: int,
    together: int,
    busy: Callable[[], Future[Any] | None] = lambda: None,
) -> Generator[list[T]]:
    """Read and work on blocks in threads, a few ahead of whoever takes the results.

    Args:
        blocks: read in one thread, in order; closed at the end.
        work: what to do with each.
        workers: how many threads do it.
        together: how many results may be taken at once, at most. One more than `workers`, and no
            fewer, are in the making or waiting while results are waited for. For those that were
            taken, others are begun when the next are asked for: while the taker is behind, no more
            is held.
        busy: returns what whoever takes the results is busy with, if anything. Until that is done
            there is time to wait for one more.

    Yields:
        One result or more, as many as are ready, in the order of the blocks. What reading or
        working raised is raised here.
    """
    with (
        closing(blocks),
        ThreadPoolExecutor(1, "read") as reading,
        ThreadPoolExecutor(workers, "judge") as working,
    ):

        def begin() -> Future[T | None]:
            block = reading.submit(next, blocks, None)
            return working.submit(_worked, block, work)

        waiting = deque(begin() for _ in range(workers + 1))
        try:
            while (result := waiting.popleft().result()) is not None:
                ready = [result]
                while len(ready) < together and waiting:
                    if (job := busy()) is not None:
                        wait((waiting[0], job), return_when=FIRST_COMPLETED)
                    if (more := _if_ready(waiting[0])) is None:
                        break
                    waiting.popleft()
                    ready.append(more)
                yield ready
                waiting += [begin() for _ in ready]
        finally:
            # What nobody will take is neither worked on nor read any more.
            for pool in (reading, working):
                pool.shutdown(wait=False, cancel_futures=True)


def _if_ready(result: Future[T | None]) -> T | None:
    return result.result() if result.done() and result.exception() is None else None


def _worked(block: Future[Block | None], work: Callable[[Block], T]) -> T | None:
    found = block.result()
    return None if found is None else work(found)
