"""Discard: rows and refused files that somebody does not want, with the reason noted down.

Nothing is deleted: rows stay in the database as they stood, refused files stay in quarantine/.
They only no longer wait for anybody.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import logs
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.errors import FileRefused
from pipeline.rework import sheets, sources
from pipeline.rework.patience import patiently
from pipeline.rework.sheet import Problem
from pipeline.store.load import Store
from pipeline.store.read.entries import Entry
from pipeline.store.rework import Workbench, repairing

log = logs.get("rework")


def rows(
    settings: Settings,
    store: Store,
    contract: Contract,
    entry: Entry,
    *,
    rule: str | None,
    lines: Sequence[int] | None,
    by: str,
    note: str,
) -> tuple[list[int], list[Problem]]:
    """Discard open rows of a file.

    Returns:
        The line numbers, and what a person should know of the sheet in quarantine/.

    Raises:
        DatabaseUnavailable: the database stayed away; nothing was committed.
    """

    def attempt() -> list[int]:
        with repairing(store, "discard") as repair:
            return repair.discard(entry.file_id, rule=rule, lines=lines, by=by, note=note)

    with sheets.at_work(settings):
        bench = Workbench(store.reader)
        discarded = patiently(settings, attempt)
        if discarded:
            log.info(
                "rows.discarded",
                file=entry.name,
                file_id=entry.file_id,
                rows=len(discarded),
                by=by,
                note=note,
            )
        try:
            headers = sources.headers_of(settings, entry, contract)
        except FileRefused as refusal:
            message = f"its sheet in quarantine/ still shows the discarded rows: {refusal.message}"
            return discarded, [Problem(entry.name, None, None, message, harmless=True)]
        return discarded, sheets.rewrite(settings, bench, entry, headers)


def refused(settings: Settings, store: Store, entry: Entry, *, by: str, note: str) -> bool:
    """Discard a refused file; return whether nobody had settled it before."""

    def attempt() -> bool:
        with repairing(store, "discard") as repair:
            return repair.settle_refused(entry.file_id, by=by, note=note)

    done = patiently(settings, attempt)
    if done:
        log.info("file.discarded", file=entry.name, file_id=entry.file_id, by=by, note=note)
    return done
