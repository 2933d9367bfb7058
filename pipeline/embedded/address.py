"""Address: how clients reach the private PostgreSQL through its socket."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from pipeline.errors import EmbeddedDatabaseError

__all__ = ["NAME", "OTHERWISE", "SOCKET", "remove_alias", "socket_dir", "url"]

NAME = "sofia_air"  # of the role and of the database
SOCKET = ".s.PGSQL.5432"
OTHERWISE = "or set SOFIA_AIR_DATABASE_URL to a database of your own."


def url(host: str | Path, account: str | None = None) -> str:
    """Return the address of the server whose socket is in a folder.

    Args:
        host: the folder, as an absolute path.
        account: the user whose processes alone are accepted as the server; None for any.
    """
    address = f"postgresql://{NAME}@/{NAME}?host={quote(str(host))}&port=5432"
    return address if account is None else f"{address}&requirepeer={quote(account)}"


def socket_dir(room: Path) -> Path:
    """Return a path to the room that clients can use: the room itself, or a short alias for it.

    A socket's path is limited to 107 bytes (macOS: 103), and libpq splits hosts at commas. The
    alias is a link and not a folder, so nobody has to remember it: the socket stays in the room,
    and every command makes its own way there.

    Raises:
        EmbeddedDatabaseError: something else has the alias's name.
    """
    path = os.fsencode(room / SOCKET)
    if len(path) <= 103 and b"," not in path and str(room).isprintable():
        return room
    me, digest = os.geteuid(), hashlib.sha256(path).hexdigest()[:16]
    alias = Path(f"/tmp/sofia-air-{me}-{digest}")  # noqa: S108  checked below; $TMPDIR may be long
    with suppress(FileExistsError):
        alias.symlink_to(room)
    if alias.lstat().st_uid != me or not alias.is_symlink() or alias.readlink() != room:
        message = (
            f"{alias} should be this user's link to {room}, and is something else. "
            f"Remove it, choose a home folder with a shorter path, {OTHERWISE}"
        )
        raise EmbeddedDatabaseError(message)
    return alias


def remove_alias(room: Path) -> None:
    """Remove the alias, if the room has one."""
    if (alias := socket_dir(room)) != room:
        alias.unlink(missing_ok=True)
