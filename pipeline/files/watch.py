"""Watch: which files in the data folder are ready to be taken, and which are left alone and why.

A scan of the folder is the truth; events only say when to look. A file is taken when its writer
closed or renamed it, or when its size and time stood still, before our eyes, for the settle time.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.files.disk import trouble

ENDINGS = (".csv", ".csv.gz")
_IN_PROGRESS = (".part", ".tmp")
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Found:
    """A file that may be taken.

    Attributes:
        path: where it is.
        size: its bytes.
        mtime_ns: when it was last written to.
        detected_at: when it was first seen, in UTC.
        ctime_ns: when it was last changed in any way; unlike `mtime_ns`, nobody can set it back.
    """

    path: Path
    size: int
    mtime_ns: int
    detected_at: datetime
    ctime_ns: int = 0

    def unchanged(self, now: Found) -> bool:
        """Whether a file is still as it was found."""
        before = (self.size, self.mtime_ns, self.ctime_ns)
        return before == (now.size, now.mtime_ns, now.ctime_ns)


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in the data folder that is never opened.

    Attributes:
        name: its name.
        reason: why, in words.
    """

    name: str
    reason: str


def scan(folder: Path) -> tuple[list[Found], list[Ignored]]:
    """List the folder, oldest file first. Nothing is opened, no link is followed.

    Raises:
        DiskTrouble: the folder is gone or may not be listed.
    """
    found: list[Found] = []
    ignored: list[Ignored] = []
    now = datetime.now(UTC)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # taken away between the listing and the look
                if reason := _why_not(entry.name, status.st_mode):
                    if not _ours(entry.name, status.st_mode):
                        ignored.append(Ignored(entry.name, reason))
                else:
                    path = Path(entry.path)
                    found.append(
                        Found(path, status.st_size, status.st_mtime_ns, now, status.st_ctime_ns)
                    )
    except OSError as error:
        raise trouble(error, folder, "listed", "make it a readable folder") from error
    found.sort(key=lambda file: (file.mtime_ns, file.path.name))
    ignored.sort(key=lambda entry: entry.name)
    return found, ignored


def _ours(name: str, mode: int) -> bool:
    return name == ".gitkeep" or (name == "archive" and stat.S_ISDIR(mode))


def _why_not(name: str, mode: int) -> str | None:
    kinds: list[tuple[Callable[[int], bool], str]] = [
        (stat.S_ISLNK, "a symbolic link: links are never followed"),
        (stat.S_ISDIR, "a folder: only files directly in data/ are taken"),
        (stat.S_ISFIFO, "a FIFO, not a regular file"),
        (stat.S_ISSOCK, "a socket, not a regular file"),
        (lambda m: stat.S_ISBLK(m) or stat.S_ISCHR(m), "a device, not a regular file"),
    ]
    for matches, reason in kinds:
        if matches(mode):
            return reason
    lower = name.lower()
    if name.startswith("."):
        return "a hidden file: names with a leading dot are for files in the making"
    if lower.endswith(_IN_PROGRESS):
        return "a file in the making: rename it when it is whole"
    if not lower.endswith(ENDINGS):
        return f"its name does not end in {' or '.join(ENDINGS)}"
    return None


@dataclass(slots=True)
class Settling:
    """Remembers how long each file has stood still.

    Attributes:
        settle_seconds: how long is long enough.
        clock: a clock that never goes back, in seconds.
    """

    settle_seconds: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[Path, tuple[Found, float]] = field(default_factory=dict)
    _looked: bool = False

    def ready(self, found: list[Found], closed: Collection[str] = ()) -> list[Found]:
        """Return the files that can be taken now, in the order given.

        Args:
            found: a scan's result.
            closed: names whose writer closed or renamed them since the last call.
        """
        now = self.clock()
        wall = time.time_ns()
        seen: dict[Path, tuple[Found, float]] = {}
        ready = []
        for file in found:
            before = self._seen.get(file.path)
            if before and before[0].unchanged(file):
                first, since = before
            else:
                detected = before[0].detected_at if before else file.detected_at
                first = Found(file.path, file.size, file.mtime_ns, detected, file.ctime_ns)
                # What lay here before we came has stood still as long as its time says. Later on
                # only what we saw counts: a file in the making can have any time (cp -p, a file
                # server whose clock lags behind).
                age = 0.0 if self._looked else max(0.0, (wall - file.mtime_ns) / _NS)
                since = now - age
            seen[file.path] = (first, since)
            # Some programs create a file, close it, and open it again to fill it.
            done = file.size > 0 and file.path.name in closed
            if done or now - since >= self.settle_seconds:
                ready.append(first)
        self._seen = seen
        self._looked = True
        return ready

    @property
    def waiting(self) -> int:
        """How many files were seen at the last call, ready or not."""
        return len(self._seen)

    @property
    def oldest(self) -> datetime | None:
        """When the file that waits longest was first seen; None when there is none."""
        return min((first.detected_at for first, _ in self._seen.values()), default=None)
