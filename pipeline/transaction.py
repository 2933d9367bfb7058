"""Transaction: what one batch of files brings into the database, all of it or nothing.

Quarantine output is written inside, before the commit, since the database has its say about which
rows conflict; its names derive from the files' hashes, so a second try overwrites the first's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipeline import metrics
from pipeline.contract import Contract
from pipeline.contract.explain import conflict
from pipeline.errors import FileRefused, Transient
from pipeline.records import Block, Content, Ints, Readings, Rejected
from pipeline.steps import aggregate
from pipeline.steps import quarantine as quarantining
from pipeline.steps.normalise import normalise, settle
from pipeline.steps.split import split
from pipeline.steps.validate import validate
from pipeline.store.ledger import FileRow, Known
from pipeline.store.load import Load, Store, Stored


@dataclass(slots=True)
class Batch:
    """Files on their way: what was read of them, and what is settled already."""

    files: list[Content]
    fresh: list[FileRow]
    rows: list[FileRow] = field(default_factory=list)
    small: list[Block] = field(default_factory=list)
    large: list[int] = field(default_factory=list)
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
        blocks: reads the text of files, by their positions, block by block.
    """

    def __init__(
        self,
        store: Store,
        contract: Contract,
        folder: Path,
        batch: Batch,
        members: Sequence[int],
        blocks: Callable[[Sequence[int]], Iterator[Block]],
    ) -> None:
        self._store = store
        self._contract = contract
        self._folder = folder
        self._batch = batch
        self._members = members
        self._blocks = blocks
        self._names = [row.name for row in batch.rows]
        self._ids: Ints = np.zeros(len(batch.files), np.int64)
        self._by_file = aggregate.Running(())
        self._hourly = aggregate.Running(())

    def run(self) -> None:
        """Load the files, or raise and leave nothing behind."""
        batch, folder = self._batch, self._folder
        self._by_file = aggregate.Running(("file", "sensor_id", "quantity"))
        self._hourly = aggregate.Running(("sensor_id", "quantity", "hour"))
        with (
            quarantining.quarantine(folder, batch.files) as output,
            self._store.loading() as load,
        ):
            new = self._begin(load)
            for position in new:
                if refusal := batch.refused.get(position):
                    quarantining.refuse(folder, batch.files[position], refusal)
            loading = [position for position in new if position not in batch.settled]
            for block in self._blocks(loading):
                self._load_block(load, output, block)
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

    def _load_block(self, load: Load, output: quarantining.Quarantine, block: Block) -> None:
        contract = self._contract
        with metrics.stage("split"):
            rows = split(block)
        self._note_header(block)
        with metrics.stage("validate"):
            valid, rejected = validate(rows, contract, datetime.now(UTC))
        rejected += rows.rejected
        for file, count in rows.read.items():
            self._batch.rows[file].rows_read += count
        for group in valid:
            with metrics.stage("normalise"):
                readings, repeats = normalise(group, rows, contract)
            with metrics.stage("load"):
                landed = load.readings(readings, self._ids)
            with metrics.stage("aggregate"):
                self._by_file.add(aggregate.by_file(landed.readings))
                # Neighbouring blocks share hours: merged here, most are written only once.
                self._hourly.add(aggregate.hourly(landed.readings))
                if self._hourly.full:
                    load.hourly(self._hourly.take())
            beaten = {stored.row: self._in_database(stored) for stored in landed.conflicts}
            duplicates, conflicts = settle(readings, repeats, rows, self._names, beaten)
            self._count(landed.readings, duplicates, landed.duplicates)
            rejected += conflicts
            rejected += [
                Rejected(
                    stored.file,
                    int(rows.line_no[stored.row]),
                    rows.line(stored.row),
                    (conflict(stored.ours, *beaten[stored.row]),),
                )
                for stored in landed.conflicts
            ]
        rejected.sort(key=lambda row: (row.file, row.line_no))
        for row in rejected:
            self._batch.rows[row.file].rows_quarantined += 1
            self._batch.rules[row.file].update(reason.rule for reason in row.reasons)
        with metrics.stage("quarantine"):
            load.quarantined(rejected, self._ids)
            output.add(block.header, rejected)

    def _in_database(self, stored: Stored) -> tuple[dict[str, float], str]:
        """Return the values that hold a key in the database, and where they came from."""
        name = stored.name
        if name is None:  # this very transaction: the ledger has it not yet
            name = self._names[int(np.flatnonzero(self._ids == stored.file_id)[0])]
        return stored.theirs, f"the database, from {name}"

    def _note_header(self, block: Block) -> None:
        for segment in block.segments:
            row = self._batch.rows[segment.file]
            row.dialect = block.header.dialect
            row.header = block.header.line
            if row.sensor_model is None:
                row.sensor_model = block.header.models[0].name

    def _count(self, readings: Readings, *duplicates: dict[int, int]) -> None:
        rows = self._batch.rows
        for repeated in duplicates:
            for file, count in repeated.items():
                rows[file].rows_duplicate += count
        frame = readings.frame
        if not len(frame):
            return
        spans = frame.groupby("file")["ts"].agg(["size", "min", "max"])
        for file, count, first, last in spans.itertuples():
            row = rows[file]
            row.rows_loaded += count
            first, last = (moment.tz_localize("UTC").to_pydatetime() for moment in (first, last))
            row.first_ts = min(row.first_ts or first, first)
            row.last_ts = max(row.last_ts or last, last)
        pairs = frame.loc[:, ["file", "sensor_id"]].drop_duplicates()
        for file, sensor in pairs.itertuples(index=False):
            rows[file].models.add(readings.models[sensor])

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
