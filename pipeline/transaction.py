"""Transaction: what one batch of files brings into the database, all of it or nothing.

Quarantine output is written inside, before the commit, since the database has its say about which
rows conflict; its names derive from the files' hashes, so a second try overwrites the first's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import metrics
from pipeline.budget import Bounds, Costs
from pipeline.clock import Present
from pipeline.contract import MAX_ID, Contract
from pipeline.contract.explain import conflict
from pipeline.core import aggregate
from pipeline.core.aggregate import Summary, day_reached
from pipeline.core.normalise import settle
from pipeline.core.process import Group, Processed
from pipeline.core.records import Block, Columns, Ints, RejectedRow
from pipeline.core.rejected import Rejected, joined
from pipeline.errors import FileRefused, Transient, forget_frames
from pipeline.files import quarantine as quarantining
from pipeline.records import Content
from pipeline.store.ledger import FileRow, Known
from pipeline.store.load import Landed, Load, Store, Stored
from pipeline.store.parts import Copy

# Returns what the database is busy with, if anything.
Busy = Callable[[], Future[Any] | None]


@dataclass(slots=True)
class Batch:
    """Files on their way: what was read of them, and what is settled already."""

    files: list[Content] = field(default_factory=list)
    fresh: list[FileRow] = field(default_factory=list)
    unread: dict[Path, Transient] = field(default_factory=dict)
    rows: list[FileRow] = field(default_factory=list)
    small: list[Block] = field(default_factory=list)
    large: list[int] = field(default_factory=list)
    processed: dict[tuple[int, ...], Processed] = field(default_factory=dict)
    present: Present = field(default_factory=lambda: Present(datetime.now(UTC)))
    refused: dict[int, FileRefused] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=set)  # refused by the very bytes that were hashed
    known: dict[int, Known] = field(default_factory=dict)
    left: dict[int, Transient] = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)
    apart: set[int] = field(default_factory=set)  # small, but they share no block
    weighed: int = 0  # roughly the bytes that the rejected rows of all `processed` take
    unheld: set[tuple[int, ...]] = field(default_factory=set)  # too much to be held in `processed`
    heavy: bool = False  # takes so much that no other batch may be in memory
    is_processed: bool = False  # all small files have been, before anything is loaded
    rules: dict[int, Counter[str]] = field(default_factory=dict)

    def forget_frames(self) -> None:
        """Keep of what went wrong with files only what is said of it."""
        for errors in (self.unread, self.refused, self.left):
            for error in errors.values():
                forget_frames(error)

    @property
    def settled(self) -> set[int]:
        """The files that bring no rows."""
        return {*self.known, *self.refused, *self.left, *self.twins}

    def entry(self, position: int) -> Known | None:
        """Return what the ledger has of a file that brought nothing new."""
        if (first := self.twins.get(position)) is None:
            return self.known.get(position)
        twin = self.rows[first]
        return Known(twin.file_id, twin.name, twin.state)


@dataclass(frozen=True, slots=True)
class _Done:
    """A block whose rows are in the database.

    Attributes:
        block: the block.
        landed: what became of the readings of each of its groups.
        duplicates: file → how many of its rows repeat others; to be added up.
        rejected: all its rejected rows, by file and line.
    """

    block: Processed
    landed: Sequence[Landed]
    duplicates: Sequence[Mapping[int, int]]
    rejected: Rejected


class Transaction:
    """The transaction of some files of a batch. Every `run` starts counting at zero.

    Args:
        store: where readings go.
        contract: what is accepted.
        folder: where rejected rows go.
        batch: the files, and what is settled about them already; what comes out is noted there.
        members: the positions of the files that this transaction is about.
        processed: reads and processes files, by their positions, one block or several at a time;
            it is told how to ask what the database is busy with.
        bounds: what one file may cost.
    """

    def __init__(
        self,
        store: Store,
        contract: Contract,
        folder: Path,
        batch: Batch,
        members: Sequence[int],
        processed: Callable[[Sequence[int], Busy], Generator[list[Processed]]],
        bounds: Bounds,
    ) -> None:
        self._store = store
        self._contract = contract
        self._folder = folder
        self._batch = batch
        self._members = members
        self._processed = processed
        self._bounds = bounds
        self._names = [row.name for row in batch.rows]
        self._ids: Ints = np.zeros(len(batch.files), np.int64)

    def run(self) -> None:
        """Load the files, or raise and leave nothing behind."""
        batch, folder = self._batch, self._folder
        self._by_file = aggregate.Running(aggregate.BY_FILE)
        self._hourly = aggregate.Running(aggregate.HOURLY)
        self._costs = Costs(self._bounds, [file.size for file in batch.files], batch.refused)
        with (
            quarantining.quarantine(folder, batch.files) as output,
            self._store.loading() as load,
        ):
            new = self._begin(load)
            for position in new:
                if refusal := batch.refused.get(position):
                    quarantining.refuse(folder, batch.files[position], refusal)
            loading = [position for position in new if position not in batch.settled]
            # Closed, also when loading fails: its threads must not outlive the transaction.
            with closing(self._processed(loading, load.busy)) as processed:
                self._load(load, output, processed)
            output.publish()
            self._finish(load, new)

    def _begin(self, load: Load) -> list[int]:
        """Give the files that are new to the ledger their numbers; return them."""
        batch = self._batch
        hashes = {p: batch.files[p].sha256 for p in self._members}
        # Another process may have loaded some of them since they were looked up.
        seen = load.known(list(hashes.values()), self._contract.version)
        new: dict[str, int] = {}
        for position, sha256 in hashes.items():
            if position in batch.known or position in batch.left:
                continue
            if entry := seen.get(sha256):
                batch.known[position] = entry
            else:
                new.setdefault(sha256, position)
        for position, number in zip(new.values(), load.file_ids(len(new)), strict=True):
            self._ids[position] = number
            fresh = batch.fresh[position]
            batch.rows[position] = replace(fresh, file_id=number, models=set(), sections={})
            batch.rules[position] = Counter()
        # Twice the same bytes in one batch: the first is the one that counts.
        for position, sha256 in hashes.items():
            batch.twins.pop(position, None)
            first = new.get(sha256, position)
            if first != position and position not in batch.known and position not in batch.left:
                batch.twins[position] = first
        return list(new.values())

    def _load(
        self, load: Load, output: quarantining.Quarantine, processed: Iterable[Sequence[Processed]]
    ) -> None:
        """Load blocks, some at a time.

        While the database has some, the next are made ready for it, and those before are noted.
        """
        at_work: deque[Future[list[_Done]]] = deque()
        for blocks in processed:
            with metrics.stage("prepare"):
                groups = [group for block in blocks for group in block.groups]
                for group in groups:
                    self._costs.named(group.readings.frame)
                    self._costs.named(group.repeats.frame)
                copies = load.copies([group.readings for group in groups], self._ids)
            at_work.append(load.later(partial(self._store_blocks, load, blocks, copies)))
            if len(at_work) > 1:
                self._note(load, output, at_work.popleft().result())
        self._hourly.settle()
        for last in at_work:
            self._note(load, output, last.result())

    def _store_blocks(
        self, load: Load, blocks: Sequence[Processed], copies: Sequence[Copy]
    ) -> list[_Done]:
        with metrics.stage("load"):
            landed = iter(load.together(copies))
        return [
            self._settle_and_store(load, block, list(islice(landed, len(block.groups))))
            for block in blocks
        ]

    def _settle_and_store(self, load: Load, block: Processed, landed: Sequence[Landed]) -> _Done:
        """Tell duplicates from conflicts, and store the rows that are rejected."""
        duplicates, conflicts = [], []
        for group, became in zip(block.groups, landed, strict=True):
            repeated, contradicting = self._settled(block, group, became)
            duplicates += [repeated, became.duplicates]
            conflicts += contradicting
            load.repeated(group.repeats, self._ids)
        rejected = joined([block.rejected_rows, Rejected.of(conflicts)])
        # Before they are written anywhere.
        self._costs.rejected(block.read, rejected, block.text_bytes)
        with metrics.stage("load"):
            load.quarantined(block.header, rejected, self._ids)
        return _Done(block, landed, duplicates, rejected)

    def _note(self, load: Load, output: quarantining.Quarantine, done: Sequence[_Done]) -> None:
        """Count what became of blocks, and write out the rows that were rejected."""
        for each in done:
            block = each.block
            self._note_header(block)
            self._count(block.read, each.duplicates)
            for group, landed in zip(block.groups, each.landed, strict=True):
                self._note_summary(load, group.summary_of(landed.readings))
            self._count_rejected(each.rejected)
            with metrics.stage("quarantine"):
                output.add(block.header, each.rejected)

    def _note_summary(self, load: Load, summary: Summary) -> None:
        with metrics.stage("aggregate"):
            self._by_file.add(summary.by_file)
            # Neighbouring blocks share hours: merged here, most are written only once.
            self._hourly.add(summary.hourly)
            if self._hourly.full:
                # Whole days, as far as possible: written once, they need not be merged there.
                self._store_hours(load, self._hourly.take_before(day_reached(summary.hourly)))
        for span in summary.spans:
            self._batch.rows[span.file].add(span)

    def _store_hours(self, load: Load, hourly: Columns | None) -> None:
        if hourly is None:
            return

        def work() -> None:
            with metrics.stage("load"):
                load.hourly(hourly)

        load.later(work)

    def _count_rejected(self, rejected: Rejected) -> None:
        kinds, kind_of = rejected.kinds
        alike = rejected.file << 32 | kind_of[rejected.code]
        for pair, count in zip(*_counted(alike), strict=True):
            file = pair >> 32
            self._batch.rows[file].rows_quarantined += count
            for rule in kinds[pair & MAX_ID]:
                self._batch.rules[file][rule] += count

    def _settled(
        self, block: Processed, group: Group, landed: Landed
    ) -> tuple[dict[int, int], list[RejectedRow]]:
        """Return how many rows of each file repeat others, and the rows that contradict others."""
        rows = block.lines
        beaten = {stored.row: self._in_database(stored) for stored in landed.conflicts}
        duplicates, conflicts = settle(group.readings, group.repeats, rows, self._names, beaten)
        conflicts += [
            RejectedRow(
                stored.file,
                int(rows.line_no[stored.row]),
                rows.line(stored.row),
                (conflict(stored.ours, *beaten[stored.row]),),
            )
            for stored in landed.conflicts
        ]
        return duplicates, conflicts

    def _in_database(self, stored: Stored) -> tuple[dict[str, float], str]:
        """Return the values that hold a key in the database, and where they came from."""
        name = stored.name
        if name is None:  # this very transaction: the ledger has it not yet
            name = self._names[int(np.flatnonzero(self._ids == stored.file_id)[0])]
        return stored.theirs, f"the database, from {name}"

    def _note_header(self, block: Processed) -> None:
        for segment in block.segments:
            row = self._batch.rows[segment.file]
            if row.header is None:
                row.dialect = block.header.dialect
                row.header = block.header.line
                row.sensor_model = next((model.name for model in block.header.models), None)
            if segment.opens:
                row.sections[segment.first_line] = block.header.line

    def _count(self, read: Mapping[int, int], duplicates: Iterable[Mapping[int, int]]) -> None:
        rows = self._batch.rows
        for file, count in read.items():
            rows[file].rows_read += count
        for repeated in duplicates:
            for file, count in repeated.items():
                rows[file].rows_duplicate += count

    def _finish(self, load: Load, new: Sequence[int]) -> None:
        batch = self._batch
        for position in new:
            if refusal := batch.refused.get(position):
                row = batch.rows[position]
                row.state, row.rule, row.reason = "refused", refusal.rule, str(refusal)
        written = [batch.rows[position] for position in new if position not in batch.left]
        with metrics.stage("aggregate"):
            hourly, by_file = self._hourly.take(), self._by_file.take()
        self._store_hours(load, hourly)
        load.later(partial(load.finish, written, by_file, self._ids)).result()


def _counted(values: Ints) -> tuple[list[int], list[int]]:
    """Return the different values, and how often each comes."""
    found, counts = np.unique(values, return_counts=True)
    return found.tolist(), counts.tolist()
