"""What must not happen: links followed, secrets told, rights beyond what is needed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import errors

from pipeline.embedded import bin_dir
from pipeline.store import engine as store_engine
from pipeline.store.migrate import upgrade
from tests.faults import daemon as daemons
from tests.faults.daemon import HEADER, House, rows, text, wait_for

# Real processes, real kills: minutes, not seconds.
pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.faults.daemon import Zygote

house, zygote = daemons.house, daemons.zygote

ROLES = Path(__file__).parents[2] / "docs" / "roles.sql"
SECRET = "hunter2-is-no-password"


# --- links ----------------------------------------------------------------------------------------


def test_links_are_never_followed(house: House, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text(text(5))
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    (house.data / "link.csv").symlink_to(outside)
    (house.data / "loop.csv").symlink_to(house.data / "loop.csv")
    (house.data / "folder.csv").symlink_to(folder)
    os.mkfifo(house.data / "pipe.csv")
    house.daemon(scan_seconds=0.1, settle_seconds=0)
    house.drop("plain.csv", text(5, start=5))
    house.wait_for_rows(5)
    names = {path.name for path in house.data.iterdir()}
    assert names == {"link.csv", "loop.csv", "folder.csv", "pipe.csv", "archive"}
    assert outside.read_text() == text(5)
    status = house.command("status")
    assert status.wait() == 0
    assert "links are never followed" in status.said


@pytest.mark.parametrize(
    ("point", "policy"),
    [
        ("before-read", "keep"),
        ("before-move", "keep"),
        ("before-move", "gzip"),
        ("before-move", "delete"),
    ],
)
def test_a_link_that_takes_the_place_of_a_file(
    house: House, tmp_path: Path, point: str, policy: str
) -> None:
    """Swapped in after the scan: neither read nor moved, and what it points to is not touched."""
    outside = tmp_path / "outside.csv"
    outside.write_text(text(5, start=100))
    house.daemon(hooks=[f"{point}:swap.csv"], archive_policy=policy, scan_seconds=0.2)
    path = house.drop("swap.csv", text(5))
    sign = house.wait_for_pause(point)
    path.unlink()
    path.symlink_to(outside)
    sign.unlink()
    house.drop("next.csv", text(5, start=50))
    read_before = 5 if point == "before-move" else 0
    house.wait_for_rows(5 + read_before)
    wait_for("the move of the other file", lambda: not (house.data / "next.csv").exists())
    assert house.loaded() == 5 + read_before
    assert not house.sql("SELECT 1 FROM air.raw_particulate WHERE ts = '2017-07-01 00:01:40Z'")
    assert path.is_symlink()
    assert outside.read_text() == text(5, start=100)
    for kept in house.archive.rglob("*"):
        assert not kept.is_symlink()
        assert kept.name.startswith("next.") or kept.is_dir()


# --- permissions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_written_is_not_for_everybody(house: House, tmp_path: Path, umask: int) -> None:
    house.data.rmdir()
    daemon = house.daemon(umask=umask, archive_policy="gzip", scan_seconds=0.1)
    house.drop("bad.csv", text(5, bad=2))
    house.drop("refused.csv", "who;goes;there\n")
    house.wait_until_quiet()
    source = tmp_path / "source.csv"
    source.write_text(text(5, start=10))
    assert daemon.stop() == 0
    assert house.command("ingest", str(source), umask=umask).wait() == 0
    found = {}
    for path in [house.home / ".sofia-air.lock", *house.home.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        due = (0o750 if path.is_dir() else 0o640) & ~umask  # a stricter umask is respected
        assert mode == due or path.name.startswith("refused.")
        found[path.name] = mode
    assert {"logs", "quarantine", "data", "archive", "bad.csv.gz", "sofia-air.jsonl"} <= set(found)


# --- secrets -------------------------------------------------------------------------------------


def test_the_password_is_told_to_nobody(house: House, tmp_path: Path) -> None:
    with_password = house.url.replace("@/", f":{SECRET}@/", 1)
    assert SECRET in with_password
    daemon = house.daemon(database_url=with_password, log_level="debug")
    house.drop("one.csv", text(5))
    house.wait_until_quiet()
    assert daemon.stop() == 0
    source = tmp_path / "source.csv"
    source.write_text(text(5))
    said = [daemon.said]
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["doctor"],
        ["doctor", "--json"],
        ["ingest", str(source)],
        ["db", "upgrade"],
    ):
        process = house.command(*arguments, database_url=with_password)
        process.wait()
        assert process.said
        said.append(process.said)
    nowhere = f"postgresql://me:{SECRET}@127.0.0.1:1/air"
    for arguments in (["ingest", str(source)], ["status"], ["doctor"], ["run", "--once"]):
        process = house.command(*arguments, database_url=nowhere, retry_seconds=0.1)
        assert process.wait() == 1
        said.append(process.said)
    for wrong, name in (
        (f"postgresql://me:{SECRET}@ss@h/air", "[database] url"),
        (f"mysql://me:{SECRET}@h/air", "SOFIA_AIR_DATABASE_URL"),
    ):
        process = house.command("run", database_url=wrong)
        assert process.wait() == 2
        assert f"error: {name}: " in process.said
        said.append(process.said)
    assert SECRET not in "".join(said)
    for path in house.home.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@contextmanager
def _without_tls() -> Iterator[int]:
    """A server that says, as PostgreSQL does without a certificate, that it knows no TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[bytes] = []

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    heard.append(client.recv(8))
                    client.sendall(b"N")
                    heard.append(client.recv(1024))

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
        assert heard
        # Nothing more was said, above all no name and no password.
        assert heard[1] == b""


