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
from pathlib import Path
from types import FrameType

import pyarrow as pa

from pipeline import logs, metrics
from pipeline.config import Settings
from pipeline.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    DiskTrouble,
    PipelineError,
    Stopped,
    Transient,
)
from pipeline.flow import Flow, Outcome, batches
from pipeline.notify import Notifier
from pipeline.steps import archive
from pipeline.steps.wake import Waker
from pipeline.steps.watch import Found, Settling, scan

log = logs.get("daemon")

# While a file is settling, look again this often.
_WHILE_SETTLING = 0.2
# How long a batch may go on after we were asked to stop, before the server is asked to cancel it.
_GRACE = 5.0
_SWEEP_SECONDS = 3600.0
# An idle loop gives a sign of life, and asks whether the database is there, this often.
_BEAT_SECONDS = 5.0
_ASK_SECONDS = 15.0
# The loop counts as stuck after this long, unless the service manager has its own idea. Copying one
# huge file to another filesystem is one step, and takes minutes.
_STUCK_SECONDS = 600.0
# Files that could not be moved are tried again after a scan's time, then ever more rarely.
_LONGEST_HOLD = 60.0


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
        self._waker = Waker(settings.data, settings.watcher, self._wake.set)
        self._settling = Settling(settings.settle_seconds)
        self._held = _Held(settings.scan_seconds)
        self._failing: set[tuple[Path, int, int]] = set()
        self._trouble = _Trouble()
        self._down_since: float | None = None
        self._asked_at = float("-inf")
        self._swept_at = float("-inf")
        self._unwatched = False
        self.looped_at = time.monotonic()
        flow.on_wait = self._on_outage
        flow.on_progress = self._on_progress

    @property
    def database_up(self) -> bool:
        """Whether the database answered when it was last asked."""
        return self._down_since is None

    @property
    def stuck_seconds(self) -> float:
        """How long the loop may take for one turn before it counts as stuck."""
        return self._notifier.watchdog_seconds or _STUCK_SECONDS

    # ---- the two ways to run -------------------------------------------------------------------

    def run(self, check: Callable[[], None]) -> None:
        """Watch and load until asked to stop.

        Args:
            check: raises when the database cannot be used as it is; tried again while it is away.

        Raises:
            ConfigurationError: the database is there but not fit for use.
        """
        settings = self._settings
        with stopping(self.stop):
            self._watch()
            log.info("daemon.started", data=str(settings.data), watcher=settings.watcher)
            # Before the database is asked: the service may start earlier than PostgreSQL.
            self._notifier.ready()
            try:
                with suppress(DatabaseUnavailable, Stopped):
                    self._flow.retrying(check)
                    self._on_answer()
                while not self._flow.stopping.is_set():
                    self._wake.clear()
                    self._rest(self._look())
            finally:
                self._notifier.stopping()
                self._waker.stop()
                log.info("daemon.stopped")

    def drain(self) -> Iterator[Outcome]:
        """Take everything that is in `data/` now, waiting for files to settle; yield outcomes.

        Raises:
            PipelineError: the database or the disk failed; what was not taken is still there.
        """
        tried: set[tuple[Path, int, int]] = set()
        with stopping(self.stop):
            while not self._flow.stopping.is_set():
                found, _ = scan(self._settings.data)
                left = [file for file in found if _key(file) not in tried]
                if not left:
                    return
                ready = self._settling.ready(left)
                if not ready:
                    self._flow.stopping.wait(_WHILE_SETTLING)
                for batch in self._flow.ahead(batches(ready, self._settings)):
                    tried.update(map(_key, batch.found))
                    yield from batch.finish()

    def stop(self) -> None:
        """Ask the loop to end: the batch at hand is finished if it is quick, else rolled back."""
        self._flow.stopping.set()
        self._wake.set()
        timer = threading.Timer(_GRACE, self._flow.store.cancel)
        timer.daemon = True
        timer.start()

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
            self._failing.intersection_update(map(_key, found))
            for pending in self._flow.ahead(batches(ready, self._settings)):
                if self._flow.stopping.is_set():
                    break
                batch = pending.found
                try:
                    self._process(batch, pending.finish)
                except DiskTrouble as error:
                    # The next batch may have nothing to write there.
                    failed = True
                    self._failing.update(map(_key, batch))
                    self._tell(error)
                except PipelineError:
                    raise
                except Exception:  # noqa: BLE001  # a mistake of ours must not stop the others
                    failed = True
                    self._failing.update(map(_key, batch))
                    self._single_out(batch)
                else:
                    self._failing.difference_update(map(_key, batch))
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
            if isinstance(error, ConfigurationError):
                self._on_shut(error)  # the server is there, but no longer lets us in
        if failed:
            return self._settings.scan_seconds
        if not self._held and not self._failing:
            self._trouble.over()
        return _WHILE_SETTLING if waiting else self._settings.scan_seconds

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
        self._on_answer()
        for outcome in outcomes:
            _count(outcome)
        left = [outcome for outcome in outcomes if outcome.state == "left"]
        if left and isinstance(left[0].error, Transient):
            self._trouble.note(left[0].message)
        if self._held.note(batch, outcomes):
            self._trouble.note("files that could not be moved")

    def _single_out(self, batch: Sequence[Found]) -> None:
        """Take files one by one; leave alone, for a while, the one that breaks us."""
        for file in batch:
            try:
                self._process([file], partial(self._flow.process, [file]))
            except PipelineError:
                raise
            except Exception:
                metrics.FAILURES.labels("unexpected").inc()
                log.exception("file.unexpected", file=file.path.name)
                self._held.hold(file)

    def _ask(self) -> None:
        """Find out whether the database is there, now that no file does."""
        if time.monotonic() - self._asked_at >= _ASK_SECONDS:
            self._flow.known([])
            self._on_answer()

    def _tell(self, error: PipelineError) -> None:
        metrics.FAILURES.labels(type(error).__name__).inc()
        self._trouble.tell(error)

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
        if now - self._swept_at < _SWEEP_SECONDS:
            return
        self._swept_at = now
        settings = self._settings
        for path in archive.tidy([settings.data, settings.quarantine, settings.archive]):
            log.info("draft.removed", path=str(path))
        if settings.archive_keep_days is not None:
            today = datetime.now(UTC).date()
            for folder in archive.sweep(settings.archive, settings.archive_keep_days, today):
                log.info("archive.swept", folder=folder)

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
                log.debug("database.not_revived", error=str(trouble))

    def _on_shut(self, error: PipelineError, **fields: object) -> None:
        metrics.DATABASE_UP.set(0)
        if self._down_since is None:
            self._down_since = time.monotonic()
            log.warning("database.down", error=str(error), **fields)
        else:
            log.debug("database.still_down", error=str(error), **fields)

    def _on_answer(self) -> None:
        metrics.DATABASE_UP.set(1)
        self._asked_at = time.monotonic()
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


