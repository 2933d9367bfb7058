"""What the database refuses: the file pays only when its own bytes can be the reason."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from pipeline import metrics
from pipeline.config import load_settings
from pipeline.daemon import Daemon
from pipeline.errors import DatabaseTrouble
from pipeline.flow import Flow
from pipeline.rework.refused import retry
from pipeline.singling import _SEARCHES
from pipeline.store import engine as store_engine
from pipeline.store.load import Store
from pipeline.store.rework import Workbench
from pipeline.transaction import Transaction
from tests.integration.conftest import ARCHIVE_BME, Site, pm, sds

if TYPE_CHECKING:
    from pathlib import Path

TRIGGER = """
    CREATE FUNCTION air.stop() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN {body} RETURN NEW; END $$;
    CREATE TRIGGER stop BEFORE INSERT ON air.{table} FOR EACH ROW EXECUTE FUNCTION air.stop()
"""
SECOND = "extract(second FROM ts AT TIME ZONE 'UTC')"
NO_VIEWS = """
    DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT viewname FROM pg_views WHERE schemaname = 'air' LOOP
        EXECUTE format('DROP VIEW IF EXISTS air.%I CASCADE', name);
    END LOOP; END $$;
"""
# Those that take a way of their own through the code; the others are run with the long tests.
OFTEN = (
    "check (23514)",
    "unique (23505)",
    "a trigger casts (22P02)",
    "table renamed (42P01)",
    "partition detached (42P07)",
    "a generated column (22012)",
    "a shorter column (22001)",
    "real to numeric (22P03 or 08P01)",
)
# What somebody did → how it is undone, and what the message has to name. All hit the dust alone.
HARM = {
    "check (23514)": (
        "ALTER TABLE air.raw_particulate ADD CONSTRAINT too_much CHECK (pm10 < 5) NOT VALID",
        "ALTER TABLE air.raw_particulate DROP CONSTRAINT too_much",
        "too_much",
    ),
    "not null (23502)": (
        (
            "ALTER TABLE air.raw_particulate ADD team text NOT NULL DEFAULT ''; "
            "ALTER TABLE air.raw_particulate ALTER team DROP DEFAULT"
        ),
        "ALTER TABLE air.raw_particulate DROP COLUMN team",
        "team",
    ),
    "unique (23505)": (
        "CREATE UNIQUE INDEX only_one ON air.raw_particulate_2017_07 ((pm10 > 0))",
        "DROP INDEX air.only_one",
        "only_one",
    ),
    "foreign key (23503)": (
        (
            "CREATE TABLE air.team (id integer PRIMARY KEY);"
            "ALTER TABLE air.raw_particulate_2017_07"
            " ADD CONSTRAINT of_team FOREIGN KEY (sensor_id) REFERENCES air.team NOT VALID"
        ),
        "DROP TABLE air.team CASCADE",
        "of_team",
    ),
    "raise (P0001)": (
        TRIGGER.format(table="raw_particulate", body="RAISE EXCEPTION 'closed';"),
        "DROP FUNCTION air.stop CASCADE",
        "air.stop",
    ),
    "a trigger divides by zero (22012)": (
        TRIGGER.format(table="raw_particulate", body="NEW.pm10 := 1 / (NEW.sensor_id - 92);"),
        "DROP FUNCTION air.stop CASCADE",
        "air.stop",
    ),
    "a trigger casts (22P02)": (
        TRIGGER.format(table="raw_particulate", body="NEW.flags := 'none'::integer;"),
        "DROP FUNCTION air.stop CASCADE",
        "air.stop",
    ),
    "a trigger asks a lost table (42P01)": (
        TRIGGER.format(table="raw_particulate", body="DELETE FROM air.lost;"),
        "DROP FUNCTION air.stop CASCADE",
        "air.lost",
    ),
    "table renamed (42P01)": (
        "ALTER TABLE air.raw_particulate RENAME TO dust",
        "ALTER TABLE air.dust RENAME TO raw_particulate",
        "raw_particulate",
    ),
    "column renamed (42703)": (
        "ALTER TABLE air.raw_particulate RENAME pm10 TO pm",
        "ALTER TABLE air.raw_particulate RENAME pm TO pm10",
        "pm10",
    ),
    "partition detached (42P07)": (
        "ALTER TABLE air.raw_particulate DETACH PARTITION air.raw_particulate_2017_07",
        (
            "ALTER TABLE air.raw_particulate ATTACH PARTITION air.raw_particulate_2017_07"
            " FOR VALUES FROM ('2017-07-01+00') TO ('2017-08-01+00')"
        ),
        "Attach it to its parent again",
    ),
    "a view instead (42809)": (
        (
            "ALTER TABLE air.raw_particulate RENAME TO dust;"
            "CREATE VIEW air.raw_particulate AS SELECT * FROM air.dust"
        ),
        "DROP VIEW air.raw_particulate; ALTER TABLE air.dust RENAME TO raw_particulate",
        "raw_particulate",
    ),
    "an index on an expression (2201E)": (
        f"CREATE INDEX logs ON air.raw_particulate (ln(1 - {SECOND}))",
        "DROP INDEX air.logs",
        "table raw_particulate",
    ),
    "a generated column (22012)": (
        (
            "ALTER TABLE air.raw_particulate ADD x int"
            f" GENERATED ALWAYS AS (1 / ({SECOND} = 0)::int) STORED"
        ),
        "ALTER TABLE air.raw_particulate DROP COLUMN x",
        "table raw_particulate",
    ),
    "a generated column (22003)": (
        (
            "ALTER TABLE air.raw_particulate ADD x smallint GENERATED ALWAYS AS"
            f" ((40000 * ({SECOND} > 0)::int)::smallint) STORED"
        ),
        "ALTER TABLE air.raw_particulate DROP COLUMN x",
        "table raw_particulate",
    ),
    "a shorter column (22001)": (
        "ALTER TABLE air.quarantined_row ALTER line TYPE varchar(2)",
        "ALTER TABLE air.quarantined_row ALTER line TYPE text",
        "column line, table quarantined_row",
    ),
    "real to numeric (22P03 or 08P01)": (
        f"{NO_VIEWS} ALTER TABLE air.raw_particulate ALTER pm10 TYPE numeric",
        "ALTER TABLE air.raw_particulate ALTER pm10 TYPE real",
        "column pm10, table raw_particulate",
    ),
    "real to double precision (08P01)": (
        f"{NO_VIEWS} ALTER TABLE air.raw_particulate ALTER pm10 TYPE double precision",
        "ALTER TABLE air.raw_particulate ALTER pm10 TYPE real",
        "column pm10, table raw_particulate",
    ),
    "integer to bigint (08P01)": (
        f"{NO_VIEWS} ALTER TABLE air.quarantined_row ALTER group_no TYPE bigint",
        "ALTER TABLE air.quarantined_row ALTER group_no TYPE integer",
        "column group_no, table quarantined_row",
    ),
}
CLIMATE = ARCHIVE_BME + "93;BME280;42;42.689;23.341;2017-07-01T00:00:00;95000;;;20;50\n"


@pytest.fixture
def own(tmp_path: Path, migrated_url: str) -> Iterator[Site]:
    """A site with a database of its own, which may be spoilt; it has July."""
    engine = store_engine.create(migrated_url)
    site = Site(load_settings(tmp_path / "own", settle_seconds=0), engine)
    site.load(sds(pm(0)), "before.csv")
    site.load(CLIMATE.replace("00:00:00", "01:00:00"), "climate before.csv")
    yield site
    site.check_books()
    engine.dispose()


@contextmanager
def spoilt(site: Site, harm: str, mending: str) -> Iterator[None]:
    site.sql(harm)
    try:
        yield
    finally:
        site.sql(mending)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(each, marks=() if each in OFTEN else pytest.mark.slow) for each in HARM],
)
@pytest.mark.parametrize(
    "remembered",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["daemon", "new process"],
)
def test_good_files_wait_and_the_others_go_on(kind: str, remembered: bool, own: Site) -> None:
    harm, mending, named = HARM[kind]
    if not remembered:
        own.reopen()
    for number in range(1, 4):
        own.drop(f"dust {number}.csv", sds(pm(number), "bad"))
    own.drop("climate.csv", CLIMATE)
    own.drop("nothing.csv", "nothing\n")
    with spoilt(own, harm, mending):
        outcomes = {outcome.name: outcome for outcome in own.run()}
        states = [outcomes[f"dust {number}.csv"].state for number in range(1, 4)]
        assert states == ["left"] * 3
        assert outcomes["climate.csv"].state == "loaded"
        assert outcomes["nothing.csv"].state == "refused"
        error = outcomes["dust 1.csv"].error
        assert isinstance(error, DatabaseTrouble)
        assert named in str(error)
        assert " – " in str(error)
        assert own.sql("SELECT name, state FROM air.source_file ORDER BY 1") == [
            ("before.csv", "loaded"),
            ("climate before.csv", "loaded"),
            ("climate.csv", "loaded"),
            ("nothing.csv", "refused"),
        ]
        # Nothing has changed for the next look.
        assert [outcome.state for outcome in own.run()] == ["left"] * 3
    assert [outcome.state for outcome in own.run()] == ["loaded"] * 3
    assert own.one("SELECT count(*) FROM air.raw_particulate") == 4


@pytest.mark.parametrize(
    ("table", "check"),
    [("raw_particulate", "pm10 <> 666"), ("source_file", "name <> 'devil.csv' OR rows_read = 0")],
    ids=["its rows", "its books"],
)
def test_the_file_that_a_constraint_hits_is_singled_out(table: str, check: str, own: Site) -> None:
    for number in (0, 1):
        own.drop(f"before {number}.csv", sds(pm(10 + number), "bad"))
    own.drop("devil.csv", sds(pm(2), pm(3, p1=666), "bad"))
    own.drop("devil again.csv", sds(pm(2), pm(3, p1=666), "bad"))
    for number in (4, 5):
        own.drop(f"later {number}.csv", sds(pm(number), "bad"))
    harm = f"ALTER TABLE air.{table} ADD CONSTRAINT no_devil CHECK ({check})"
    with spoilt(own, harm, f"ALTER TABLE air.{table} DROP CONSTRAINT no_devil"):
        states = [outcome.state for outcome in own.run()]
        # A file with the same bytes waits with it.
        assert states == ["loaded", "loaded", "left", "left", "loaded", "loaded"]
    assert {outcome.state for outcome in own.run()} <= {"loaded", "known"}
    assert own.one("SELECT count(*) FROM air.raw_particulate WHERE pm10 = 666") == 1


def test_a_value_that_the_database_cannot_hold_is_the_files_fault(own: Site) -> None:
    """An encoding that lacks a character; a check stands for a database of such an encoding."""
    devil = sds(pm(3), "лошо")
    for number in range(1, 6):
        own.drop(f"{number}.csv", devil if number == 3 else sds(pm(number), "bad"))
    table = "ALTER TABLE air.quarantined_row"
    check = f"{table} ADD CONSTRAINT latin CHECK (convert_to(line, 'LATIN1') IS NOT NULL)"
    with spoilt(own, check, f"{table} DROP CONSTRAINT latin"):
        states = [outcome.state for outcome in own.run()]
        assert states == ["loaded", "loaded", "refused", "loaded", "loaded"]
        assert own.ledger("3.csv")["rule"] == "database"
        assert own.refusal(devil)["rule"] == "database"
        # It is tried again when it comes again, and where it lies: the database may be another.
        assert own.load(devil, "again.csv").state == "refused"
        (entry,) = Workbench(own.reader).entries("again.csv")
        run = partial(retry, own.settings, own.flow.store, own.flow.contract, entry, by="me")
        assert run(dry=False).state == "still refused"
        assert list(own.data.glob("*.csv")) == []
    (entry,) = Workbench(own.reader).entries(entry.sha256)
    run = partial(retry, own.settings, own.flow.store, own.flow.contract, entry, by="me")
    assert (run(dry=True).state, run(dry=True).rows_loaded) == ("would load", 1)
    assert run(dry=False).state == "loaded"


def test_a_long_line_waits_for_an_index_that_cannot_hold_it(own: Site) -> None:
    line = random.Random(1).randbytes(9_000).hex()
    own.drop("long.csv", sds(pm(1), line))
    own.drop("short.csv", sds(pm(2), "bad"))
    for using in ("(line)", "((line || 'x'))"):
        harm = f"CREATE INDEX lines ON air.quarantined_row {using}"
        with spoilt(own, harm, "DROP INDEX air.lines"):
            states = {outcome.name: outcome for outcome in own.run()}
            assert states["long.csv"].state == "left"
            assert "index" in str(states["long.csv"].error)
    assert own.one("SELECT count(*) FROM air.raw_particulate") == 2
    assert [outcome.state for outcome in own.run()] == ["loaded"]


ALTERED = "CREATE FUNCTION air.alter() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;"
ALTERED += "CREATE TRIGGER alter BEFORE INSERT ON air.{} FOR EACH ROW EXECUTE FUNCTION air.alter()"
UNALTERED = "DROP FUNCTION air.alter CASCADE"
HIDDEN = """
    ALTER TABLE air.{0} ENABLE ROW LEVEL SECURITY; ALTER TABLE air.{0} FORCE ROW LEVEL SECURITY;
    CREATE POLICY hidden ON air.{0} FOR SELECT USING ({1} < 93);
    CREATE POLICY written ON air.{0} FOR INSERT WITH CHECK (true)
