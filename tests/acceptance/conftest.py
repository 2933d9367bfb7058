"""What the acceptance tests share: a home folder and a database, and what is in them afterwards.

Nothing stands in for anything: files are dropped into `data/`, the real flow takes them, and what
it left is read back from PostgreSQL and from the folders, in the shape in which the oracle says
it. A home is expensive, so tests that only look share one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest

from pipeline.config import Settings, load_settings
from pipeline.files.watch import scan
from pipeline.flow import Flow, Outcome, batches
from pipeline.store import engine as store_engine
from pipeline.store.load import Store
from tests.oracle import (
    QUANTITIES,
    Bad,
    Book,
    Broken,
    Key,
    Oracle,
    Reading,
    Statistics,
    assert_close,
    assert_same,
)

if TYPE_CHECKING:
    from pytest_postgresql.executors import NoopExecutor

    from tests.conftest import Server

_TABLES = (
    "source_file",
    "sensor",
    "location",
    "raw_particulate",
    "raw_climate",
    "quarantined_row",
    "file_aggregate",
    "hourly",
    "daily",
    "sensor_place",
)
_numbers = count(1)


class Ledger(NamedTuple):
    """A file's row in the ledger, as far as an oracle can know it."""

    name: str
    size: int
    dialect: str
    models: str
    state: str
    read: int
    loaded: int
    duplicate: int
    quarantined: int
    first: Any
    last: Any


@dataclass
class Home:
    """A home folder and a database, with the real flow between them.

    Attributes:
        settings: the settings in force.
        url: the database.
        outcomes: what became of every file, in the order in which they were taken.
        seconds: how long the flow has worked.
    """

    settings: Settings
    url: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    _dropped: int = 0

    # --- what goes in

    def drop(self, files: Iterable[Path], rename: Callable[[str], str] = str) -> None:
        """Copy files into data/, each a second younger than the one before."""
        self.settings.data.mkdir(parents=True, exist_ok=True)
        for file in files:
            path = self.settings.data / rename(file.name)
            shutil.copyfile(file, path)
            self._dropped += 1
            moment = 1_700_000_000 + self._dropped
            os.utime(path, (moment, moment))

    def run(self, *, youngest_first: bool = False) -> list[Outcome]:
        """Take what lies in data/ through every step; return what became of it."""
        found, ignored = scan(self.settings.data)
        assert ignored == []
        if youngest_first:
            found.reverse()
        engine = store_engine.create(self.url)
        flow = Flow(self.settings, Store(engine), self.settings.site_contract(), 5.0)
        started = time.perf_counter()
        outcomes = [o for batch in batches(found, self.settings) for o in flow.process(batch)]
        self.seconds += time.perf_counter() - started
        engine.dispose()
        self.outcomes += outcomes
        return outcomes

    # --- what is in the database

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Return a query's rows, numbers exactly as the server holds them."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            # Binary: a real as text is rounded to fewer digits than it has.
            return connection.execute(query.encode(), binary=True).fetchall()

    def ledger(self) -> dict[str, Ledger]:
        """Return SHA-256 → ledger row."""
        rows = self.sql(
            "SELECT sha256, name, bytes, dialect, sensor_model, state, rows_read, rows_loaded,"
            " rows_duplicate, rows_quarantined, first_ts, last_ts FROM air.source_file"
        )
        return {sha256: Ledger(*rest) for sha256, *rest in rows}

    def raw(self, table: str) -> dict[Key, Reading]:
        """Return (sensor, time) → reading of a raw table."""
        quantities = ", ".join(QUANTITIES[table])
        rows = self.sql(
            f"SELECT sensor_id, ts, flags, location_id, lat, lon, sha256, {quantities}"
            f" FROM air.{table} JOIN air.location USING (location_key)"
            " JOIN air.source_file USING (file_id)"
        )
        found = {(row[0], row[1]): Reading(row[7:], *row[2:7]) for row in rows}
        assert len(found) == self.count(table), "a reading lacks its place or its file"
        return found

    def count(self, table: str) -> int:
        """Return how many rows a table has."""
        ((number,),) = self.sql(f"SELECT count(*) FROM air.{table}")
        return int(number)

    def types(self) -> dict[int, str]:
        """Return sensor → its type."""
        return dict(self.sql("SELECT sensor_id, model FROM air.sensor"))

    def by_file(self) -> dict[tuple[str, int, str], Statistics]:
        """Return the statistics per file, as they are kept."""
        return _statistics(
            self.sql(
                "SELECT sha256, sensor_id, quantity, n, min, max, mean, std"
                " FROM air.file_aggregate JOIN air.source_file USING (file_id)"
            )
        )

    def hourly(self) -> dict[tuple[int, str, Any], Statistics]:
        """Return the statistics per hour, as they are kept."""
        return _statistics(
            self.sql("SELECT sensor_id, quantity, hour, n, min, max, mean, std FROM air.hourly")
        )

    def by_file_anew(self) -> dict[tuple[str, int, str], Statistics]:
        """Return the statistics per file, as PostgreSQL works them out from the raw tables."""
        return self._anew("sha256, sensor_id, quantity")

    def hourly_anew(self) -> dict[tuple[int, str, Any], Statistics]:
        """Return the statistics per hour, as PostgreSQL works them out from the raw tables."""
        return self._anew("sensor_id, quantity, date_trunc('hour', ts, 'UTC')")

    def _anew(self, group: str) -> dict[Any, Statistics]:
        every = " UNION ALL ".join(
            f"SELECT sha256, sensor_id, ts, '{name}' AS quantity, {name}::double precision AS value"
            f" FROM air.{table} JOIN air.source_file USING (file_id) WHERE {name} IS NOT NULL"
            for table, names in QUANTITIES.items()
            for name in names
        )
        return _statistics(
            self.sql(
                f"SELECT {group}, count(*), min(value), max(value), avg(value), stddev_samp(value)"
                f" FROM ({every}) AS readings GROUP BY {group}"
            )
        )

    def quarantined(self) -> dict[str, dict[int, Bad]]:
        """Return SHA-256 → line number → rejected row; all of them must be open."""
        found: dict[str, dict[int, Bad]] = {}
        for sha256, line_no, line, exact, reasons, state in self.sql(
            "SELECT sha256, line_no, line, line_bytes, reasons, quarantined_row.state"
            " FROM air.quarantined_row JOIN air.source_file USING (file_id) ORDER BY line_no"
        ):
            assert state == "open"
            assert all(reason["message"] for reason in reasons)
            row = Bad(line.encode() if exact is None else bytes(exact), _broken(reasons))
            found.setdefault(sha256, {})[line_no] = row
        return found

    def dump(self) -> dict[str, list[str]]:
        """Return every table's contents, times and numbers included, in order."""
        return {
            name: sorted(text for (text,) in self.sql(f"SELECT row::text FROM air.{name} AS row"))
            for name in _TABLES
        }

    def assert_as(self, oracle: Oracle) -> None:
        """Compare everything in the database with what the oracle says, and with itself."""
        assert_same(self.ledger(), {b.sha256: due_ledger(b) for b in oracle.books.values()})
        for table, rows in oracle.raw.items():
            assert_same(self.raw(table), rows)
        assert_same(self.types(), oracle.types)
        assert_same(self.quarantined(), {b.sha256: b.bad for b in oracle.books.values() if b.bad})
        by_file, hourly = self.by_file(), self.hourly()
        assert_close(by_file, oracle.by_file())
        assert_close(by_file, self.by_file_anew())
        assert_close(hourly, oracle.hourly())
        assert_close(hourly, self.hourly_anew())

    # --- what is in the folders

    def archived(self) -> dict[str, str]:
        """Return name → SHA-256 of every file in the archive."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.settings.archive_folder.rglob("*")
            if path.is_file()
        }

    def waiting(self) -> list[str]:
        """Return what still lies in data/."""
        return sorted(p.name for p in self.settings.data.iterdir() if p.name != "archive")

    def quarantine_names(self) -> list[str]:
        """Return everything in quarantine/."""
        folder = self.settings.quarantine
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def quarantine_table(self, book: Book, delimiter: str) -> list[list[str]]:
        """Return the rows of a file's quarantine CSV, the header included."""
        text = self._quarantine_file(book, "csv").decode("utf-8-sig")
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))

    def quarantine_log(self, book: Book) -> list[dict[str, Any]]:
        """Return the entries of a file's reason log."""
        text = self._quarantine_file(book, "reasons.jsonl").decode()
        # Not splitlines: a line of a file may hold any character but the newline.
        return [json.loads(line) for line in text.removesuffix("\n").split("\n")]

    def _quarantine_file(self, book: Book, ending: str) -> bytes:
        stem = book.name.removesuffix(".gz").removesuffix(".csv")
        return (self.settings.quarantine / f"{stem}.{book.sha256[:12]}.{ending}").read_bytes()


