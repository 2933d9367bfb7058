"""Bring a database to the tables that this code needs.

The migrations are numbered files in `migrations/versions`; the database notes how far it is in
`air.alembic_version`. Whether it is up to date is one short question
(:mod:`pipeline.store.read.revision`), and takes neither alembic nor SQLAlchemy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pipeline
from pipeline.errors import ConfigurationError, StoreError
from pipeline.store.read.revision import revision
from pipeline.store.refusals import guarded

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["VERSION_TABLE", "head", "lock", "migrations_dir", "revisions", "upgrade"]

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
    from pipeline.store.engine import driver_of, reader_of

    wanted = head()
    with reader_of(engine).snapshot() as found:
        if revision(found) == wanted:
            return []
    with guarded(), engine.begin() as connection:
        lock(connection)
        before = revision(driver_of(connection))
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
    from pipeline.store.engine import driver_of

    driver_of(connection).execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK_KEY])


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
