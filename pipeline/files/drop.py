"""Drop: the one way to put a file into `data/` from within this package.

The bytes get their name when they are whole (`atomic`): nobody ever reads half a file. An existing
file is never replaced.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import DiskTrouble
from pipeline.files.atomic import Draft, sync_folder
from pipeline.files.disk import disk_trouble

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
    with disk_trouble(folder), Draft(folder) as draft:
        shutil.copyfileobj(source, draft.file, _CHUNK)
        for candidate in (name, f"{stem}.{mark[:12]}{dot}{endings}"):
            target = folder / candidate
            with suppress(FileExistsError):
                draft.publish(target, new=True)
                sync_folder(folder)
                return target
    message = f"{folder / name}: already exists, and so does its other name"
    raise DiskTrouble(message, folder / name)
