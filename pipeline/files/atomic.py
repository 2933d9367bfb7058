"""Durable: what was made or renamed in a folder is still there after the power was cut."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from pipeline.files.permissions import create


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file whole: readers see the old content or the new, also after a crash.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with create(part) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
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
