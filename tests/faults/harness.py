"""What the fault tests share: files to feed, the real daemon to kill, and the laws to check.

The files are delivered all at once, each a second younger than the one before, so that they are
taken in one order whatever happens: which of two contradicting readings comes first is then the
same in every run, and a run with a thousand kills must end exactly as an undisturbed one.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipeline.embedded import EmbeddedPostgres
from pipeline.simulate import Simulation, write
from pipeline.store import engine as store_engine
from pipeline.store.migrate import upgrade
from tests import feed

PATIENCE = 120.0  # seconds until something that must happen counts as not happening
_FIRST_MOMENT = 1_700_000_000
_migrating = threading.Lock()  # alembic is not made for several threads
_DRIVER = Path(__file__).with_name("driver.py")


def wait_for(what: str, true: Callable[[], object], patience: float = PATIENCE) -> None:
    """Look again and again until something is true."""
    deadline = time.monotonic() + patience
    while not true():
        if time.monotonic() > deadline:
            message = f"still waiting for {what} after {patience:.0f} s"
            raise AssertionError(message)
        time.sleep(0.01)


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file to deliver; `rows` is how many data rows were written into it, None if unknown."""

    name: str
    data: bytes
    rows: int | None

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".gz").removesuffix(".csv")


def small_set(folder: Path) -> list[File]:
    """A score of files, a few thousand rows: every kind of trouble, quickly loaded."""
    return _troubled(folder, sensors=2, rows=160, sofia_rows=1200, every=3)


def big_set(folder: Path) -> list[File]:
    """More than 300 files and more than 300,000 rows."""
    return _troubled(folder, sensors=70, rows=None, sofia_rows=75_000, every=14)


