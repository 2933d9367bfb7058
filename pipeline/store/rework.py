"""Rework: what repairing, replaying, discarding and explaining ask of the database, and change.

`Workbench` only looks. `Repair` changes rows in quarantine, within the one transaction in which
their readings are loaded, under the lock of all writers: what it finds open stays open until it
commits, so of two replays of the same rows the second finds none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.rows import class_row

from pipeline.contract.rules import ReasonRecord
from pipeline.store.queries import Queries, Row
from pipeline.store.sql import statement
from pipeline.store.tables import RAW, cells

if TYPE_CHECKING:  # listing what waits takes less time without these
    import pyarrow as pa

    from pipeline.records import Ints
    from pipeline.store.copy import Cursor
    from pipeline.store.load import Load, Store
    from pipeline.store.rejected import RejectedRows, Told

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A ledger row. Attributes: as the columns of `air.source_file`, and its `sections`.

    `sections` are the first line and the header of each later section, in order; None for none.
    """

    file_id: int
    name: str
    sha256: str
    bytes: int
    dialect: str | None
    sensor_model: str | None
    state: str
    rows_read: int
    rows_loaded: int
    rows_duplicate: int
    rows_quarantined: int
    first_ts: datetime | None
    last_ts: datetime | None
    loaded_at: datetime
    contract_version: str
    app_version: str
    parent_file_id: int | None
    rule: str | None
    reason: str | None
    header: str | None
    decided_at: datetime | None
    decided_by: str | None
    note: str | None
    sections: list[tuple[int, str]] | None


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A rejected row. Attributes: as the columns of `air.quarantined_row`."""

    file_id: int
    line_no: int
    line: str
    line_bytes: bytes | None
    reasons: list[ReasonRecord]
    state: str
    replay_file_id: int | None
    replay_line: str | None
    decided_at: datetime | None
    decided_by: str | None
    note: str | None

    @property
    def exact(self) -> bytes:
        """The line as it stood in its file."""
        return self.line.encode() if self.line_bytes is None else self.line_bytes

    @property
    def present(self) -> bytes:
        """The line as it stands now: as somebody repaired it once, else as in its file."""
        return self.exact if self.replay_line is None else self.replay_line.encode()


class Workbench(Queries):
    """Asks about what was rejected. Every method may raise `DatabaseUnavailable`."""

    def entries(self, key: str) -> list[Entry]:
        """Return ledger rows with this number, name or hash (8 digits at least), newest first."""
        return self._entries(key=key)

    def entry(self, file_id: int) -> Entry | None:
        """Return the ledger row of this number."""
        return next(iter(self._entries(file_id=file_id)), None)

    def with_open_rows(self, rule: str | None) -> list[Entry]:
        """Return the files with open rows (of a reason), oldest first."""
        return self._entries(open_rows=True, rule=rule)[::-1]

    def refused(self, rule: str | None) -> list[Entry]:
        """Return the files that were refused and that nobody has settled, oldest first."""
        return self._entries(refused=True, rule=rule)[::-1]

    def children(self, file_id: int) -> list[Entry]:
        """Return the files that name this one as their parent, oldest first."""
        return self._entries(parent=file_id)[::-1]

    def with_duplicates(self, sensor_id: int, ts: datetime) -> list[Entry]:
        """Return the loaded files that may have a duplicate of a reading, oldest first."""
        asked = duplicates_asked([(sensor_id, ts, ts)])
        return [Entry(**row) for row in self._rows("rework_with_duplicates", asked)]

    def dropped_sheets(self, sha256: str) -> list[Entry]:
        """Return the quarantine files of a file that were dropped into data/, oldest first."""
        return self._entries(copies=sha256[:12])[::-1]

    def rows(
        self,
        file_id: int,
        *,
        states: Sequence[str] | None = ("open",),
        rule: str | None = None,
        lines: Sequence[int] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[QuarantinedRow]:
        """Return rejected rows of a file, in its order; None for any state, reason or line."""
        parameters = _asked(file_id, states, rule, lines, after, limit)
        return [QuarantinedRow(**row) for row in self._rows("rework_rows", parameters)]

    def open_rows(
        self, file_id: int, *, rule: str | None = None, told: Told = "reasons"
    ) -> Generator[RejectedRows]:
        """Yield all open rows of a file, some thousands at a time.

        Args:
            file_id: the file.
            rule: only rows that broke this rule.
            told: what is wanted of the reasons.
        """
        from pipeline.store import rejected

        with self._asking() as cursor:
            after = 0
            while len(
                rows := rejected.open_rows(cursor, file_id, rule=rule, after=after, told=told)
            ):
                yield rows
                after = int(rows.line_no[-1])

    def rows_at(self, file_id: int, lines: Sequence[int]) -> RejectedRows:
        """Return the rows of a file at some of its lines, whatever became of them."""
        from pipeline.store import rejected

        with self._asking() as cursor:
            return rejected.rows_at(cursor, file_id, lines)

    def open_lines(self, file_id: int) -> Ints:
        """Return the line numbers of all open rows of a file."""
        from pipeline.store import rejected

        with self._asking() as cursor:
            return rejected.open_lines(cursor, file_id)

    def files_and_rules(self, rules: Sequence[str]) -> list[tuple[int, str]]:
        """Return the files with open rows that broke some rules, and which of these."""
        found = self._rows("rework_files_and_rules", {"rules": list(rules)})
        return [(row["file_id"], row["rule"]) for row in found]

    def replayed_rows(self, replay_file_id: int) -> list[QuarantinedRow]:
        """Return the rows that a replay brought back."""
        found = self._rows("rework_replayed_rows", {"replay_file_id": replay_file_id})
        return [QuarantinedRow(**row) for row in found]

    def states(self) -> Row:
        """Return how many rows are open, repaired, discarded, and in the ledger's own books."""
        return self._rows("rework_states", {})[0]

    def states_of(self, file_id: int) -> Row:
        """Return the same for one file."""
        return self._rows("rework_states_of", {"file_id": file_id})[0]

    def by_rule(self, rule: str | None) -> list[Row]:
        """Return open rows by reason, with an example."""
        return self._rows("rework_by_rule", {"rule": rule})

    def by_sensor(self, rule: str | None, limit: int) -> list[Row]:
        """Return open rows by what stands in the column of their sensor, most rows first."""
        return self._rows("rework_by_sensor", {"rule": rule, "limit": limit})

    def by_age(self, rule: str | None) -> list[Row]:
        """Return open rows by the time since they were rejected."""
        return self._rows("rework_by_age", {"rule": rule})

    def reading(self, sensor_id: int, ts: datetime) -> list[Row]:
        """Return the readings of a sensor at a time (at most one of each raw table)."""
        each = [statement("why_reading", table=table, cells=cells(table)) for table in RAW]
        return self._ask(" UNION ALL ".join(each), {"sensor_id": sensor_id, "ts": ts})

    def neighbours(self, sensor_id: int, ts: datetime) -> Row:
        """Return the times of the readings of a sensor before and after a time."""
        return self._rows("why_neighbours", {"sensor_id": sensor_id, "ts": ts})[0]

    def rows_of_sensor(self, sensor_id: int, ts: datetime, limit: int) -> list[QuarantinedRow]:
        """Return rejected rows that name a sensor, of files that may hold its time."""
        parameters = {"pattern": rf"(^|[;,\t\" |])\+?0*{sensor_id}(\.0*)?([;,\t\" |]|$)", "ts": ts}
        found = self._rows("why_rejected", {**parameters, "limit": limit})
        return [QuarantinedRow(**row) for row in found]

    def _entries(self, **wanted: object) -> list[Entry]:
        return [Entry(**row) for row in self._rows("rework_entries", entries_asked(**wanted))]


