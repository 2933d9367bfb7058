"""Naming: gives a file another name without ever replacing what has that name already.

A hard link does so in one step. Filesystems without hard links (FAT, some network filesystems) get
the name reserved first, by an empty file of ours, which the rename then replaces.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from pipeline.files.permissions import reserve

NO_HARD_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def give_name(path: Path, target: Path) -> None:
    """Give a file another name in the same filesystem. Its first name may be gone afterwards.

    Args:
        path: the file; a link is not followed.
        target: its other name.

    Raises:
        FileExistsError: something has that name; nothing was changed.
        OSError: it cannot be done; the file has its first name.
    """
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
    else:
        return
    rename_new(path, target)


def rename_new(path: Path, target: Path) -> None:
    """Rename a file, or a folder, without hard links.

    Raises:
        FileExistsError: something has that name; nothing was changed.
        OSError: it cannot be done; the file has its first name.
    """
    # A folder replaces nothing but an empty folder.
    folder = stat.S_ISDIR(os.lstat(path).st_mode)
    reserve(target, folder=folder)
    try:
        path.rename(target)
    except OSError:
        with suppress(OSError):
            if folder:
                target.rmdir()
            elif os.lstat(target).st_size == 0:
                target.unlink()
        raise