def _troubled(
    folder: Path, *, sensors: int, rows: int | None, sofia_rows: int, every: int
) -> list[File]:
    """Make a network's files, and mix in what makes life hard.

    Args:
        folder: where they are made.
        sensors: how many of each model.
        rows: how many rows of a day's file are kept.
        sofia_rows: how many rows the two monthly files have.
        every: one in so many of the day's files is faulty, and as many are mixed with another.
    """
    start = date(2018, 3, 31)  # over the end of a month, so that partitions are made
    clean = Simulation(sensors=sensors, start=start, days=2, dialect="archive", seed=3)
    faulty = replace(clean, fault_rate=0.02)
    sofia = Simulation(
        sensors=30, start=date(2018, 5, 1), seed=3, fault_rate=0.003, rows=sofia_rows
    )
    files = []
    (folder / "faulty").mkdir()
    for number, (good, bad) in enumerate(
        zip(write(clean, folder), write(faulty, folder / "faulty"), strict=True)
    ):
        files.append(_cut(good.path if number % every else bad.path, rows))
    files += [_cut(made.path, None) for made in write(sofia, folder)]
    rng = random.Random(5)
    rng.shuffle(files)
    plain = [file for file in files if "_sensor_" in file.name]
    for number, first in enumerate(plain[::every]):
        # Rows that came before, rows that contradict earlier ones, and both in one file.
        others = (f for f in plain if f.name[:16] == first.name[:16] and f is not first)
        header, *lines = first.data.splitlines(keepends=True)
        _, *more = next(others).data.splitlines(keepends=True)
        mixed = [*lines[:50], *map(contradicting, lines[50:90]), *more[60:120]]
        files.append(File(f"mixed-{number}.csv", header + b"".join(mixed), _rows(header, mixed)))
    files.append(File("again.csv", plain[0].data, plain[0].rows))
    files.append(File("again-too.csv", files[-2].data, files[-2].rows))
    # The other dialect contradicts a day's file that comes later. A third that comes earlier has
    # that file's header: grouped by header alone, the later one would come first in a large batch.
    late = [file for file in plain if file.name[10:18] == plain[0].name[10:18]][-1]
    _, *lines = late.data.splitlines(keepends=True)
    contrary = [line for line in map(contradicting, lines[:60]) if line not in lines]
    dialect = in_sofia_dialect("other-dialect.csv", late.name, contrary)
    files.insert(files.index(plain[0]) + 1, dialect)
    packed = gzip.compress(plain[1].data, mtime=0)
    files.append(File("packed.csv.gz", packed, plain[1].rows))
    files.append(File("header-only.csv", plain[2].data.splitlines(keepends=True)[0], 0))
    files.append(File("nonsense.csv", b"who;goes;there\n1;2;3\n", None))
    files.append(File("nonsense-again.csv", b"who;goes;there\n1;2;3\n", None))
    files.append(File("nothing.csv", b"", None))
    tail = files[len(files) // 2 :]
    rng.shuffle(tail)
    return files[: len(files) // 2] + tail


def _cut(made: Path, rows: int | None) -> File:
    header, *lines = made.read_bytes().splitlines(keepends=True)
    lines = lines[:rows]
    return File(made.name, header + b"".join(lines), _rows(header, lines))


def _rows(header: bytes, lines: list[bytes]) -> int:
    """Count rows: a header that stands there again is none."""
    return sum(line.rstrip() != header.rstrip() for line in lines)


def contradicting(line: bytes) -> bytes:
    """Change the first reading of an archive row, if it is a number."""
    fields = line.split(b";")
    with suppress(ValueError, IndexError):
        fields[6] = f"{float(fields[6]) + 0.5:.2f}".encode()
    return b";".join(fields)


def in_sofia_dialect(name: str, like: str, lines: list[bytes]) -> File:
    """Write rows of an archive file as the Sofia set has them."""
    columns = (0, 2, 3, 4, 5, 6, 9) if "sds011" in like else (0, 2, 3, 4, 5, 6, 9, 10)
    readings = "P1,P2" if "sds011" in like else "pressure,temperature,humidity"
    text = [f"sensor_id,location,lat,lon,timestamp,{readings}\n".encode()]
    for line in lines:
        fields = line.rstrip().split(b";")
        text.append(b",".join(fields[column] for column in columns) + b"\n")
    return File(name, b"".join(text), len(lines))


def deliver(files: Sequence[File], data: Path, *, already: int = 0) -> None:
    """Put files into data/, whole, the first one oldest."""
    data.mkdir(parents=True, exist_ok=True)
    aside = data.parent / "delivery"
    aside.mkdir(exist_ok=True)
    for number, file in enumerate(files, start=already):
        path = aside / file.name
        path.write_bytes(file.data)
        os.utime(path, (_FIRST_MOMENT + number, _FIRST_MOMENT + number))
    for file in files:
        (aside / file.name).rename(data / file.name)


# --- databases -----------------------------------------------------------------------------------


class Postgres:
    """A server of our own to stop and kill, with a migrated database for whoever asks."""

    def __init__(self, home: Path) -> None:
        self.embedded = EmbeddedPostgres(home)
        self._room = home.resolve() / ".postgres"
        self._numbers = count(1)

    def __enter__(self) -> Self:
        self.embedded.start()
        try:
            self._sql("CREATE DATABASE migrated")
            engine = store_engine.create(self.url("migrated"))
            with _migrating:
                upgrade(engine)
            engine.dispose()
        except BaseException:
            self.embedded.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Also when it was killed last: there is nothing to stop then.
        self.embedded.stop()

    def database(self) -> str:
        """Make a database with all tables and no rows; return its address."""
        name = f"faults_{next(self._numbers)}"
        self._sql(f"CREATE DATABASE {name} TEMPLATE migrated")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database."""
        self._sql(f"DROP DATABASE {conninfo_to_dict(url)['dbname']} WITH (FORCE)")

    def url(self, name: str) -> str:
        place = conninfo_to_dict(self.embedded.url)
        return f"postgresql://{place['user']}@/{name}?host={place['host']}&port={place['port']}"

    def _sql(self, statement: str) -> None:
        with psycopg.connect(self.embedded.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    @property
    def pid(self) -> int:
        """The postmaster's process number."""
        return int((self._room / "data" / "postmaster.pid").read_text().split()[0])

    def stop_immediately(self) -> None:
        """What `pg_ctl stop -m immediate` does: SIGQUIT, and wait until it is gone."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """`kill -9` of the postmaster; its children notice and end by themselves."""
        self._end(signal.SIGKILL)

    def kill_backend(self, url: str) -> bool:
        """`kill -9` of the process that serves a daemon: PostgreSQL restarts all of itself."""
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'sofia-air'"
            ).fetchone()
        if found is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)
            return True
        return False

    def _end(self, number: signal.Signals) -> None:
        pid = self.pid
        os.kill(pid, number)
        wait_for("PostgreSQL to end", lambda: not lives(pid))

    def start(self) -> None:
        """Bring it back."""
        self.embedded.start()


def lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def catches(pid: int, number: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


# --- the daemon ----------------------------------------------------------------------------------


class Starter:
    """Starts the daemon in a moment, from a process that has imported everything already.

    Args:
        prefix: a command that runs it with other rights, as `setpriv` does.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self.prefix = prefix

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*self.prefix, sys.executable, str(_DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # One thread: a process that forks had better not have others.
            env=_environment({}) | {"OPENBLAS_NUM_THREADS": "1"},
        )
        self._lock = threading.Lock()
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(PATIENCE)

    def start(self, **request: object) -> int:
        """Return the process number of a new `sofia-air`."""
        return self._ask(request)

    def wait(self, pid: int) -> int:
        """Wait for a process that was started here; return its exit code."""
        return self._ask({"wait": pid})

    def _ask(self, request: Mapping[str, object]) -> int:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())


def _environment(settings: Mapping[str, object]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith(("SOFIA_AIR_", "PG"))
    }
    return kept | {f"SOFIA_AIR_{name.upper()}": str(value) for name, value in settings.items()}


@dataclass
class Site:
    """A home folder, a database, and the daemon between them.

    Attributes:
        home: the home folder.
        url: the database, as the tests reach it.
        starter: starts the daemon quickly.
        settings: settings of the daemon.
        via: the address that the daemon gets, if another: a proxy's.
    """

    home: Path
    url: str
    starter: Starter
    settings: dict[str, object] = field(default_factory=dict)
    via: str | None = None
    delivered: list[File] = field(default_factory=list)
    _pid: int | None = None
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def quarantine(self) -> Path:
        return self.home / "quarantine"

    @property
    def pid(self) -> int | None:
        """The daemon's process number, if one was started and not yet buried."""
        return self._pid

    @property
    def alive(self) -> bool:
        return self._pid is not None and lives(self._pid)

    def deliver(self, files: Sequence[File]) -> None:
        deliver(files, self.data, already=len(self.delivered))
        self.delivered += files

    def start(
        self,
        *,
        crash: str | None = None,
        by_exec: bool = False,
        once: bool = False,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start `sofia-air run`.

        Args:
            crash: a crash point of the driver's, and how often it is to be reached.
            by_exec: start the installed command itself instead of forking.
            once: drain and exit, instead of staying.
            environment: with `by_exec`, variables besides its settings.
        """
        assert self._pid is None, "it runs already"
        settings: dict[str, object] = {
            "database_url": self.via or self.url,
            "scan_seconds": 0.2,
            "settle_seconds": 0,
            **self.settings,
        }
        every = {**_environment(settings), **environment}
        arguments = ["--home", str(self.home), "run", *(["--once"] if once else [])]
        output = str(self.home / "output.txt")
        if by_exec:
            with Path(output).open("ab") as said:
                self._process = subprocess.Popen(
                    [*self.starter.prefix, Path(sys.executable).with_name("sofia-air"), *arguments],
                    env=every,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
            self._pid = self._process.pid
        else:
            self._pid = self.starter.start(
                environment=every, arguments=arguments, output=output, crash=crash
            )

    def kill(self) -> bool:
        """`kill -9` the daemon; return whether it still ran."""
        assert self._pid is not None
        ran = self.alive
        os.kill(self._pid, signal.SIGKILL)
        code = self.buried()
        assert code == -signal.SIGKILL, self.output()
        return ran

    def buried(self) -> int:
        """Wait until the daemon has ended by itself; return its exit code."""
        assert self._pid is not None
        pid, process = self._pid, self._process
        self._pid = self._process = None
        return process.wait(PATIENCE) if process else self.starter.wait(pid)

    def stop(self) -> None:
        """Stop the daemon politely, once it listens for the signal."""
        pid = self._pid
        assert pid is not None
        wait_for("the daemon to listen to SIGTERM", lambda: catches(pid, signal.SIGTERM))
        os.kill(pid, signal.SIGTERM)
        code = self.buried()
        assert code == 0, self.output()

    def abandon(self) -> None:
        """Leave no process behind, whatever state a failed test is in."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.buried()

    def waiting(self) -> list[str]:
        """Return what lies in data/."""
        return sorted(p.name for p in self.data.iterdir() if p.name != "archive")

    def drain(self) -> None:
        """Let an undisturbed daemon finish, and stop it."""
        if self._pid is None:
            self.start()

        def done() -> bool:
            assert self.alive, f"the daemon has ended: {self.output()}"
            return not self.waiting()

        wait_for("data/ to be empty", done)
        self.stop()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the events of these names, oldest first, from the daemon's JSON log."""
        log = self.home / "logs" / "sofia-air.jsonl"
        found = []
        for line in log.read_bytes().splitlines(keepends=True) if log.exists() else []:
            # SIGKILL, or our reading at this very moment, may cut the last line short.
            with suppress(json.JSONDecodeError):
                event = json.loads(line)
                if event["event"] in names:
                    found.append(event)
        return found

    def output(self) -> str:
        """Return what the daemon has said, for a failing test's message."""
        said = self.home / "output.txt"
        return said.read_text(errors="replace")[-3000:] if said.exists() else "nothing was said"


@contextmanager
def site(home: Path, url: str, starter: Starter, **settings: object) -> Iterator[Site]:
    """Make a site; its daemon does not outlive the block."""
    home.mkdir(parents=True, exist_ok=True)
    made = Site(home, url, starter, settings)
    try:
        yield made
    finally:
        made.abandon()


# --- what has to hold ----------------------------------------------------------------------------

_QUANTITIES = {
    "raw_particulate": ("pm10", "pm25", "pm1"),
    "raw_climate": ("temperature", "humidity", "pressure"),
}
# Row for row, with the file that each row belongs to by its hash and its place by what it is.
_RAW = """
    SELECT sha256, count(*), md5(string_agg(
               row(sensor_id, ts, location_id, lat, lon, {quantities}, flags)::text, E'\n'
               ORDER BY sensor_id, ts))
      FROM air.{table} JOIN air.source_file USING (file_id) JOIN air.location USING (location_key)
     GROUP BY sha256
"""
_LEDGER = """
    SELECT sha256, name, bytes, dialect, sensor_model, state, rows_read, rows_loaded,
           rows_duplicate, rows_quarantined, first_ts, last_ts, rule, reason
      FROM air.source_file
"""
# Without the sentence, since that of a conflict says where the other reading was found: in the same
# batch or in the database. Without the accepted times, since they end with the present.
_QUARANTINED = """
    SELECT sha256, line_no, line, line_bytes, quarantined_row.state, (
               SELECT jsonb_agg(one - 'message' - CASE WHEN one ->> 'column' = 'timestamp'
                                                    THEN 'expected' ELSE '' END)
                 FROM jsonb_array_elements(reasons) AS every(one))
      FROM air.quarantined_row JOIN air.source_file USING (file_id)
     ORDER BY sha256, line_no
"""
# What the ledger says of a file against what is really there.
UNBALANCED = """
    SELECT name, rows_read, rows_loaded, rows_duplicate, rows_quarantined,
           coalesce(really.loaded, 0) AS loaded, coalesce(bad.quarantined, 0) AS quarantined
      FROM air.source_file
      LEFT JOIN (SELECT file_id, count(*) AS loaded
                   FROM (SELECT file_id FROM air.raw_particulate
                         UNION ALL SELECT file_id FROM air.raw_climate) AS rows
                  GROUP BY file_id) AS really USING (file_id)
      LEFT JOIN (SELECT file_id, count(*) AS quarantined FROM air.quarantined_row
                  GROUP BY file_id) AS bad USING (file_id)
     WHERE rows_read <> rows_loaded + rows_duplicate + rows_quarantined
        OR rows_loaded <> coalesce(really.loaded, 0)
        OR rows_quarantined <> coalesce(bad.quarantined, 0)
"""
_ORPHANS = """
    SELECT file_id FROM (SELECT file_id FROM air.raw_particulate
                         UNION ALL SELECT file_id FROM air.raw_climate
                         UNION ALL SELECT file_id FROM air.quarantined_row) AS rows
    EXCEPT SELECT file_id FROM air.source_file
"""
# Kept statistics against PostgreSQL's own, from the raw rows; relative to what is compared.
_STALE = """
    WITH readings AS ({readings}),
    anew AS (SELECT {keys}, count(*) AS n, min(value) AS min, max(value) AS max,
                    avg(value) AS mean, stddev_samp(value) AS std
               FROM readings GROUP BY {keys})
    SELECT {keys}, kept.n, anew.n, kept.mean, anew.mean, kept.std, anew.std
      FROM anew FULL JOIN air.{table} AS kept USING ({keys})
     WHERE kept.n IS DISTINCT FROM anew.n
        OR kept.min IS DISTINCT FROM anew.min::real OR kept.max IS DISTINCT FROM anew.max::real
        OR NOT abs(kept.mean - anew.mean) <= 1e-6 * greatest(abs(anew.mean), 1e-3)
        OR (kept.std IS NULL) <> (anew.std IS NULL)
        OR NOT abs(kept.std - anew.std) <= 1e-6 * greatest(anew.std, abs(anew.mean) * 1e-3, 1e-3)
"""


@dataclass(frozen=True)
class Contents:
    """All that a database holds, in a form that does not depend on when and how it came there."""

    raw: dict[str, dict[str, tuple[int, str]]]
    ledger: dict[str, tuple[Any, ...]]
    quarantined: list[tuple[Any, ...]]
    sensors: set[tuple[Any, ...]]

    @property
    def rows(self) -> int:
        """How many readings there are."""
        return sum(number for files in self.raw.values() for number, _ in files.values())

    @property
    def rows_read(self) -> int:
        return sum(entry[5] for entry in self.ledger.values())


def contents(url: str) -> Contents:
    """Read a database."""
    with psycopg.connect(make_conninfo(url, options="-c TimeZone=UTC -c jit=off")) as connection:

        def sql(query: str) -> list[tuple[Any, ...]]:
            return connection.execute(query.encode()).fetchall()

        raw = {
            table: {
                sha256: (int(number), str(digest))
                for sha256, number, digest in sql(
                    _RAW.format(table=table, quantities=", ".join(quantities))
                )
            }
            for table, quantities in _QUANTITIES.items()
        }
        return Contents(
            raw,
            {sha256: tuple(rest) for sha256, *rest in sql(_LEDGER)},
            sql(_QUARANTINED),
            set(sql("SELECT sensor_id, model FROM air.sensor")),
        )


def invariants(where: Site, expected: Contents | None) -> Contents:
    """Check the laws after everything was taken; return what is in the database.

    Args:
        where: the site, its daemon stopped.
        expected: the contents after one undisturbed run of the same files; None when the site
            is that run.
    """
    found = contents(where.url)
    if expected is not None:
        for table, files in expected.raw.items():
            _assert_same(f"air.{table}", found.raw[table], files)
        _assert_same("air.source_file", found.ledger, expected.ledger)
        _assert_same("air.quarantined_row", _by_line(found), _by_line(expected))
        assert found.sensors == expected.sensors
    _books(where, found)
    aggregates(where.url)
    _bytes(where)
    _quarantine(where, found)
    return found


def _by_line(found: Contents) -> dict[str, object]:
    return {f"{sha256}, line {line_no}": rest for sha256, line_no, *rest in found.quarantined}


def _assert_same(what: str, found: Mapping[str, object], due: Mapping[str, object]) -> None:
    wrong = [
        f"{key}: {found.get(key)}, not {due.get(key)}"
        for key in sorted(found.keys() | due.keys())
        if found.get(key) != due.get(key)
    ]
    assert not wrong, f"{what} differs from an undisturbed run's:\n" + "\n".join(wrong[:10])


def _books(where: Site, found: Contents) -> None:
    """Law 1: every file's books add up, and say what is really there."""
    with psycopg.connect(where.url) as connection:
        assert connection.execute(UNBALANCED.encode()).fetchall() == []
        assert connection.execute(_ORPHANS.encode()).fetchall() == []
        # And the feed says what is there.
        assert feed.broken(lambda asked: connection.execute(asked.encode()).fetchall()) == {}
    due = {file.sha256: file for file in where.delivered}
    assert found.ledger.keys() == due.keys()
    for sha256, file in due.items():
        state, rows_read = found.ledger[sha256][4:6]
        as_written = ("refused", 0) if file.rows is None else ("loaded", file.rows)
        assert (state, rows_read) == as_written, file.name


def aggregates(url: str) -> None:
    """Law 4: what is kept equals a recompute from the raw tables."""
    readings = " UNION ALL ".join(
        f"SELECT file_id, sensor_id, date_trunc('hour', ts, 'UTC') AS hour,"
        f" (ts AT TIME ZONE 'UTC')::date AS day, '{name}' AS quantity,"
        f" {name}::double precision AS value FROM air.{table} WHERE {name} IS NOT NULL"
        for table, names in _QUANTITIES.items()
        for name in names
    )
    with psycopg.connect(url) as connection:
        for table, keys in {
            "hourly": "sensor_id, quantity, hour",
            "daily": "sensor_id, quantity, day",
            "file_aggregate": "file_id, sensor_id, quantity",
        }.items():
            query = _STALE.format(readings=readings, keys=keys, table=table)
            stale = connection.execute(query.encode()).fetchall()
            assert stale == [], f"air.{table} is stale"


def _bytes(where: Site) -> None:
    """Law 3: every file that was delivered is where it belongs, byte for byte; no litter."""
    assert where.waiting() == []
    kept = Counter(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (where.data / "archive").rglob("*")
        if path.is_file()
    )
    refused = Counter(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in where.quarantine.glob("*.refused.*")
        if path.suffix != ".json"
    )
    places = {(file.name, file.sha256): file for file in where.delivered}.values()
    assert kept == Counter(file.sha256 for file in places if file.rows is not None)
    assert refused == Counter(file.sha256 for file in places if file.rows is None)
    litter = [
        str(path)
        for folder in (where.data, where.data / "archive", where.quarantine)
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.suffix in {".part", ".tmp"}
    ]
    assert litter == []


def _quarantine(where: Site, found: Contents) -> None:
    """Every rejected row is in its file's CSV and reason log, and nothing else is there."""
    lines: dict[str, list[int]] = {}
    for sha256, line_no, *_ in found.quarantined:
        lines.setdefault(sha256, []).append(line_no)
    files = {file.sha256: file for file in reversed(where.delivered)}
    due: set[str] = set()
    for sha256, numbers in lines.items():
        file = files[sha256]
        base = f"{found.ledger[sha256][0].removesuffix('.gz').removesuffix('.csv')}.{sha256[:12]}"
        due |= {f"{base}.csv", f"{base}.reasons.jsonl"}
        text = (where.quarantine / f"{base}.csv").read_text("utf-8-sig")
        delimiter = ";" if b";" in _header(file) else ","
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        assert [int(row[0]) for row in table[1:]] == numbers, file.name
        log = (where.quarantine / f"{base}.reasons.jsonl").read_text().removesuffix("\n")
        assert [json.loads(entry)["line_no"] for entry in log.split("\n")] == numbers, file.name
    for file in where.delivered:
        if file.rows is None:
            first = found.ledger[file.sha256][0].removesuffix(".csv")
            due |= {
                f"{first}.{file.sha256[:12]}.refused.json",
                f"{file.stem}.{file.sha256[:12]}.refused.csv",
            }
    assert {path.name for path in where.quarantine.glob("*")} == due


def _header(file: File) -> bytes:
    data = gzip.decompress(file.data) if file.name.endswith(".gz") else file.data
    return data.partition(b"\n")[0]


def undisturbed(home: Path, url: str, starter: Starter, files: Sequence[File]) -> Contents:
    """Load files in one undisturbed run with the settings as they come; return what it gives."""
    with site(home, url, starter) as calm:
        calm.deliver(files)
        calm.start(once=True)
        refused = any(file.rows is None for file in files)
        assert calm.buried() == (3 if refused else 0), calm.output()
        return invariants(calm, None)
