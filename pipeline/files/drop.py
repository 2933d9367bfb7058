"""Drop: the one way to put a file into `data/` from within this package.

The bytes are written under a name that no scan takes, synced, and renamed when whole:
nobody ever reads half a file. An existing file is never replaced.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import DiskTrouble
from pipeline.files.naming import give_name
from pipeline.files.permissions import FILE_MODE

_CHUNK = 1 << 20


def drop(source: BinaryIO, folder: Path, name: str, mark: str) -> Path:
    """Copy bytes into a folder as a new file.

    Args:
        source: what to copy, from where it stands.
        folder: usually `data/`.
        name: the file's name; ending in `.csv` or `.csv.gz` if it is to be taken.
        mark: a few characters that tell the file from another of that name; put in only then.

    Returns:
        Where the file is.

    Raises:
        DiskTrouble: the folder cannot be written to; nothing was left there.
    """
    stem, dot, endings = name.partition(".")
    # Hidden and unique to this process: two that drop the same name do not meet.
    part = folder / f".{mark[:32]}.{os.getpid()}.part"
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)
            file.flush()
            os.fsync(file.fileno())
        for candidate in (name, f"{stem}.{mark[:12]}{dot}{endings}"):
            target = folder / candidate
            with suppress(FileExistsError):
                give_name(part, target)
                return target
        message = f"{folder / name}: is there already, and so is its other name"
        raise DiskTrouble(message)
    except OSError as error:
        message = f"{error.filename or folder}: cannot be written: {error.strerror}"
        raise DiskTrouble(message) from error
    finally:
        part.unlink(missing_ok=True)
