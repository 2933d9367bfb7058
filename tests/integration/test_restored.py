"""A database that is restored, or edited by hand, under a running process: nothing goes wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from structlog.testing import capture_logs

from pipeline.config import load_settings
from pipeline.embedded import bin_dir
from pipeline.store import engine as store_engine
from tests.integration.conftest import ARCHIVE_BME, Site, sds

if TYPE_CHECKING:
    from pytest_postgresql.executors import NoopExecutor

    from tests.conftest import Server

EVERY = "source_file sensor location raw_particulate raw_climate quarantined_row file_aggregate"
EVERY += " hourly daily sensor_place generation quarantine_summary file_duplicates source_section"
EVERY += " change"
# Each reading with what its numbers stand for.
READINGS = """
    SELECT sensor_id, ts, model, location_id, lat, lon, name, pm10 AS value
      FROM air.raw_particulate LEFT JOIN air.location USING (location_key)
      LEFT JOIN air.sensor USING (sensor_id) LEFT JOIN air.source_file USING (file_id)
    UNION ALL
    SELECT sensor_id, ts, model, location_id, lat, lon, name, temperature
      FROM air.raw_climate LEFT JOIN air.location USING (location_key)
      LEFT JOIN air.sensor USING (sensor_id) LEFT JOIN air.source_file USING (file_id)
    ORDER BY 1, 2
"""
PLACES = """
    SELECT sensor_id, location_id, lat, lon, first_ts, last_ts
      FROM air.sensor_place LEFT JOIN air.location USING (location_key) ORDER BY 1, 2, 3, 4
