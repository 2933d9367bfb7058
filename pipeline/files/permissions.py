"""Permissions: what the package creates is never writable for its group or for others.

Folders are 0750 and files 0640, whatever the umask; a stricter umask is respected. The private
PostgreSQL is stricter of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from pipeline.foreign import require_own_file

FOLDER_MODE = 0o750
FILE_MODE = 0o640
_MASK = 0o027


def restrict_umask() -> None:
    """Let nothing that this process creates be more open than `FOLDER_MODE` and `FILE_MODE`."""
    os.umask(os.umask(_MASK) | _MASK)


def make_folder(folder: Path) -> None:
    """Make a folder, and its parents, where they are missing.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    missing = []
    for each in (folder, *folder.parents):
        if each.is_dir():
            break
        missing.append(each)
    # One by one: pathlib would give the parents the widest mode that the umask allows.
    for each in reversed(missing):
        each.mkdir(mode=FOLDER_MODE, exist_ok=True)


def reserve(path: Path, *, folder: bool = False) -> None:
    """Make an empty file, or an empty folder, where nothing is.

    Raises:
        FileExistsError: something has that name.
        OSError: it cannot be made.
    """
    if folder:
        path.mkdir(mode=FOLDER_MODE)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def create(path: Path, *, follow: bool = False) -> BinaryIO:
    """Open a file for writing; what it held is gone.

    Args:
        path: the file.
        follow: whether it may be a symbolic link, as `/dev/stdout` is.

    Raises:
        OSError: it cannot be created, or is a file of another user under this name.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    if follow:
        return os.fdopen(os.open(path, flags | os.O_TRUNC, FILE_MODE), "wb")
    file = os.fdopen(os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE), "wb")
    try:
        # Before it is emptied: under this name may be a file that is not ours.
        require_own_file(file.fileno(), path)
        file.truncate(0)
    except OSError:
        file.close()
        raise
    return file
