"""Mend: readings whose sensor or place is missing get back what their file gives.

The archived bytes are read again, their hash verified, one file a transaction. Where they are gone,
the ledger may still name the model of a sensor; a place is then lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline import logs
from pipeline.clock import Clock
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.core.process import process
from pipeline.errors import FileRefused, Transient
from pipeline.rework import sources
from pipeline.rework.patience import patiently
from pipeline.store.load import Store
from pipeline.store.mending import Mending, validate
from pipeline.store.read import references
from pipeline.store.read.entries import Entry
from pipeline.store.read.references import Affected, Dangling
from pipeline.store.rework import Workbench

log = logs.get("rework")


@dataclass(slots=True)
class Mended:
    """What was mended.

    Attributes:
        found: what was missing before.
        left: what is still missing.
        files: how many files were read again.
        readings: how many readings got another place.
        unread: name of a file → why it could not be read again.
    """

    found: Dangling
    left: Dangling = field(default_factory=Dangling)
    files: int = 0
    readings: int = 0
    unread: dict[str, str] = field(default_factory=dict)


def mend(settings: Settings, store: Store, contract: Contract) -> Mended:
    """Mend all readings whose sensor or place is missing, as far as files are to be had.

    Raises:
        DatabaseUnavailable: the database stayed away; what was mended of some files stays so.
    """
    bench = Workbench(store.reader)
    done = Mended(references.dangling(store.reader, thorough=True))
    if done.found:
        sensors = {*done.found.sensors, *references.sensors_at(store.reader, done.found.places)}
        for affected in references.affected(store.reader, done.found):
            sensors |= affected.sensors
            entry = bench.entry(affected.file_id)
            if entry is None:
                done.unread[f"file {affected.file_id}"] = "the ledger does not have it"
            else:
                _mend_file(settings, store, contract, bench, entry, affected, done)

        def places() -> None:
            with store.loading("mend") as load:
                Mending(load).places(sensors)

        patiently(settings, places)
        done.left = references.dangling(store.reader, thorough=True)
        log.info(
            "references.mended", files=done.files, readings=done.readings, left=bool(done.left)
        )
    if not done.left:
        validate(store)
    return done


def _mend_file(
    settings: Settings,
    store: Store,
    contract: Contract,
    bench: Workbench,
    entry: Entry,
    affected: Affected,
    done: Mended,
) -> None:
    missing = affected.sensors & set(done.found.sensors)
    now = Clock(settings.home, store.server_time).present().now

    def attempt() -> int:
        text = sources.text_of_entry(settings, entry, contract, bench)
        with store.loading("mend") as load:
            mending = Mending(load)
            if isinstance(text, sources.Missing):
                done.unread[entry.name] = text.reason
                # Several models are joined by commas: which one it was is not known.
                if missing and entry.sensor_model and "," not in entry.sensor_model:
                    mending.sensors(missing, entry.sensor_model)
                    mending.touched(entry.file_id, missing)
                return 0
            mending.touched(entry.file_id, affected.sensors)
            return sum(
                mending.readings(group.readings, entry.file_id)
                for block in text
                for group in process(block, contract, now).groups
            )

    try:
        done.readings += patiently(settings, attempt)
        done.files += entry.name not in done.unread
    except (FileRefused, Transient) as error:
        done.unread[entry.name] = str(error)
