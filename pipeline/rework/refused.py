"""Refused: files that were unusable as a whole, tried again when that may help.

It may when the contract has changed since, when a person has repaired the file where it lies in
quarantine/, or when it was the database that refused it. It then goes through `data/` like any
other file. What would be refused again stays where it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipeline import __version__
from pipeline.budget import Bounds, Costs
from pipeline.clock import Clock, Present
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.rules import RETRIED_RULES
from pipeline.core.checks import nothing
from pipeline.errors import FileChanged, FileRefused
from pipeline.files import quarantine as quarantining
from pipeline.files.atomic import sync_folder
from pipeline.files.drop import drop
from pipeline.files.read import content, opened
from pipeline.files.watch import Found
from pipeline.flow import Flow, Outcome
from pipeline.reading import Reading
from pipeline.records import Content
from pipeline.rework import sheets
from pipeline.rework.patience import patiently
from pipeline.store.ledger import FileRow
from pipeline.store.load import Store
from pipeline.store.read.entries import Entry
from pipeline.store.rework import repairing
from pipeline.transaction import Batch

State = Literal["loaded", "would load", "still refused", "not repaired", "gone", "left"]


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a refused file.

    Attributes:
        entry: the file as it was refused.
        state: `loaded`, or `would load` in a dry run; `still refused`; `not repaired`: neither the
            file nor the contract has changed; `gone`: it is not in quarantine/; `left`: it could
            not be taken now.
        message: more of that in words.
        file_id: number of the file that it became.
        rows_read, rows_loaded, rows_duplicate, rows_quarantined: the books of that file; in a dry
            run nothing is known of duplicates, and `rows_loaded` is what passes the rules.
    """

    entry: Entry
    state: State
    message: str
    file_id: int | None = None
    rows_read: int = 0
    rows_loaded: int = 0
    rows_duplicate: int = 0
    rows_quarantined: int = 0


def retry(
    settings: Settings, store: Store, contract: Contract, entry: Entry, *, by: str, dry: bool
) -> Retried:
    """Try a refused file again.

    Raises:
        DatabaseUnavailable: the database stayed away; the file is in quarantine/ or in data/.
        DiskTrouble: data/ or quarantine/ cannot be written to.
    """
    with sheets.at_work(settings):
        copies, reasons = quarantining.refused_copies(settings.quarantine, entry.sha256)
        if not copies:
            return Retried(entry, "gone", f"its bytes are not in {settings.quarantine} any more")
        found = content(copies[0], settings.load.batch_bytes)
        changed = found.sha256 != entry.sha256
        # Of what a limit or the database refused nobody can say whether it still would be.
        same = entry.contract_version == contract.version and entry.rule not in RETRIED_RULES
        if not changed and same:
            message = f"{entry.reason}; repair {found.path}, or change the contract"
            return Retried(entry, "not repaired", message)
        try:
            present = Clock(settings.home, store.server_time).present()
            read, rejected = _processed(settings, contract, found, present)
        except FileRefused as refusal:
            return Retried(entry, "still refused", refusal.message)
        except FileChanged as change:
            return Retried(entry, "left", str(change))
        if dry:
            return Retried(entry, "would load", "", None, read, read - rejected, 0, rejected)
        return _loaded(settings, store, contract, entry, found, reasons, by=by)


def _processed(
    settings: Settings, contract: Contract, found: Content, present: Present
) -> tuple[int, int]:
    """Return how many rows a file has, and how many break a rule; within its budget.

    Raises:
        FileRefused: it is still unusable as a whole, or costs more than it may.
        FileChanged: it changed meanwhile, or whether its rows are in the future is unknown.
        DiskTrouble: it can no longer be read.
    """
    read = rejected = 0
    name = quarantining.display_name(found.path)
    row = FileRow(name, found.sha256, found.size, present.now, contract.version, __version__)
    batch = Batch([found], rows=[row], present=present)
    reading = Reading(settings, contract, nothing)
    costs = Costs(Bounds.of(settings.limits), [found.size], batch.refused)
    reading.parse(batch, 0, settings.load.batch_bytes)
    reading.process_small(batch)
    for trouble in (batch.refused.get(0), batch.left.get(0)):
        if trouble is not None:
            raise trouble
    with closing(reading.processed(batch, [0], lambda: None)) as several:
        for processed in (each for some in several for each in some):
            read += sum(processed.read.values())
            rejected += len(processed.rejected_rows)
            for group in processed.groups:
                costs.named(group.readings.frame)
                costs.named(group.repeats.frame)
            costs.rejected(processed.read, processed.rejected_rows, processed.text_bytes)
    return read, rejected


def _loaded(
    settings: Settings,
    store: Store,
    contract: Contract,
    entry: Entry,
    found: Content,
    reasons: list[Path],
    *,
    by: str,
) -> Retried:
    flow = Flow(settings, store, contract, settings.database.retry_seconds)
    outcome: Outcome | None = None
    if not (known := flow.known([found.sha256]).get(found.sha256)):
        with opened(found.path) as file:
            copy = drop(file, settings.data, _plain_name(found.path, entry), found.sha256)
        status = copy.stat()
        (outcome,) = flow.process(
            [
                Found(
                    copy,
                    status.st_size,
                    status.st_mtime_ns,
                    datetime.now(UTC),
                    status.st_ctime_ns,
                )
            ]
        )
        # A running daemon may have taken it before us.
        known = flow.known([found.sha256]).get(found.sha256)
    if known is None or known.state == "refused":
        message = (outcome.message if outcome else None) or "it was refused again"
        refused = known is not None or (outcome is not None and outcome.state == "refused")
        return Retried(entry, "still refused" if refused else "left", message)
    if found.sha256 != entry.sha256:
        note = f"replaced by file {known.file_id}, a repaired one"
        patiently(settings, _settling(store, entry, by=by, note=note, child=known.file_id))
    # Its bytes are in the archive now.
    for path in [found.path, *reasons]:
        path.unlink(missing_ok=True)
    sync_folder(settings.quarantine)
    row = outcome.row if outcome and outcome.state == "loaded" else None
    if row is None:
        message = f"it is file {known.file_id}"
        return Retried(entry, "loaded", message, known.file_id)
    return Retried(
        entry,
        "loaded",
        "",
        row.file_id,
        row.rows_read,
        row.rows_loaded,
        row.rows_duplicate,
        row.rows_quarantined,
    )


def _settling(store: Store, entry: Entry, *, by: str, note: str, child: int) -> Callable[[], bool]:
    def attempt() -> bool:
        with repairing(store, "replay") as repair:
            return repair.settle_refused(entry.file_id, by=by, note=note, child=child)

    return attempt


def _plain_name(path: Path, entry: Entry) -> str:
    """Return the name that the file had, and an ending that is taken."""
    name = os.fsencode(path.name).replace(f".{entry.sha256[:12]}.refused".encode(), b"")
    plain = os.fsdecode(name)
    return plain if plain.lower().endswith((".csv", ".csv.gz")) else f"{plain}.csv"
