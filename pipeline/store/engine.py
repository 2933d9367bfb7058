"""The engine: SQLAlchemy's way into PostgreSQL, for migrations and for whoever writes.

What only reads does without, and with it without the time that importing SQLAlchemy takes: see
:mod:`pipeline.store.read`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa

from pipeline.store.address import keywords, prepare
from pipeline.store.read.reader import Reader

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["create", "driver_of", "reader_of"]


def create(url: str) -> sa.Engine:
    """Return an engine for a PostgreSQL address; it connects only when used.

    Raises:
        ConfigurationError: the address is malformed. The message does not repeat it.
    """
    engine = sa.create_engine(
        "postgresql+psycopg://",
        connect_args=keywords(url),
        # One connection loads; the others are for a look at the ledger meanwhile. No pre-ping: a
        # connection that died is found by the transaction that uses it, and that is retried anyway.
        pool_size=2,
        max_overflow=3,
        pool_pre_ping=False,
        # A transaction that waited for a lock must see what the other one committed meanwhile,
        # whatever default the server has.
        isolation_level="READ COMMITTED",
        # Parameters are readings and lines of files: they have no place in an error message.
        hide_parameters=True,
    )
    sa.event.listen(engine, "connect", _prepare)
    return engine


def driver_of(connection: sa.Connection) -> psycopg.Connection[tuple[Any, ...]]:
    """Return psycopg's own connection, which takes statements as psql does."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):  # pragma: no cover  # `create` sees to it
        message = f"psycopg is due, not {type(driver).__name__}"
        raise TypeError(message)
    return driver


def reader_of(engine: sa.Engine) -> Reader:
    """Return what reads beside an engine's writers, on connections of its pool."""

    @contextmanager
    def lend() -> Iterator[psycopg.Connection[Any]]:
        with engine.connect() as connection:
            yield driver_of(connection)

    return Reader(lend)


def _prepare(connection: psycopg.Connection[Any], _entry: ConnectionPoolEntry) -> None:
    prepare(connection)
