"""Foreign: keeps root from being led by what belongs to another user.

Who can change a home can put links in the place of its folders, so that root writes files of their
choice anywhere. So root works in no home of another user. One without a name on this machine, as
the owner of a folder that is mounted into a container, is taken for nobody.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigurationError

_MOST_LINKS = 40  # as the kernel


def refuse_others_home(
    home: Path, otherwise: str = "choose a home of root's", argument: str | None = "home"
) -> None:
    """Refuse, as root, a home that another user can change, or put another one in place of.

    Nothing in the home is opened or read. Folders are looked at from the top, so that nobody can
    change those that were looked at.

    Args:
        home: the home folder; it need not exist.
        otherwise: what to do instead.
        argument: what of the caller's the home is.

    Raises:
        ConfigurationError: it, a folder above it or a link on the way belongs to a user who has a
            name on this machine; or it is a folder that everybody shares, as `/tmp` is.
    """
    if os.geteuid() != 0:
        return
    try:
        for path, found in way_to(home):
            if found is not None and (name := _name_of(found.st_uid)):
                whose = "" if path == home else f" is reached through {path}, which"
                message = (
                    f"{home}{whose} belongs to {name}: run this command as that user "
                    f"(sudo -u {name} sofia-air …), or {otherwise}"
                )
                raise ConfigurationError(message, argument)
    except OSError:
        return  # the way ends there for whoever opens the home, too
    shared = stat.S_ISVTX | stat.S_IWOTH
    if found is not None and found.st_mode & shared == shared:
        message = f"{home}: everybody can write to {path}, settings and links too: {otherwise}"
        raise ConfigurationError(message, argument)


def _name_of(uid: int) -> str | None:
    """Return the name of a user other than root; None if there is no such user."""
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def way_to(folder: Path) -> Iterator[tuple[Path, os.stat_result | None]]:
    """Yield the folders and links that a path leads through, from the top; at last where it leads.

    Yields:
        A path without links but for its last part, and what is there, a link not followed; None if
        nothing is.

    Raises:
        OSError: the way cannot be followed; ELOOP if its links lead round in a circle.
    """
    at, followed = Path("/"), 0
    left = list(reversed(folder.absolute().parts[1:]))
    yield at, at.lstat()
    while left:
        name = left.pop()
        path = at.parent if name == ".." else at / name
        try:
            found = path.lstat()
        except FileNotFoundError:
            yield path, None
            at = path
            continue
        yield path, found
        if not stat.S_ISLNK(found.st_mode):
            at = path
            continue
        if (followed := followed + 1) > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        target = path.readlink()
        at = Path("/") if target.is_absolute() else at
        left += reversed([part for part in target.parts if part != "/"])
        yield at, at.lstat()


def require_own_file(descriptor: int, path: Path) -> None:
    """Make sure that an open file is no other one under this name.

    Who owns a folder, as somebody without a name here may do, can give any file of that filesystem
    a name in it, as a hard link: opening it follows no link, and yet it is not ours.

    Args:
        descriptor: the open file. It was opened with O_NOFOLLOW.
        path: the name by which it was opened.

    Raises:
        PermissionError: it is a hard link to a file that the folder's owner does not own.
        OSError: it is no plain file.
    """
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    linked = found.st_nlink > 1 and os.geteuid() == 0
    if linked and found.st_uid != path.parent.stat().st_uid:
        raise PermissionError(errno.EPERM, "a hard link to a file of another user", str(path))
