"""Atomic: the only place that writes files of which nobody must ever see half.

A file is written as a draft, beside where it is to be, under a name that no scan takes. It is
synced, gets its own name in one step, and its folder is synced too: after a crash, there is the
old file or the new one. Whoever writes a draft holds a lock on it, which ends with the process. So
a draft without a lock was abandoned, and `tidy` removes it, whatever it was to become.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Self, TextIO

from pipeline.errors import Conflict
from pipeline.files.disk import disk_trouble
from pipeline.files.naming import give_name
from pipeline.files.permissions import FILE_MODE

_DRAFT = re.compile(r"\.sofia-air\.[0-9a-f]{16}\.part")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# Where there are no locks, only age tells that nobody is writing any more.
_DRAFT_SECONDS = 3600.0


class Draft:
    """A file in the making. What was not published at the end of the block is gone.

    Args:
        folder: where it is made: in the filesystem in which it is to stay.
        durable: whether what is published outlasts a power cut. Without, it is still whole after
            the end of the process, however that comes.

    Attributes:
        path: where it is meanwhile.
        file: what to write to.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.path, self.file = _locked(folder)
        self._text: TextIO | None = None
        self._durable = durable
        self._renamed = False

    def text(self, encoding: str = "utf-8") -> TextIO:
        """Return what to write text to, line ends as they are."""
        self._text = TextIOWrapper(self.file, encoding=encoding, newline="")
        return self._text

    def sync(self) -> None:
        """See to it that what was written is on the disk.

        Raises:
            OSError: it is not.
        """
        (self._text or self.file).flush()
        if self._durable:
            os.fsync(self.file.fileno())

    def publish(self, target: Path, *, new: bool = False) -> None:
        """Give the draft its own name. Its folder has still to be synced (`sync_folder`).

        Args:
            target: its name, in the same folder.
            new: whether it must not replace what has that name.

        Raises:
            FileExistsError: something has that name, and it is to be new; it may get another.
            OSError: it cannot be published; what had that name is as it was.
        """
        self.sync()
        # Locked until it has its name, or it could be taken for an abandoned one.
        if new:
            give_name(self.path, target)
        else:
            self.path.replace(target)
            self._renamed = True
        self.close()

    def close(self) -> None:
        """Give up what was not published."""
        try:
            if not self._renamed:
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
        finally:
            # What could not be flushed to a full disk is given up too.
            with suppress(OSError):
                (self._text or self.file).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(folder: Path) -> tuple[Path, BinaryIO]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        path = folder / f".sofia-air.{os.urandom(8).hex()}.part"
        descriptor = os.open(path, flags, FILE_MODE)
        with suppress(OSError):  # some network filesystems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Somebody who tidies up may have been quicker with the lock.
        if os.fstat(descriptor).st_nlink:
            return path, os.fdopen(descriptor, "wb")
        os.close(descriptor)


@contextmanager
def writing(path: Path, *, new: bool = False, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file; it is there, whole, when the block has ended without an error.

    Args:
        path: the file.
        new: whether it must not be there yet.
        durable: whether it outlasts a power cut, too.

    Raises:
        Conflict: it already exists, and should be new; it is as it was.
        DiskTrouble: it cannot be written; what was there is as it was.
    """
    with _publishing(path, new=new, durable=durable) as draft:
        yield draft.file


@contextmanager
def writing_text(path: Path, encoding: str = "utf-8", *, new: bool = False) -> Iterator[TextIO]:
    """Write a text file, as `writing` does; line ends stay as they are."""
    with _publishing(path, new=new, durable=True) as draft:
        yield draft.text(encoding)


def write(path: Path, content: bytes) -> None:
    """Write a file whole, as `writing` does."""
    with writing(path) as file:
        file.write(content)


@contextmanager
def _publishing(path: Path, *, new: bool, durable: bool) -> Iterator[Draft]:
    with disk_trouble(path), Draft(path.parent, durable=durable) as draft:
        yield draft
        try:
            draft.publish(path, new=new)
        except FileExistsError as error:
            if not new:
                raise
            message = f"{path}: already exists"
            raise Conflict(message) from error
        if durable:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a folder's new and changed names durable.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tidy(folders: Iterable[Path], now: Callable[[], float] | None = None) -> list[Path]:
    """Remove the drafts that nobody writes any more; return what was removed.

    Args:
        folders: where to look; in each also one level deeper, where the name is a date.
        now: a clock, in Unix time, for filesystems without locks: there an old draft counts as
            abandoned. None: it is left.
    """
    removed = []
    for folder in folders:
        for path in _drafts(folder):
            with suppress(OSError):
                if _abandoned(path, now):
                    removed.append(path)
    return removed


def _drafts(folder: Path, *, deeper: bool = True) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if _DRAFT.fullmatch(entry.name):
                yield Path(entry.path)
            elif deeper and _DAY.fullmatch(entry.name) and not entry.is_symlink():
                yield from _drafts(Path(entry.path), deeper=False)


def _abandoned(path: Path, now: Callable[[], float] | None) -> bool:
    """Remove a draft if nobody holds it; say whether it was removed."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            # By the time of its last change, which nobody can set.
            if now is None or now() - found.st_ctime < _DRAFT_SECONDS:
                return False
        # It may have got its own name meanwhile.
        if not os.path.samestat(found, path.lstat()):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)
