"""Owner: one daemon for a home folder, by a lock that vanishes with its holder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import HomeInUse
from pipeline.files.disk import disk_trouble
from pipeline.files.permissions import FILE_MODE
from pipeline.foreign import require_own_file

LOCK_NAME = ".sofia-air.lock"


@contextmanager
def owning(home: Path) -> Iterator[None]:
    """Own a home folder until the end of the block, or of the process, however it ends.

    Raises:
        HomeInUse: another daemon owns it.
        DiskTrouble: the lock file cannot be written.
    """
    path = home / LOCK_NAME
    with disk_trouble(path, "opened"):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            require_own_file(lock, path)
        except OSError:
            os.close(lock)
            raise
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "somebody"
            message = f"{home} is taken by another daemon ({holder}); stop it first"
            raise HomeInUse(message) from None
        words = (
            f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%F %T} UTC"
        )
        with suppress(OSError):  # on a full disk nobody is named; the lock holds all the same
            os.ftruncate(lock, 0)
            os.pwrite(lock, words.encode(), 0)
        yield
    finally:
        os.close(lock)
