"""Way: root's way to a home, where no other user's link leads it to a folder not theirs."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.embedded.address import OTHERWISE
from pipeline.errors import EmbeddedDatabaseError
from pipeline.foreign import way_to

__all__ = ["opened", "resolved"]

_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC if sys.platform == "linux" else 0


def resolved(folder: Path) -> Path:
    """Return the folder's path without links; it need not exist.

    Raises:
        EmbeddedDatabaseError: a link of another user leads to a folder of somebody else. What root
            makes there would be made wherever that user likes. Or links lead round in a circle.
    """
    done = Path("/")
    links: dict[int, Path] = {}  # by owner
    try:
        for path, found in way_to(folder):
            if found is not None and stat.S_ISLNK(found.st_mode):
                links.setdefault(found.st_uid, path)
            else:
                done = path
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        message = f"{folder}: its links lead round in a circle"
        raise EmbeddedDatabaseError(message) from None
    owner = _owner(done)
    for uid, link in links.items():
        if uid not in (0, owner):
            message = (
                f"{link} is a link of the user with id {uid} and leads to {done}, which is not "
                f"theirs. Name {done} itself if that is the home, {OTHERWISE}"
            )
            raise EmbeddedDatabaseError(message)
    return done


def _owner(folder: Path) -> int:
    """Return the owner of the folder, or of the one that it will be made in."""
    for path in (folder, *folder.parents):
        with suppress(FileNotFoundError):
            return path.lstat().st_uid
    return 0


def opened(folder: Path, *, make: bool) -> int:
    """Open a folder from the top, following no link on the way; return a descriptor.

    Args:
        folder: a path without links.
        make: make what is missing.

    Raises:
        OSError: it does not exist, or is no folder, or part of its path has become a link.
    """
    at = os.open("/", _LOOK)
    for name in folder.parts[1:]:
        try:
            try:
                inner = os.open(name, _LOOK, dir_fd=at)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(name, mode=0o755, dir_fd=at)  # pathlib has no dir_fd
                inner = os.open(name, _LOOK, dir_fd=at)
        finally:
            os.close(at)
        at = inner
    return at
