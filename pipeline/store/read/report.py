"""Report queries: what `report` asks the database, all of it of one moment. Read-only."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any, Literal

from psycopg.rows import dict_row

from pipeline.contract.quantities import QUANTITIES
from pipeline.store.read.reader import Reader
from pipeline.store.sql import statement

Row = dict[str, Any]
Step = Literal["hour", "day"]

_PARTS = ("days", "quantities", "coverage", "sensors", "bands", "exceedances", "books", "reasons")


class ReportQueries:
    """Asks one database. Every method may raise `DatabaseUnavailable`."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def newest_day(self, before: date) -> date | None:
        """Return the newest day before another with data; None when there is none."""
        (row,) = self._ask({"newest_day": "report_newest_day"}, {"before": before})["newest_day"]
        found: date | None = row["day"]
        return found

    def read(self, first: date, after: date, step: Step) -> dict[str, list[Row]]:
        """Return everything that a report is made of.

        Args:
            first: first day of the period, UTC.
            after: the day after its last one.
            step: whether its charts go by hours or by days.

        Returns:
            Name of a statement, without `report_` → its rows; `series` and `reporting` are those
            of the step.
        """
        names = {part: f"report_{part}" for part in _PARTS}
        names["series"] = f"report_{step}s"
        names["reporting"] = f"report_reporting_{step}"
        since, until = (datetime.combine(day, time(), tzinfo=UTC) for day in (first, after))
        dust, climate = (
            [quantity.name for quantity in QUANTITIES if quantity.table == table]
            for table in ("raw_particulate", "raw_climate")
        )
        period = {"first": first, "after": after, "since": since, "until": until, "step": step}
        return self._ask(names, {**period, "dust": dust, "climate": climate})

    def _ask(self, names: dict[str, str], parameters: Row) -> dict[str, list[Row]]:
        # One snapshot: what is loaded meanwhile is either in all numbers or in none.
        with (
            self._reader.snapshot() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return {
                part: cursor.execute(statement(name).encode(), parameters).fetchall()
                for part, name in names.items()
            }
