"""Rejected rows, one by one: for a person to look at, or where there are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.contract.rules import ReasonRecord
from pipeline.store.read.fetch import fetch
from pipeline.store.read.reader import Connection


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


def rejected_rows(
    connection: Connection,
    file_id: int,
    *,
    states: Sequence[str] | None = ("open",),
    rule: str | None = None,
    lines: Sequence[int] | None = None,
    limit: int | None = None,
) -> list[QuarantinedRow]:
    """Return rejected rows of a file, in its order; None for any state, reason or line."""
    return fetch(
        connection,
        QuarantinedRow,
        "rework_rows",
        file_id=file_id,
        states=None if states is None else list(states),
        rule=rule,
        lines=None if lines is None else list(lines),
        after=0,
        limit=limit,
    )


def replayed_rows(connection: Connection, replay_file_id: int) -> list[QuarantinedRow]:
    """Return the rows that a replay brought back."""
    return fetch(connection, QuarantinedRow, "rework_replayed_rows", replay_file_id=replay_file_id)


def rows_of_sensor(
    connection: Connection, sensor_id: int, ts: datetime, limit: int
) -> list[QuarantinedRow]:
    """Return rejected rows that name a sensor, of files that may hold its time."""
    pattern = rf"(^|[;,\t\" |])\+?0*{sensor_id}(\.0*)?([;,\t\" |]|$)"
    return fetch(
        connection,
        QuarantinedRow,
        "why_rejected",
        digits=f"%{sensor_id}%",
        pattern=pattern,
        ts=ts,
        limit=limit,
    )
