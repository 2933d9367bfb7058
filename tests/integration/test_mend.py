"""Readings whose sensor or place is missing: `doctor` finds and mends them from the archive."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.cli.doctor import doctor
from pipeline.rework.mend import Mended, mend
from pipeline.rework.replay import Replay
from pipeline.store.engine import driver_of
from pipeline.store.read import references
from pipeline.store.read.reader import Reader
from pipeline.store.read.references import dangling
from pipeline.store.rework import Workbench
from tests.integration.conftest import Site, sds
from tests.integration.test_restored import PLACES, READINGS, climate, dust

ROWS = [
    f"7;SDS011;{place};42.{place};23.{place};2017-07-{day:02}T00:00:00;{day};;;2.5;;"
    for day, place in enumerate([11, 11, 22, 22, 11], start=1)
]
MOVED = sds(*ROWS)
HARM = {
    "sensors": "DELETE FROM air.sensor",
    "one sensor": "DELETE FROM air.sensor WHERE sensor_id = 7",
    "places": "DELETE FROM air.location",
    "one place": "DELETE FROM air.location WHERE location_id = 22",
    "another key": "UPDATE air.raw_particulate SET location_key = 99 WHERE sensor_id = 7",
    "both": "DELETE FROM air.location; DELETE FROM air.sensor;"
    " UPDATE air.raw_climate SET location_key = location_key + 1000",
}


def spoil(engine: sa.Engine, statements: str) -> None:
    """Do what the foreign keys would refuse."""
    with engine.begin() as connection:
        driver_of(connection).execute("SET LOCAL session_replication_role = replica")
        driver_of(connection).execute(statements.encode())


def mended(site: Site) -> Mended:
    return mend(site.settings, site.flow.store, site.flow.contract)


@pytest.fixture
def loaded(site: Site) -> Site:
    site.load(MOVED, "moved.csv")
    site.load(dust(1, 11, "2017-07-01"), "dust.csv")
    site.load(climate(3, 33, "2017-09-01"), "climate.csv")
    # Its reading is another file's: it is not to decide where that was.
    site.load(sds(ROWS[0].replace(";11;", ";77;")), "again.csv")
    return site


@pytest.mark.parametrize("kind", HARM)
def test_every_reading_gets_its_sensor_and_place_back(kind: str, loaded: Site) -> None:
    before = loaded.sql(READINGS), loaded.sql(PLACES)
    spoil(loaded.engine, HARM[kind])
    found = dangling(loaded.reader)
    assert found
    assert found.thorough
    loaded.reopen()
    done = mended(loaded)
    assert done.found == found
    assert not done.left
    assert done.unread == {}
    assert (loaded.sql(READINGS), loaded.sql(PLACES)) == before
    assert not dangling(loaded.reader)
    # And the next load is none the worse.
    assert loaded.load(dust(7, 22, "2017-07-09"), "later.csv").state == "loaded"


def test_nothing_is_touched_when_nothing_is_missing(loaded: Site) -> None:
    before = loaded.dump()
    assert not mended(loaded).found
    assert loaded.dump() == before


def test_rows_that_were_repaired_get_theirs_from_quarantine(site: Site) -> None:
    site.load(sds(*ROWS, "8;SDS011;88;42.88;23.88;2017-07-01T00:00:00;1,5;;;2.5;;"), "some.csv")
    (csv,) = site.quarantine.glob("*.csv")
    csv.write_text(csv.read_text("utf-8-sig").replace(";1,5;", ";1.5;"), "utf-8")
    (entry,) = Workbench(site.reader).entries("some.csv")
    replay = Replay(site.settings, site.flow.store, site.flow.contract, "me")
    assert len(replay.run(entry, dry=False).lines("loaded")) == 1
    before = site.sql(READINGS), site.sql(PLACES)
    spoil(site.engine, HARM["both"])
    assert not mended(site).left
    assert (site.sql(READINGS), site.sql(PLACES)) == before


def test_without_the_bytes_the_sensor_comes_from_the_ledger_and_the_place_is_lost(
    loaded: Site,
) -> None:
    for path in loaded.settings.archive_folder.rglob("moved.csv"):
        path.unlink()
    spoil(loaded.engine, HARM["sensors"] + ";" + HARM["one place"])
    done = mended(loaded)
    assert (done.left.sensors, len(done.left.places)) == ([], 1)
    assert list(done.unread) == ["moved.csv"]
    assert loaded.one("SELECT model FROM air.sensor WHERE sensor_id = 7") == "sds011"
    # Given the bytes, it goes on.
    day = next(path for path in loaded.settings.archive_folder.iterdir() if path.is_dir())
    (day / "moved.csv").write_text(MOVED)
    assert not mended(loaded).left


def test_a_look_takes_no_longer_than_it_may(loaded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = references._numbers

    def slow(reader: Reader, name: str, tables: Any, seconds: float | None) -> set[int]:
        if seconds is not None:
            with reader.snapshot(0.01) as connection:
                connection.execute("SELECT pg_sleep(60)")
        return real(reader, name, tables, seconds)

    monkeypatch.setattr(references, "_numbers", slow)
    found = dangling(loaded.reader)
    assert (bool(found), found.thorough) == (False, False)
    spoil(loaded.engine, HARM["places"])
    assert len(dangling(loaded.reader).places) == 3
    assert not mended(loaded).left


def test_doctor_says_it_and_mends_it(
    loaded: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with loaded.engine.connect() as connection:
        info = driver_of(connection).info
    url = f"postgresql://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", url)
    home = loaded.settings.home

    def references_of(*, mend: bool) -> dict[str, Any]:
        doctor(home, mend=mend, as_json=True)
        told = json.loads(capsys.readouterr().out)
        (found,) = (check for check in told["checks"] if check["check"] == "references")
        return dict(found)

    assert references_of(mend=False)["ok"]
    spoil(loaded.engine, HARM["both"])
    found = references_of(mend=False)
    assert not found["ok"]
    assert "3 × sensor (1, 3, 7)" in found["found"]
    assert "doctor --mend" in found["remedy"]
    assert "3 files read again" in references_of(mend=True)["found"]
    assert references_of(mend=False)["ok"]


def test_a_migration_of_a_broken_database_succeeds_and_mending_confirms_its_keys(
    loaded: Site,
) -> None:
    keys = (
        "SELECT count(*) FROM pg_constraint WHERE NOT convalidated AND conname LIKE 'sensor_place%'"
    )
    spoil(
        loaded.engine,
        "ALTER TABLE air.sensor_place DROP CONSTRAINT sensor_place_sensor_id_fkey;"
        "ALTER TABLE air.sensor_place ADD CONSTRAINT sensor_place_sensor_id_fkey"
        " FOREIGN KEY (sensor_id) REFERENCES air.sensor NOT VALID;" + HARM["sensors"],
    )
    assert loaded.one(keys) == 1
    assert not mended(loaded).left
    assert loaded.one(keys) == 0
