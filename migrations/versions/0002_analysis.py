"""Days, places and what analysts ask: rollups of days, functions and views.

Revision 0002. The functions and views are in the file of the same name that ends in .sql; it is
history as this file is, and not changed any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

QUANTITIES = "pm10, pm25, pm1, temperature, humidity, pressure"
MOMENT = sa.TIMESTAMP(timezone=True)

# From the hours, which are there already. The same is worked out by the loader for new ones.
FILL_DAILY = """
INSERT INTO air.daily (
    sensor_id, quantity, day, n, hours, complete_hours, min, max, mean, m2)
SELECT sensor_id, quantity, day, sum(n), count(*), count(*) FILTER (WHERE n >= 18),
       min(low), max(high), min(centre), sum(m2 + n * (mean - centre) ^ 2)
  FROM (SELECT sensor_id, quantity, (hour AT TIME ZONE 'UTC')::date AS day,
               n, min AS low, max AS high, mean, m2,
               sum(n * mean) OVER of_day / sum(n) OVER of_day AS centre
          FROM air.hourly
        WINDOW of_day AS (
            PARTITION BY sensor_id, quantity, (hour AT TIME ZONE 'UTC')::date)) AS hours
 GROUP BY sensor_id, quantity, day
 ORDER BY sensor_id, quantity, day
"""
FILL_PLACES = """
INSERT INTO air.sensor_place (sensor_id, location_key, first_ts, last_ts)
SELECT sensor_id, location_key, min(ts), max(ts)
  FROM (SELECT sensor_id, location_key, ts FROM air.raw_particulate
        UNION ALL
        SELECT sensor_id, location_key, ts FROM air.raw_climate) AS readings
 GROUP BY sensor_id, location_key
 ORDER BY sensor_id, location_key
"""

VIEWS = (
    "quality_sensor_day",
    "quality_file",
    "paired",
    "exceedance_year",
    "exceedance",
    "aqi_daily",
    "aqi_hourly",
    "daily_complete",
    "hourly_complete",
    "stuck",
    "moved",
    "silence",
    "latest",
    "limit_value",
    "quantity",
)
FUNCTIONS = (
    "qc_flags(integer, timestamptz, timestamptz)",
    "gaps(timestamptz, timestamptz, interval, integer)",
    "distance(double precision, double precision, double precision, double precision)",
    "aqi_version()",
    "aqi_band_name(integer)",
    "aqi_band(text, double precision)",
    "dry_dust(double precision, double precision, double precision)",
    "sea_level_pressure(double precision, double precision, double precision)",
    "heat_index(double precision, double precision)",
    "dew_point(double precision, double precision)",
)


def upgrade() -> None:
    op.add_column(
        "location",
        sa.Column(
            "height",
            sa.Double(),
            nullable=True,
            comment="Height above sea level in metres. No file tells it: set it by hand where it "
            "is known, and air.paired shows the pressure at sea level. null: not known.",
        ),
        schema="air",
    )
    op.drop_index(op.f("hourly_hour_idx"), "hourly", schema="air")
    op.create_index(
        op.f("hourly_hour_idx"), "hourly", ["hour"], schema="air", postgresql_using="brin"
    )
    op.create_table(
        "daily",
        required("sensor_id", sa.Integer(), "The sensor; see sensor."),
        required(
            "quantity",
            sa.Text(),
            f"What was measured: a column of a raw table ({QUANTITIES}).",
        ),
        required("day", sa.Date(), "The day, UTC."),
        required("n", sa.BigInteger(), "Number of readings on the day, nulls not counted."),
        required("hours", sa.SmallInteger(), "Number of hours with a reading, 1 to 24."),
        required(
            "complete_hours",
            sa.SmallInteger(),
            "Number of hours with at least 18 readings: three quarters of those that a sensor "
            "gives that reports every 148 seconds.",
        ),
        required("min", sa.REAL(), "Lowest reading, in the unit of the quantity."),
        required("max", sa.REAL(), "Highest reading, in the unit of the quantity."),
        required("mean", sa.Double(), "Mean of all readings, in the unit of the quantity."),
        required("m2", sa.Double(), "Sum of the squared deviations from the mean."),
        sa.Column(
            "std",
            sa.Double(),
            sa.Computed(
                "CASE WHEN n > 1 THEN sqrt(m2 / (n - 1)::double precision) "
                "ELSE NULL::double precision END",
                persisted=True,
            ),
            comment="Sample standard deviation (n - 1), in the unit of the quantity, computed from "
            "m2; null: one reading only.",
        ),
        sa.PrimaryKeyConstraint("sensor_id", "quantity", "day", name=op.f("daily_pkey")),
        schema="air",
        comment="Statistics of every day, per sensor and quantity: the hours of air.hourly joined. "
        "Committed with the rows, so never stale.",
    )
    op.create_table(
        "sensor_place",
        required("sensor_id", sa.Integer(), "The sensor; see sensor."),
        required("location_key", sa.Integer(), "Where it stood; see location."),
        required("first_ts", MOMENT, "Time of its first reading there, UTC."),
        required("last_ts", MOMENT, "Time of its last reading there, UTC."),
        sa.PrimaryKeyConstraint("sensor_id", "location_key", name=op.f("sensor_place_pkey")),
        schema="air",
        comment="Which sensor stood where, and from when to when, as the raw tables have it. "
        "Committed with the rows, so never stale.",
    )
    op.create_index(
        op.f("sensor_place_location_key_idx"), "sensor_place", ["location_key"], schema="air"
    )
    op.execute(FILL_DAILY)
    op.execute(FILL_PLACES)
    op.execute(Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    # Without CASCADE: a view that somebody else built on these is not ours to drop.
    op.execute(f"DROP VIEW {', '.join(f'air.{name}' for name in VIEWS)}")
    op.execute(f"DROP FUNCTION {', '.join(f'air.{name}' for name in FUNCTIONS)}")
    op.drop_table("sensor_place", schema="air")
    op.drop_table("daily", schema="air")
    op.drop_index(op.f("hourly_hour_idx"), "hourly", schema="air")
    op.create_index(op.f("hourly_hour_idx"), "hourly", ["hour"], schema="air")
    op.drop_column("location", "height", schema="air")


def required(name: str, kind: Any, comment: str) -> Any:
    return sa.Column(name, kind, nullable=False, autoincrement=False, comment=comment)