@pytest.fixture(scope="module")
def new_home(
    server: Server, template: NoopExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Home]]:
    """Make a home with settings and a database of its own, for tests that only look at it."""
    with pytest.MonkeyPatch.context() as environment, ExitStack() as made:
        for name in os.environ:
            if name == "DATABASE_URL" or name.startswith("SOFIA_AIR_"):
                environment.delenv(name)

        def new(**flags: object) -> Home:
            url = made.enter_context(server.database(template.template_dbname))
            return Home(load_settings(tmp_path_factory.mktemp("home"), **flags), url)

        yield new


@pytest.fixture
def make_home(
    server: Server, template: NoopExecutor, tmp_path: Path
) -> Iterator[Callable[..., Home]]:
    """Make a home with settings and a database of its own, for one test."""
    with ExitStack() as made:

        def make(**flags: object) -> Home:
            url = made.enter_context(server.database(template.template_dbname))
            folder = tmp_path / f"home-{next(_numbers)}"
            folder.mkdir()
            return Home(load_settings(folder, **flags), url)

        yield make


def due_ledger(book: Book) -> Ledger:
    """Return the ledger row that a file must have."""
    return Ledger(
        name=book.name,
        size=book.size,
        dialect=book.dialect,
        models=", ".join(sorted(book.types)),
        state="loaded",
        read=book.read,
        loaded=book.loaded,
        duplicate=len(book.duplicates),
        quarantined=len(book.bad),
        first=book.first,
        last=book.last,
    )


def _broken(reasons: list[dict[str, Any]]) -> Broken:
    broken = [(reason["column"], reason["rule"]) for reason in reasons]
    assert len(set(broken)) == len(broken), "the same reason is given twice"
    return frozenset(broken)


def _statistics(rows: list[tuple[Any, ...]]) -> dict[Any, Statistics]:
    return {row[:3]: Statistics(*row[3:]) for row in rows}