class Repair:
    """The open transaction in which rows leave quarantine."""

    def __init__(self, load: Load) -> None:
        self._cursor: Cursor = load._cursor

    def state(self, file_id: int) -> str | None:
        """Return the state of a file in the ledger, or None."""
        self._cursor.execute("SELECT state FROM air.source_file WHERE file_id = %s", [file_id])
        found = self._cursor.fetchone()
        return found[0] if found else None

    def open_rows(self, file_id: int, rule: str | None, after: int) -> RejectedRows:
        """Return open rows of a file after a line, some at a time: nobody else takes them."""
        from pipeline.store import rejected

        return rejected.open_rows(self._cursor, file_id, rule=rule, after=after, told="nothing")

    def open_rows_at(self, file_id: int, lines: Sequence[int], rule: str | None) -> RejectedRows:
        """Return open rows of a file at some of its lines; they stay open until we commit."""
        from pipeline.store import rejected

        found = _asked(file_id, ("open",), rule, lines, 0, None)
        self._cursor.execute(statement("rework_rows"), found)
        return rejected.rows_at(self._cursor, file_id, [row[1] for row in self._cursor])

    def repaired(self, file_id: int, lines: Ints, texts: pa.Array, replay: int, by: str) -> None:
        """Mark open rows as brought back.

        Args:
            file_id: their file.
            lines: their line numbers, ascending.
            texts: for each the line as it came back; None for as it stood.
            replay: the file that brought them back.
            by: who did it.
        """
        import pyarrow as pa

        from pipeline.store.copy import copy_in

        cursor = self._cursor
        cursor.execute(statement("rework_came_back"))
        cursor.execute("TRUNCATE pg_temp.came_back")
        copy_in(cursor, ("came_back",), {"line_no": pa.array(lines), "text": texts})
        first, last = int(lines[0]), int(lines[-1])
        asked = {"file_id": file_id, "replay": replay, "by": by, "first": first, "last": last}
        cursor.execute(statement("rework_repaired"), asked)

    def discard(
        self, file_id: int, *, rule: str | None, lines: Sequence[int] | None, by: str, note: str
    ) -> list[int]:
        """Mark open rows as not wanted; return their line numbers."""
        self._cursor.execute(
            statement("rework_discard"),
            {
                "file_id": file_id,
                "rule": rule,
                "lines": None if lines is None else list(lines),
                "by": by,
                "note": note,
            },
        )
        return [line for (line,) in self._cursor]

    def settle_refused(self, file_id: int, *, by: str, note: str, child: int | None = None) -> bool:
        """Note that a person has settled a refused file, by a repaired one or by discarding it.

        Returns:
            Whether it was still unsettled.
        """
        if child is not None:
            self._cursor.execute(
                "UPDATE air.source_file SET parent_file_id = %s"
                " WHERE file_id = %s AND parent_file_id IS NULL",
                [file_id, child],
            )
        self._cursor.execute(
            "UPDATE air.source_file SET decided_at = clock_timestamp(), decided_by = %s, note = %s"
            " WHERE file_id = %s AND state = 'refused' AND decided_at IS NULL",
            [by, note, file_id],
        )
        return self._cursor.rowcount == 1


