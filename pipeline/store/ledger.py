"""The ledger: one row for every file ever taken, known by the SHA-256 of its bytes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from pipeline.contract.rules import RETRIED_RULES
from pipeline.core.records import Span
from pipeline.store.copy import Cursor
from pipeline.store.sql import statement


@dataclass(slots=True)
class FileRow:
    """A ledger row in the making. `rows_read` must equal the other three together.

    Attributes: as the columns of `air.source_file`; and
        models: the models of the sensors that were loaded.
        sections: first line → the header above it, where it is another than `header`.
    """

    name: str
    sha256: str
    bytes: int
    detected_at: datetime
    contract_version: str
    app_version: str
    state: str = "loaded"
    file_id: int = 0
    dialect: str | None = None
    sensor_model: str | None = None
    rows_read: int = 0
    rows_loaded: int = 0
    rows_duplicate: int = 0
    rows_quarantined: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    rule: str | None = None
    reason: str | None = None
    header: str | None = None
    parent_file_id: int | None = None
    models: set[str] = field(default_factory=set)
    sections: dict[int, str] = field(default_factory=dict)

    def add(self, span: Span) -> None:
        """Count readings that were loaded."""
        self.rows_loaded += span.rows
        self.first_ts = min(self.first_ts or span.first, span.first)
        self.last_ts = max(self.last_ts or span.last, span.last)
        self.models |= span.models

    def columns(self) -> dict[str, Any]:
        """Return the row as statement parameters."""
        row = {each.name: getattr(self, each.name) for each in fields(self)}
        row.pop("models")
        row.pop("sections")
        row["sensor_model"] = ", ".join(sorted(self.models)) or self.sensor_model
        return row


@dataclass(frozen=True, slots=True)
class Known:
    """A file that the ledger has.

    Attributes:
        file_id: its number.
        name: the name under which it first came.
        state: `loaded` or `refused`.
    """

    file_id: int
    name: str
    state: str


def known_files(
    cursor: Cursor, hashes: Iterable[str], contract_version: str, also: Container[int] = ()
) -> dict[str, Known]:
    """Return hash → what the ledger says, for files that need not be read again.

    A refused file is known only under the contract that refused it: another may accept it. One
    that was beyond a limit, or that the database refused, is not: either may be another by now.

    Args:
        cursor: where to ask.
        hashes: of the files.
        contract_version: the contract in force.
        also: numbers of refused files of which it is known that nothing has changed since.
    """
    cursor.execute(statement("known_files"), {"hashes": list(hashes)})
    return {
        sha256: Known(file_id, name, state)
        for sha256, file_id, name, state, version, rule in cursor
        if state != "refused"
        or (version == contract_version and (rule not in RETRIED_RULES or file_id in also))
    }


def next_ids(cursor: Cursor, count: int) -> list[int]:
    """Reserve ledger numbers."""
    cursor.execute(statement("next_file_ids"), {"count": count})
    return [number for (number,) in cursor]


def write(cursor: Cursor, rows: Sequence[FileRow]) -> None:
    """Write ledger rows; a refusal under another contract gives way."""
    cursor.execute(statement("drop_refusals"), {"hashes": [row.sha256 for row in rows]})
    cursor.executemany(statement("insert_files"), [row.columns() for row in rows])
    for row in rows:
        if row.sections and row.state == "loaded":
            asked = {
                "file_id": row.file_id,
                "lines": list(row.sections),
                "headers": list(row.sections.values()),
            }
            cursor.execute(statement("insert_sections"), asked)
