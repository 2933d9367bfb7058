"""Following the change feed: each change as it comes, across outages and restores.

A notification only lowers latency. The truth is the table, which is looked at every few seconds
anyway: a notification that was missed costs those seconds and nothing else.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import psycopg

from pipeline.errors import DatabaseMissing, DatabaseUnavailable, PipelineError, Transient
from pipeline.store.read import changes
from pipeline.store.read.changes import Page
from pipeline.store.refusals import translate

__all__ = ["follow"]

Connection = psycopg.Connection[Any]

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0


def follow(
    connect: Callable[[], Connection],
    *,
    after: int | None,
    generation: UUID | None = None,
    poll_seconds: float = 5.0,
    output: int | None = None,
    on_lost: Callable[[PipelineError, float], None] = lambda _error, _seconds: None,
) -> Iterator[Page]:
    """Yield what comes after a change, for as long as it is asked for more.

    Args:
        connect: opens a connection.
        after: number of the last change that was seen; 0 for none; None for what comes from now.
        generation: the one in which it was seen; None if that is not known.
        poll_seconds: how often to look without having been told.
        output: a descriptor of a pipe; when nobody reads from it any more, this ends.
        on_lost: told why the database cannot be asked, and after how many seconds it is tried
            again.

    Yields:
        Pages with changes, and those that say that what was followed is gone (`Page.anew`).

    Raises:
        PipelineError: the database cannot be asked, and waiting does not help.
    """
    begun = False
    wait = _FIRST_WAIT
    while True:
        try:
            with closing(connect()) as connection:
                connection.autocommit = True
                connection.execute(f"LISTEN {changes.CHANNEL}".encode())
                if after is None:
                    after = changes.number_before(connection, 0)
                while True:
                    page = changes.read(connection, after, generation=generation)
                    begun, wait = True, _FIRST_WAIT
                    generation = page.generation
                    if page.anew:
                        after = 0
                    if page.changes:
                        after = page.changes[-1].seq
                    if page.changes or page.anew:
                        yield page
                    elif not _told(connection) and not _waited(poll_seconds, output, connection):
                        return
        except (psycopg.Error, PipelineError) as error:
            told = translate(error)
            # At first, only an outage may pass; later, a restore may be going on.
            passing = (Transient, DatabaseMissing) if begun else (DatabaseUnavailable,)
            if not isinstance(told, passing):
                raise told from error
            on_lost(told, wait)
        if not _waited(wait, output):
            return
        wait = min(2 * wait, _LONGEST_WAIT)


def _told(connection: Connection) -> bool:
    """Take the notifications that are there; return whether there were any."""
    connection.pgconn.consume_input()
    found = False
    while connection.pgconn.notifies():
        found = True
    return found


def _waited(seconds: float, output: int | None, connection: Connection | None = None) -> bool:
    """Wait until the time is over or the server says something.

    Returns:
        Whether somebody still reads what is written.
    """
    waiting = select.poll()
    if connection is not None:
        waiting.register(connection.fileno(), select.POLLIN)
    if output is not None:
        waiting.register(output, 0)  # that it is closed is always told
    return not any(where == output for where, _ in waiting.poll(seconds * 1000))
