"""Fetch: what a statement finds, each row as the type that it is read into."""

from __future__ import annotations

from typing import TypeVar

from psycopg.rows import class_row

from pipeline.store.read.reader import Connection
from pipeline.store.sql import statement

T = TypeVar("T")


def fetch(connection: Connection, kind: type[T], name: str, **asked: object) -> list[T]:
    """Return what the statement `name` finds.

    Args:
        connection: where to ask.
        kind: what each row becomes; its attributes are the columns.
        name: name of the statement.
        asked: its parameters.
    """
    return fetch_text(connection, kind, statement(name), **asked)


def fetch_text(connection: Connection, kind: type[T], text: str, **asked: object) -> list[T]:
    """Return what a statement finds, given as text."""
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(text.encode(), asked).fetchall()


def fetch_one(connection: Connection, kind: type[T], name: str, **asked: object) -> T:
    """Return the one row that the statement `name` always finds."""
    (row,) = fetch(connection, kind, name, **asked)
    return row
