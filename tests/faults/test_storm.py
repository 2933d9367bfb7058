"""A short storm of every kind of fault; and that its laws notice when they are broken."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.faults.harness import Postgres, Starter
from tests.faults.storm.__main__ import storm
from tests.faults.storm.laws import become_calm, check_all, check_quickly
from tests.faults.storm.stream import Stream
from tests.faults.storm.world import Violation, World

# Real processes, real faults: minutes, not seconds.
pytestmark = pytest.mark.slow


def test_a_short_storm_breaks_no_law() -> None:
    run = storm(25, seed=1, most_broken=1)
    assert not run.broken, run.broken[0]
    assert run.done == 25
    assert run.rows > 0


@pytest.fixture(scope="module")
def world(
    postgres: Postgres, starter: Starter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    rng = random.Random(1)
    room = tmp_path_factory.mktemp("storm")
    made = World(room, postgres, starter, rng, Stream(room / "simulated", rng), on_disk=False)
    with made.open():
        for _ in range(20):
            made.drop(made.stream.next())
        made.drop(made.stream.rubbish())
        made.drop(made.stream.hostile())
        become_calm(made)
        check_all(made)
        made.take_snapshot()
        yield made
        # Whatever the tests did, they put it back.
        check_all(made)


def _sql(statement: str) -> Callable[[World], None]:
    return lambda world: void(world.sql(statement))


def void(_: object) -> None:
    """Nothing is made of it."""


def _lose_a_file(world: World) -> None:
    next((world.data / "archive").glob("*/*.csv")).unlink()


def _change_a_file(world: World) -> None:
    path = next((world.data / "archive").glob("*/*.csv"))
    path.write_bytes(path.read_bytes() + b"\n")


def _lose_a_quarantined_row(world: World) -> None:
    path = next(world.site.quarantine.glob("*.reasons.jsonl"))
    path.write_text(path.read_text().partition("\n")[2] or "{}\n")


BREACHES: dict[str, Callable[[World], None]] = {
    "a reading lost": _sql(
        "DELETE FROM air.raw_particulate WHERE ctid IN"
        " (SELECT ctid FROM air.raw_particulate LIMIT 1)"
    ),
    "a value changed": _sql("UPDATE air.raw_climate SET humidity = humidity / 2"),
    "a place changed": _sql(
        "UPDATE air.raw_particulate SET location_key = (SELECT min(location_key) FROM air.location)"
    ),
    "a place unknown": _sql("UPDATE air.raw_climate SET location_key = -1"),
    "a file's number changed": _sql(
        "UPDATE air.raw_climate SET file_id = (SELECT min(file_id) FROM air.source_file)"
    ),
    "a sensor unknown": _sql(
        "ALTER TABLE air.sensor_place DROP CONSTRAINT sensor_place_sensor_id_fkey;"
        " DELETE FROM air.sensor"
    ),
    "a sensor's place lost": _sql("DELETE FROM air.sensor_place"),
    "hours not up to date": _sql("UPDATE air.hourly SET n = n + 1"),
    "days not up to date": _sql("UPDATE air.daily SET mean = mean + 1"),
    "a file's statistics not up to date": _sql("UPDATE air.file_aggregate SET max = max + 1"),
    "books that say too much": _sql(
        "UPDATE air.source_file SET rows_loaded = rows_loaded + 1, rows_read = rows_read + 1"
    ),
    "a quarantined row lost": _sql(
        "DELETE FROM air.quarantined_row WHERE ctid IN"
        " (SELECT ctid FROM air.quarantined_row LIMIT 1)"
    ),
    "a good file refused": _sql(
        "UPDATE air.source_file SET state = 'refused', reason = 'a test' WHERE file_id IN"
        " (SELECT min(file_id) FROM air.source_file WHERE state = 'loaded')"
    ),
    "a file forgotten": _sql(
        "DELETE FROM air.source_file WHERE state = 'refused'"
        " AND file_id IN (SELECT max(file_id) FROM air.source_file WHERE state = 'refused')"
    ),
    "a file lost": _lose_a_file,
    "a file changed": _change_a_file,
    "a row of a reason log lost": _lose_a_quarantined_row,
}


@pytest.mark.parametrize("breach", BREACHES)
def test_the_laws_notice(world: World, breach: str) -> None:
    kept = {
        path: path.read_bytes()
        for folder in (world.data / "archive", world.site.quarantine)
        for path in folder.rglob("*")
        if path.is_file()
    }
    BREACHES[breach](world)
    with pytest.raises(Violation):
        check_all(world)
    # The database and the folders are put back as they were.
    on_disk = False
    for path, data in kept.items():
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
            on_disk = True
    if not on_disk:
        world.restore(swap=True)


def test_a_daemon_that_ended_is_noticed(world: World) -> None:
    pid = world.pid
    world.site.kill()
    world.site._pid = pid
    with pytest.raises(Violation, match="ended by itself"):
        check_quickly(world)
    world.site._pid = None
    world.restart()
