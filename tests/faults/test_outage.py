"""PostgreSQL is away: the daemon waits, says so once, and then takes what has piled up."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from pipeline.embedded import EmbeddedPostgres
from pipeline.store import engine as store_engine
from pipeline.store.migrate import upgrade
from tests.faults import daemon as daemons
from tests.faults.daemon import House, Zygote, free_port, get, scrape, text, wait_for

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow

zygote = daemons.zygote

PASSWORD = "correct-horse"


@dataclass
class Server:
    """A PostgreSQL of our own, that can be stopped."""

    embedded: EmbeddedPostgres
    home: Path

    @property
    def url(self) -> str:
        return self.embedded.url

    def reset(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS air CASCADE")
        engine = store_engine.create(self.url)
        try:
            upgrade(engine)
        finally:
            engine.dispose()

    def stop(self) -> None:
        self.embedded.stop()

    def start(self) -> None:
        self.embedded.start()

    def ask_for_passwords(self) -> str:
        """Make a role that needs a password; return its address, without one."""
        rules = self.home / ".postgres" / "data" / "pg_hba.conf"
        if "picky" not in rules.read_text():
            rules.write_text("local all picky scram-sha-256\n" + rules.read_text())
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS picky")
            connection.execute(f"CREATE ROLE picky LOGIN SUPERUSER PASSWORD '{PASSWORD}'".encode())
            connection.execute("SELECT pg_reload_conf()")
            name = connection.info.dbname
        place = quote(str(self.url.partition("host=")[2].partition("&")[0]), safe="%/")
        return f"postgresql://picky:{{}}@/{name}?host={place}&port=5432"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="sofia-air-outage-") as home:
        server = Server(EmbeddedPostgres(Path(home)), Path(home))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def server_of_ours(own_server: Server) -> Server:
    own_server.start()
    own_server.reset()
    return own_server


@pytest.fixture
def house(zygote: Zygote, tmp_path: Path, server_of_ours: Server) -> Iterator[House]:
    one = House(zygote, tmp_path / "home", server_of_ours.url)
    yield one
    one.close()


def test_the_service_starts_before_postgresql(house: House, server_of_ours: Server) -> None:
    server_of_ours.stop()
    daemon = house.daemon()
    house.drop("early.csv", text(10))
    house.wait_for_event("database.down")
    server_of_ours.start()
    house.wait_for_rows(10)
    house.wait_until_quiet()
    assert len(house.events("database.up")) == 1
    assert daemon.stop() == 0


def test_postgresql_without_tables_stops_the_start(house: House, server_of_ours: Server) -> None:
    """Also when that is found out only later, since it was away at first."""
    with psycopg.connect(server_of_ours.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA air CASCADE")
    server_of_ours.stop()
    process = house.daemon()
    house.wait_for_event("database.down")
    server_of_ours.start()
    assert process.wait() == 2
    assert "sofia-air db upgrade" in process.said


def _outage(house: House, server: Server, seconds: float, files: int, slack: int) -> None:
    port = free_port()
    daemon = house.daemon(hooks=["ask-often"], metrics_port=port, scan_seconds=1)
    house.drop("before.csv", text(500, sensor=1))
    house.wait_for_rows(500)
    house.wait_until_quiet()
    assert get(port, "/readyz") == (200, "ready\n")
    rss = daemon.rss
    server.stop()
    # Found out although no file came: by asking now and then.
    house.wait_for_event("database.down")
    assert get(port, "/readyz") == (503, "the database is away\n")
    assert get(port, "/healthz") == (200, "ok\n")
    started = time.monotonic()
    for n in range(files):
        house.drop(f"{n}.csv", text(20, sensor=2 + n % 100, start=20 * n))
        due = started + seconds * 0.8 * n / files
        wait_for("the next file's time", lambda due=due: time.monotonic() >= due, seconds)  # type: ignore[misc]
    left = started + seconds
    wait_for("the end of the outage", lambda: time.monotonic() >= left, seconds)
    wait_for(
        "the backlog to be known",
        lambda: scrape(port)["sofia_air_backlog_files"] == files,
        patience=120,
    )
    during = scrape(port)
    assert during["sofia_air_database_up"] == 0
    assert during["sofia_air_backlog_bytes"] == sum(p.stat().st_size for p in _lying(house))
    assert during["sofia_air_backlog_oldest_seconds"] > 0
    assert during["sofia_air_database_retries_total"] >= 2
    waited = daemon.rss
    server.start()
    house.wait_for_rows(500 + 20 * files, patience=300)
    house.wait_until_quiet()
    house.check_books()
    wait_for("the backlog to be gone", lambda: scrape(port)["sofia_air_backlog_files"] == 0)
    after = scrape(port)
    assert after["sofia_air_database_up"] == 1
    assert after["sofia_air_backlog_bytes"] == 0
    assert get(port, "/readyz") == (200, "ready\n")
    assert len(house.events("database.down")) == 1
    assert len(house.events("database.up")) == 1
    print(
        f"outage of {seconds:.0f} s, {files} files: resident {rss / 2**20:.0f} MiB before, "
        f"{waited / 2**20:.0f} at its end, {daemon.rss / 2**20:.0f} when all is loaded; "
        f"{during['sofia_air_database_retries_total']:.0f} attempts"
    )
    assert waited - rss < slack
    assert daemon.stop() == 0


def _lying(house: House) -> list[Path]:
    return [path for path in house.data.iterdir() if path.is_file()]


def test_an_outage_while_files_arrive(house: House, server_of_ours: Server) -> None:
    _outage(house, server_of_ours, seconds=4, files=50, slack=32 * 2**20)


@pytest.mark.slow
def test_a_long_outage(house: House, server_of_ours: Server) -> None:
    """120 s; OUTAGE_SECONDS=600 is what the notes tell of."""
    seconds = float(os.environ.get("OUTAGE_SECONDS", "120"))
    _outage(house, server_of_ours, seconds=seconds, files=2000, slack=32 * 2**20)


def test_a_wrong_password_stops_the_start(house: House, server_of_ours: Server) -> None:
    address = server_of_ours.ask_for_passwords()
    for arguments in (["run"], ["run", "--once"], ["ingest", __file__]):
        process = house.command(*arguments, database_url=address.format("s3cret-wrong"))
        assert process.wait() == 2, process.said
        assert "[database] url: " in process.said
        assert "password authentication failed" in process.said
        assert "s3cret" not in process.said
        assert "Traceback" not in process.said
    house.daemon(database_url=address.format(PASSWORD))


@pytest.mark.parametrize("what", ["password", "rights"])
def test_the_door_is_shut_meanwhile(house: House, server_of_ours: Server, what: str) -> None:
    """The daemon goes on trying: an administrator is probably at it."""
    address = server_of_ours.ask_for_passwords()
    port = free_port()
    house.daemon(
        hooks=["ask-often"],
        database_url=address.format(PASSWORD),
        metrics_port=port,
        scan_seconds=0.2,
    )
    house.drop("one.csv", text(10))
    house.wait_for_rows(10)
    house.wait_until_quiet()
    with psycopg.connect(server_of_ours.url, autocommit=True) as connection:
        if what == "password":
            connection.execute("ALTER ROLE picky PASSWORD 'unknown-to-us'")
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE usename = 'picky'"
            )
        else:
            connection.execute("ALTER ROLE picky NOSUPERUSER")
        house.drop("two.csv", text(10, start=10))
        wait_for("the daemon to be shut out", lambda: get(port, "/readyz")[0] == 503)
        connection.execute(f"ALTER ROLE picky SUPERUSER PASSWORD '{PASSWORD}'".encode())
    house.wait_for_rows(20)
    house.wait_until_quiet()
    wait_for("the daemon to be let in", lambda: get(port, "/readyz")[0] == 200)
    log = json.dumps(house.log)
    assert PASSWORD not in log
    assert "unknown-to-us" not in log


def test_ingest_gives_up_and_loses_nothing(
    house: House, server_of_ours: Server, tmp_path: Path
) -> None:
    sources = [tmp_path / f"{n}.csv" for n in range(3)]
    for n, source in enumerate(sources):
        source.write_text(text(10, start=10 * n))
    before = {source: source.read_bytes() for source in sources}
    server_of_ours.stop()
    started = time.monotonic()
    process = house.command("ingest", *map(str, sources), retry_seconds=1)
    assert process.wait() == 1
    assert time.monotonic() - started < 60
    assert "error: database: " in process.said
    assert "Traceback" not in process.said
    server_of_ours.start()
    process = house.command("ingest", "--json", *map(str, sources), retry_seconds=1)
    assert process.wait() == 0, process.said
    answer: dict[str, Any] = json.loads(process.said)
    assert [file["state"] for file in answer["files"]] == ["loaded"] * 3
    assert house.loaded() == 30
    assert {source: source.read_bytes() for source in sources} == before


def test_ingest_is_cut_off_in_the_middle(
    house: House, server_of_ours: Server, tmp_path: Path
) -> None:
    """What it had copied into data/ already is still there, and is taken by whoever comes next."""
    sources = [tmp_path / f"{n}.csv" for n in range(3)]
    for n, source in enumerate(sources):
        source.write_text(text(10, start=10 * n))
    process = house.command("ingest", *map(str, sources), hooks=["before-commit"], retry_seconds=1)
    sign = house.wait_for_pause("before-commit")
    server_of_ours.stop()
    sign.unlink()
    assert process.wait() == 1, process.said
    assert len(house.waiting()) == 3
    server_of_ours.start()
    assert house.loaded() == 0
    assert house.command("ingest", *map(str, sources)).wait() == 0
    assert house.command("run", "--once").wait() == 0
    assert house.loaded() == 30
    assert house.waiting() == []
    house.check_books()
