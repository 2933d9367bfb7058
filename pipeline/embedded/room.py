"""Room: the folder ``.postgres`` and its files, and what a person is told about them."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.embedded import address
from pipeline.embedded.address import OTHERWISE
from pipeline.errors import EmbeddedDatabaseError, EmbeddedDatabaseUnavailable

__all__ = ["DISK_FULL", "INSIDE", "Place", "close_to_others", "content"]

INSIDE = "/proc/self/cwd"  # the folder that a process is in, even if no path to it is open to it
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_LEAST_FREE = 32 << 20  # bytes: a segment of the write-ahead log, and as much again
# PostgreSQL's words for it, in the language C.
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_LONGEST_ENDING = 1 << 16  # bytes of the log that are looked at
_MOST_READ = 4096  # bytes of a pid file


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server's files are.

    Attributes:
        shown: ``<home>/.postgres``, as people know it.
        inside: this process is in that folder, and never uses a path that leads there.
    """

    shown: Path
    inside: bool = False

    @property
    def room(self) -> Path:
        """The folder, as this process reaches it."""
        return Path() if self.inside else self.shown

    @property
    def url(self) -> str:
        """The server's address, for this process and those that it starts."""
        return address.url(INSIDE if self.inside else address.socket_dir(self.shown))

    @property
    def data(self) -> Path:
        """The data folder, as this process reaches it."""
        return self.room / "data"

    @property
    def log(self) -> Path:
        """The server's log, as this process reaches it."""
        return self.room / "postgres.log"

    def make(self) -> None:
        """Make the room if need be: private, and never a link that leads elsewhere."""
        self.room.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(self.room, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            close_to_others(opened)
        finally:
            os.close(opened)

    def open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open a file of the room, made if need be. Programs that we start do not inherit it."""
        flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not hold us
        file = os.open(self.room / name, flags, 0o600)
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "not a plain file", str(self.shown / name))
        return file

    def said_since(self, offset: int) -> str:
        """Return what the log has from there on, or the end of it."""
        with suppress(OSError):
            log = os.open(self.log, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(log, "rb") as file:
                file.seek(max(offset, os.fstat(log).st_size - _LONGEST_ENDING))
                return file.read(_LONGEST_ENDING).decode(errors="replace")
        return ""

    def trouble(
        self,
        what: str,
        error: OSError | None = None,
        said: int | None = None,
        *,
        passing: bool = False,
    ) -> EmbeddedDatabaseError:
        """Say it to a person: what happened, the log's own words about it, what to do."""
        because = f": {error}" if error else ""
        words = "" if said is None else self.said_since(said).strip()
        log = self.shown / self.log.name
        # On a full disk the log may have lost the very words that say so.
        full = (error is not None and error.errno in DISK_FULL) or bool(_FULL.search(words))
        if not full and (full := self._is_full()):
            because += f" (the disk of {self.shown} is full)"
        if words:
            ending = "".join(f"\n  {line}" for line in words.splitlines()[-15:])
            because += f". Its log, {log}, ends with:{ending}\n"
        elif os.path.exists(self.log):  # noqa: PTH110  Path.exists raises when it may not look
            because += f". Its log is {log}. "
        else:
            because += ". "
        message = (
            f"The private PostgreSQL under {self.shown} {what}{because}"
            f"When the cause is gone, run the command again, {OTHERWISE}"
        )
        return (EmbeddedDatabaseUnavailable if passing or full else EmbeddedDatabaseError)(message)

    def _is_full(self) -> bool:
        try:
            disk = os.statvfs(self.room)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < _LEAST_FREE or (disk.f_files > 0 == disk.f_favail)


def close_to_others(room: int) -> None:
    """Take every right to the room from everybody but its owner."""
    if os.fstat(room).st_mode & 0o777 != 0o700:
        os.fchmod(room, 0o700)


def content(file: Path) -> bytes:
    """Read a small file. Whatever else has its name neither holds us nor fills the memory."""
    opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(file))
        return os.read(opened, _MOST_READ)
    finally:
        os.close(opened)
