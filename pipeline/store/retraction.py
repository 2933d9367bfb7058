"""Retraction: taking a file back, in one transaction: rows, statistics and books together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa

from pipeline.contract.quantities import Table
from pipeline.core.records import Readings
from pipeline.store import rollup
from pipeline.store.copy import Cursor, copy_in
from pipeline.store.load import Load
from pipeline.store.parts import measured
from pipeline.store.raw import RAW_TABLES, cells
from pipeline.store.read import entries as ledger
from pipeline.store.read.entries import Entry
from pipeline.store.read.rejected_rows import QuarantinedRow, replayed_rows
from pipeline.store.sql import statement


class Retraction:
    """The open transaction in which a file is taken back."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._cursor: Cursor = load._cursor

    def entry(self, file_id: int) -> Entry | None:
        """Return a ledger row; no other writer can change it before we commit."""
        return ledger.entry(self._cursor.connection, file_id)

    def replays(self, file_id: int) -> list[Entry]:
        """Return the loaded replays of a file's rows, oldest first."""
        children = ledger.children(self._cursor.connection, file_id)
        return [each for each in children if each.state == "loaded"]

    def with_duplicates(self) -> list[Entry]:
        """Return the loaded files that may have duplicates of what was taken, oldest first."""
        self._cursor.execute(statement("retract_spans"))
        if not (spans := self._cursor.fetchall()):
            return []
        return ledger.with_duplicates(self._cursor.connection, spans)

    def replayed_rows(self, replay_file_id: int) -> list[QuarantinedRow]:
        """Return the rows that a replay brought back."""
        return replayed_rows(self._cursor.connection, replay_file_id)

    def rejected_lines(self, file_id: int) -> set[int]:
        """Return the line numbers of a file's rejected rows."""
        self._cursor.execute(
            "SELECT line_no FROM air.quarantined_row WHERE file_id = %s", [file_id]
        )
        return {line for (line,) in self._cursor}

    def take(self, entries: Sequence[Entry]) -> int:
        """Take the rows of files out of the raw tables, and remember them until the commit.

        Returns:
            How many rows were taken.
        """
        ids = [entry.file_id for entry in entries]
        firsts = [entry.first_ts for entry in entries if entry.first_ts]
        lasts = [entry.last_ts for entry in entries if entry.last_ts]
        sensors = self._sensors(ids)
        taken = 0
        for table in RAW_TABLES:
            self._cursor.execute(statement("retract_taken_create", table=table).encode())
            if firsts and lasts:
                span = {
                    "file_ids": ids,
                    "sensor_ids": sensors,
                    "first_ts": min(firsts),
                    "last_ts": max(lasts),
                }
                self._cursor.execute(statement("retract_take", table=table).encode(), span)
                taken += self._cursor.rowcount
                self._note_removed(table)
            self._cursor.execute(statement("retract_taken_index", table=table).encode())
        self._cursor.execute("DELETE FROM air.file_aggregate WHERE file_id = ANY (%s)", [ids])
        return taken

    def among_taken(self, readings: Readings) -> list[int]:
        """Return the positions in the frame of readings that were taken, with the same values."""
        kinds = ", ".join(f"{name} real" for name in readings.quantities)
        cursor = self._cursor
        cursor.execute("DROP TABLE IF EXISTS pg_temp.retract_stage")
        cursor.execute(statement("retract_stage_create", columns=kinds).encode())
        columns = {
            "idx": pa.array(np.arange(len(readings.frame), dtype=np.int32)),
            **measured(readings),
        }
        copy_in(cursor, ("retract_stage",), columns)
        same = " AND ".join(
            f"stage.{name} IS NOT DISTINCT FROM taken.{name}" for name in readings.quantities
        )
        cursor.execute(statement("retract_matches", table=readings.table, same=same).encode())
        return sorted(idx for (idx,) in cursor)

    def came_back(
        self,
        file_id: int,
        rows: int,
        first_ts: datetime,
        last_ts: datetime,
        sensor_ids: Collection[int],
    ) -> None:
        """Move rows of a file from its duplicates to its loaded ones, statistics included."""
        asked: dict[str, object] = {
            "file_id": file_id,
            "rows": rows,
            "first_ts": first_ts,
            "last_ts": last_ts,
        }
        self._cursor.execute(statement("retract_came_back"), asked)
        ((first, last),) = self._cursor.fetchall()
        sensors = sorted({*self._sensors([file_id]), *sensor_ids})
        asked |= {"first_ts": first, "last_ts": last, "sensor_ids": sensors}
        self._cursor.execute("DELETE FROM air.file_aggregate WHERE file_id = %(file_id)s", asked)
        for table in RAW_TABLES:
            text = statement("retract_aggregate", table=table, cells=cells(table))
            self._cursor.execute(text.encode(), asked)

    def finish(self, entries: Sequence[Entry], *, by: str, note: str | None) -> int:
        """Work the rollups out anew, settle the rows in quarantine, and note who did it.

        Returns:
            How many rows of other files are open again, since their replay was taken back.
        """
        # Places of what came back; what was taken is worked out anew.
        self._load.finish()
        self._cursor.execute(statement("retract_hours"))
        hours = self._cursor.fetchall()
        rollup.recompute(self._cursor, [s for s, _ in hours], [hour for _, hour in hours])
        asked = {"file_ids": [entry.file_id for entry in entries], "by": by, "note": note}
        self._cursor.execute(statement("retract_reopen"), asked)
        reopened: dict[int, int] = dict(self._cursor.fetchall())
        self._cursor.execute(statement("retract_close"), asked)
        closed: dict[int, int] = dict(self._cursor.fetchall())
        self._cursor.execute(statement("retract_entries"), asked)
        changes = self._load.changes
        for entry in entries:
            changes.file(entry.file_id, closed=closed.get(entry.file_id, 0))
        for file_id, rows in reopened.items():
            changes.file(file_id, opened=rows)
        return sum(reopened.values())

    def _note_removed(self, table: Table) -> None:
        self._cursor.execute(statement("retract_removed", table=table).encode())
        for file_id, month, rows, sensors in self._cursor:
            self._load.changes.removed(table, file_id, month, rows, sensors)

    def _sensors(self, file_ids: Sequence[int]) -> list[int]:
        """Return the sensors of which files brought readings."""
        self._cursor.execute(
            "SELECT DISTINCT sensor_id FROM air.file_aggregate WHERE file_id = ANY (%s)",
            [list(file_ids)],
        )
        return [sensor for (sensor,) in self._cursor]
