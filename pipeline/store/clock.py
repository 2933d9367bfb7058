"""What the database knows of the time: its own clock, and when it last took a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.store.sql import statement

if TYPE_CHECKING:
    from pipeline.store.copy import Cursor
    from pipeline.store.read.reader import Reader


@dataclass(frozen=True, slots=True)
class ServerTime:
    """What the database says about the time.

    Attributes:
        clock: its clock.
        newest: when the newest entry of the ledger was written, by that clock; None without one.
        elsewhere: whether the server has a clock of its own: it was reached over a network.
    """

    clock: datetime
    newest: datetime | None
    elsewhere: bool


def server_time(cursor: Cursor) -> ServerTime:
    """Ask the database for the time."""
    cursor.execute(statement("server_time"))
    row = cursor.fetchone()
    assert row is not None  # noqa: S101  # a SELECT without FROM
    return ServerTime(*row)


def ask(reader: Reader) -> ServerTime:
    """Ask a database for the time.

    Raises:
        DatabaseUnavailable: it cannot be asked now, or somebody holds a lock on the ledger.
    """
    with reader.snapshot() as connection:
        return server_time(connection.cursor())


def loaded_at(cursor: Cursor, hashes: Sequence[str]) -> dict[str, datetime]:
    """Return hash → when the ledger took the file, for those that it has."""
    cursor.execute(statement("loaded_at"), {"hashes": list(hashes)})
    return dict(cursor.fetchall())
