"""Hashes: the SHA-256 of files, read a piece at a time so that a long one can be given up."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 20
# Neither through a link nor into a FIFO that took the file's name.
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def sha256_of(
    path: Path, alive: Callable[[], None] = lambda: None, size: int | None = None
) -> str | None:
    """Return the hash of a regular file, in hex; None when it is none, or of another size.

    Args:
        path: the file.
        alive: called for each MiB; what it raises ends the reading.
        size: the bytes that it has to have; any number by default.

    Raises:
        OSError: it cannot be read.
    """
    # Most files are small, and there are many: without Python's own buffers.
    descriptor = os.open(path, READ_FLAGS)
    try:
        now = os.fstat(descriptor)
        if not stat.S_ISREG(now.st_mode) or size not in {None, now.st_size}:
            return None
        digest = hashlib.sha256()
        while chunk := os.read(descriptor, CHUNK):
            alive()
            digest.update(chunk)
        return digest.hexdigest()
    finally:
        os.close(descriptor)


def inflated_sha256(path: Path, alive: Callable[[], None] = lambda: None) -> str | None:
    """Return the hash of what a gzip file holds; None when it is damaged, or is none.

    Args:
        path: the file.
        alive: called for each MiB of what it holds; what it raises ends the reading.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                alive()
                digest.update(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return None
    return digest.hexdigest()
