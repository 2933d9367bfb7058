"""Holding: which files that stayed in `data/` the daemon waits with, and for how long."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ClockDoubted, DatabaseTrouble, DiskTrouble
from pipeline.files.watch import Found
from pipeline.flow import Outcome

# What stayed in `data/` is tried again after a scan's time, then ever more rarely.
_LONGEST_HOLD = 60.0

Key = tuple[Path, int, int, int]


def key_of(file: Found) -> Key:
    """Return what tells a file from others, and from itself once it has changed."""
    return file.path, file.size, file.mtime_ns, file.ctime_ns


class Held:
    """Files that stayed in `data/` though they were taken: trying again each second only costs.

    The disk would not have them moved, the database would not have them at all, or a clock is
    doubted.
    """

    def __init__(self, first_wait: float) -> None:
        self._first_wait = first_wait
        self._wait = first_wait
        self._until = 0.0
        self._files: set[Key] = set()

    def __bool__(self) -> bool:
        return bool(self._files)

    def without(self, ready: Sequence[Found]) -> list[Found]:
        """Return the files that are not held; all of them, when it is time to try again."""
        self._files &= {key_of(file) for file in ready}
        if time.monotonic() >= self._until:
            return list(ready)
        return [file for file in ready if key_of(file) not in self._files]

    def hold(self, file: Found) -> None:
        """Hold a file for the longest time."""
        self._files.add(key_of(file))
        self._until = time.monotonic() + _LONGEST_HOLD

    def note(self, batch: Sequence[Found], outcomes: Sequence[Outcome]) -> bool:
        """Look which files of a batch are still there; say whether any is."""
        states = {outcome.path: outcome for outcome in outcomes}
        stayed = {key_of(file) for file in batch if _stayed(file, states.get(file.path))}
        due = time.monotonic() >= self._until
        again, first = bool(stayed & self._files), not self._files
        self._files -= {key_of(file) for file in batch}
        self._files |= stayed
        if not self._files:
            self._wait = self._first_wait
        # Those that came meanwhile wait with the others, which are tried no more often for them.
        elif stayed and due and (again or first):
            self._wait = self._first_wait if first else min(self._wait * 2, _LONGEST_HOLD)
            self._until = time.monotonic() + self._wait
        return bool(stayed)


def _stayed(file: Found, outcome: Outcome | None) -> bool:
    if outcome is None:
        return False
    waiting = DiskTrouble | DatabaseTrouble | ClockDoubted
    if outcome.state == "left" and not isinstance(outcome.error, waiting):
        return False
    try:
        now = os.lstat(file.path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns)
