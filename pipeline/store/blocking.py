"""Blocking: who holds the lock that we wait for, said while we wait or when we give up.

Whoever only looks gives up after a few seconds, and says who is in the way. Whoever loads waits for
as long as it takes, and says so once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import class_row

from pipeline import logs
from pipeline.errors import DatabaseUnavailable, PipelineError
from pipeline.store.refusals import guarded, sqlstate
from pipeline.store.sql import statement

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["impatient", "said_when_blocked"]

_PATIENCE = 5  # seconds that a look waits for a lock
_SAID_AFTER = 10.0  # seconds that a load waits before it says so
_LOCK_NOT_AVAILABLE = "55P03"

log = logs.get("store")


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that holds a lock, as far as the server lets us see it."""

    pid: int
    application_name: str | None
    usename: str | None
    since: datetime | None
    query: str | None
    relation: str | None

    def __str__(self) -> str:
        known = [self.application_name, f"user {self.usename}" if self.usename else None]
        if self.since is not None:
            known.append(f"since {self.since.astimezone(UTC):%F %T} UTC")
        shown = f"pid {self.pid} ({', '.join(filter(None, known))})"
        return f"{shown}: {' '.join(self.query.split())}" if self.query else shown


@contextmanager
def impatient(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Let what only looks wait for locks no longer than a few seconds, in this transaction.

    Raises:
        DatabaseUnavailable: somebody holds a lock for longer. Says who.
    """
    connection.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}s'".encode())
    try:
        yield
    except psycopg.Error as error:
        if sqlstate(error) != _LOCK_NOT_AVAILABLE:
            raise
        holder = None
        with suppress(psycopg.Error):
            connection.rollback()
            with connection.cursor(row_factory=class_row(Holder)) as cursor:
                holder = cursor.execute(statement("lock_holder").encode()).fetchone()
        what = f"air.{holder.relation}" if holder and holder.relation else "a table"
        message = f"database: {what} is locked, and stayed so for {_PATIENCE} s"
        if holder is not None:
            message += f", by {holder}"
        message = f"{message} – wait for that session, or end it, and try again"
        raise DatabaseUnavailable(message) from error


@contextmanager
def said_when_blocked(
    engine: sa.Engine, pid: int, on_blocked: Callable[[], None]
) -> Iterator[None]:
    """Look now and then whether a session of ours waits for another's lock, and say so once.

    Args:
        engine: whence to look.
        pid: the server's number of our session.
        on_blocked: called each time it was found waiting.
    """
    from pipeline.store.engine import driver_of

    over = threading.Event()

    def look() -> None:
        said = False
        while not over.wait(_SAID_AFTER):
            with suppress(PipelineError), guarded(), engine.connect() as connection:
                with driver_of(connection).cursor(row_factory=class_row(Holder)) as cursor:
                    asked = {"pid": pid}
                    holder = cursor.execute(statement("lock_blocker").encode(), asked).fetchone()
                if holder is not None and not over.is_set():
                    on_blocked()
                    if not said:
                        log.warning("database.blocked", by=str(holder))
                    said = True

    thread = threading.Thread(target=look, name="blocked", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
