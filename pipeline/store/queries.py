"""Queries: what `status`, `quarantine` and `demo` ask the database. Read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.rows import dict_row

from pipeline.store.blocking import impatient
from pipeline.store.engine import driver_of, guarded
from pipeline.store.sql import statement

Row = dict[str, Any]


class Queries:
    """Asks one database. Every method may raise `DatabaseUnavailable`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def totals(self) -> Row:
        """Return the whole ledger's sums, the span of time and the number of sensors."""
        return self._rows("totals", {})[0]

    def recent_files(self, limit: int) -> list[Row]:
        """Return the ledger rows written last, newest first."""
        return self._rows("recent_files", {"limit": limit})

    def quarantine_files(self, rule: str | None, limit: int) -> list[Row]:
        """Return the files with rejected rows, newest first, with a count for each rule."""
        return self._rows("quarantine_files", {"rule": rule, "limit": limit})

    def refused_files(self, rule: str | None, limit: int) -> list[Row]:
        """Return the files that were refused as a whole, newest first."""
        return self._rows("refused_files", {"rule": rule, "limit": limit})

    def sensor_statistics(self, limit: int) -> list[Row]:
        """Return count, min, max, mean and std per sensor and quantity."""
        return self._rows("sensor_statistics", {"limit": limit})

    def server(self) -> Row:
        """Return the server's version and the size of the database in bytes."""
        return self._ask(
            "SELECT current_setting('server_version') AS version, "
            "pg_database_size(current_database()) AS bytes",
            {},
        )[0]

    def doubtful_files(self, types: Sequence[str], limit: int) -> list[Row]:
        """Return files that an earlier version stored and should not have, oldest first.

        Args:
            types: sensor types whose readings are not stored.
            limit: the most files to return.
        """
        return self._rows("doubtful_files", {"types": list(types), "limit": limit})

    def _rows(self, name: str, parameters: Mapping[str, Any]) -> list[Row]:
        return self._ask(statement(name), parameters)

    def _ask(self, text: str, parameters: Mapping[str, Any]) -> list[Row]:
        with self._asking() as cursor:
            cursor.execute(text.encode(), parameters)
            return cursor.fetchall()

    @contextmanager
    def _asking(self) -> Iterator[psycopg.Cursor[Row]]:
        with (
            guarded(),
            self._engine.connect() as connection,
            impatient(connection),
            driver_of(connection).cursor(row_factory=dict_row) as cursor,
        ):
            yield cursor
