"""The daemon: looks into `data/`, takes what is ready, and sleeps until something happens.

Events only wake it; the scan every few seconds is what finds files. Whatever goes wrong with a
file, a batch, the disk or the database, the loop goes on, and says so once rather than each time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from types import FrameType

import pyarrow as pa

from pipeline import logs, metrics
from pipeline.config import Settings
from pipeline.descriptors import exhausted
from pipeline.errors import (
    ConfigurationError,
    DatabaseMissing,
    DatabaseTrouble,
    DatabaseUnavailable,
    DiskTrouble,
    PipelineError,
    Stopped,
    Transient,
)
from pipeline.files.asides import return_asides
from pipeline.files.atomic import tidy
from pipeline.files.retention import Retention
from pipeline.files.wake import Waker
from pipeline.files.watch import Found, Settling, scan
from pipeline.flow import Flow, Outcome, batches
from pipeline.holding import Held, Key, key_of
from pipeline.notify import Notifier
from pipeline.trouble import Trouble

log = logs.get("daemon")


# While a file is settling, look again this often.
_WHILE_SETTLING = 0.2
# How long a batch may go on after we were asked to stop, before the server is asked to cancel it.
_GRACE = 5.0
# ... and again: a cancel that comes between two statements is lost.
_AGAIN = 0.2
_SWEEP_SECONDS = 3600.0
# How soon a database that does not exist at the start is looked for again.
_MISSING_SECONDS = 1.0
_CLOCK_SECONDS = 60.0
# An idle loop gives a sign of life, and asks whether the database is there, this often.
_BEAT_SECONDS = 5.0
_ASK_SECONDS = 15.0
# The loop counts as stuck after this long, unless the service manager has its own idea. Syncing one
# huge file to another filesystem is one step, and may take minutes.
_STUCK_SECONDS = 600.0


class Daemon:
    """The loop around a flow.

    Args:
        flow: what to do with files. Its hooks are taken over.
        settings: where to look, and how often.
        notifier: whom to tell how it goes.
        revive: brings a private database back; None for one that others look after.
    """

    def __init__(
        self,
        flow: Flow,
        settings: Settings,
        notifier: Notifier | None = None,
        revive: Callable[[], object] | None = None,
    ) -> None:
        self._flow = flow
        self._settings = settings
        self._notifier = notifier or Notifier()
        self._revive = revive
        self._wake = threading.Event()
        self._waker = Waker(settings.data, settings.watch.events, self._wake.set)
        self._settling = Settling(settings.watch.settle_seconds)
        self._held = Held(settings.watch.scan_seconds)
        self._failing: set[Key] = set()
        self._trouble = Trouble()
        self._down_since: float | None = None
        self._refusing = False
        self._asked_at = float("-inf")
        self._swept_at = float("-inf")
        self._clock_at = float("-inf")
        self._waiting = False
        self._unknown = 0
        self._failed = 0
        self._retention = (
            Retention(
                settings.archive_folder,
                settings.archive.keep_days,
                settings.home,
                flow.store.loaded_at,
                flow.go_on,
            )
            if settings.archive.keep_days is not None
            else None
        )
        self._unwatched = False
        self._unrevived = False
        self._ended = threading.Event()
        self.looped_at = time.monotonic()
        flow.on_wait = self._on_outage
        flow.on_progress = self._on_progress
        flow.store.on_blocked = self._on_progress

    @property
    def database_up(self) -> bool:
        """Whether the database answered when it was last asked, and takes files."""
        return self._down_since is None and not self._refusing

    @property
    def stuck_seconds(self) -> float:
        """How long the loop may take for one turn before it counts as stuck."""
        return self._notifier.watchdog_seconds or _STUCK_SECONDS

    # ---- the two ways to run -------------------------------------------------------------------

    def run(self, check: Callable[[], None]) -> None:
        """Watch and load until asked to stop.

        Args:
            check: raises when the database cannot be used as it is; tried again while it is away,
                and for `retry_seconds` when it does not exist.

        Raises:
            ConfigurationError: the database is there but not fit for use.
        """
        settings = self._settings
        with stopping(self.stop):
            self._return_asides()
            self._tidy()
            self._watch()
            log.info("daemon.started", data=str(settings.data), watcher=settings.watch.events)
            # Before the database is asked: the service may start earlier than PostgreSQL.
            self._notifier.ready()
            try:
                with suppress(DatabaseUnavailable, Stopped):
                    self._start(check)
                    self._on_answer()
                while not self._flow.stopping.is_set():
                    self._wake.clear()
                    self._rest(self._look())
            finally:
                self._notifier.stopping()
                self._ended.set()
                self._waker.stop()
                log.info("daemon.stopped")

    def _start(self, check: Callable[[], None]) -> None:
        """Check the database; one that is being restored is waited for.

        Raises:
            ConfigurationError: it is not fit for use, or did not come into being in time.
            Stopped: we were asked to stop.
        """
        until: float | None = None
        while True:
            try:
                self._flow.retrying(check)
            except ConfigurationError as error:
                # A service manager takes that exit code for good. So a database that is missing may
                # yet be created, and one that was may yet get its tables.
                if until is None:
                    if not isinstance(error, DatabaseMissing):
                        raise
                    until = time.monotonic() + self._settings.database.retry_seconds
                if time.monotonic() >= until:
                    raise
                self._on_shut(error, retry_in=_MISSING_SECONDS)
            else:
                return
            self._on_progress()
            if self._flow.stopping.wait(_MISSING_SECONDS):
                raise Stopped

    def drain(self) -> Iterator[Outcome]:
        """Take everything that is in `data/` now, waiting for files to settle; yield outcomes.

        Raises:
            PipelineError: the database or the disk failed; what was not taken is still there.
        """
        tried: set[Key] = set()
        with stopping(self.stop):
            try:
                self._return_asides()
                self._tidy()
                while not self._flow.stopping.is_set():
                    found, _ = scan(self._settings.data)
                    left = [file for file in found if key_of(file) not in tried]
                    if not left:
                        return
                    ready = self._settling.ready(left)
                    if not ready:
                        self._flow.stopping.wait(_WHILE_SETTLING)
                    for batch in self._flow.ahead(batches(ready, self._settings)):
                        tried.update(map(key_of, batch.found))
                        yield from batch.finish()
            finally:
                self._ended.set()

    def stop(self) -> None:
        """Ask the loop to end: the batch at hand is finished if it is quick, else rolled back."""
        self._flow.stopping.set()
        self._wake.set()
        threading.Thread(target=self._hurry, name="cancel", daemon=True).start()

    def _hurry(self) -> None:
        """Have the server cancel what is under way, until we have ended."""
        if self._ended.wait(_GRACE):
            return
        self._flow.store.cancel()
        while not self._ended.wait(_AGAIN):
            self._flow.store.cancel()

    # ---- one turn of the loop ------------------------------------------------------------------

    def _look(self) -> float:
        """Take what is ready; return how long to sleep unless something happens."""
        self._on_progress()
        if trouble := self._waker.trouble():
            self._rewatch(trouble)
        failed = False
        try:
            # Before the scan: a file closed only after it must not be taken on that account.
            closed = self._waker.take()
            found, _ = scan(self._settings.data)
            ready = self._settling.ready(found, closed)
            waiting = len(found) - len(ready)
            ready = self._held.without(ready)
            backlog = self._measure(found)
            self._failing.intersection_update(map(key_of, found))
            for pending in self._flow.ahead(batches(ready, self._settings)):
                if self._flow.stopping.is_set():
                    break
                batch = pending.found
                try:
                    self._process(batch, pending.finish)
                except DiskTrouble as error:
                    # The next batch may have nothing to write there.
                    failed = True
                    self._failing.update(map(key_of, batch))
                    self._tell(error)
                except PipelineError:
                    raise
                except Exception as error:  # noqa: BLE001  # a mistake of ours must not stop others
                    failed = True
                    self._failing.update(map(key_of, batch))
                    if exhausted(error):
                        self._tell(_too_many_files(error))
                    else:
                        self._single_out(batch)
                else:
                    self._failing.difference_update(map(key_of, batch))
                    backlog.less(batch)
            self._say_waiting(backlog)
            if not ready:
                self._ask()
            self._sweep()
        except (DatabaseUnavailable, Stopped) as error:
            # Only when we are asked to stop meanwhile: until then the flow tries again.
            log.info("batch.given_up", error=str(error))
            return 0.0
        except PipelineError as error:
            failed = True
            self._tell(error)
            if isinstance(error, DatabaseTrouble):
                self._refusing = True
                metrics.DATABASE_UP.set(0)
            if isinstance(error, ConfigurationError):
                self._on_shut(error)  # the server is there, but no longer lets us in
        except OSError as error:
            if not exhausted(error):
                raise
            failed = True
            self._tell(_too_many_files(error))
        if failed:
            return self._settings.watch.scan_seconds
        if not self._held and not self._failing:
            self._trouble.over()
            if self._refusing:
                self._refusing = False
                metrics.DATABASE_UP.set(self.database_up)
        return _WHILE_SETTLING if waiting else self._settings.watch.scan_seconds

    def _rest(self, seconds: float) -> None:
        """Sleep until something happens, with a sign of life now and then."""
        until = time.monotonic() + seconds
        beat = min(_BEAT_SECONDS, self.stuck_seconds / 4)
        while (left := until - time.monotonic()) > 0:
            if self._wake.wait(min(left, beat)):
                return
            self._on_progress()

    def _process(self, batch: Sequence[Found], finish: Callable[[], list[Outcome]]) -> None:
        self._notifier.status(f"loading {len(batch)} files")
        with metrics.BATCH_SECONDS.time():
            outcomes = finish()
        self._note_refusal(outcomes)
        self._on_answer()
        for outcome in outcomes:
            _count(outcome)
        left = [outcome for outcome in outcomes if outcome.state == "left"]
        if left and isinstance(left[0].error, Transient):
            self._trouble.note(left[0].message)
        if self._held.note(batch, outcomes):
            self._trouble.note("files that could not be moved, or had to wait")

    def _note_refusal(self, outcomes: Sequence[Outcome]) -> None:
        """Say what the database refuses though no file is the reason."""
        waiting = [(o.name, o.error) for o in outcomes if isinstance(o.error, DatabaseTrouble)]
        for name, error in {error.gist: (name, error) for name, error in waiting}.values():
            self._tell(error, file=name)
        # While it takes none, it is as good as away.
        if any(outcome.state == "loaded" for outcome in outcomes):
            self._refusing = False
        elif waiting:
            self._refusing = True
            self._notifier.status(f"the database refuses, {len(waiting)} files waiting")

    def _single_out(self, batch: Sequence[Found]) -> None:
        """Take files one by one; leave alone, for a while, the one that breaks us."""
        for file in batch:
            try:
                self._process([file], partial(self._flow.process, [file]))
            except PipelineError:
                raise
            except Exception as error:
                if exhausted(error):
                    raise
                metrics.FAILURES.labels("unexpected").inc()
                log.exception("file.unexpected", file=file.path.name)
                self._held.hold(file)

    def _ask(self) -> None:
        """Find out whether the database is there, now that no file does."""
        if time.monotonic() - self._asked_at >= _ASK_SECONDS:
            self._flow.known([])
            self._on_answer()

    def _tell(self, error: PipelineError, **fields: object) -> None:
        too_many = exhausted(error.__cause__)
        metrics.FAILURES.labels("TooManyOpenFiles" if too_many else type(error).__name__).inc()
        self._trouble.tell(error, **fields)

    def _measure(self, found: Sequence[Found]) -> _Backlog:
        oldest = self._settling.oldest
        age = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        metrics.BACKLOG_AGE.set(max(0.0, age))
        return _Backlog(found)

    def _say_waiting(self, backlog: _Backlog) -> None:
        if self.database_up:
            files = backlog.files
            self._notifier.status(f"{files} files waiting" if files else "waiting for files")

    def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._clock_at < _CLOCK_SECONDS:
            return
        self._clock_at = now
        present = self._flow.clock.present()
        # While the clock is doubted nothing is old, not even a draft.
        if now - self._swept_at < _SWEEP_SECONDS or present.doubt is not None:
            return
        self._swept_at = now
        self._return_asides()
        self._tidy(time.time)
        if self._retention is not None:
            self._sweep_archive(self._retention, present.now)

    def _tidy(self, now: Callable[[], float] | None = None) -> None:
        """Remove what a crash has left half-written."""
        settings = self._settings
        folders = [settings.home, settings.data, settings.quarantine, settings.archive_folder]
        for path in tidy(folders, now):
            log.info("draft.removed", path=str(path))

    def _return_asides(self) -> None:
        for path in return_asides(self._settings.data):
            log.warning("aside.returned", file=path.name)

    def _sweep_archive(self, retention: Retention, now: datetime) -> None:
        try:
            done = retention.sweep(now)
        except DatabaseUnavailable as error:
            self._swept_at = float("-inf")  # soon again: the loop itself waits for the database
            log.debug("archive.not_swept", error=str(error))
            return
        for folder, files in done.folders.items():
            log.info("archive.swept", folder=folder, files=files)
        if done.waiting and not self._waiting:
            log.warning("archive.share_used", keep_days=retention.keep_days)
        self._waiting = done.waiting
        if done.unknown and done.unknown != self._unknown:
            log.warning("archive.unknown", files=done.unknown)
        self._unknown = done.unknown
        if done.failed and done.failed != self._failed:
            log.warning("archive.failed", files=done.failed, reason=done.reason)
        self._failed = done.failed

    # ---- what the flow tells us ----------------------------------------------------------------

    def _on_progress(self) -> None:
        self.looped_at = time.monotonic()
        metrics.LAST_LOOP.set(time.time())
        self._notifier.alive()

    def _on_outage(self, error: DatabaseUnavailable, wait: float) -> None:
        self._on_progress()
        metrics.RETRIES.inc()
        with suppress(PipelineError):
            found, _ = scan(self._settings.data)
            self._settling.ready(found)  # so that it is known since when they wait
            self._measure(found)
            self._notifier.status(f"the database is away, {len(found)} files waiting")
        self._on_shut(error, retry_in=round(wait, 1))
        if self._revive is not None:
            try:
                self._revive()
            except PipelineError as trouble:
                if not self._unrevived:
                    log.warning("database.not_revived", error=str(trouble))
                self._unrevived = True

    def _on_shut(self, error: PipelineError, **fields: object) -> None:
        metrics.DATABASE_UP.set(0)
        if self._down_since is None:
            self._down_since = time.monotonic()
            log.warning("database.down", error=str(error), **fields)
        else:
            log.debug("database.still_down", error=str(error), **fields)

    def _on_answer(self) -> None:
        metrics.DATABASE_UP.set(not self._refusing)
        self._asked_at = time.monotonic()
        self._unrevived = False
        if self._down_since is not None:
            seconds = time.monotonic() - self._down_since
            self._down_since = None
            log.warning("database.up", after_seconds=round(seconds, 1))

    # ---- watching ------------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            self._waker.start()
        except OSError as error:
            # Out of inotify watches, for example: slower, but nothing is missed.
            if not self._unwatched:
                log.warning("watcher.unavailable", error=str(error))
            self._unwatched = True
            return
        if self._unwatched:
            log.info("watcher.available")
        self._unwatched = False

    def _rewatch(self, trouble: str) -> None:
        if "overflow" in trouble:
            log.warning("watcher.overflow", reason=trouble)
            return
        if trouble != "not watching":
            log.warning("watcher.restarted", reason=trouble)
            metrics.WATCHER_RESTARTS.inc()
        self._waker.stop()
        self._watch()


class _Backlog:
    """What waits in `data/`, for the metrics."""

    def __init__(self, found: Sequence[Found]) -> None:
        self.files = len(found)
        self._bytes = sum(file.size for file in found)
        self.less([])

    def less(self, batch: Sequence[Found]) -> None:
        """Take off what was taken."""
        self.files -= len(batch)
        self._bytes -= sum(file.size for file in batch)
        metrics.BACKLOG_FILES.set(self.files)
        metrics.BACKLOG_BYTES.set(self._bytes)
        if not self.files:
            metrics.BACKLOG_AGE.set(0)


def _count(outcome: Outcome) -> None:
    metrics.FILES.labels(outcome.state).inc()
    row = outcome.row
    if row is None or outcome.state != "loaded":
        return
    metrics.LAST_SUCCESS.set(time.time())
    metrics.ROWS.labels("loaded").inc(row.rows_loaded)
    metrics.ROWS.labels("duplicate").inc(row.rows_duplicate)
    metrics.ROWS.labels("quarantined").inc(row.rows_quarantined)
    for rule, number in outcome.rules.items():
        metrics.REASONS.labels(rule).inc(number)


def _too_many_files(error: Exception) -> DiskTrouble:
    trouble = DiskTrouble(str(error))
    trouble.__cause__ = error
    return trouble


@contextmanager
def stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGTERM or SIGINT; a second one ends the process at once.

    A handler runs between any two steps of the main thread, which may hold a lock just then: the
    log's, or an event's. So the handler only wakes a thread that does what is to be done.
    """
    # Only the main thread may; elsewhere the caller stops the flow itself.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # While it parses, Arrow would take the signals for itself and give up with an error of its own.
    pa.enable_signal_handlers(False)
    told, tell = os.pipe()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        os.write(tell, bytes([number]))

    def wait() -> None:
        if number := os.read(told, 1):
            log.info("daemon.stopping", signal=signal.Signals(number[0]).name)
            stop()

    waiting = threading.Thread(target=wait, name="signals", daemon=True)
    waiting.start()
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell)
        waiting.join()
        os.close(told)
