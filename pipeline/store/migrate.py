"""Bring a database to the tables that this code needs.

The migrations are numbered files in `migrations/versions`; the database notes how far it is in
`air.alembic_version`. A database that is up to date costs one short question, without even
importing alembic.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

import pipeline
from pipeline.errors import ConfigurationError, StoreError
from pipeline.store.blocking import impatient
from pipeline.store.engine import guarded
from pipeline.store.tables import SCHEMA

__all__ = ["VERSION_TABLE", "current", "head", "lock", "migrations_dir", "revisions", "upgrade"]

VERSION_TABLE = "alembic_version"

# Any number does, as long as nobody else uses it for something else in the same database.
_LOCK_KEY = int.from_bytes(b"sofiaair")


def upgrade(engine: sa.Engine) -> list[str]:
    """Migrate the database to the newest revision.

    Any number of processes may do this at once: one migrates, the others wait and find it done.
    All of it is one transaction, so a failure leaves the database as it was.

    Returns:
        The revisions that were applied, oldest first; empty when there was nothing to do.

    Raises:
        StoreError: the database was migrated by a newer version of this software.
        DatabaseTrouble: a migration failed.
        DatabaseUnavailable: trying again may help.
    """
    wanted = head()
    if current(engine) == wanted:
        return []
    with guarded(), engine.begin() as connection:
        lock(connection)
        before = _revision(connection)
        if before == wanted:
            return []
        known = revisions()
        if before is not None and before not in known:
            message = (
                "the database was migrated by a newer version of this software (it is at revision "
                f"{before}, this version knows up to {wanted}): update sofia-air, or use another "
                "database"
            )
            raise StoreError(message)
        _run_alembic(connection)
        return list(known[known.index(before) + 1 :] if before else known)


def current(engine: sa.Engine) -> str | None:
    """Return the revision that the database is at, None when it was never migrated."""
    with guarded(), engine.connect() as connection, impatient(connection):
        return _revision(connection)


def head() -> str:
    """Return the newest revision that this code knows."""
    return revisions()[-1]


def revisions() -> tuple[str, ...]:
    """Return every revision that this code knows, oldest first, from the names of the files."""
    names = sorted(path.stem for path in (migrations_dir() / "versions").glob("[0-9]*_*.py"))
    return tuple(name.partition("_")[0] for name in names)


def migrations_dir() -> Path:
    """Return the folder of the migrations: inside an installed package, or in the checkout.

    Raises:
        ConfigurationError: it is in neither place; the installation is damaged.
    """
    package = Path(pipeline.__file__).parent
    # The bundled one first: beside an installed package, `migrations` may be anybody's.
    for folder in (package / "_bundled" / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    message = f"{package}: the migrations are missing from this installation; install it again"
    raise ConfigurationError(message)


def lock(connection: sa.Connection) -> None:
    """Wait until no other process migrates this database; holds until the transaction ends."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))


def _revision(connection: sa.Connection) -> str | None:
    # Looked for first, since a question about a missing table would be an error in the server's
    # log; and by a query, since to_regclass may answer from before the wait for the lock.
    if not sa.inspect(connection).has_table(VERSION_TABLE, schema=SCHEMA):
        return None
    version = sa.table(VERSION_TABLE, sa.column("version_num", sa.Text()), schema=SCHEMA)
    return connection.scalar(sa.select(version.c.version_num))


def _run_alembic(connection: sa.Connection) -> None:
    # Imported only here: it takes longer than all the rest of a start.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    # In alembic's settings a % begins a placeholder.
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        message = f"the database cannot be migrated: {error}"
        raise StoreError(message) from error
