"""The migration that brings days, places and views: it fills them from what is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from pipeline.store import engine as store_engine
from pipeline.store import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def before(database_url: str) -> Iterator[sa.Engine]:
    """A database as it was before, with hours and readings in it."""
    engine = store_engine.create(database_url)
    to(engine, "upgrade", "0001")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "SELECT air.ensure_month(name::regclass, '2019-03-01')"
                " FROM unnest(ARRAY['air.raw_particulate', 'air.raw_climate']) AS name"
            )
        )
        # Two days, in a session that is not in UTC: the days are those of UTC all the same.
        connection.execute(sa.text("SET LOCAL TIME ZONE 'Asia/Kathmandu'"))
        connection.execute(
            sa.text(
                "INSERT INTO air.raw_particulate (sensor_id, ts, location_key, file_id, pm10, pm25)"
                " SELECT 92, timestamptz '2019-03-01 20:00Z' + i * interval '148 s',"
                " CASE WHEN i < 50 THEN 1 ELSE 2 END, 1, 10 + i % 7, i FROM generate_series(0, 199)"
                " AS i"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO air.hourly (sensor_id, quantity, hour, n, min, max, mean, m2)"
                " SELECT sensor_id, quantity, date_trunc('hour', ts, 'UTC'), count(*), min(value),"
                " max(value), avg(value::float8), regr_sxx(value::float8, value::float8)"
                " FROM air.raw_particulate,"
                " LATERAL (VALUES ('pm10', pm10), ('pm25', pm25)) AS cell (quantity, value)"
                " GROUP BY 1, 2, 3"
            )
        )
    yield engine
    engine.dispose()


def to(engine: sa.Engine, direction: str, revision: str) -> None:
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(migrate.migrations_dir()))
        config.attributes["connection"] = connection
        getattr(command, direction)(config, revision)


def test_days_and_places_are_filled_from_what_is_there(before: sa.Engine) -> None:
    to(before, "upgrade", "0002")
    with before.begin() as connection:
        connection.execute(sa.text("SET LOCAL TIME ZONE 'UTC'"))
        days = connection.execute(
            sa.text(
                "SELECT quantity, day::text, n, hours, complete_hours, min, max, mean, std"
                " FROM air.daily ORDER BY quantity, day"
            )
        ).all()
        anew = connection.execute(
            sa.text(
                "SELECT quantity, ts::date::text, count(*), count(DISTINCT date_trunc('hour', ts)),"
                " min(value), max(value), avg(value::float8), stddev_samp(value::float8)"
                " FROM air.raw_particulate,"
                " LATERAL (VALUES ('pm10', pm10), ('pm25', pm25)) AS cell (quantity, value)"
                " GROUP BY 1, 2 ORDER BY 1, 2"
            )
        ).all()
        places = connection.execute(
            sa.text("SELECT location_key, first_ts::text, last_ts::text FROM air.sensor_place")
        ).all()
    assert len(days) == 4
    for kept, due in zip(days, anew, strict=True):
        assert kept[:4] == due[:4]
        assert kept[5:7] == due[4:6]
        assert kept[7:] == pytest.approx(due[6:])
    # 4 hours and 4.2 hours; the last is not complete.
    assert [row.complete_hours for row in days] == [4, 4, 4, 4]
    assert sorted(places) == [
        (1, "2019-03-01 20:00:00+00", "2019-03-01 22:00:52+00"),
        (2, "2019-03-01 22:03:20+00", "2019-03-02 04:10:52+00"),
    ]


def test_down_again_leaves_hours_and_readings(before: sa.Engine) -> None:
    def held() -> list[object]:
        with before.begin() as connection:
            return [
                connection.scalars(
                    sa.text(f"SELECT row::text FROM air.{table} AS row ORDER BY 1")
                ).all()
                for table in ("hourly", "raw_particulate")
            ]

    due = held()
    to(before, "upgrade", "0002")
    to(before, "downgrade", "0001")
    assert held() == due
    with before.begin() as connection:
        left = connection.scalars(
            sa.text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'air'::regnamespace"
                " AND (relkind = 'v' OR relname IN ('daily', 'sensor_place'))"
            )
        ).all()
    assert left == []


# Each of these reaches the tables by their keys, whatever the view does in between.
ASKED = {
    "latest": "sensor_id = 92",
    "silence": "sensor_id = 92",
    "stuck": "sensor_id = 92 AND quantity = 'pm10'",
    "moved": "sensor_id = 92",
    "hourly_complete": "sensor_id = 92 AND quantity = 'pm10' AND hour >= '2019-03-01'",
    "daily_complete": "sensor_id = 92 AND quantity = 'pm10' AND day >= '2019-03-01'",
    "aqi_hourly": "sensor_id = 92 AND hour >= '2019-03-01'",
    "aqi_daily": "sensor_id = 92 AND day >= '2019-03-01'",
    "exceedance": "sensor_id = 92 AND day >= '2019-03-01'",
    "exceedance_year": "sensor_id = 92",
    "paired": "sensor_id = 92 AND ts >= '2019-03-01' AND ts < '2019-03-02'",
    "quality_sensor_day": "sensor_id = 92 AND day >= '2019-03-01'",
}


@pytest.mark.parametrize("view", ASKED)
def test_what_is_asked_of_a_view_reaches_the_tables(engine: sa.Engine, view: str) -> None:
    with engine.begin() as connection:
        # Where only few rows are, reading all would be right: here, only the way in is of interest.
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        for table in ("raw_particulate", "raw_climate"):
            connection.execute(sa.text(f"SELECT air.ensure_month('air.{table}', '2019-03-01')"))
            connection.execute(sa.text(f"SELECT air.ensure_month('air.{table}', '2019-04-01')"))
        question = f"EXPLAIN (COSTS OFF) SELECT * FROM air.{view} WHERE {ASKED[view]}"
        plan = "\n".join(connection.scalars(sa.text(question)))
    assert "Seq Scan on" not in plan.replace("Seq Scan on sensor", ""), plan
    assert "sensor_id = 92" in "".join(line for line in plan.split("\n") if "Index Cond" in line), (
        plan
    )
    for condition in ASKED[view].split(" AND ")[1:]:
        column = condition.partition(" ")[0]
        found = [line for line in plan.split("\n") if "Index Cond" in line and column in line]
        assert found, plan
    if view == "paired":
        assert "raw_particulate_2019_03" in plan
        assert "raw_particulate_2019_04" not in plan
