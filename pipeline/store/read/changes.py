"""The change feed: what happened to readings and to quarantine since one last asked.

Whoever follows the database keeps two things: the number of the last change that was seen, and the
generation that it was seen in. A database that was restored is of another generation (the next
transaction that writes gives it its name): what was seen of it may never have happened, so its feed
is read from the beginning again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from pipeline.store.sql import statement

__all__ = ["CHANNEL", "Change", "Page", "number_before", "read"]

CHANNEL = "air_change"  # notifications come here, each a number: hints, not the changes themselves
PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction did to one file's readings in a raw table, or to its quarantined rows.

    Attributes: as the columns of `air.change`.
    """

    seq: int
    at: datetime
    kind: str
    file_id: int
    raw_table: str | None
    months: Mapping[date, int]
    rows_added: int
    rows_removed: int
    rows_changed: int
    sensors: tuple[int, ...]
    quarantine_opened: int
    quarantine_closed: int


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of the feed.

    Attributes:
        generation: the database's; None until something is loaded into it.
        newest: number of the newest change there is; 0 for none.
        anew: the database is not what was followed: `changes` begin with the feed's first.
        changes: oldest first.
    """

    generation: UUID | None
    newest: int
    anew: bool
    changes: tuple[Change, ...]


def read(
    connection: psycopg.Connection[Any],
    after: int = 0,
    *,
    limit: int = PAGE,
    generation: UUID | None = None,
) -> Page:
    """Return what came after a change.

    Args:
        connection: where to ask.
        after: number of the last change that was seen; 0 for none.
        limit: the most changes to return.
        generation: the one in which it was seen; None if that is not known.
    """
    page = _page(connection, after, limit, anew=False)
    if page.generation == generation or generation is None:
        # Of the same name still, a database that was just restored lacks what was seen.
        if after <= page.newest:
            return page
    elif after == 0:
        return Page(page.generation, page.newest, anew=True, changes=page.changes)
    return _page(connection, 0, limit, anew=True)


def number_before(connection: psycopg.Connection[Any], newest: int) -> int:
    """Return the number after which there are so many changes, or all that there are."""
    row = connection.execute(statement("changes_before").encode(), {"newest": newest}).fetchone()
    return int(row[0]) if row else 0


def _page(connection: psycopg.Connection[Any], after: int, limit: int, *, anew: bool) -> Page:
    asked = {"after": after, "limit": limit}
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(statement("changes").encode(), asked).fetchall()
    generation, newest, *_ = rows[0]
    changes = tuple(_change(row[2:]) for row in rows if row[2] is not None)
    return Page(generation, newest, anew, changes)


def _change(row: tuple[Any, ...]) -> Change:
    seq, at, kind, file_id, table, months, added, removed, changed, sensors, opened, closed = row
    return Change(
        seq=seq,
        at=at.astimezone(UTC),
        kind=kind,
        file_id=file_id,
        raw_table=table,
        months={date.fromisoformat(month): rows for month, rows in sorted(months.items())},
        rows_added=added,
        rows_removed=removed,
        rows_changed=changed,
        sensors=tuple(sensors),
        quarantine_opened=opened,
        quarantine_closed=closed,
    )
