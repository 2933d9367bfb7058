"""Both sides of a comparison load the same readings."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from benchmarks import sides
from benchmarks.place import Place, place

pytestmark = pytest.mark.slow


def readings(place: Place, name: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(place.url(name)) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize("dialect", ["sofia", "archive"])
def test_the_same_rows_arrive(tmp_path: Path, dialect: str) -> None:
    with place(tmp_path) as there:
        files = [there.sofia(2000)] if dialect == "sofia" else there.archive(sensors=3, days=1)
        taken = sides.ours(there, files)
        ours = readings(
            there,
            "ours",
            "SELECT sensor_id, ts, pm10, pm25 FROM air.raw_particulate "
            "WHERE sensor_id <> 999999 ORDER BY 1, 2",
        )
        # Before the other side's run, what the first left is dropped.
        sides.psql(there, files, 0)
        theirs = readings(
            there, "theirs", "SELECT sensor_id, timestamp, p1, p2 FROM raw ORDER BY 1, 2"
        )
    assert len(ours) == taken.rows > 1000
    assert ours == theirs
    assert taken.peak_mb > 50
    assert taken.stages["load"] > 0
