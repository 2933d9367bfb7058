"""Retract: take a loaded file back: its rows, statistics and rollups, in one transaction.

Its replays go with it. A reading that another file delivered too comes back as that file's, for
as far as that file's bytes are still to be had: the ledger counts duplicates, and only the bytes
tell which they were. The ledger keeps the file, as retracted, and its bytes may be dropped into
data/ again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd

from pipeline import logs
from pipeline.clock import Clock
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.core.process import process
from pipeline.core.records import Ints
from pipeline.errors import Conflict, FileRefused, Transient
from pipeline.rework import sheets, sources
from pipeline.rework.patience import patiently
from pipeline.rework.retracted import Retracted, require_loaded
from pipeline.rework.sheet import Problem
from pipeline.store.load import Load, Store
from pipeline.store.read.entries import Entry, parent_of_replay
from pipeline.store.retraction import Retraction
from pipeline.store.rework import Workbench

log = logs.get("rework")


def retract(
    settings: Settings,
    store: Store,
    contract: Contract,
    entry: Entry,
    *,
    by: str,
    note: str | None,
) -> Retracted:
    """Take a file back.

    Raises:
        Conflict: there is nothing to take back; says why.
        DatabaseUnavailable: the database stayed away; nothing was committed.
    """
    bench = Workbench(store.reader)
    require_loaded(entry)

    now = Clock(settings.home, store.server_time).present().now

    def attempt() -> Retracted | None:
        with store.loading("retract") as load:
            return _transaction(settings, contract, now, load, entry.file_id, by=by, note=note)

    done = patiently(settings, attempt)
    if done is None:
        # Its COMMIT was lost on the way back to us, or somebody else was quicker.
        message = f"{entry.name} (file {entry.file_id}) is retracted already"
        raise Conflict(message)
    log.info(
        "file.retracted",
        file=entry.name,
        file_id=entry.file_id,
        replays=[each.file_id for each in done.replays],
        rows=done.rows,
        rows_back=done.came_back,
        by=by,
    )
    with sheets.at_work(settings):
        done.problems = _tidy_sheets(settings, bench, contract, done.entry)
    if done.entry.dialect is not None and parent_of_replay(done.entry, bench.entry):
        done.archived = "its rows are open again in quarantine"
    else:
        found = sources.archived(settings, done.entry)
        done.archived = found.reason if isinstance(found, sources.Missing) else str(found.path)
    return done


def _transaction(
    settings: Settings,
    contract: Contract,
    now: datetime,
    load: Load,
    file_id: int,
    *,
    by: str,
    note: str | None,
) -> Retracted | None:
    retraction = Retraction(load)
    entry = retraction.entry(file_id)
    if entry is None or entry.state != "loaded":
        return None
    done = Retracted(entry, retraction.replays(file_id))
    gone = [entry, *done.replays]
    done.rows = retraction.take(gone)
    if done.rows:
        ids = {each.file_id for each in gone}
        for other in retraction.with_duplicates():
            if other.file_id not in ids:
                _bring_back(settings, contract, now, load, retraction, other, done)
    done.reopened = retraction.finish(gone, by=by, note=note)
    return done


def _bring_back(
    settings: Settings,
    contract: Contract,
    now: datetime,
    load: Load,
    retraction: Retraction,
    other: Entry,
    done: Retracted,
) -> None:
    """Load what another file delivered too as that file's."""
    key = (other.file_id, other.name)
    text = sources.text_of_entry(settings, other, contract, retraction)
    if isinstance(text, sources.Missing):
        done.unknown[key] = text.reason
        return
    # What is in quarantine is no duplicate.
    rejected = retraction.rejected_lines(other.file_id)
    ids: Ints = np.array([other.file_id], np.int64)
    back, first, last = 0, None, None
    sensors: set[int] = set()
    try:
        for block in text:
            judged = process(block, contract, now)
            for group in judged.groups:
                every = pd.concat([group.readings.frame, group.repeats.frame]).sort_values("row")
                lines = judged.lines.line_no[every["row"].to_numpy()]
                every = every[~np.isin(lines, list(rejected))]
                candidates = replace(group.readings, frame=every)
                found = every.iloc[retraction.among_taken(candidates)]
                # Of equal rows the first one counts, as it did when the file was loaded.
                once = found.drop_duplicates(["sensor_id", "ts"]).sort_values(["sensor_id", "ts"])
                landed = load.readings(replace(group.readings, frame=once), ids).readings.frame
                if len(landed):
                    back += len(landed)
                    sensors.update(landed["sensor_id"].unique().tolist())
                    span = landed["ts"].min(), landed["ts"].max()
                    first = min(first or span[0], span[0])
                    last = max(last or span[1], span[1])
    except (FileRefused, Transient) as error:
        done.unknown[key] = str(error)
    if back and first is not None and last is not None:
        start, end = (t.tz_localize("UTC").to_pydatetime() for t in (first, last))
        retraction.came_back(other.file_id, back, start, end, sensors)
        done.back[key] = back


def _tidy_sheets(
    settings: Settings, bench: Workbench, contract: Contract, entry: Entry
) -> list[Problem]:
    """Let quarantine/ show what is open after a retraction."""
    owner = parent_of_replay(entry, bench.entry) or entry
    try:
        headers = sources.headers_of(settings, owner, contract)
    except FileRefused as refusal:
        message = f"its sheet in quarantine/ is as it was: {refusal.message}"
        return [Problem(owner.name, None, None, message, harmless=True)]
    return sheets.rewrite(settings, bench, owner, headers)
