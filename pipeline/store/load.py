"""Load: one batch in one transaction: raw rows, hourly rollup, quarantined rows, ledger.

Readings go straight into the raw table by binary COPY, under a savepoint. Only when a key really
is taken are they staged, so that the server can tell duplicates from conflicts; what is left then
takes the straight way too. A few that may repeat what the transaction itself brought are staged
before they collide. Writers wait for each other (an advisory lock), so what a transaction
has seen stays true until it ends, and the order of locks can never deadlock.

What a COPY is given is worked out before it (`Load.copies`), which may be while another one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
import sqlalchemy as sa

from pipeline import logs
from pipeline.contract.header import Header
from pipeline.contract.quantities import SORTED_NAMES
from pipeline.core.records import Bools, Columns, Ints, Readings, Repeats
from pipeline.core.rejected import Rejected
from pipeline.errors import DatabaseTrouble, Outdated
from pipeline.store import clock, ledger, rollup
from pipeline.store.background import Background
from pipeline.store.blocking import said_when_blocked
from pipeline.store.changes import Changes, Kind
from pipeline.store.copy import Cursor, copy_in, copy_out, savepoint
from pipeline.store.dimensions import Adding, Dimensions
from pipeline.store.duplicates import Duplicates
from pipeline.store.engine import driver_of, reader_of
from pipeline.store.groups import Groups
from pipeline.store.parts import Copy, Latest, Part, in_order, raw_columns, rows_at, rows_where
from pipeline.store.refusals import guarded
from pipeline.store.sql import statement

T = TypeVar("T")

_STAGE_TYPES = "real"
_REJECTED_ROWS = 8_192
_FEW = 16  # one reading in so many may be asked for before it is copied
_ALTERED = (
    "a trigger or a policy of row-level security drops, changes or hides rows of air.sensor or "
    "air.location; drop it, or make it leave them as they are"
)
_NO_IDS: Ints = np.zeros(0, np.int64)

log = logs.get("store")


@dataclass(frozen=True, slots=True)
class Stored:
    """Values that hold a key which a reading wanted.

    Attributes:
        row: the reading's `row`.
        file: the reading's file, as its position in the batch.
        ours: quantity → the reading's value, as it would be stored.
        theirs: quantity → the value that is stored.
        file_id: number of the file that the stored value came from.
        name: its name; None for a file of this very transaction.
    """

    row: int
    file: int
    ours: dict[str, float]
    theirs: dict[str, float]
    file_id: int
    name: str | None


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of readings.

    Attributes:
        readings: those that were loaded.
        duplicates: file → how many were stored already, with the same values.
        conflicts: those whose key holds other values.
    """

    readings: Readings
    duplicates: dict[int, int]
    conflicts: list[Stored]


