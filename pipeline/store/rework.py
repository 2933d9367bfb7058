"""Rework: what repairing, replaying, discarding and explaining ask of the database, and change.

`Workbench` only looks. `Repair` changes rows in quarantine, within the one transaction in which
their readings are loaded, under the lock of all writers: what it finds open stays open until it
commits, so of two replays of the same rows the second finds none.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.store.read import entries as ledger
from pipeline.store.read.entries import Entry
from pipeline.store.read.rejected_rows import QuarantinedRow, rejected_rows, replayed_rows
from pipeline.store.sql import statement

if TYPE_CHECKING:  # listing what waits takes less time without these
    import pyarrow as pa

    from pipeline.core.records import Ints
    from pipeline.store.changes import Changes, Kind
    from pipeline.store.copy import Cursor
    from pipeline.store.load import Load, Store
    from pipeline.store.read.reader import Reader
    from pipeline.store.rejected import RejectedRows, Told


class Workbench:
    """Asks about what was rejected, one question at a time. Each may raise `DatabaseUnavailable`.

    Args:
        reader: whom to ask.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def entries(self, key: str) -> list[Entry]:
        """Return ledger rows with this number, name or hash (8 digits at least), newest first."""
        with self._reader.snapshot() as connection:
            return ledger.entries(connection, key)

    def entry(self, file_id: int) -> Entry | None:
        """Return the ledger row of this number."""
        with self._reader.snapshot() as connection:
            return ledger.entry(connection, file_id)

    def with_open_rows(self, rule: str | None) -> list[Entry]:
        """Return the files with open rows (of a reason), oldest first."""
        with self._reader.snapshot() as connection:
            return ledger.with_open_rows(connection, rule)

    def refused(self, rule: str | None) -> list[Entry]:
        """Return the files that were refused and that nobody has settled, oldest first."""
        with self._reader.snapshot() as connection:
            return ledger.refused(connection, rule)

    def children(self, file_id: int) -> list[Entry]:
        """Return the files that name this one as their parent, oldest first."""
        with self._reader.snapshot() as connection:
            return ledger.children(connection, file_id)

    def dropped_sheets(self, sha256: str) -> list[Entry]:
        """Return the quarantine files of a file that were dropped into data/, oldest first."""
        with self._reader.snapshot() as connection:
            return ledger.dropped_sheets(connection, sha256)

    def rows(
        self,
        file_id: int,
        *,
        states: Sequence[str] | None = ("open",),
        rule: str | None = None,
        lines: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> list[QuarantinedRow]:
        """Return rejected rows of a file, in its order; None for any state, reason or line."""
        with self._reader.snapshot() as connection:
            return rejected_rows(
                connection, file_id, states=states, rule=rule, lines=lines, limit=limit
            )

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

        with self._reader.snapshot() as connection, connection.cursor() as cursor:
            after = 0
            while len(
                rows := rejected.open_rows(cursor, file_id, rule=rule, after=after, told=told)
            ):
                yield rows
                after = int(rows.line_no[-1])

    def rows_at(self, file_id: int, lines: Sequence[int]) -> RejectedRows:
        """Return the rows of a file at some of its lines, whatever became of them."""
        from pipeline.store import rejected

        with self._reader.snapshot() as connection, connection.cursor() as cursor:
            return rejected.rows_at(cursor, file_id, lines)

    def open_lines(self, file_id: int) -> Ints:
        """Return the line numbers of all open rows of a file."""
        from pipeline.store import rejected

        with self._reader.snapshot() as connection, connection.cursor() as cursor:
            return rejected.open_lines(cursor, file_id)

    def replayed_rows(self, replay_file_id: int) -> list[QuarantinedRow]:
        """Return the rows that a replay brought back."""
        with self._reader.snapshot() as connection:
            return replayed_rows(connection, replay_file_id)

    def files_and_rules(self, rules: Sequence[str]) -> list[tuple[int, str]]:
        """Return the files with open rows that broke some rules, and which of these."""
        with self._reader.snapshot() as connection:
            text, asked = statement("rework_files_and_rules"), {"rules": list(rules)}
            return connection.execute(text.encode(), asked).fetchall()


class Repair:
    """The open transaction in which rows leave quarantine."""

    def __init__(self, load: Load) -> None:
        self._cursor: Cursor = load._cursor
        self._changes: Changes = load.changes

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

        found = rejected_rows(self._cursor.connection, file_id, rule=rule, lines=lines)
        return rejected.rows_at(self._cursor, file_id, [row.line_no for row in found])

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
        self._changes.file(file_id, closed=len(lines))

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
        discarded = [line for (line,) in self._cursor]
        if discarded:
            self._changes.file(file_id, closed=len(discarded))
        return discarded

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
        settled = self._cursor.rowcount == 1
        if settled or child is not None:
            self._changes.file(file_id)
        return settled


@contextmanager
def repairing(store: Store, kind: Kind) -> Iterator[Repair]:
    """Open a transaction that changes rows in quarantine and loads nothing.

    Args:
        store: the database.
        kind: what the feed of changes calls it.

    Raises:
        DatabaseUnavailable: nothing was committed, or it is unknown.
    """
    with store.loading(kind) as load:
        yield Repair(load)