"""


def dust(sensor: int, place: int, day: str, hour: int = 0) -> str:
    """Return a file of one reading."""
    return sds(
        f"{sensor};SDS011;{place};42.{place};23.{place};{day}T{hour:02}:00:00;{place}.5;;;2.5;;"
    )


def climate(sensor: int, place: int, day: str) -> str:
    row = f"{sensor};BME280;{place};42.{place};23.{place};{day}T00:00:00;95000;;;{place / 2};50"
    return f"{ARCHIVE_BME}{row}\n"


# What is loaded before the back-up, after it (and so is lost), and after the restore.
BEFORE = {"a.csv": dust(1, 11, "2017-07-01")}
LOST = {
    "b.csv": dust(2, 22, "2017-08-01"),
    "c.csv": climate(3, 33, "2017-09-01"),
    "d.csv": dust(1, 44, "2017-10-01"),
}
AFTER = {
    # Places that take the numbers which the lost ones had.
    "e.csv": dust(5, 55, "2017-07-05"),
    "f.csv": climate(6, 66, "2017-07-05"),
    # The sensors, places and months of what was lost, each alone and mixed.
    "g.csv": dust(2, 55, "2017-07-02"),
    "h.csv": dust(5, 22, "2017-07-06"),
    "i.csv": dust(1, 11, "2017-08-02"),
    "j.csv": climate(3, 33, "2017-09-02"),
    "k.csv": dust(1, 44, "2017-10-02"),
    **LOST,
}


class Restorable:
    """A database that can be backed up and restored, each time in another way."""

    def __init__(self, server: Server, url: str, folder: Path) -> None:
        self.server, self.url, self._folder = server, url, folder
        self.name = str(conninfo_to_dict(url)["dbname"])

    def do(self, *statements: str, where: str | None = None) -> None:
        with psycopg.connect(where or self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def run(self, program: str, *options: str) -> None:
        done = subprocess.run(
            [bin_dir() / program, *options], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    @property
    def dump(self) -> str:
        return str(self._folder / "air.dump")

    # --- a copy of the files, put in the place of the database

    def back_up_template(self) -> None:
        self.do(f"CREATE DATABASE {self.name}_kept TEMPLATE {self.name}", where=self.postgres)

    def restore_template(self) -> None:
        self.do(
            f"DROP DATABASE {self.name} WITH (FORCE)",
            f"ALTER DATABASE {self.name}_kept RENAME TO {self.name}",
            where=self.postgres,
        )

    # --- a dump, into a new database or the same one

    def back_up_dump(self) -> None:
        self.run("pg_dump", "-Fc", "-f", self.dump, self.url)

    def restore_dump(self) -> None:
        self.do(
            f"DROP DATABASE {self.name} WITH (FORCE)",
            f"CREATE DATABASE {self.name}",
            where=self.postgres,
        )
        self.run("pg_restore", "-d", self.url, self.dump)

    def restore_schema(self) -> None:
        self.do("DROP SCHEMA air CASCADE")
        self.run("pg_restore", "-d", self.url, self.dump)

    def restore_rows(self) -> None:
        tables = ", ".join(f"air.{name}" for name in [*EVERY.split(), "alembic_version"])
        self.do(f"TRUNCATE {tables}")
        self.run("pg_restore", "--data-only", "--disable-triggers", "-d", self.url, self.dump)

    # --- as a copy of all the server's files does: nothing tells that time has gone back

    def restore_in_place(self) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute("SET session_replication_role = replica")
            for name in EVERY.split():
                connection.execute(
                    f"DELETE FROM air.{name} AS x WHERE x.xmin::text::bigint > "
                    f"{self.last_transaction}".encode()
                )
            connection.execute(
                "SELECT setval('air.location_location_key_seq', max(location_key))"
                " FROM air.location"
            )
            connection.execute("SELECT setval('air.change_seq_seq', max(seq)) FROM air.change")
            for month in ("particulate_2017_08", "climate_2017_09", "particulate_2017_10"):
                connection.execute(f"DROP TABLE air.raw_{month}".encode())

    def back_up_in_place(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row
            self.last_transaction = row[0]

    @property
    def postgres(self) -> str:
        return self.server.url("postgres")


@pytest.fixture
def make(
    server: Server, template: NoopExecutor, tmp_path: Path
) -> Iterator[Callable[[str], tuple[Site, Restorable]]]:
    with ExitStack() as stack:

        def made(name: str) -> tuple[Site, Restorable]:
            url = stack.enter_context(server.database(template.template_dbname))
            engine = store_engine.create(url)
            stack.callback(engine.dispose)
            site = Site(load_settings(tmp_path / name), engine)
            return site, Restorable(server, url, tmp_path)

        yield made


def load(site: Site, files: dict[str, str]) -> None:
    for name, content in files.items():
        assert site.load(content, name).state == "loaded", name


WAYS = [
    "dump",
    "in_place",
    *(pytest.param(way, marks=pytest.mark.slow) for way in ("template", "schema", "rows")),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_reading_has_its_sensor_and_place(
    way: str, make: Callable[[str], tuple[Site, Restorable]]
) -> None:
    site, database = make("disturbed")
    load(site, BEFORE)
    kind = {"schema": "dump", "rows": "dump"}.get(way, way)
    site.engine.dispose()  # nobody may be connected while a template is copied
    getattr(database, f"back_up_{kind}")()
    load(site, LOST)
    getattr(database, f"restore_{way}")()
    with capture_logs() as told:
        load(site, AFTER)

    calm, _ = make("undisturbed")
    load(calm, BEFORE | AFTER)
    assert site.sql(READINGS) == calm.sql(READINGS)
    assert site.sql(PLACES) == calm.sql(PLACES)
    site.check_books()
    # It is said once, and is no outage.
    events = [entry["event"] for entry in told]
    assert events.count("database.restored") == (way != "in_place")
    assert "database.waiting" not in events
    names = site.sql("SELECT number, generation FROM air.generation ORDER BY number")
    # A copy of the server's files is the one thing that cannot be told apart.
    assert [number for number, _ in names] == ([1] if way == "in_place" else [1, 2])


def test_a_file_that_was_known_before_the_restore_is_loaded_after_it(
    make: Callable[[str], tuple[Site, Restorable]],
) -> None:
    """It was looked up while the batch before it was being loaded, or while the server was away."""
    site, database = make("read ahead")
    load(site, BEFORE)
    database.back_up_dump()
    load(site, LOST)
    site.drop("b.csv", LOST["b.csv"])
    (pending,) = site.flow.ahead([site.scan()])
    database.restore_dump()
    (outcome,) = pending.finish()
    assert outcome.state == "left"
    assert [outcome.state for outcome in site.run()] == ["loaded"]
    assert site.sql("SELECT name FROM air.source_file ORDER BY 1") == [("a.csv",), ("b.csv",)]


def test_the_generation_stays_while_nobody_restores(
    make: Callable[[str], tuple[Site, Restorable]],
) -> None:
    site, database = make("calm")
    load(site, BEFORE)
    database.do("VACUUM (FULL, FREEZE) air.generation", "VACUUM FULL air.location")
    site.reopen()
    load(site, AFTER)
    assert site.one("SELECT count(*) FROM air.generation") == 1


def test_a_restore_is_said_once_though_nothing_can_be_loaded_yet(
    make: Callable[[str], tuple[Site, Restorable]],
) -> None:
    site, database = make("broken")
    load(site, BEFORE)
    database.back_up_dump()
    database.restore_dump()
    database.do("ALTER TABLE air.source_file ADD CONSTRAINT none CHECK (name = '') NOT VALID")
    site.drop("b.csv", LOST["b.csv"])
    with capture_logs() as told:
        for _ in range(3):
            assert [outcome.state for outcome in site.run()] == ["left"]
        database.do("ALTER TABLE air.source_file DROP CONSTRAINT none")
        assert [outcome.state for outcome in site.run()] == ["loaded"]
    assert [entry["event"] for entry in told].count("database.restored") == 1


# --- by hand -------------------------------------------------------------------------------------


def test_places_and_sensors_in_use_cannot_be_deleted(site: Site) -> None:
    load(site, BEFORE)
    for table in ("sensor", "location"):
        for statement in (f"DELETE FROM air.{table}", f"TRUNCATE air.{table}"):
            with pytest.raises(sa.exc.DBAPIError) as caught:
                site.sql(statement)
            refused = (errors.ForeignKeyViolation, errors.FeatureNotSupported)
            assert isinstance(caught.value.orig, refused)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE air.location SET lat = 1 WHERE location_id = 11",
        "UPDATE air.location SET location_id = NULL WHERE location_id = 11",
        "UPDATE air.location SET location_id = 99 WHERE location_id = 11",
    ],
)
def test_a_place_that_somebody_changed_is_not_that_of_new_readings(
    site: Site, statement: str
) -> None:
    load(site, BEFORE)
    site.sql(statement)
    load(site, {"later.csv": dust(1, 11, "2017-07-02")})
    query = "SELECT location_id, lat FROM air.raw_particulate JOIN air.location"
    query += " USING (location_key) WHERE ts >= '2017-07-02'"
    assert site.sql(query) == [(11, 42.11)]


@pytest.mark.parametrize("table", ["sensor", "location"])
def test_what_was_deleted_in_spite_of_all_is_made_again(site: Site, table: str) -> None:
    load(site, BEFORE)
    site.sql("DELETE FROM air.raw_particulate; DELETE FROM air.hourly; DELETE FROM air.daily;")
    site.sql("DELETE FROM air.file_aggregate; DELETE FROM air.source_file; DELETE FROM air.change")
    site.sql(f"DELETE FROM air.sensor_place; DELETE FROM air.{table}")
    load(site, BEFORE)
    expected: list[Any] = [(1, "sds011", 11, 42.11, 23.11)]
    assert [(s, m, i, x, y) for s, _, m, i, x, y, *_ in site.sql(READINGS)] == expected
