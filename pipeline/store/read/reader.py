"""The reader: connections that can only read, and that nobody has to wait for without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import IsolationLevel

from pipeline.store import address
from pipeline.store.blocking import impatient
from pipeline.store.refusals import guarded

__all__ = ["Connection", "Pool", "Reader"]

Connection = psycopg.Connection[Any]

_SECONDS = 600.0  # that one statement may take
# An administrator may allow less.
_LIMIT = """
SELECT set_config('statement_timeout', %(limit)s, true)
 WHERE current_setting('statement_timeout')::interval
       NOT BETWEEN interval '1 millisecond' AND %(limit)s::interval
"""


class Reader:
    """Reads from one database. Any thread may use it; each gets a connection of its own.

    Args:
        lend: lends a connection that is in no transaction.
    """

    def __init__(self, lend: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._lend = lend

    @contextmanager
    def snapshot(self, seconds: float | None = _SECONDS) -> Iterator[Connection]:
        """Open a connection whose answers are all of one moment.

        Args:
            seconds: how long one statement may take, if the server does not allow less; None for
                as long as it takes.

        Raises:
            DatabaseUnavailable: the database cannot be asked, or somebody holds a lock. Says who.
            ConfigurationError: the server does not let us in.
            DatabaseTrouble: the server refused.
        """
        with guarded(), self._lend() as connection, _reading(connection):
            if seconds is not None:
                connection.execute(_LIMIT, {"limit": f"{seconds * 1000:.0f}ms"})
            yield connection


@contextmanager
def _reading(connection: Connection) -> Iterator[None]:
    """Let a connection only read, for one transaction."""
    before = connection.isolation_level, connection.read_only
    connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
    try:
        with impatient(connection):
            yield
    finally:
        with suppress(psycopg.Error):  # it broke, which is told already
            connection.rollback()
            connection.isolation_level, connection.read_only = before


class Pool:
    """Connections to an address, opened when they are needed and used again.

    Args:
        url: the address.

    Raises:
        ConfigurationError: the address is malformed. The message does not repeat it.
    """

    def __init__(self, url: str) -> None:
        self._given = address.keywords(url)
        self._idle: list[Connection] = []

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """Lend a connection."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = address.connect(self._given)
        try:
            yield connection
        finally:
            if connection.closed:
                self.close()  # what broke one of them has most likely broken all
            else:
                self._idle.append(connection)

    def close(self) -> None:
        """Close what is open and not in use."""
        while self._idle:
            self._idle.pop().close()
