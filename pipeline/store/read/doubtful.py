"""Doubtful files: those that an earlier version stored and should not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.store.read.fetch import fetch
from pipeline.store.read.reader import Connection


@dataclass(frozen=True, slots=True)
class DoubtfulFile:
    """A file, and why it is doubtful: `type` or `header`."""

    file_id: int
    name: str
    why: str


def doubtful_files(connection: Connection, types: Sequence[str], limit: int) -> list[DoubtfulFile]:
    """Return doubtful files, oldest first.

    Args:
        connection: where to ask.
        types: sensor types whose readings are not stored.
        limit: the most files to return.
    """
    return fetch(connection, DoubtfulFile, "doubtful_files", types=list(types), limit=limit)