class _Trouble:
    """Says what is wrong once, not at every turn, and says when it is over."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._current: str | None = None

    def tell(self, error: PipelineError) -> None:
        text = str(error)
        if text not in self._told:
            log.error("batch.failed", error=text)
        self._told.add(text)
        self._current = text

    def note(self, message: str | None) -> None:
        """Remember that not all is well; the flow has told it."""
        self._current = message

    def over(self) -> None:
        if self._current is not None:
            log.info("batch.recovered", after=self._current)
            self._current = None
            self._told.clear()


class _Held:
    """Files that stayed in `data/` although they are settled: the disk would not have them moved.

    They are in the ledger, so nothing is at stake; trying again each second would only cost.
    """

    def __init__(self, first_wait: float) -> None:
        self._first_wait = first_wait
        self._wait = first_wait
        self._until = 0.0
        self._files: set[tuple[Path, int, int]] = set()

    def __bool__(self) -> bool:
        return bool(self._files)

    def without(self, ready: Sequence[Found]) -> list[Found]:
        """Return the files that are not held; all of them, when it is time to try again."""
        self._files &= {_key(file) for file in ready}
        if time.monotonic() >= self._until:
            return list(ready)
        return [file for file in ready if _key(file) not in self._files]

    def hold(self, file: Found) -> None:
        """Hold a file for the longest time."""
        self._files.add(_key(file))
        self._until = time.monotonic() + _LONGEST_HOLD

    def note(self, batch: Sequence[Found], outcomes: Sequence[Outcome]) -> bool:
        """Look which files of a batch are still there; say whether any is."""
        states = {outcome.path: outcome for outcome in outcomes}
        stayed = {_key(file) for file in batch if _stayed(file, states.get(file.path))}
        again = bool(stayed & self._files)
        self._files -= {_key(file) for file in batch}
        self._files |= stayed
        if stayed:
            self._wait = min(self._wait * 2, _LONGEST_HOLD) if again else self._first_wait
            self._until = time.monotonic() + self._wait
        elif not self._files:
            self._wait = self._first_wait
        return bool(stayed)


def _stayed(file: Found, outcome: Outcome | None) -> bool:
    if outcome is None or (outcome.state == "left" and not isinstance(outcome.error, DiskTrouble)):
        return False
    try:
        now = os.lstat(file.path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns)


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


def _key(file: Found) -> tuple[Path, int, int]:
    return file.path, file.size, file.mtime_ns


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