def test_a_server_without_tls_is_refused_when_tls_is_wanted(house: House, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.touch()
    source = tmp_path / "source.csv"
    source.write_text(text(5))
    with _without_tls() as port:
        url = (
            f"postgresql://me:{SECRET}@127.0.0.1:{port}/air"
            f"?sslmode=verify-full&sslrootcert={authority}&gssencmode=disable"
        )
        process = house.command("ingest", str(source), database_url=url, retry_seconds=0.1)
        assert process.wait() == 1
        assert "server does not support SSL, but SSL was required" in process.said
    assert SECRET not in process.said


# --- roles ----------------------------------------------------------------------------------------


@pytest.fixture(params=["tables first", "roles first"])
def roles_url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    """A database with the roles of `docs/roles.sql`, and two users."""
    psql = [str(bin_dir() / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-q", "-d", database_url]
    apply = [*psql, "-f", str(ROLES)]

    def migrate(url: str) -> None:
        engine = store_engine.create(url)
        try:
            upgrade(engine)
        finally:
            engine.dispose()

    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    if request.param == "tables first":
        migrate(database_url)
        run(apply)
    else:
        run(apply)
        migrate(f"{database_url}&options=-crole%3Dair_owner")
    run(apply)  # a second time changes nothing
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE loader LOGIN IN ROLE air_writer")
        connection.execute("CREATE ROLE analyst LOGIN IN ROLE air_reader")
    yield database_url
    with psycopg.connect(database_url, autocommit=True) as connection:
        for role in ("loader", "analyst", "air_writer", "air_reader", "air_owner"):
            connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
            connection.execute(f"DROP ROLE {role}".encode())


def _as(url: str, role: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{role}@{rest.partition('@')[2]}"


def test_each_role_can_do_its_work_and_no_more(
    zygote: Zygote, tmp_path: Path, roles_url: str
) -> None:
    home = House(zygote, tmp_path / "home", _as(roles_url, "loader"))
    try:
        daemon = home.daemon()
        # New months, duplicates and conflicts (temporary tables), bad rows, a refused file.
        home.drop("one.csv", text(50, bad=3))
        home.wait_for_rows(50)
        conflict = rows(1)[0].replace(";5.", ";6.", 1)
        home.drop("two.csv", text(60) + rows(1, sensor=93)[0].replace("2017-07", "2019-11"))
        home.wait_for_rows(61)
        home.drop("three.csv", HEADER + conflict)
        home.drop("refused.csv", "who;goes;there\n")
        home.wait_until_quiet()
        assert home.files() == 4
        assert daemon.stop() == 0
        home.check_books()
        assert home.command("status").wait() == 0
        assert home.command("doctor").wait() in (0, 1)  # it may complain of the disk
        # Rows that are repaired, given up and brought back; a file that is taken back.
        (sheet,) = home.quarantine.glob("one.*.csv")
        sheet.write_text(sheet.read_text().replace("oops", "42", 2))
        for arguments, code in (
            (("quarantine", "reprocess", "--all", "--dry-run"), 0),
            (("quarantine", "reprocess", "--all"), 0),
            (("quarantine", "discard", "one.csv", "--note", "a broken sensor"), 0),
            (("quarantine", "list"), 0),
            (("why", "92", "2017-07-01T00:00:00"), 0),
            (("retract", "one.csv"), 2),
            (("retract", "one.csv", "--yes"), 0),
        ):
            process = home.command(*arguments)
            assert process.wait() == code, process.said
    finally:
        home.close()

    with psycopg.connect(_as(roles_url, "loader"), autocommit=True) as loader:
        for statement in (
            "DROP TABLE air.hourly",
            "ALTER TABLE air.raw_particulate ADD COLUMN x int",
            "TRUNCATE air.raw_particulate",
            "CREATE TABLE air.mine (x int)",
            "DROP TABLE air.raw_particulate_2019_11",
            "UPDATE air.alembic_version SET version_num = '9'",
            "DROP SCHEMA air CASCADE",
            "SET ROLE air_owner",
            "GRANT SELECT ON air.sensor TO PUBLIC",
        ):
            if statement.startswith("GRANT"):
                loader.execute(statement.encode())  # a warning, and no effect
                continue
            with pytest.raises(errors.InsufficientPrivilege):
                loader.execute(statement.encode())

    with psycopg.connect(_as(roles_url, "analyst"), autocommit=True) as analyst:
        tables = analyst.execute(
            "SELECT oid::regclass::text, CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END"
            " FROM pg_class WHERE relnamespace = 'air'::regnamespace"
            " AND relkind IN ('r', 'p', 'v', 'm')"
        ).fetchall()
        assert ("air.raw_particulate_2019_11", "TABLE") in tables
        assert ("air.latest", "VIEW") in tables
        for name, kind in tables:
            analyst.execute(f"SELECT * FROM {name} LIMIT 1".encode())
            for statement in (
                f"INSERT INTO {name} DEFAULT VALUES",
                f"DELETE FROM {name}",
                f"DROP {kind} {name}",
            ):
                # What cannot be written to by anybody says so first.
                with pytest.raises(
                    (errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState)
                ):
                    analyst.execute(statement.encode())
        for question in (
            "SELECT * FROM air.gaps('2017-07-01', '2017-07-02')",
            "SELECT * FROM air.qc_flags(92, '2017-07-01', '2017-07-02')",
            "SELECT air.dew_point(20, 50), air.heat_index(30, 50), air.dry_dust(10, 90)",
            "SELECT air.sea_level_pressure(950, 10, 550), air.distance(42, 23, 43, 24)",
            "SELECT air.aqi_band_name(air.aqi_band('pm10', 20)), air.aqi_version()",
        ):
            assert analyst.execute(question.encode()).fetchall()
        for statement in (
            "CREATE TABLE air.mine (x int)",
            "CREATE TEMP TABLE mine (x int)",
            "SELECT air.ensure_month('air.raw_climate'::regclass, date '2020-01-01')",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                analyst.execute(statement.encode())

    with psycopg.connect(roles_url) as connection:
        public = connection.execute(
            "SELECT has_table_privilege('analyst', 'air.sensor', 'INSERT'),"
            " (SELECT count(*) FROM pg_class WHERE relacl::text LIKE '%{=r%'"
            " AND relnamespace = 'air'::regnamespace)"
        ).fetchone()
        assert public == (False, 0)
