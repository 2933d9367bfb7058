"""Disk: what the system says of a file, as one sentence with the path and what to do.

Every `OSError` that a person has to act on becomes a `DiskTrouble` here, and nowhere else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.descriptors import exhausted
from pipeline.errors import DiskTrouble

_REMEDIES = {
    errno.ENOSPC: "make room on this disk",
    errno.EDQUOT: "make room, or raise the quota",
    errno.EROFS: "make the filesystem writable",
    errno.EACCES: "give uid {uid} access to it",
    errno.EPERM: "give uid {uid} access to it",
    errno.ENAMETOOLONG: "use a shorter name",
}


def trouble(error: Exception, path: Path, doing: str, then: str = "") -> DiskTrouble:
    """Return what to raise for an error of the system.

    Args:
        error: usually an `OSError`.
        path: the file or folder that a person knows.
        doing: what could not be done with it, as in "cannot be written".
        then: what a person should know besides.
    """
    if lack := exhausted(error):
        return DiskTrouble(lack, path)
    code = error.errno if isinstance(error, OSError) else None
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    remedy = _REMEDIES.get(code or 0, "").format(uid=os.geteuid())
    parts = [f"{path}: cannot be {doing}: {reason}", then, remedy]
    return DiskTrouble("; ".join(filter(None, parts)), path)


@contextmanager
def disk_trouble(path: Path, doing: str = "written", then: str = "") -> Iterator[None]:
    """Turn an error of the system into a `DiskTrouble` that names the path.

    Args:
        path: the file or folder, where the error does not name one itself.
        doing: what is done with it, as in "cannot be written".
        then: what a person should know besides.

    Raises:
        DiskTrouble: the system refused.
    """
    try:
        yield
    except OSError as error:
        raise trouble(error, known(error) or path, doing, then) from error


def known(error: OSError) -> Path | None:
    """Return the path that an error names, if it is one that a person knows."""
    if not isinstance(error.filename, str | os.PathLike):
        return None
    path = Path(error.filename)
    # The name of a draft would tell nothing.
    return None if path.name.endswith(".part") else path