"""
SHOWN = """
    DROP POLICY hidden ON air.{0}; DROP POLICY written ON air.{0};
    ALTER TABLE air.{0} NO FORCE ROW LEVEL SECURITY; ALTER TABLE air.{0} DISABLE ROW LEVEL SECURITY
"""


@pytest.mark.parametrize(
    ("harm", "mending"),
    [
        (ALTERED.format("RETURN NULL;", "sensor"), UNALTERED),
        (ALTERED.format("RETURN NULL;", "location"), UNALTERED),
        (ALTERED.format("NEW.lat := round(NEW.lat); RETURN NEW;", "location"), UNALTERED),
        (HIDDEN.format("sensor", "sensor_id"), SHOWN.format("sensor")),
        (HIDDEN.format("location", "location_id"), SHOWN.format("location")),
    ],
    ids=["sensor dropped", "place dropped", "place rounded", "sensor hidden", "place hidden"],
)
@pytest.mark.parametrize("remembered", [True, False], ids=["daemon", "new process"])
def test_sensors_and_places_that_do_not_stay_as_written(
    harm: str, mending: str, remembered: bool, own: Site
) -> None:
    with as_plain_role(own):
        if remembered:
            own.load(sds(pm(2)), "remembered.csv")
        own.drop("known.csv", sds(pm(1)))
        own.drop("new.csv", sds("95;SDS011;95;42.123;23.456;2017-07-01T00:00:09;9;;;2;;"))
        with spoilt(own, harm, mending):
            outcomes = {outcome.name: outcome for outcome in own.run()}
        assert outcomes["known.csv"].state == "loaded"
        assert outcomes["new.csv"].state == "left"
        error = outcomes["new.csv"].error
        assert isinstance(error, DatabaseTrouble)
        assert "policy" in str(error)
        assert [outcome.state for outcome in own.run()] == ["loaded"]


@contextmanager
def as_plain_role(site: Site) -> Iterator[None]:
    """Load as a role that policies hold for, while `sql` is that of a superuser."""
    site.sql("CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA air TO plain")
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        site.sql(f"GRANT ALL ON ALL {kind} IN SCHEMA air TO plain")
    superuser, flow = site.engine, site.flow
    url = _plain(superuser, superuser.url)
    plain = store_engine.create(f"postgresql://plain@{url.partition('@')[2]}")
    try:
        site.flow = Flow(site.settings, Store(plain), flow.contract, retry_seconds=2.0)
        yield
    finally:
        site.flow = flow
        plain.dispose()
        site.sql("DROP OWNED BY plain; DROP ROLE plain")


def test_what_an_earlier_release_refused_comes_back(own: Site) -> None:
    content = sds(pm(1), pm(2))
    own.load("nothing\n", "nothing.csv")
    own.load(content, "good.csv")
    dust = (
        "file_id IN (SELECT file_id FROM air.source_file WHERE name IN ('good.csv', 'before.csv'))"
    )
    for table in ("raw_particulate", "file_aggregate", "change"):
        own.sql(f"DELETE FROM air.{table} WHERE {dust}")
    for table in ("hourly", "daily", "sensor_place"):
        own.sql(f"DELETE FROM air.{table} WHERE sensor_id = 92")
    own.sql("DELETE FROM air.source_file WHERE name = 'before.csv'")
    own.sql(
        "UPDATE air.source_file SET state = 'refused', rule = 'database', rows_read = 0,"
        " rows_loaded = 0, first_ts = NULL, last_ts = NULL WHERE name = 'good.csv'"
    )
    assert own.load("nothing\n", "nothing.csv").state == "known"
    assert own.load(content, "good.csv").state == "loaded"


@pytest.mark.slow
def test_the_search_is_bounded(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0

    def counting(transaction: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        real(transaction)

    real = Transaction.run
    monkeypatch.setattr(Transaction, "run", counting)
    own.settings = load_settings(own.settings.home, batch_files=40)
    own.reopen()
    for number in range(200):
        own.drop(f"{number}.csv", sds(pm(number + 1)))
    harm, mending, _ = HARM["raise (P0001)"]
    with spoilt(own, harm, mending):
        assert {outcome.state for outcome in own.run()} == {"left"}
        assert attempts <= _SEARCHES + 2 * 5
        attempts = 0
        own.flow._singling._since = float("-inf")
        own.run()
        assert attempts <= _SEARCHES + 2 * 5
    assert {outcome.state for outcome in own.run()} == {"loaded"}


# --- the daemon ----------------------------------------------------------------------------------


def gauge(name: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name)


def test_the_daemon_says_it_once_and_goes_on(own: Site) -> None:
    daemon = Daemon(own.flow, own.settings)
    harm, mending, _ = HARM["check (23514)"]
    with spoilt(own, harm, mending), capture_logs() as told:
        for number in range(1, 4):
            own.drop(f"dust {number}.csv", sds(pm(number)))
            daemon._look()
            daemon._held._until = 0.0  # the wait is over
        assert not daemon.database_up
        assert gauge("sofia_air_database_up") == 0
        own.drop("climate.csv", CLIMATE)
        daemon._look()
        # Some files go in: it is not as good as away.
        assert daemon.database_up
        daemon._held._until = 0.0
        daemon._look()
    failed = [entry for entry in told if entry["event"] == "batch.failed"]
    assert [entry["file"] for entry in failed] == ["dust 1.csv"]
    assert not [entry for entry in told if entry["event"] in ("file.left", "database.down")]
    before = own.one("SELECT count(*) FROM air.raw_particulate")
    with capture_logs() as told:
        daemon._look()  # held: not tried
        assert own.one("SELECT count(*) FROM air.raw_particulate") == before
        daemon._held._until = 0.0
        daemon._look()
    assert "batch.recovered" in [entry["event"] for entry in told]
    assert (daemon.database_up, gauge("sofia_air_database_up")) == (True, 1)
    assert own.one("SELECT count(*) FROM air.raw_particulate") == 4


def test_new_files_do_not_have_the_held_ones_tried_sooner(own: Site) -> None:
    daemon = Daemon(own.flow, own.settings)
    harm, mending, _ = HARM["check (23514)"]
    with spoilt(own, harm, mending):
        waits = []
        for number in range(1, 8):
            own.drop(f"dust {number}.csv", sds(pm(number)))
            daemon._held._until = 0.0
            daemon._look()
            waits.append(daemon._held._wait)
        until = daemon._held._until
        own.drop("dust 9.csv", sds(pm(9)))
        daemon._look()
        assert daemon._held._until == until
    first = own.settings.watch.scan_seconds
    assert waits == [min(60.0, first * 2**power) for power in range(7)]


def test_a_look_fails_when_the_ledger_itself_is_gone_and_recovers(own: Site) -> None:
    daemon = Daemon(own.flow, own.settings)
    own.drop("dust.csv", sds(pm(1)))
    rename = "ALTER TABLE air.{} RENAME TO {}"
    with spoilt(own, rename.format("source_file", "x"), rename.format("x", "source_file")):
        daemon._look()
        assert not daemon.database_up
        assert [path.name for path in own.data.glob("*.csv")] == ["dust.csv"]
    daemon._held._until = 0.0
    daemon._look()
    assert daemon.database_up
    assert own.one("SELECT count(*) FROM air.raw_particulate") == 2


def test_run_once_loads_what_it_can_and_ends_with_the_message(
    own: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import cli

    url: Any = own.engine.url
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", _plain(own.engine, url))
    own.drop("dust.csv", sds(pm(1)))
    own.drop("climate.csv", CLIMATE)
    home = str(own.settings.home)
    harm, mending, named = HARM["check (23514)"]
    with spoilt(own, harm, mending):
        for command in (["run", "--once"], ["ingest", str(own.data / "dust.csv")]):
            monkeypatch.setattr("sys.argv", ["sofia-air", "--home", home, *command])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code == 1
            assert named in capsys.readouterr().err
    assert own.one("SELECT count(*) FROM air.raw_climate") == 2
    assert [path.name for path in own.data.glob("*.csv")]
    own.run()


def _plain(engine: sa.Engine, url: object) -> str:
    with engine.connect() as connection:
        driver = store_engine.driver_of(connection).info
        return f"postgresql://{driver.user}@/{driver.dbname}?host={driver.host}&port={driver.port}"
