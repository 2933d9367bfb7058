"""Locks that others hold: who looks gives up and says who it is, who loads waits and says so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from pipeline import cli
from pipeline.errors import DatabaseUnavailable
from pipeline.store import blocking, clock
from pipeline.store.engine import reader_of
from pipeline.store.load import Store
from pipeline.store.read import books
from pipeline.store.read.report import ReportQueries
from pipeline.store.read.revision import revision

LOCK = "LOCK TABLE air.{} IN ACCESS EXCLUSIVE MODE"


@contextmanager
def locked(url: str, table: str = "source_file") -> Iterator[int]:
    """Hold a lock that lets nobody read a table; give our process number."""
    with psycopg.connect(url, application_name="nosy") as other:
        other.execute(LOCK.format(table).encode())
        yield other.info.backend_pid


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocking, "_PATIENCE", 0.2)
    monkeypatch.setattr(blocking, "_SAID_AFTER", 0.05)


def test_a_look_gives_up_and_says_who_is_in_the_way(engine: sa.Engine, migrated_url: str) -> None:
    reader = reader_of(engine)
    with locked(migrated_url) as pid:
        for ask in (books.totals, lambda connection: books.recent_files(connection, 1)):
            with pytest.raises(DatabaseUnavailable) as caught, reader.snapshot() as connection:
                ask(connection)
            said = str(caught.value)
            assert f"air.source_file is locked, and stayed so for 0.2 s, by pid {pid} (nosy" in said
            assert "LOCK TABLE air.source_file" in said
    with reader.snapshot() as connection:
        assert books.totals(connection).files_loaded == 0  # nothing of it stays in the pool
    with (
        locked(migrated_url, "alembic_version"),
        pytest.raises(DatabaseUnavailable, match="nosy"),
        reader.snapshot() as connection,
    ):
        revision(connection)
    with locked(migrated_url, "daily"), pytest.raises(DatabaseUnavailable, match="nosy"):
        ReportQueries(reader).newest_day(date(2018, 1, 1))


def test_who_waits_for_such_a_lock_is_in_the_way_too(engine: sa.Engine, migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as reader, psycopg.connect(migrated_url) as waiting:
        reader.execute("SELECT FROM air.source_file")
        thread = threading.Thread(
            target=lambda: waiting.execute(LOCK.format("source_file").encode())
        )
        thread.start()
        while not reader.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():
            pass
        with (
            pytest.raises(DatabaseUnavailable, match=f"pid {waiting.info.backend_pid} "),
            reader_of(engine).snapshot() as connection,
        ):
            books.totals(connection)
        reader.rollback()
        thread.join()


def test_status_ends_with_1(
    migrated_url: str,
    tmp_path: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", migrated_url)
    monkeypatch.setattr("sys.argv", ["sofia-air", "--home", str(tmp_path), "status"])
    with locked(migrated_url), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "nosy" in capsys.readouterr().err


def _let_the_looks_end() -> None:
    """Wait for the threads that look who is in the way: they open connections of their own."""
    for thread in threading.enumerate():
        if thread.name == "blocked":
            thread.join(60)


def test_a_load_waits_and_says_so_once(engine: sa.Engine, migrated_url: str) -> None:
    store = Store(engine)
    twice = threading.Event()
    seen: list[int] = []

    def on_blocked() -> None:
        seen.append(1)
        if len(seen) > 1:
            twice.set()

    store.on_blocked = on_blocked

    def load() -> None:
        with store.loading() as load:
            load.file_ids(1)
            load._cursor.execute("SELECT FROM air.source_file")

    with capture_logs() as told:
        with locked(migrated_url) as pid:
            thread = threading.Thread(target=load)
            thread.start()
            assert twice.wait(60)
        thread.join()
        _let_the_looks_end()
    said = [entry for entry in told if entry["event"] == "database.blocked"]
    assert len(said) == 1
    assert f"pid {pid} (nosy" in said[0]["by"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.known(["0" * 64], "a contract"),
        lambda store: store.known([], "a contract"),
        lambda store: store.server_time(),
        lambda store: store.loaded_at(["0" * 64]),
    ],
    ids=["known", "whether it is there", "the time", "when it was loaded"],
)
def test_a_question_of_the_daemon_waits_says_so_and_shows_that_it_is_alive(
    ask: Callable[[Store], object], engine: sa.Engine, migrated_url: str
) -> None:
    store = Store(engine)
    twice = threading.Semaphore(0)
    store.on_blocked = twice.release
    with capture_logs() as told:
        with locked(migrated_url) as pid:
            thread = threading.Thread(target=ask, args=[store])
            thread.start()
            seen = [twice.acquire(timeout=60) for _ in range(2)]
        thread.join()
        _let_the_looks_end()
    assert seen == [True, True]
    said = [entry["by"] for entry in told if entry["event"] == "database.blocked"]
    assert len(said) == 1
    assert f"pid {pid} (nosy" in said[0]


def test_a_look_at_the_clock_gives_up_too(
    engine: sa.Engine,
    migrated_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", migrated_url)
    monkeypatch.setattr("sys.argv", ["sofia-air", "--home", str(tmp_path), "doctor"])
    with locked(migrated_url):
        with pytest.raises(DatabaseUnavailable, match="nosy"):
            clock.ask(reader_of(engine))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 1
    assert "air.source_file is locked" in capsys.readouterr().out


_BROKEN = """
import sys
from contextlib import suppress
from pipeline.store import engine as engines
engine = engines.create(sys.argv[1])
for way in (engine.connect, engine.begin, engine.connect):
    # What is raised is told in words by whoever has opened it.
    with suppress(Exception), way() as connection:
        driver = engines.driver_of(connection)
        driver.execute("SELECT 1")
        with engine.connect() as other:
            engines.driver_of(other).execute(
                "SELECT pg_terminate_backend(%s, 5000)", [driver.info.backend_pid])
"""


def test_a_connection_that_dies_leaves_no_traceback_on_the_terminal(migrated_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BROKEN, migrated_url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