@contextmanager
def repairing(store: Store) -> Iterator[Repair]:
    """Open a transaction that changes rows in quarantine and loads nothing.

    Raises:
        DatabaseUnavailable: nothing was committed, or it is unknown.
    """
    with store.loading() as load:
        yield Repair(load)


def parent_of_replay(entry: Entry, find: Callable[[int], Entry | None]) -> Entry | None:
    """Return the file of which an entry brought rows back; None when it is no replay.

    A file may also name a parent that it replaces as a whole: one that was refused.

    Args:
        entry: the entry.
        find: returns the entry of a number.
    """
    parent = find(entry.parent_file_id) if entry.parent_file_id else None
    return None if parent is None or parent.state == "refused" else parent


def fetched(cursor: Cursor, kind: type[T], name: str, asked: Mapping[str, object]) -> list[T]:
    """Return what the statement `name` finds within a transaction, each row as a `kind`."""
    with cursor.connection.cursor(row_factory=class_row(kind)) as rows:
        return rows.execute(statement(name).encode(), asked).fetchall()


def entries_asked(**wanted: object) -> dict[str, object]:
    """Return the parameters of `rework_entries`, of which only some are wanted."""
    names = ("key", "file_id", "open_rows", "refused", "parent", "rule", "copies")
    return {**dict.fromkeys(names), **wanted}


def duplicates_asked(spans: Sequence[tuple[int, datetime, datetime]]) -> dict[str, object]:
    """Return the parameters of `rework_with_duplicates`: sensors, each with first and last time."""
    sensors, firsts, lasts = (list(column) for column in zip(*spans, strict=True))
    return {"sensor_ids": sensors, "firsts": firsts, "lasts": lasts}


def _asked(
    file_id: int,
    states: Sequence[str] | None,
    rule: str | None,
    lines: Sequence[int] | None,
    after: int,
    limit: int | None,
) -> dict[str, Any]:
    return {
        "file_id": file_id,
        "states": None if states is None else list(states),
        "rule": rule,
        "lines": None if lines is None else list(lines),
        "after": after,
        "limit": limit,
    }
