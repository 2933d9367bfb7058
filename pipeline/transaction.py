"""Transaction: what one batch of files brings into the database, all of it or nothing.

Quarantine output is written inside, before the commit, since the database has its say about which
rows conflict; its names derive from the files' hashes, so a second try overwrites the first's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline import metrics
from pipeline.contract import MAX_ID, Contract
from pipeline.contract.explain import conflict
from pipeline.errors import FileRefused, Transient
from pipeline.judge import Group, Judged
from pipeline.records import Block, Content, Ints, Rejected, Span
from pipeline.rejects import Rejects, joined
from pipeline.steps import aggregate
from pipeline.steps import quarantine as quarantining
from pipeline.steps.normalise import settle
from pipeline.store.ledger import FileRow, Known
from pipeline.store.load import Landed, Load, Store, Stored


@dataclass(slots=True)
class Batch:
    """Files on their way: what was read of them, and what is settled already."""

    files: list[Content] = field(default_factory=list)
    fresh: list[FileRow] = field(default_factory=list)
    unread: dict[Path, Transient] = field(default_factory=dict)
    rows: list[FileRow] = field(default_factory=list)
    small: list[Block] = field(default_factory=list)
    large: list[int] = field(default_factory=list)
    judged: dict[tuple[int, ...], Judged] = field(default_factory=dict)
    refused: dict[int, FileRefused] = field(default_factory=dict)
    known: dict[int, Known] = field(default_factory=dict)
    left: dict[int, Transient] = field(default_factory=dict)
    twins: dict[int, int] = field(default_factory=dict)
    rules: dict[int, Counter[str]] = field(default_factory=dict)

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


class Transaction:
    """The transaction of some files of a batch. Every `run` starts counting at zero.

    Args:
        store: where readings go.
        contract: what is accepted.
        folder: where rejected rows go.
        batch: the files, and what is settled about them already; what comes out is noted there.
        members: the positions of the files that this transaction is about.
        judged: reads and judges files, by their positions, one block or several at a time.
    """

    def __init__(
        self,
        store: Store,
        contract: Contract,
        folder: Path,
        batch: Batch,
        members: Sequence[int],
        judged: Callable[[Sequence[int]], Generator[list[Judged]]],
    ) -> None:
        self._store = store
        self._contract = contract
        self._folder = folder
        self._batch = batch
        self._members = members
        self._judged = judged
        self._names = [row.name for row in batch.rows]
        self._ids: Ints = np.zeros(len(batch.files), np.int64)
        self._by_file = aggregate.Running(())
        self._hourly = aggregate.Running(())

    def run(self) -> None:
        """Load the files, or raise and leave nothing behind."""
        batch, folder = self._batch, self._folder
        self._by_file = aggregate.Running(aggregate.BY_FILE)
        self._hourly = aggregate.Running(aggregate.HOURLY)
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
            with closing(self._judged(loading)) as judged:
                for blocks in judged:
                    self._load_blocks(load, output, blocks)
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
            batch.rows[position] = replace(batch.fresh[position], file_id=number, models=set())
            batch.rules[position] = Counter()
        # Twice the same bytes in one batch: the first is the one that counts.
        for position, sha256 in hashes.items():
            batch.twins.pop(position, None)
            first = new.get(sha256, position)
            if first != position and position not in batch.known and position not in batch.left:
                batch.twins[position] = first
        return list(new.values())

    def _load_blocks(
        self, load: Load, output: quarantining.Quarantine, blocks: Sequence[Judged]
    ) -> None:
        every = [group.readings for block in blocks for group in block.groups]
        with metrics.stage("load"):
            landed = iter(load.together(every, self._ids))
        for block in blocks:
            self._note_header(block)
            for file, count in block.rows.read.items():
                self._batch.rows[file].rows_read += count
            conflicts: list[Rejected] = []
            for group in block.groups:
                conflicts += self._settle(load, block, group, next(landed))
            rejected = joined([block.rejected, Rejects.of(conflicts)])
            self._count_rejected(rejected)
            with metrics.stage("quarantine"):
                load.quarantined(rejected, self._ids)
                output.add(block.header, rejected)

    def _count_rejected(self, rejected: Rejects) -> None:
        alike, counts = np.unique(rejected.file << 32 | rejected.code, return_counts=True)
        for pair, count in zip(alike.tolist(), counts.tolist(), strict=True):
            file = pair >> 32
            self._batch.rows[file].rows_quarantined += count
            for reason in rejected.told[pair & MAX_ID]:
                self._batch.rules[file][reason.rule] += count

    def _settle(self, load: Load, block: Judged, group: Group, landed: Landed) -> list[Rejected]:
        """Count what became of readings; return the rows that contradict what is there."""
        rows = block.rows
        with metrics.stage("aggregate"):
            summary = group.summary_of(landed.readings)
            self._by_file.add(summary.by_file)
            # Neighbouring blocks share hours: merged here, most are written only once.
            self._hourly.add(summary.hourly)
            if self._hourly.full:
                load.hourly(self._hourly.take())
        beaten = {stored.row: self._in_database(stored) for stored in landed.conflicts}
        duplicates, conflicts = settle(group.readings, group.repeats, rows, self._names, beaten)
        self._count(summary.spans, duplicates, landed.duplicates)
        conflicts += [
            Rejected(
                stored.file,
                int(rows.line_no[stored.row]),
                rows.line(stored.row),
                (conflict(stored.ours, *beaten[stored.row]),),
            )
            for stored in landed.conflicts
        ]
        return conflicts

    def _in_database(self, stored: Stored) -> tuple[dict[str, float], str]:
        """Return the values that hold a key in the database, and where they came from."""
        name = stored.name
        if name is None:  # this very transaction: the ledger has it not yet
            name = self._names[int(np.flatnonzero(self._ids == stored.file_id)[0])]
        return stored.theirs, f"the database, from {name}"

    def _note_header(self, block: Judged) -> None:
        for segment in block.segments:
            row = self._batch.rows[segment.file]
            row.dialect = block.header.dialect
            row.header = block.header.line
            if row.sensor_model is None:
                row.sensor_model = block.header.models[0].name

    def _count(self, spans: Sequence[Span], *duplicates: dict[int, int]) -> None:
        rows = self._batch.rows
        for repeated in duplicates:
            for file, count in repeated.items():
                rows[file].rows_duplicate += count
        for span in spans:
            rows[span.file].add(span)

    def _finish(self, load: Load, new: Sequence[int]) -> None:
        batch = self._batch
        for position in new:
            if refusal := batch.refused.get(position):
                row = batch.rows[position]
                row.state, row.rule, row.reason = "refused", refusal.rule, str(refusal)
        written = [batch.rows[position] for position in new if position not in batch.left]
        with metrics.stage("aggregate"):
            load.hourly(self._hourly.take())
            statistics = self._by_file.take()
        if len(statistics):
            statistics["file_id"] = self._ids[statistics.pop("file").to_numpy().astype(np.int64)]
        load.finish(written, statistics)