class Store:
    """A database, and what is known to be in it.

    Attributes:
        engine: the way to it.
        reader: the way for whoever only reads.
        on_blocked: called now and then while a transaction, or a question, waits for somebody
            else's lock.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.reader = reader_of(engine)
        self._known = Dimensions()
        self._generation: UUID | None = None
        self.on_blocked: Callable[[], None] = lambda: None
        self._busy: set[psycopg.Connection[Any]] = set()

    def known(
        self, hashes: Sequence[str], contract_version: str, also: Container[int] = ()
    ) -> dict[str, ledger.Known]:
        """Return what `ledger.known_files` does: files that need not be read again, by hash."""
        with self._looking() as cursor:
            return ledger.known_files(cursor, hashes, contract_version, also)

    def server_time(self) -> clock.ServerTime:
        """Return what the database says about the time."""
        with self._looking() as cursor:
            return clock.server_time(cursor)

    def loaded_at(self, hashes: Sequence[str]) -> dict[str, datetime]:
        """Return hash → when the ledger took the file, for those that it has."""
        with self._looking() as cursor:
            return clock.loaded_at(cursor, hashes)

    @contextmanager
    def _looking(self) -> Iterator[Cursor]:
        """Open a cursor for a question, which waits for locks as a load does."""
        with guarded(), self.engine.connect() as connection:
            cursor = driver_of(connection).cursor()
            with self._cancellable(cursor), self._said_when_blocked(cursor):
                yield cursor

    def _said_when_blocked(self, cursor: Cursor) -> AbstractContextManager[None]:
        pid = cursor.connection.info.backend_pid
        return said_when_blocked(self.engine, pid, lambda: self.on_blocked())

    @contextmanager
    def loading(self, kind: Kind = "load") -> Iterator[Load]:
        """Open the one transaction of a batch: commits at the end, rolls back on any error.

        Args:
            kind: what the feed of changes calls it.

        Raises:
            DatabaseUnavailable: nothing was committed, or it is unknown; the ledger will tell.
            Outdated: the same, since what was remembered of the database no longer holds.
            DatabaseTrouble: the database refused, and no file is the reason. Nothing was committed.
            StoreError: the database cannot hold a value. Nothing was committed.
        """
        known = self._known
        try:
            with guarded(), self.engine.begin() as connection:
                cursor = driver_of(connection).cursor()
                cut_short = partial(_cancel, cursor.connection)
                with (
                    self._cancellable(cursor),
                    self._said_when_blocked(cursor),
                    Background(cut_short) as background,
                ):
                    generation = self._begin(cursor)
                    known = self._known
                    load = Load(cursor, background, known, kind)
                    yield load
                    load.check()
                    load.changes.write(cursor)
        except Outdated as error:
            if not known:
                # Nothing was remembered, so this transaction itself wrote what is not there.
                message = f"{error} – {_ALTERED}"
                raise DatabaseTrouble(message, _ALTERED) from error
            self._forget()
            raise
        except DatabaseTrouble as error:
            if not known:
                raise
            # A month that was restored away, say. With nothing remembered, the next try tells.
            self._forget()
            raise Outdated(str(error)) from error
        self._generation = generation
        known.adopt(load.added)

    def _begin(self, cursor: Cursor) -> UUID:
        """Wait for the writers' lock; forget what is known of another generation's database."""
        cursor.execute(statement("lock_writers").encode())
        cursor.nextset()
        generation: UUID
        (generation,) = cursor.fetchone() or (UUID(int=0),)
        if self._generation not in (None, generation):
            log.warning("database.restored", generation=str(generation))
            self._forget()
            # Until a commit nothing is remembered, and the new generation may be rolled back.
            self._generation = None
        return generation

    def _forget(self) -> None:
        self._known = Dimensions()

    def cancel(self) -> None:
        """Ask the server to cancel what anybody here waits for. From any thread."""
        for connection in list(self._busy):
            _cancel(connection)

    @contextmanager
    def _cancellable(self, cursor: Cursor) -> Iterator[None]:
        connection = cursor.connection
        self._busy.add(connection)
        try:
            yield
        finally:
            self._busy.discard(connection)


def _cancel(connection: psycopg.Connection[Any]) -> None:
    # It takes a connection of its own, for which there may be no descriptor.
    with suppress(psycopg.Error, OSError):
        connection.cancel_safe(timeout=2.0)


class Load:
    """The open transaction of one batch.

    Attributes:
        changes: what it does to readings and quarantine, for the feed; written at its end.

    Only `copies` may be called while the database does something `later`. `copies` and `readings`
    may wait for that themselves, so neither may be what is done later.
    """

    def __init__(
        self, cursor: Cursor, background: Background, known: Dimensions, kind: Kind
    ) -> None:
        self.changes = Changes(kind)
        self._cursor = cursor
        self._background = background
        self._adding = Adding(
            lambda job: background.later(lambda: job(cursor)), self._cursor_when_idle, known
        )
        self._places = rollup.Places()
        self._latest = Latest()
        self._groups = Groups()
        self._duplicates = Duplicates()
        self._collided = False

    @property
    def added(self) -> Dimensions:
        """The sensors, places and months that this transaction made known."""
        return self._adding.added

    def check(self) -> None:
        """Make sure that the sensors and places of the readings are there, and what they were.

        Raises:
            Outdated: the database was restored or edited since they were remembered.
        """
        self._adding.check(self._cursor_when_idle())

    def later(self, job: Callable[[], T]) -> Future[T]:
        """Do something with the database in a thread of its own, after what was given before."""
        return self._background.later(job)

    def busy(self) -> Future[Any] | None:
        """Return what the database was given last to do; it may be done."""
        return self._background.last

    def _cursor_when_idle(self) -> Cursor:
        self._background.wait()
        return self._cursor

    def known(self, hashes: Sequence[str], contract_version: str) -> dict[str, ledger.Known]:
        """As `Store.known`, and no other writer can change the answer before the commit."""
        return ledger.known_files(self._cursor, hashes, contract_version)

    def file_ids(self, count: int) -> list[int]:
        """Reserve the numbers of the batch's files."""
        return ledger.next_ids(self._cursor, count)

    def readings(self, readings: Readings, file_ids: Ints) -> Landed:
        """Load readings, sorted by sensor and time, each key once.

        Args:
            readings: what to load.
            file_ids: a file's position in the batch → its number.
        """
        copies = self.copies([readings], file_ids)
        self._background.wait()
        (landed,) = self.together(copies)
        return landed

    def dimensions(self, readings: Readings) -> npt.NDArray[np.int32]:
        """Make the sensors and places of readings known; return the place of each."""
        self._adding.sensors(readings)
        return self._adding.location_keys(readings)

    def copies(self, several: Sequence[Readings], file_ids: Ints) -> list[Copy]:
        """Work out what `together` needs.

        Args:
            several: what to load, each as in `readings`; in the order in which it is then loaded.
            file_ids: a file's position in the batch → its number.
        """
        # Sensors and places are made known in the order of the blocks, so that nothing depends on
        # which of them come together.
        parts = [
            self._part(position, readings, file_ids) for position, readings in enumerate(several)
        ]
        return [
            Copy(some, in_order(some))
            for table in dict.fromkeys(readings.table for readings in several)
            for _, neighbours in groupby(
                (part for part in parts if part.readings.table == table), self._alike
            )
            if (some := list(neighbours))
        ]

    def together(self, copies: Sequence[Copy]) -> list[Landed]:
        """Load the readings of blocks that follow each other, in as few goes as can be.

        Returns:
            What became of each that was given to `copies`, in that order.
        """
        landed: dict[int, Landed] = {}
        for copy in copies:
            for part, became in zip(copy.parts, self._copied(copy), strict=True):
                landed[part.position] = became
        return [landed[position] for position in sorted(landed)]

    def _alike(self, part: Part) -> object:
        """Return what neighbours have in common if they can be copied together."""
        return part.position if part.alone or self._collided else part.readings.quantities

    def _part(self, position: int, readings: Readings, file_ids: Ints) -> Part:
        if not len(readings.frame):
            return Part(position, readings, {}, np.zeros(0, bool), alone=False)
        self._adding.months(readings)
        self._adding.sensors(readings)
        keys = self._adding.location_keys(readings)
        late = self._latest.not_after(readings)
        many = bool(np.count_nonzero(late) > len(late) // _FEW)
        columns = raw_columns(readings, keys, file_ids)
        return Part(position, readings, columns, np.zeros_like(late) if many else late, alone=many)

    def _copied(self, copy: Copy) -> list[Landed]:
        """Copy parts in one go; if a key is taken that nobody expected, one by one."""
        if self._collided and len(copy.parts) > 1:
            alone = (Copy([part], in_order([part])) for part in copy.parts)
            return [landed for each in alone for landed in self._copied(each)]
        try:
            self._copy(copy)
        except psycopg.errors.UniqueViolation:
            self._collided = True
            if len(copy.parts) > 1:
                return self._copied(copy)
            (part,) = copy.parts
            return [self._merged(part, np.ones_like(part.late))]
        return [self._merged(part, part.late) for part in copy.parts]

    def _copy(self, copy: Copy) -> None:
        if copy.columns:
            with savepoint(self._cursor):
                copy_in(self._cursor, ("air", copy.parts[0].readings.table), copy.columns)

    def _merged(self, part: Part, left: Bools) -> Landed:
        """Load what is left of a part, whose keys may be taken; the rest is loaded already."""
        readings = part.readings
        if not left.any():
            if part.columns:
                self._places.add(part.columns)
                self.changes.added(readings.table, part.columns)
            return Landed(readings, {}, [])
        taken, same = self._collisions(part, np.flatnonzero(left))
        duplicates = _count(readings.frame["file"].to_numpy()[taken & same])
        self._note_duplicates(rows_where(part.columns, taken & same))
        conflicts = self._conflicts(readings) if (taken & ~same).any() else []
        if (free := left & ~taken).any():
            copy_in(self._cursor, ("air", readings.table), rows_where(part.columns, free))
        came = rows_where(part.columns, ~taken)
        self._places.add(came)
        self.changes.added(readings.table, came)
        frame = readings.frame[~taken]
        landed = Readings(readings.table, readings.quantities, frame, readings.models)
        return Landed(landed, duplicates, conflicts)

    def _note_duplicates(self, columns: dict[str, pa.Array]) -> None:
        files, sensors = (columns[name].to_numpy() for name in ("file_id", "sensor_id"))
        times = columns["ts"].cast(pa.int64()).to_numpy()
        self._duplicates.add(files, sensors, times)

    def repeated(self, repeats: Repeats, file_ids: Ints) -> None:
        """Note the rows of a block that an earlier one of the same block has made duplicates.

        Args:
            repeats: these rows; some may contradict the earlier one.
            file_ids: a file's position in the batch → its number.
        """
        if len(frame := repeats.frame):
            times = frame["ts"].to_numpy().astype("datetime64[us]").view(np.int64)
            files = file_ids[frame["file"].to_numpy()]
            self._duplicates.add(files, frame["sensor_id"].to_numpy(), times)

    def _collisions(self, part: Part, at: Ints) -> tuple[Bools, Bools]:
        """Stage some readings; return which keys are taken, and which of those by equal values."""
        readings, frame = part.readings, part.readings.frame
        kinds = ", ".join(f"{name} {_STAGE_TYPES}" for name in readings.quantities)
        self._cursor.execute("DROP TABLE IF EXISTS pg_temp.stage")
        self._cursor.execute(statement("stage_create", columns=kinds).encode())
        staged = {name: part.columns[name] for name in ("sensor_id", "ts", *readings.quantities)}
        some = {"idx": pa.array(at.astype(np.int32)), **rows_at(staged, at)}
        copy_in(self._cursor, ("stage",), some)
        self._cursor.execute("ANALYZE pg_temp.stage")
        query = statement("stage_collisions", table=readings.table, same=_same(readings))
        found = copy_out(
            self._cursor, query.format(**span_of(readings)), {"idx": ">i4", "same": "?"}
        )
        taken = np.zeros(len(frame), bool)
        same = np.zeros(len(frame), bool)
        taken[found["idx"]] = True
        same[found["idx"]] = found["same"]
        return taken, same

    def _conflicts(self, readings: Readings) -> list[Stored]:
        values = ", ".join(f"stored.{name}" for name in readings.quantities)
        query = statement(
            "stage_conflicts", table=readings.table, values=values, same=_same(readings)
        )
        self._cursor.execute(query.format(**span_of(readings)).encode())
        rows, files = (readings.frame[name].to_numpy() for name in ("row", "file"))
        ours = {name: readings.frame[name].to_numpy() for name in readings.quantities}
        return [
            Stored(
                row=int(rows[idx]),
                file=int(files[idx]),
                ours={name: float(ours[name][idx]) for name in readings.quantities},
                theirs={
                    name: float("nan") if value is None else float(np.float32(value))
                    for name, value in zip(readings.quantities, stored, strict=True)
                },
                file_id=file_id,
                name=name,
            )
            for idx, *stored, file_id, name in self._cursor
        ]

    def hourly(self, statistics: Columns) -> None:
        """Merge the hours of a `core.aggregate.Summary` into the rollup."""
        rollup.merge(self._cursor, statistics)

    def quarantined(self, header: Header, rejected: Rejected, file_ids: Ints) -> None:
        """Write rejected rows, with their verbatim lines and reasons.

        Args:
            header: what names their columns.
            rejected: the rows.
            file_ids: a file's position in the batch → its number.
        """
        if not len(rejected):
            return
        groups = self._groups.add(header, rejected, file_ids)
        # Written out for each row, what rows share takes many times the memory of the block.
        for start in range(0, len(rejected), _REJECTED_ROWS):
            some = slice(start, start + _REJECTED_ROWS)
            text, exact = _readable(rejected.lines[some])
            columns = {
                "file_id": pa.array(file_ids[rejected.file[some]].astype(np.int32)),
                "line_no": pa.array(rejected.line_no[some]),
                "line": text,
                "line_bytes": exact,
                "reasons": rejected.json.take(pa.array(rejected.code[some])),
                "group_no": pa.array(groups[some]),
            }
            copy_in(self._cursor, ("air", "quarantined_row"), columns, jsonb=("reasons",))

    def finish(
        self,
        files: Sequence[ledger.FileRow] = (),
        aggregates: Columns | None = None,
        file_ids: Ints = _NO_IDS,
    ) -> None:
        """Write the places of what was loaded, the ledger rows and what is counted per file.

        Args:
            files: the batch's files, books balanced.
            aggregates: `by_file` of a `core.aggregate.Summary`; None when nothing was loaded.
            file_ids: a file's position in the batch → its number.
        """
        self._adding.check(self._cursor)
        self._places.write(self._cursor)
        if files:
            ledger.write(self._cursor, files)
            self._groups.write(self._cursor)
            self._duplicates.write(self._cursor)
            for file in files:
                self.changes.file(file.file_id, opened=file.rows_quarantined)
        if aggregates is not None:
            self._cursor.execute(
                statement("insert_file_aggregates"),
                {
                    "file_ids": file_ids[aggregates["file"]].tolist(),
                    "sensor_ids": aggregates["sensor_id"].tolist(),
                    "quantities": [SORTED_NAMES[code] for code in aggregates["quantity"].tolist()],
                    "ns": aggregates["n"].tolist(),
                    "mins": aggregates["min"].tolist(),
                    "maxs": aggregates["max"].tolist(),
                    "means": aggregates["mean"].tolist(),
                    "m2s": aggregates["m2"].tolist(),
                },
            )


def _readable(lines: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return lines as text that PostgreSQL can hold, and as bytes where the text is not exact."""
    held = lines.buffers()[2]
    everything = held.to_pybytes() if held is not None else b""
    if everything.isascii() and b"\0" not in everything:
        return lines.cast(pa.string()), pa.nulls(len(lines), pa.binary())
    given = lines.to_pylist()
    texts = [
        line.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}") for line in given
    ]
    exact = [
        None if text.encode() == line else line for text, line in zip(texts, given, strict=True)
    ]
    return pa.array(texts, pa.string()), pa.array(exact, pa.binary())


def _same(readings: Readings) -> str:
    return " AND ".join(
        f"stage.{name} IS NOT DISTINCT FROM stored.{name}" for name in readings.quantities
    )


def span_of(readings: Readings) -> dict[str, str]:
    """Return the first and last time as literals: the server then looks into their months only."""
    ts = readings.frame["ts"].to_numpy()
    return {
        name: f"timestamptz '{np.datetime_as_string(moment)}+00'"
        for name, moment in (("first", ts.min()), ("last", ts.max()))
    }


def _count(files: Ints) -> dict[int, int]:
    found, counts = np.unique(files, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
