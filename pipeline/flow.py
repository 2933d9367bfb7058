"""The flow: one batch of files, from `data/` to PostgreSQL and the archive.

The order of effects is what makes a crash harmless. Bytes are read and judged in memory; rejected
rows are written to quarantine under names that derive from the file's hash; one transaction holds
everything that goes into the database; only after its commit are the sources moved. Cut anywhere,
running again repairs it: quarantine overwrites itself, the ledger knows the hash, the move is
finished.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pipeline import __version__, logs, metrics
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.errors import (
    DatabaseUnavailable,
    DiskTrouble,
    FileChanged,
    FileRefused,
    Stopped,
    StoreError,
    Transient,
)
from pipeline.judge import Judged, ahead, judge
from pipeline.records import Block
from pipeline.steps import archive, read
from pipeline.steps import quarantine as quarantining
from pipeline.steps.watch import Found
from pipeline.store.ledger import FileRow, Known
from pipeline.store.load import Store
from pipeline.store.retry import retrying
from pipeline.transaction import Batch, Busy, Transaction

T = TypeVar("T")
State = Literal["loaded", "refused", "known", "left"]

_TOGETHER = 2  # blocks: sorted together they are inserted faster; more would take too much memory

log = logs.get("flow")


@dataclass(slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        path: where it was found.
        name: its name as text.
        state: `loaded`, `refused`, `known` (the ledger had it: nothing changed) or `left` (it
            changed or vanished meanwhile, or could not be read: the next scan looks again).
        row: its ledger row; None when it was left or known.
        message: why it was refused or left, or as what it is known.
        rules: rule → how many rows broke it.
        quarantine: the CSV of its rejected rows, or None.
        error: why it was left, or None.
    """

    path: Path
    name: str
    state: State
    row: FileRow | None = None
    message: str | None = None
    rules: Counter[str] = field(default_factory=Counter)
    quarantine: Path | None = None
    error: Transient | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A batch that was read ahead.

    Attributes:
        found: its files.
        finish: loads and moves them; returns and raises what `Flow.process` does.
    """

    found: Sequence[Found]
    finish: Callable[[], list[Outcome]]


@dataclass(slots=True)
class Flow:
    """Takes batches of files through every step.

    Attributes:
        settings: the settings in force.
        store: where readings go.
        contract: what is accepted.
        retry_seconds: how long to try again while the database is away; None for ever.
        stopping: set to cut waits short; the batch at hand is then rolled back, unless it is done.
        on_wait: told what is wrong with the database and how long the wait will be, before each.
        on_progress: called whenever something got done, at least once in four blocks.
    """

    settings: Settings
    store: Store
    contract: Contract
    retry_seconds: float | None
    stopping: threading.Event = field(default_factory=threading.Event)
    on_wait: Callable[[DatabaseUnavailable, float], None] = lambda error, wait: log.warning(
        "database.waiting", error=str(error), retry_in=round(wait, 1)
    )
    on_progress: Callable[[], None] = lambda: None

    def process(self, found: Sequence[Found]) -> list[Outcome]:
        """Take a batch of files through every step, in the order given.

        Raises:
            DatabaseUnavailable: the database stayed away; every file is where it was.
            Stopped: we were asked to stop; every file is where it was.
            DiskTrouble: the quarantine folder cannot be written to; every file is where it was.
        """
        return self._finish(found, self._prepare(found))

    def ahead(self, batches: Iterable[Sequence[Found]]) -> Iterator[Pending]:
        """Read and judge each batch while the one before it is being loaded.

        Yields:
            What `process` would do with each batch, half done.
        """
        with ThreadPoolExecutor(1, "prepare") as pool:

            def pending(found: Sequence[Found]) -> Pending:
                prepared = pool.submit(self._prepare, found)
                return Pending(found, lambda: self._finish(found, prepared.result()))

            following: Pending | None = None
            for found in batches:
                current, following = following, pending(found)
                if current is not None:
                    yield current
            if following is not None:
                yield following

    def known(self, hashes: Sequence[str]) -> dict[str, Known]:
        """Return hash → ledger entry, for files that need not be read again.

        Raises:
            DatabaseUnavailable: the database stayed away.
        """
        return self.retrying(lambda: self.store.known(hashes, self.contract.version))

    # ---- 1. read once: hash, judge, and hold what is small ------------------------------------

    def _prepare(self, found: Sequence[Found]) -> Batch:
        """Do what needs neither the database nor the batch before this one. In any thread."""
        batch = Batch()
        with metrics.stage("read"):
            for file in found:
                try:
                    content = read.content(file.path, self.settings.batch_bytes, self._go_on)
                except Stopped:
                    raise
                except Transient as error:
                    batch.unread[file.path] = error
                    continue
                batch.files.append(content)
                batch.fresh.append(
                    FileRow(
                        name=quarantining.display_name(file.path),
                        sha256=content.sha256,
                        bytes=content.size,
                        detected_at=file.detected_at,
                        contract_version=self.contract.version,
                        app_version=__version__,
                    )
                )
            batch.rows = list(batch.fresh)
            self._look_up(batch)
            # Small files can inflate to any size: what is held is bounded all the same.
            room = self.settings.batch_bytes
            for position in range(len(batch.files)):
                if position not in batch.known:
                    room -= self._parse(batch, position, room)
        for part in self._parts(batch, range(len(batch.files))):
            if isinstance(part, Block):
                self._go_on()
                batch.judged[_whose(part)] = judge(part, self.contract)
        return batch

    def _look_up(self, batch: Batch) -> None:
        """Ask which files need not be read. Only to spare work: the transaction asks again."""
        with suppress(DatabaseUnavailable):
            hashes = [content.sha256 for content in batch.files]
            known = self.store.known(hashes, self.contract.version)
            batch.known = {
                position: known[sha256] for position, sha256 in enumerate(hashes) if sha256 in known
            }

    def _parse(self, batch: Batch, position: int, room: int) -> int:
        """Recognise a file; hold its text if it is small, and return how many bytes that takes."""
        content = batch.files[position]
        try:
            stream = read.blocks(content, position, self.contract, self._limits, self._go_on)
            first = next(stream)
            if content.held is None or len(first.text) > room or next(stream, None) is not None:
                batch.large.append(position)
            else:
                batch.small.append(first)
                batch.files[position] = replace(content, held=None)
                return len(first.text)
        except FileRefused as refusal:
            batch.refused[position] = refusal
        except Stopped:
            raise
        except Transient as trouble:
            batch.left[position] = trouble
        return 0

    @property
    def _limits(self) -> read.Limits:
        return read.Limits.of(self.settings)

    def _judged(self, batch: Batch, members: Sequence[int], busy: Busy) -> Generator[list[Judged]]:
        """Yield files by one block or several until we are asked to stop; say that it goes on."""

        def work(block: Block) -> Judged:
            return batch.judged.get(_whose(block)) or judge(block, self.contract)

        text = self._text(batch, members)
        with closing(ahead(text, work, self.settings.workers, _TOGETHER, busy)) as judged:
            for blocks in judged:
                self._go_on()
                yield blocks

    def _go_on(self) -> None:
        if self.stopping.is_set():
            message = "asked to stop; the batch is rolled back"
            raise Stopped(message)
        self.on_progress()

    def _text(self, batch: Batch, members: Sequence[int]) -> Generator[Block]:
        """Yield the text of some files of a batch, block by block, as often as asked."""
        for part in self._parts(batch, members):
            if isinstance(part, Block):
                yield part
                continue
            try:
                yield from read.blocks(
                    batch.files[part], part, self.contract, self._limits, self._go_on
                )
            except FileRefused as refusal:
                batch.refused[part] = refusal
                raise
            except (FileChanged, DiskTrouble) as trouble:
                batch.left[part] = trouble
                raise FileChanged(str(trouble)) from trouble

    def _parts(self, batch: Batch, members: Sequence[int]) -> Iterator[Block | int]:
        """Yield blocks of small files put together, and the positions of large files.

        In the files' order as far as it decides which of two readings is the first, so that what
        is loaded does not depend on which files happen to share a batch.
        """
        small = {block.segments[0].file: block for block in batch.small}
        waiting: list[Block] = []
        for position in sorted(members):
            if block := small.get(position):
                waiting.append(block)
            if position in batch.large:
                yield from read.merged(waiting, self.settings.block_bytes)
                waiting = []
                yield position
        yield from read.merged(waiting, self.settings.block_bytes)

    # ---- 2. and 3. quarantine output, then ONE transaction ------------------------------------

    def _finish(self, found: Sequence[Found], batch: Batch) -> list[Outcome]:
        outcomes = {path: _left(path, error) for path, error in batch.unread.items()}
        if new := [p for p in range(len(batch.files)) if p not in batch.known]:
            self._commit(batch, new)
        with metrics.stage("move"):
            self._move(batch, outcomes)
        return [outcomes[file.path] for file in found]

    def _commit(self, batch: Batch, members: Sequence[int]) -> None:
        """Commit some files of a batch together; a file that cannot be loaded is singled out."""
        while True:
            settled = len(batch.settled)
            try:
                self.retrying(
                    Transaction(
                        self.store,
                        self.contract,
                        self.settings.quarantine,
                        batch,
                        members,
                        functools.partial(self._judged, batch),
                    ).run
                )
            except (FileRefused, FileChanged):
                continue  # noted in the batch: the others go on without it
            except StoreError as error:
                loading = [p for p in members if p not in batch.settled]
                if not loading:
                    # Reading ahead found the last of them unusable before the database did.
                    if len(batch.settled) > settled:
                        continue
                    raise
                if len(loading) == 1:
                    batch.refused[loading[0]] = FileRefused("database", str(error))
                    continue
                log.warning("batch.split", files=len(loading), error=str(error))
                half = len(loading) // 2
                self._commit(batch, loading[:half])
                self._commit(batch, loading[half:])
                members = [p for p in members if p in batch.refused and p not in loading]
                if members:
                    continue
            return

    def retrying(self, attempt: Callable[[], T]) -> T:
        """Try a whole transaction, again and again while the database is away.

        Raises:
            DatabaseUnavailable: the time is up, or we were asked to stop.
        """
        return retrying(
            attempt,
            seconds=self.retry_seconds,
            on_wait=self.on_wait,
            stopping=self.stopping,
        )

    # ---- 4. move the sources ------------------------------------------------------------------

    def _move(self, batch: Batch, outcomes: dict[Path, Outcome]) -> None:
        today = datetime.now(UTC).strftime("%Y-%m-%d")
        for position, content in enumerate(batch.files):
            outcome = self._outcome(batch, position)
            outcomes[content.path] = outcome
            entry = batch.entry(position)
            try:
                if outcome.state == "refused" or (entry and entry.state == "refused"):
                    name = quarantining.refused_name(content)
                    archive.move(content, self.settings.quarantine, name)
                elif outcome.state != "left":
                    archive.put_away(
                        content, self.settings.archive / today, self.settings.archive_policy
                    )
            except FileChanged as error:
                log.info("file.changed", file=outcome.name, error=str(error))
            except Transient as error:
                # Committed, but still in data/: the next scan finds it known and moves it.
                log.error("file.not_moved", file=outcome.name, error=str(error))
            _tell(outcome)

    def _outcome(self, batch: Batch, position: int) -> Outcome:
        content, row = batch.files[position], batch.rows[position]
        if entry := batch.entry(position):
            return known_outcome(content.path, entry)
        if change := batch.left.get(position):
            return Outcome(content.path, row.name, "left", message=str(change), error=change)
        if refusal := batch.refused.get(position):
            return Outcome(content.path, row.name, "refused", row, str(refusal))
        rules = batch.rules.get(position, Counter())
        base = quarantining.base_name(content)
        csv = self.settings.quarantine / f"{base}.csv" if row.rows_quarantined else None
        return Outcome(content.path, row.name, "loaded", row, None, rules, csv)


def _whose(block: Block) -> tuple[int, ...]:
    """Return the files that share a block, by their positions."""
    return tuple(segment.file for segment in block.segments)


def known_outcome(path: Path, entry: Known) -> Outcome:
    """Return the outcome of a file whose bytes the ledger knows."""
    message = f"the same bytes came before as {entry.name} (file {entry.file_id})"
    return Outcome(path, quarantining.display_name(path), "known", message=message)


def _left(path: Path, error: Transient) -> Outcome:
    outcome = Outcome(
        path, quarantining.display_name(path), "left", message=str(error), error=error
    )
    _tell(outcome)
    return outcome


def _tell(outcome: Outcome) -> None:
    row = outcome.row
    match outcome.state:
        case "loaded" if row is not None:
            log.info(
                "file.loaded",
                file=outcome.name,
                file_id=row.file_id,
                rows_read=row.rows_read,
                rows_loaded=row.rows_loaded,
                rows_duplicate=row.rows_duplicate,
                rows_quarantined=row.rows_quarantined,
            )
        case "refused" if row is not None:
            log.warning(
                "file.refused",
                file=outcome.name,
                file_id=row.file_id,
                rule=row.rule,
                reason=outcome.message,
            )
        case "known":
            log.info("file.known", file=outcome.name, reason=outcome.message)
        case _:
            log.info("file.left", file=outcome.name, reason=outcome.message)


def batches(found: Sequence[Found], settings: Settings) -> Iterator[list[Found]]:
    """Put files together up to the settings' files and bytes; a large one stays alone."""
    batch: list[Found] = []
    size = 0
    for file in found:
        full = len(batch) >= settings.batch_files or size + file.size > settings.batch_bytes
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
