"""Retention: deletes archived files that are old enough, a few a day.

No single witness makes a file old. The name of its day's folder, the file's own time and the
ledger must all say so, and what the ledger does not know stays: it may be the only copy. The clock
is asked beforehand (`pipeline.clock`). If all of them are wrong at once, the share of a day bounds
the loss, so that somebody can notice; it is written down before anything goes, so that restarts do
not multiply it. A file that cannot be read or deleted stays, and keeps no other from going.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from pipeline.errors import Stopped
from pipeline.files import atomic
from pipeline.files.disk import disk_trouble
from pipeline.files.hashes import inflated_sha256, sha256_of

SHARE_NAME = ".sofia-air.sweep"

_DAY = timedelta(days=1)
_LEAST = 10  # files a day, also of a small archive
_PERCENT = 10
# In the long run one day's files go each day. This lets a backlog shrink while they do.
_DAYS_A_DAY = 2
_TOGETHER = 100  # files
# A failure that is none of the file's.
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}


@dataclass(slots=True)
class Swept:
    """What a sweep has done.

    Attributes:
        folders: name of a day's folder → how many of its files were deleted.
        unknown: how many old files were kept because the ledger does not have them.
        waiting: whether more are old, and have to wait for tomorrow's share.
        failed: how many files or folders could not be read or deleted.
        reason: why the first of them could not.
    """

    folders: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    waiting: bool = False
    failed: int = 0
    reason: str | None = None

    def failure(self, path: Path, error: OSError) -> None:
        """Count a file or a folder that could not be read or deleted.

        Raises:
            OSError: it was not the file's fault: this process has too many open.
        """
        if error.errno in _NO_DESCRIPTORS:
            raise error
        self.failed += 1
        self.reason = self.reason or f"{path}: {error.strerror}"


@dataclass(slots=True)
class Retention:
    """Sweeps an archive.

    Attributes:
        archive: the folder that holds the days' folders.
        keep_days: how old a file has to be to be deleted.
        home: where the share of the day is written down.
        loaded_at: returns hash → when the ledger took the file, for those that it has.
        alive: called for each file and each MiB of it; when it raises Stopped, the sweep ends.
    """

    archive: Path
    keep_days: int
    home: Path
    loaded_at: Callable[[Sequence[str]], Mapping[str, datetime]]
    alive: Callable[[], None] = lambda: None
    # Files that had to stay are looked at again at every sweep, but not read again.
    _hashes: dict[tuple[int, int, int, int], str] = field(default_factory=dict)

    def sweep(self, now: datetime) -> Swept:
        """Delete what is old, the oldest first, as far as the day's share goes.

        Args:
            now: the present, in UTC; it must be believed.

        Returns:
            What was done; also when we were asked to stop before it was all.

        Raises:
            DatabaseUnavailable: the ledger cannot be asked.
            DiskTrouble: the archive cannot be listed, or the share cannot be written down.
        """
        done = Swept()
        with suppress(Stopped), disk_trouble(self.archive, "deleted from the archive"):
            self._sweep(now, done)
        return done

    def _sweep(self, now: datetime, done: Swept) -> None:
        limit = now - timedelta(days=self.keep_days)
        hashes, self._hashes = self._hashes, {}
        share = None
        for folder in _days(self.archive):
            if date.fromisoformat(folder.name) >= limit.date():
                break
            for some in _chunks(_files(folder, done.failure), _TOGETHER):
                self.alive()
                old = self._old(some, limit, now, hashes, done)
                if not old:
                    continue
                share = share or self._share(now)
                while old and share.left:
                    going, old = old[: share.left], old[share.left :]
                    share.take(len(going))
                    if left := self._delete(going, folder, done):
                        # Or those that cannot go would use up the share of the others.
                        share.take(-left)
                if old:
                    done.waiting = True
                    return
            with suppress(OSError):  # what is not ours to delete keeps its folder
                folder.rmdir()

    def _delete(self, going: Sequence[Path], folder: Path, done: Swept) -> int:
        """Delete files of a day; return how many could not be."""
        left = 0
        for path in going:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                done.failure(path, error)
                left += 1
            else:
                done.folders[folder.name] = done.folders.get(folder.name, 0) + 1
        return left

    def _old(
        self,
        some: Sequence[tuple[Path, os.stat_result]],
        limit: datetime,
        now: datetime,
        hashes: Mapping[tuple[int, int, int, int], str],
        done: Swept,
    ) -> list[Path]:
        """Return the files of which all witnesses say that they are old."""
        found: dict[Path, str] = {}
        for path, status in some:
            # A time in the future says nothing: the file would be kept for ever.
            if limit.timestamp() <= status.st_mtime <= now.timestamp():
                continue
            key = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
            try:
                sha256 = hashes.get(key) or sha256_of(path, self.alive)
            except FileNotFoundError:
                continue
            except OSError as error:
                done.failure(path, error)
                continue
            if sha256 is not None:
                self._hashes[key] = found[path] = sha256
        failed = done.failed
        taken = self._taken(found, done)
        done.unknown += sum(path not in taken for path in found) - (done.failed - failed)
        return [path for path, moment in taken.items() if moment < limit]

    def _taken(self, found: Mapping[Path, str], done: Swept) -> dict[Path, datetime]:
        """Return when the ledger took files, of those that it has."""
        known = self.loaded_at(list(set(found.values()))) if found else {}
        taken = {path: known[sha256] for path, sha256 in found.items() if sha256 in known}
        # What was compressed for the archive is in the ledger as it came.
        packed: dict[Path, str] = {}
        for path in found:
            if path in taken or not path.name.lower().endswith(".gz"):
                continue
            try:
                if sha256 := inflated_sha256(path, self.alive):
                    packed[path] = sha256
            except OSError as error:
                done.failure(path, error)
        if packed:
            known = self.loaded_at(list(set(packed.values())))
            taken |= {path: known[sha256] for path, sha256 in packed.items() if sha256 in known}
        return taken

    def _share(self, now: datetime) -> _Share:
        path = self.home / SHARE_NAME
        if (share := _Share.read(path)) and -_DAY < now - share.since < _DAY:
            return share
        files = sum(1 for folder in _days(self.archive) for _ in _files(folder, _ignored))
        allowed = max(
            _LEAST, -(-files * _PERCENT // 100), -(-files * _DAYS_A_DAY // self.keep_days)
        )
        return _Share(path, now, allowed, 0)


@dataclass(slots=True)
class _Share:
    """How many files may still go today.

    Attributes:
        path: where it is written down.
        since: when the day began.
        allowed: how many files may go within a day.
        used: how many have.
    """

    path: Path
    since: datetime
    allowed: int
    used: int

    @property
    def left(self) -> int:
        return max(0, self.allowed - self.used)

    def take(self, files: int) -> None:
        """Write down that files go, before they do; or that so many could not, if below zero."""
        self.used += files
        told = {"since": self.since.isoformat(), "allowed": self.allowed, "used": self.used}
        atomic.write(self.path, json.dumps(told).encode())

    @classmethod
    def read(cls, path: Path) -> _Share | None:
        """Return what was written down; None when nothing was, or it is damaged."""
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            told = json.loads(path.read_bytes())
            since = datetime.fromisoformat(told["since"]).astimezone(UTC)
            return cls(path, since, int(told["allowed"]), int(told["used"]))
        return None


def _days(archive: Path) -> list[Path]:
    """Return the days' folders, the oldest first."""
    found = []
    for path in sorted(archive.iterdir()) if archive.is_dir() else []:
        with suppress(ValueError):
            # Python reads 20200101 and 2020-W01-1 too: such a folder is somebody else's.
            ours = path.name == date.fromisoformat(path.name).isoformat()
            if ours and path.is_dir() and not path.is_symlink():
                found.append(path)
    return found


def _files(
    folder: Path, failure: Callable[[Path, OSError], None]
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files of a day; folders, links and hidden files are somebody else's."""
    try:
        listed = sorted(folder.iterdir())
    except OSError as error:
        failure(folder, error)
        return
    for path in listed:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            failure(path, error)
            continue
        if stat.S_ISREG(status.st_mode) and not path.name.startswith("."):
            yield path, status


def _ignored(_path: Path, _error: OSError) -> None:
    """Leave it to the sweep, which counts it."""


def _chunks(
    files: Iterator[tuple[Path, os.stat_result]], size: int
) -> Iterator[list[tuple[Path, os.stat_result]]]:
    some: list[tuple[Path, os.stat_result]] = []
    for each in files:
        some.append(each)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
