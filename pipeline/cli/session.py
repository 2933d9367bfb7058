"""A command's session: its settings, its folders, its database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli.start import settle
from pipeline.clock import Clock
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, EmbeddedDatabaseUnavailable, NotFound
from pipeline.files.disk import disk_trouble
from pipeline.files.permissions import make_folder
from pipeline.foreign import refuse_others_home
from pipeline.store import clock, migrate
from pipeline.store.address import masked
from pipeline.store.read.reader import Pool, Reader
from pipeline.store.read.revision import revision
from pipeline.visible import visible_json

if TYPE_CHECKING:
    import sqlalchemy as sa


class Database:
    """An open database.

    Attributes:
        url: its address, password included.
        embedded: whether it is the home's private PostgreSQL.
        reader: the way in for whoever only reads.
        revive: brings the private PostgreSQL back when it died; None for a configured database.

    Args:
        url: see above.
        embedded: see above.
        revive: see above.
        address: how it is reached, where that is not by `url` alone.
    """

    def __init__(
        self,
        url: str,
        *,
        embedded: bool,
        revive: Callable[[], object] | None = None,
        address: str | None = None,
    ) -> None:
        self.url = url
        self.embedded = embedded
        self.revive = revive
        self._address = address or url
        self._pool = Pool(self._address)
        self.reader = Reader(self._pool.lend)

    @cached_property
    def engine(self) -> sa.Engine:
        """The way in for whoever writes. Loading what it needs takes a while."""
        from pipeline.store import engine as engines

        return engines.create(self._address)

    @property
    def shown(self) -> str:
        """The address without secrets; what a person should read."""
        return masked(self.url)

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()
        if "engine" in vars(self):
            self.engine.dispose()


@contextmanager
def database(
    settings: Settings, *, migrated: bool = True, patient: bool = False
) -> Iterator[Database]:
    """Open the configured database, or start the private one.

    Args:
        settings: the settings in force.
        migrated: see to it that the tables are there: the private database is migrated, for a
            configured one that is its owner's decision.
        patient: a private database that cannot start now, on a full disk for example, is an outage
            like any other: the caller waits, and calls `Database.revive`.

    Raises:
        ConfigurationError: the configured database has not been migrated.
        EmbeddedDatabaseError: the private one does not start.
    """
    settle()
    if settings.database.url is not None:
        url = settings.database.url.get_secret_value()
        with _opened(Database(url, embedded=False), migrated) as one:
            yield one
        return
    from pipeline.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(settings.home)
    try:
        try:
            server.start()
        except EmbeddedDatabaseUnavailable:
            if not patient:
                raise
        url = server.url
        # A server of another user's must not ask root for a password.
        address = url if server.own else f"{url}&require_auth=none"
        private = Database(url, embedded=True, revive=server.start, address=address)
        with _opened(private, migrated) as one:
            yield one
    finally:
        server.stop()


@contextmanager
def _opened(opened: Database, migrated: bool) -> Iterator[Database]:
    try:
        if migrated:
            prepare_tables(opened)
        yield opened
    finally:
        opened.close()


def prepare_tables(opened: Database) -> None:
    """See to it that the tables are there: the private database is migrated at once.

    Raises:
        ConfigurationError: a configured database has not been migrated: its owner decides when.
        DatabaseUnavailable: it cannot be asked now.
    """
    with opened.reader.snapshot() as connection:
        found = revision(connection)
    if found == migrate.head():
        return
    if opened.embedded:
        migrate.upgrade(opened.engine)
    elif found is None:
        message = "the database has no tables yet: run `sofia-air db upgrade` once"
        raise ConfigurationError(message)
    elif found in migrate.revisions():
        message = f"the tables are of an older version ({found}): run `sofia-air db upgrade`"
        raise ConfigurationError(message)
    else:
        message = f"the tables are of a newer version ({found}): update sofia-air"
        raise ConfigurationError(message)


def make_folders(settings: Settings) -> None:
    """Make the home, and data/, quarantine/ and logs/ in it, where they are missing.

    Raises:
        DiskTrouble: one cannot be made, or is not a folder.
        ConfigurationError: we are root, and another user has made the home meanwhile.
    """
    _make(settings.home)
    refuse_others_home(settings.home)
    for folder in (settings.data, settings.quarantine, settings.logs):
        _make(folder)


def _make(folder: Path) -> None:
    if folder.is_dir():
        return
    with disk_trouble(folder, "made"):
        make_folder(folder)


def clock_of(settings: Settings, reader: Reader) -> Clock:
    """Return what tells the present at a site."""
    return Clock(settings.home, lambda: clock.ask(reader))


def require_home(settings: Settings) -> None:
    """Refuse to look into a folder where nothing was ever loaded: most likely a slip of the hand.

    Raises:
        NotFound: there is neither a private database nor a configured one.
    """
    if settings.database.url is None and not (settings.home / ".postgres").exists():
        message = (
            f"{settings.home}: nothing was ever loaded here; `sofia-air run` or `sofia-air ingest` "
            "makes it a home, --home names another, and `sofia-air demo` shows how it works"
        )
        raise NotFound(message)


def print_json(value: Any) -> None:
    r"""Print a value for machines: one JSON document, UTF-8, times in ISO 8601.

    What a terminal would obey, or not show, stands there as `\uXXXX`.
    """
    document = json.dumps(value, default=_plain, ensure_ascii=False, indent=2)
    typer.echo(visible_json(document))


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(type(value).__name__)
