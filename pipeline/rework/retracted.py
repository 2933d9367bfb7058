"""Retracted: what a retraction takes, before it is confirmed and after it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import Conflict
from pipeline.store.read.entries import Entry, children
from pipeline.store.read.reader import Connection

if TYPE_CHECKING:  # asking takes less time without it
    from pipeline.rework.sheet import Problem


@dataclass(slots=True)
class Retracted:
    """What was taken back.

    Attributes:
        entry: the file.
        replays: those of its rows, which went with it.
        rows: readings taken out of the raw tables.
        back: name and number of a file → how many of them came back as that file's.
        unknown: files with duplicates whose bytes are not to be had, and why: whether some of
            these rows are theirs too is unknown.
        reopened: rows that are open again, since their replay was taken back.
        archived: where the file's bytes are, or why they are nowhere.
        problems: what a person should know of sheets in quarantine/.
    """

    entry: Entry
    replays: list[Entry]
    rows: int = 0
    back: dict[tuple[int, str], int] = field(default_factory=dict)
    unknown: dict[tuple[int, str], str] = field(default_factory=dict)
    reopened: int = 0
    archived: str = ""
    problems: list[Problem] = field(default_factory=list)

    @property
    def came_back(self) -> int:
        """How many rows came back as other files'."""
        return sum(self.back.values())


def plan(connection: Connection, entry: Entry) -> Retracted:
    """Return what a retraction would take, for a person to confirm.

    Raises:
        Conflict: there is nothing to take back; says why.
    """
    require_loaded(entry)
    replays = [each for each in children(connection, entry.file_id) if each.state == "loaded"]
    rows = entry.rows_loaded + sum(each.rows_loaded for each in replays)
    return Retracted(entry, replays, rows)


def require_loaded(entry: Entry) -> None:
    """Make sure that there is something to take back.

    Raises:
        Conflict: there is not; says why.
    """
    if entry.state == "refused":
        message = f"{entry.name} (file {entry.file_id}) was refused: nothing of it was loaded"
        raise Conflict(message)
    if entry.state == "retracted":
        message = (
            f"{entry.name} (file {entry.file_id}) was retracted already, by {entry.decided_by} at "
            f"{entry.decided_at:%F %T} UTC"
        )
        raise Conflict(message)
