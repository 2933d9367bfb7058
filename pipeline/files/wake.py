"""Wake: file events wake the daemon's scan, and only that. They may be lost, late or wrong.

Watchdog can fall silent in several ways: the kernel's queue overflows, the thread that reads it
dies, the folder is replaced by another of the same name. `Waker.check` finds out and starts the
watching anew; the caller then scans, as it does every few seconds anyway.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from pipeline import descriptors

Kind = Literal["native", "polling", "off"]

_POLL_SECONDS = 1.0
_JOIN_SECONDS = 2.0
_DESCRIPTORS = 8  # watchdog takes three, and the scan that follows one
_EVENTS: list[type[FileSystemEvent]] = [FileClosedEvent, FileCreatedEvent, FileMovedEvent]


class Waker:
    """Watches one folder and wakes its owner.

    Args:
        folder: what to watch; not its subfolders.
        kind: native events, polling, or off.
        on_event: called from another thread when something happened; must not fail or block.
    """

    def __init__(self, folder: Path, kind: Kind, on_event: Callable[[], None]) -> None:
        self._folder = folder
        self._kind = kind
        self._on_event = on_event
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._noted = _Noted(on_event)
        self._overflow = _Overflow(on_event)

    def start(self) -> None:
        """Start watching.

        Raises:
            OSError: the folder cannot be watched: it is gone, or there are no watches or
                descriptors left.
        """
        if self._kind == "off":
            return
        logging.getLogger("watchdog").addHandler(self._overflow)
        # Watchdog would lose those that it has when it lacks the next.
        descriptors.require(_DESCRIPTORS)
        self._watched = self._identity()
        observer = PollingObserver(timeout=_POLL_SECONDS) if self._kind == "polling" else _native()
        try:
            observer.schedule(self._noted, str(self._folder), recursive=False, event_filter=_EVENTS)
            observer.start()
        except BaseException:
            observer.stop()  # its inotify thread runs already, and would for ever
            raise
        self._observer = observer

    def stop(self) -> None:
        """Stop watching."""
        logging.getLogger("watchdog").removeHandler(self._overflow)
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_JOIN_SECONDS)
            self._observer = None

    def trouble(self) -> str | None:
        """Return why events may have been missed since the last call, None when all is well.

        After an answer other than an overflow, `stop` and `start` are due.
        """
        if self._kind == "off":
            return None
        if self._observer is None:
            return "not watching"
        if (now := self._identity()) != self._watched:
            return "the folder was replaced" if now else "the folder is gone"
        if not self._observer.is_alive():
            return "the observer thread died"
        if not self._observer.emitters or not all(e.is_alive() for e in self._observer.emitters):
            return "an emitter thread died"
        if not all(_reader_lives(emitter) for emitter in self._observer.emitters):
            return "the inotify thread died"
        return "the event queue overflowed" if self._overflow.take() else None

    def take(self) -> set[str]:
        """Return the names of files whose writer closed or renamed them since the last call."""
        return self._noted.take()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._folder.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


class _Noted(FileSystemEventHandler):
    """Notes whose writer is done. An exception here would kill the dispatcher: it has no cause."""

    def __init__(self, on_event: Callable[[], None]) -> None:
        self._on_event = on_event
        self._lock = threading.Lock()
        self._done: set[str] = set()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note a file that was closed or renamed, and wake the owner."""
        path = {"closed": event.src_path, "moved": event.dest_path}.get(event.event_type)
        if path:
            with self._lock:
                self._done.add(Path(os.fsdecode(path)).name)
        self._on_event()

    def take(self) -> set[str]:
        with self._lock:
            done, self._done = self._done, set()
        return done


class _Overflow(logging.Handler):
    """Notices that the kernel dropped events: watchdog tells nobody but its log."""

    def __init__(self, on_event: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_event = on_event
        self._happened = False

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._happened = True
            self._on_event()

    def take(self) -> bool:
        happened, self._happened = self._happened, False
        return happened


def _native() -> BaseObserver:
    try:
        from watchdog.observers.inotify import InotifyObserver
    except ImportError:  # not Linux
        return Observer()
    # Full events tell a file that was renamed into the folder, and is whole, from one that was
    # just created there, and is not.
    return InotifyObserver(generate_full_events=True)


def _reader_lives(emitter: object) -> bool:
    # The thread that reads the kernel's queue: watchdog shows it nowhere else.
    reader = getattr(emitter, "_inotify_fd", None)
    return not isinstance(reader, threading.Thread) or reader.is_alive()
