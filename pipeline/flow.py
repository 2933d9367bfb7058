"""The flow: one batch of files, from `data/` to PostgreSQL and the archive.

The order of effects is what makes a crash harmless. Bytes are read and processed in memory;
rejected rows are written to quarantine under names that derive from the file's hash; one
transaction holds everything that goes into the database; only after its commit are the sources
moved. Cut anywhere, running again repairs it: quarantine overwrites itself, the ledger knows the
hash, the move is finished.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from pipeline import __version__, logs, memory, metrics
from pipeline.budget import Bounds
from pipeline.clock import Clock
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.rules import LIMIT_RULES
from pipeline.errors import (
    DatabaseTrouble,
    DatabaseUnavailable,
    DiskTrouble,
    FileChanged,
    FileRefused,
    Outdated,
    Stopped,
    Transient,
)
from pipeline.files import archive, read
from pipeline.files import quarantine as quarantining
from pipeline.files.watch import Found
from pipeline.reading import Reading
from pipeline.singling import Singling
from pipeline.store.ledger import FileRow, Known
from pipeline.store.load import Store
from pipeline.store.retry import retrying
from pipeline.transaction import Batch, Transaction
from pipeline.unmoved import Unmoved

T = TypeVar("T")
State = Literal["loaded", "refused", "known", "left"]

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
        clock: what the present is.
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
    _singling: Singling = field(default_factory=Singling)
    _unmoved: Unmoved = field(default_factory=Unmoved)
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.settings.home, self.store.server_time)

    def process(self, found: Sequence[Found]) -> list[Outcome]:
        """Take a batch of files through every step, in the order given.

        Raises:
            DatabaseUnavailable: the database stayed away; every file is where it was.
            DatabaseTrouble: it refuses, whatever the files; every file is where it was.
            Stopped: we were asked to stop before it was committed; every file is where it was.
            DiskTrouble: the quarantine folder cannot be written to; every file is where it was.
        """
        return self._finish(found, self._prepare(found))

    def ahead(self, batches: Iterable[Sequence[Found]]) -> Iterator[Pending]:
        """Read and process each batch while the one before it is being loaded.

        Two batches are in memory then, so it depends on what the first one takes. While a large
        file is streamed, the next batch is read and not processed. While the first one is heavy,
        the next is not even read.

        Yields:
            What `process` would do with each batch, half done.
        """
        every = list(batches)
        prepared: dict[int, Future[Batch]] = {}
        with ThreadPoolExecutor(1, "prepare") as pool:

            def finish(number: int) -> list[Outcome]:
                ahead = prepared.pop(number, None)
                batch = ahead.result() if ahead else self._read(every[number])
                self._process_small(batch)
                if number + 1 < len(every) and not batch.heavy:
                    prepare = self._read if batch.large else self._prepare
                    prepared[number + 1] = pool.submit(prepare, every[number + 1])
                return self._finish(every[number], batch)

            if every:
                prepared[0] = pool.submit(self._prepare, every[0])
            for number, found in enumerate(every):
                yield Pending(found, functools.partial(finish, number))

    def known(self, hashes: Sequence[str]) -> dict[str, Known]:
        """Return hash → ledger entry, for files that need not be read again.

        Raises:
            DatabaseUnavailable: the database stayed away.
        """
        return self.retrying(lambda: self._known(hashes))

    def _known(self, hashes: Sequence[str]) -> dict[str, Known]:
        also = self._unmoved.under(self._limits)
        return self.store.known(hashes, self.contract.version, also)

    @property
    def _limits(self) -> tuple[Bounds, read.Limits]:
        return Bounds.of(self.settings.limits), read.Limits.of(self.settings)

    # ---- 1. read once: hash, process, and hold what is small ------------------------------------

    def _prepare(self, found: Sequence[Found]) -> Batch:
        """Do what needs neither the database nor the batch before this one. In any thread."""
        batch = self._read(found)
        self._process_small(batch)
        return batch

    def _process_small(self, batch: Batch) -> None:
        if batch.is_processed:
            return
        self._reading.process_small(batch)
        batch.is_processed = True
        batch.forget_frames()
        if batch.heavy:
            memory.give_back()

    def _read(self, found: Sequence[Found]) -> Batch:
        batch = Batch()
        with metrics.stage("read"):
            for file in found:
                try:
                    content = read.content(file.path, self.settings.load.batch_bytes, self.go_on)
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
            # Decided once, so that a batch that is tried again is processed alike.
            batch.present = self.clock.present()
            # Small files can inflate to any size: what is held is bounded all the same.
            room = self.settings.load.batch_bytes
            for position in range(len(batch.files)):
                if position not in batch.known:
                    room -= self._reading.parse(batch, position, room)
        return batch

    def _look_up(self, batch: Batch) -> None:
        """Ask which files need not be read. Only to spare work: the transaction asks again."""
        with suppress(DatabaseUnavailable, DatabaseTrouble):
            hashes = [content.sha256 for content in batch.files]
            known = self._known(hashes)
            batch.known = {
                position: known[sha256] for position, sha256 in enumerate(hashes) if sha256 in known
            }

    def _look_up_again(self, batch: Batch) -> None:
        """Leave files that are no longer known: the database was restored since they were."""
        if not batch.known:
            return
        known = self.known([batch.files[position].sha256 for position in batch.known])
        for position in list(batch.known):
            if (entry := known.get(batch.files[position].sha256)) is not None:
                batch.known[position] = entry
                continue
            del batch.known[position]
            message = "the ledger had it, and was restored meanwhile; it is looked at again"
            batch.left[position] = Outdated(message)

    @property
    def _reading(self) -> Reading:
        return Reading(self.settings, self.contract, self.go_on)

    def go_on(self) -> None:
        """Give a sign of life; to be called now and then by whatever takes long.

        Raises:
            Stopped: we were asked to stop.
        """
        if self.stopping.is_set():
            message = "asked to stop"
            raise Stopped(message)
        self.on_progress()

    # ---- 2. and 3. quarantine output, then ONE transaction ------------------------------------

    def _finish(self, found: Sequence[Found], batch: Batch) -> list[Outcome]:
        outcomes = {path: _left(path, error) for path, error in batch.unread.items()}
        self._look_up_again(batch)
        settled = {*batch.known, *batch.left}
        if new := [p for p in range(len(batch.files)) if p not in settled]:
            self._commit(batch, new)
        with metrics.stage("move"):
            self._move(batch, outcomes)
        if batch.large or batch.refused or batch.heavy:
            batch.processed.clear()
            memory.give_back()
        return [outcomes[file.path] for file in found]

    def _commit(self, batch: Batch, members: Sequence[int]) -> None:
        """Commit some files of a batch, but for those that cannot be loaded."""
        # What was refused before this, while reading, is confirmed.
        batch.confirmed.update(batch.refused)
        failed = False

        def attempt(some: Sequence[int]) -> None:
            nonlocal failed
            if failed:
                memory.give_back()  # what was taken for the attempt that a file was refused in
            failed = True
            processed = functools.partial(self._reading.processed, batch)
            quarantine, bounds = self.settings.quarantine, Bounds.of(self.settings.limits)
            transaction = Transaction(
                self.store, self.contract, quarantine, batch, some, processed, bounds
            )

            def run() -> None:
                # A try that failed, for whatever reason, may have refused files that it read.
                self._confirm(batch)
                transaction.run()

            try:
                self.retrying(run)
            except FileRefused:
                self._confirm(batch)
                raise
            failed = False

        self._singling.commit(batch, members, attempt)

    def _confirm(self, batch: Batch) -> None:
        """Leave refused files that are no longer what was hashed, before anything is written.

        The verdict stands in the ledger under the hash, so the hash must be of these bytes.
        """
        for position in batch.refused.keys() - batch.confirmed:
            batch.confirmed.add(position)
            content = batch.files[position]
            if batch.refused[position].rule not in LIMIT_RULES:
                continue
            try:
                now = read.content(content.path, 0, self.go_on)
                changed = now.sha256 != content.sha256
            except (FileChanged, DiskTrouble):
                changed = True
            if changed:
                del batch.refused[position]
                message = f"{content.path.name}: was written to while it was being read"
                batch.left[position] = FileChanged(message)

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
        today = batch.present.now.strftime("%Y-%m-%d")
        unmoved = 0
        for position, content in enumerate(batch.files):
            outcome = self._outcome(batch, position)
            outcomes[content.path] = outcome
            entry = batch.entry(position)
            refused = outcome.state == "refused" or (entry and entry.state == "refused")
            number = entry.file_id if entry else batch.rows[position].file_id
            try:
                if refused:
                    name = quarantining.refused_name(content)
                    archive.move(content, self.settings.quarantine, name, self.go_on)
                    self._unmoved.forget(number)
                elif outcome.state != "left":
                    folder = self.settings.archive_folder / today
                    archive.put_away(content, folder, self.settings.archive.policy, self.go_on)
            except Stopped:
                # Committed: the next start finds that it is known, and moves it.
                unmoved += 1
            except FileChanged as error:
                log.info("file.changed", file=outcome.name, error=str(error))
            except Transient as error:
                # Committed, but still in data/: the next scan finds it known and moves it.
                log.error("file.not_moved", file=outcome.name, error=str(error))
                if refused:
                    self._unmoved.remember(number, self._limits)
            _tell(outcome)
        if unmoved:
            log.info("batch.not_moved", files=unmoved)

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
        case _ if isinstance(outcome.error, DatabaseTrouble):
            pass  # of all files that wait for the same, only one is told
        case _:
            log.info("file.left", file=outcome.name, reason=outcome.message)


def batches(found: Sequence[Found], settings: Settings) -> Iterator[list[Found]]:
    """Put files together up to the settings' files and bytes; a large one stays alone."""
    batch: list[Found] = []
    size = 0
    for file in found:
        full = (
            len(batch) >= settings.load.batch_files or size + file.size > settings.load.batch_bytes
        )
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
