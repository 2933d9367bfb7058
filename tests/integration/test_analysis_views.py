"""The views and questions in SQL: small data, loaded by the real flow, and results made by hand.

Where the answer takes more than a glance, an oracle in plain Python gives it.
"""

from __future__ import annotations

import random
import statistics
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.contract import indices
from pipeline.store import rollup
from tests.integration.conftest import ARCHIVE_BME, ARCHIVE_SDS, Site, emptied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

START = datetime(2017, 7, 1, tzinfo=UTC)
CADENCE = timedelta(seconds=148)
HOUR = timedelta(hours=1)
PLACE = "42;42.689;23.341"
ELSEWHERE = "43;42.700;23.341"


def stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def dust(moment: datetime, pm10: float, pm25: float, sensor: int = 92, place: str = PLACE) -> str:
    return f"{sensor};SDS011;{place};{stamp(moment)};{pm10};;;{pm25};;"


def weather(
    moment: datetime,
    temperature: float,
    humidity: float,
    sensor: int = 93,
    place: str = PLACE,
    pressure: float = 95000,
) -> str:
    return f"{sensor};BME280;{place};{stamp(moment)};{pressure};;;{temperature};{humidity}"


def load_dust(site: Site, rows: Iterable[str], name: str = "some.csv") -> None:
    assert site.load(ARCHIVE_SDS + "".join(f"{row}\n" for row in rows), name).state == "loaded"


def load_weather(site: Site, rows: Iterable[str], name: str = "weather.csv") -> None:
    assert site.load(ARCHIVE_BME + "".join(f"{row}\n" for row in rows), name).state == "loaded"


def ticks(start: datetime, end: datetime) -> list[datetime]:
    """Return the moments at which a sensor reports from start to before end."""
    return [start + i * CADENCE for i in range(-(-(end - start) // CADENCE))]


# --- latest, silence ------------------------------------------------------------------------------


def test_the_latest_reading_of_every_sensor(site: Site) -> None:
    load_dust(
        site,
        [dust(START, 10, 5), dust(START + 40 * timedelta(days=1), 30, 20), dust(START, 7, 3, 94)],
    )
    load_weather(site, [weather(START, 21.5, 60), weather(START + CADENCE, 22, 61, pressure=95100)])
    rows = site.sql(
        "SELECT sensor_id, model, ts, location_id, lat, lon, pm10, pm25, pm1, temperature,"
        " humidity, pressure, flags FROM air.latest ORDER BY sensor_id"
    )
    here = (42, 42.689, 23.341)
    later = START + 40 * timedelta(days=1)
    assert rows == [
        (92, "sds011", later, *here, 30.0, 20.0, None, None, None, None, 0),
        (93, "bme280", START + CADENCE, *here, None, None, None, 22.0, 61.0, 951.0, 0),
        (94, "sds011", START, *here, 7.0, 3.0, None, None, None, None, 0),
    ]


def test_silence_is_measured_against_the_sensors_own_pace(site: Site) -> None:
    every_minute = [START + i * timedelta(minutes=1) for i in range(24 * 60)]
    load_dust(site, [dust(t, 10, 5) for t in every_minute] + [dust(START, 10, 5, 94)])
    rows = site.sql(
        "SELECT sensor_id, last_ts, cadence::float, silent_for = now() - last_ts,"
        " missed = floor(extract(epoch FROM now() - last_ts) / cadence) - 1"
        " FROM air.silence ORDER BY sensor_id"
    )
    assert rows == [(92, every_minute[-1], 60.0, True, True), (94, START, 148.0, True, True)]


# --- hours and days -------------------------------------------------------------------------------


def test_an_hour_counts_from_18_readings_and_a_day_from_18_such_hours(site: Site) -> None:
    # Day 1: 18 hours of 18 readings. Day 2: the same, but one hour has only 17.
    rows = []
    for day, short in ((0, None), (1, 5)):
        for hour in range(18):
            start = START + timedelta(days=day, hours=hour)
            n = 17 if hour == short else 18
            rows += [dust(start + i * CADENCE, 10 + hour, 5) for i in range(n)]
    load_dust(site, rows)
    hours = site.sql(
        "SELECT hour, n, complete, completeness FROM air.hourly_complete"
        " WHERE quantity = 'pm10' AND NOT complete"
    )
    assert hours == [(START + timedelta(days=1, hours=5), 17, False, 17 * 148 / 3600)]
    days = site.sql(
        "SELECT day, n, hours, complete_hours, complete, completeness, min, max, mean"
        " FROM air.daily_complete WHERE quantity = 'pm10' ORDER BY day"
    )
    assert days == [
        (date(2017, 7, 1), 324, 18, 18, True, 0.75, 10.0, 27.0, 18.5),
        (
            date(2017, 7, 2),
            323,
            18,
            17,
            False,
            17 / 24,
            10.0,
            27.0,
            pytest.approx(18.5108, abs=1e-4),
        ),
    ]


def test_a_full_hour_is_complete_to_the_whole(site: Site) -> None:
    load_dust(site, [dust(START + i * timedelta(minutes=1), 1, 1) for i in range(60)])
    assert site.one("SELECT max(completeness) FROM air.hourly_complete") == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_days_are_those_of_the_readings_however_they_come(
    seed: int, make_site: Callable[..., Site]
) -> None:
    """Late files, many batches, many transactions: always the days of all readings together."""
    chance = random.Random(seed)
    moments = ticks(START - 7 * HOUR, START + 40 * HOUR)
    values = {
        (sensor, t): (round(chance.uniform(0, 500), 2), round(chance.uniform(0, 300), 2))
        for sensor in (92, 94)
        for t in moments
        if chance.random() < 0.6
    }
    keys = list(values)
    chance.shuffle(keys)
    site = make_site(batch_files=2)
    while keys:
        for name in range(chance.randint(1, 4)):
            some, keys = keys[: chance.randint(1, 400)], keys[chance.randint(0, 400) :]
            again = chance.sample(list(values), 5)  # known already, or known too early
            if some:
                rows = [dust(t, *values[s, t], s) for s, t in {*some, *again}]
                site.drop(f"{len(keys)}-{name}.csv", ARCHIVE_SDS + "\n".join(rows))
        assert {outcome.state for outcome in site.run()} <= {"loaded", "duplicate"}
    loaded = site.sql("SELECT sensor_id, ts FROM air.raw_particulate")
    assert set(loaded) <= set(values)
    days: dict[tuple[int, str, date], list[float]] = {}
    for sensor, t in loaded:
        for quantity, number in zip(("pm10", "pm25"), values[sensor, t], strict=True):
            days.setdefault((sensor, quantity, t.date()), []).append(number)
    kept = {
        row[:3]: row[3:]
        for row in site.sql(
            "SELECT sensor_id, quantity, day, n, min, max, mean, std FROM air.daily"
        )
    }
    assert kept.keys() == days.keys()
    for key, readings in days.items():
        n, low, high, mean, std = kept[key]
        assert n == len(readings)
        assert (low, high) == pytest.approx((min(readings), max(readings)))
        assert mean == pytest.approx(statistics.fmean(readings), rel=1e-6)
        due = statistics.stdev(readings) if n > 1 else None
        assert std == (due if due is None else pytest.approx(due, rel=1e-5))


def test_what_is_taken_out_is_worked_out_anew(site: Site) -> None:
    """As a retraction does it: rows out, then hours, days and places of what they touched."""
    moments = ticks(START, START + 30 * HOUR)
    load_dust(site, [dust(t, 10 + i % 7, 5) for i, t in enumerate(moments)])
    load_dust(site, [dust(t + HOUR, 900, 5, place=ELSEWHERE) for t in moments[:40]], "late.csv")
    load_weather(site, [weather(t, 20, 50 + i % 3) for i, t in enumerate(moments)])
    with site.engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        for table in ("raw_particulate", "raw_climate"):
            cursor.execute(
                f"DELETE FROM air.{table} WHERE ts < %s AND ts >= %s OR location_key IN"
                " (SELECT location_key FROM air.location WHERE location_id = 43)"
                " RETURNING sensor_id, date_trunc('hour', ts)",
                [START + 26 * HOUR, START + 2 * HOUR],
            )
            sensors, hours = zip(*cursor.fetchall(), strict=True)
            rollup.recompute(cursor, sensors, hours)
        rollup.recompute(cursor, [], [])
    assert site.rollup_differs() == []
    assert site.places_differ() == []
    assert site.one("SELECT count(*) FROM air.sensor_place") == 2
    assert site.one("SELECT count(DISTINCT hour) FROM air.hourly") == 6
    emptied(site.engine)  # the ledger would tell of rows that are not there


# --- the index and the limits ---------------------------------------------------------------------


def hours_of(site: Site, means: Sequence[tuple[float, float]], n: int = 18) -> None:
    load_dust(
        site,
        [
            dust(START + hour * HOUR + i * CADENCE, pm10, pm25)
            for hour, (pm10, pm25) in enumerate(means)
            for i in range(n)
        ],
    )


def test_the_worse_pollutant_makes_the_band(site: Site) -> None:
    hours_of(site, [(15, 5), (15.01, 1), (1, 15.01), (130, 1), (1, 140), (300, 1), (1, 141)])
    rows = site.sql(
        "SELECT hour, pm10::numeric(9, 2)::float, band, band_name, index_version, complete"
        " FROM air.aqi_hourly ORDER BY hour"
    )
    bands = [1, 2, 3, 4, 5, 6, 6]
    assert rows == [
        (START + i * HOUR, pm10, band, indices.BANDS[band - 1], indices.INDEX_VERSION, True)
        for i, (pm10, band) in enumerate(zip([15, 15.01, 1, 130, 1, 300, 1], bands, strict=True))
    ]
    (day,) = site.sql("SELECT day, band, band_name, index_version, complete FROM air.aqi_daily")
    # The means of the day are 66.1 and 43.4: moderate, and only 7 hours.
    assert day == (date(2017, 7, 1), 3, "Moderate", indices.INDEX_VERSION, False)


def test_an_hour_with_too_few_readings_is_not_complete(site: Site) -> None:
    hours_of(site, [(15, 5)], n=17)
    assert site.sql("SELECT band, complete FROM air.aqi_hourly") == [(1, False)]


def test_exceedances_of_complete_days(site: Site) -> None:
    # Day 1: PM10 47, PM2.5 16. Day 2: PM10 51, PM2.5 15. Day 3: high, but not complete.
    for day, (pm10, pm25, hours) in enumerate([(47, 16, 18), (51, 15, 18), (900, 900, 17)]):
        start = START + timedelta(days=day)
        load_dust(
            site,
            [
                dust(start + h * HOUR + i * CADENCE, pm10, pm25)
                for h in range(hours)
                for i in range(18)
            ],
            f"{day}.csv",
        )
    rows = site.sql(
        "SELECT day, quantity, standard, mean, limit_value FROM air.exceedance"
        " ORDER BY day, quantity, standard"
    )
    first, second = date(2017, 7, 1), date(2017, 7, 2)
    assert rows == [
        (first, "pm10", "WHO 2021", 47.0, 45.0),
        (first, "pm25", "WHO 2021", 16.0, 15.0),
        (second, "pm10", "EU 2008/50/EC", 51.0, 50.0),
        (second, "pm10", "WHO 2021", 51.0, 45.0),
    ]
    years = site.sql(
        "SELECT year, standard, quantity, period, days, complete, mean, days_above, exceeded"
        " FROM air.exceedance_year ORDER BY standard, quantity, period"
    )
    assert years == [
        (2017, "EU 2008/50/EC", "pm10", "day", 2, False, 49.0, 1, False),
        (2017, "EU 2008/50/EC", "pm10", "year", 2, False, 49.0, 0, True),
        (2017, "EU 2008/50/EC", "pm25", "year", 2, False, 15.5, 0, False),
        (2017, "WHO 2021", "pm10", "day", 2, False, 49.0, 2, False),
        (2017, "WHO 2021", "pm10", "year", 2, False, 49.0, 0, True),
        (2017, "WHO 2021", "pm25", "day", 2, False, 15.5, 1, False),
        (2017, "WHO 2021", "pm25", "year", 2, False, 15.5, 0, True),
    ]


# --- dust and weather -----------------------------------------------------------------------------


def test_dust_is_paired_with_the_nearest_weather_of_its_place(site: Site) -> None:
    at = START + HOUR
    second = timedelta(seconds=1)
    load_dust(site, [dust(at, 42.5, 20), dust(at + 10 * HOUR, 1, 1), dust(at, 9, 9, 95, ELSEWHERE)])
    load_weather(
        site,
        [
            weather(at - 30 * second, 20, 50),
            weather(at + 29 * second, 21, 90),
            weather(at + 10 * HOUR + 61 * second, 22, 70),
            weather(at, 40, 10, 96, "44;42.689;23.341"),
        ],
    )
    site.sql("UPDATE air.location SET height = 550 WHERE location_id = 42")
    rows = site.sql(
        "SELECT sensor_id, ts, location_id, pm10, climate_sensor_id, climate_ts, temperature,"
        " humidity, pressure, humid FROM air.paired ORDER BY sensor_id, ts"
    )
    nothing = (None,) * 6
    assert rows == [
        (92, at, 42, 42.5, 93, at + 29 * second, 21.0, 90.0, 950.0, True),
        (92, at + 10 * HOUR, 42, 1.0, *nothing),
        (95, at, 43, 9.0, *nothing),
    ]
    (derived,) = site.sql(
        "SELECT dew_point = air.dew_point(21, 90), heat_index = air.heat_index(21, 90),"
        " sea_level_pressure = air.sea_level_pressure(950, 21, 550),"
        " pm10_dry = air.dry_dust(42.5, 90), pm25_dry = air.dry_dust(20, 90)"
        " FROM air.paired WHERE humid"
    )
    assert derived == (True,) * 5
    site.sql("UPDATE air.location SET height = NULL")
    assert site.sql("SELECT sea_level_pressure FROM air.paired WHERE humid") == [(None,)]


# --- gaps -----------------------------------------------------------------------------------------


def silences(
    moments: Sequence[datetime], since: datetime, until: datetime, longer_than: timedelta
) -> list[tuple[datetime, datetime | None]]:
    """Return what air.gaps should find, by looking at every reading."""
    ends: list[datetime | None] = [*moments[1:], None]
    return [
        (start, end)
        for start, end in zip(moments, ends, strict=True)
        if (end or until) - start > longer_than and start < until and (end or until) > since
    ]


@pytest.mark.parametrize("seed", range(4))
def test_gaps_are_all_silences_and_no_others(seed: int, site: Site) -> None:
    chance = random.Random(seed)
    heard: dict[int, list[datetime]] = {}
    end = START + timedelta(days=6)
    since, until = START + timedelta(days=1, hours=5), START + timedelta(days=5, hours=3)
    for sensor, load, row in (
        (92, load_dust, dust),
        (94, load_dust, dust),
        (93, load_weather, weather),
    ):
        holes = []
        for _ in range(chance.randint(3, 9)):
            start = START + chance.random() * timedelta(days=6)
            length = (
                chance.choice([8, 29, 35, 59, 62, 64, 75, 118, 125, 300, 2000]) + chance.random()
            )
            holes.append((start, start + timedelta(minutes=length)))
        if seed == 1:
            holes.append((until - HOUR, end))  # and never again
        if seed == 2:
            holes.append((START, since + HOUR))  # not there yet
        if seed == 3:
            holes.append((since - 3 * HOUR, until + 3 * HOUR))
        moments = [t for t in ticks(START, end) if not any(a < t < b for a, b in holes)]
        load(site, [row(t, 20, 50, sensor) for t in moments], f"{sensor}.csv")
        heard[sensor] = moments
    for minutes in (10, 30, 60, 61, 90, 240):
        longer_than = timedelta(minutes=minutes)
        asked = {"since": since, "until": until, "longer_than": longer_than}
        question = "FROM air.gaps(:since, :until, :longer_than)"
        rows = site.sql(f"SELECT sensor_id, started_at, ended_at {question}", **asked)
        assert rows == sorted(
            (
                (sensor, *found)
                for sensor, moments in heard.items()
                for found in silences(moments, since, until, longer_than)
            ),
            key=lambda row: row[:2],
        ), minutes
        assert (
            site.sql(
                f"SELECT * {question} WHERE length <> coalesce(ended_at, :until) - started_at"
                " OR missed <> floor(extract(epoch FROM length) / 148) - 1",
                **asked,
            )
            == []
        ), minutes
        only = site.sql(
            "SELECT sensor_id, started_at, ended_at"
            " FROM air.gaps(:since, :until, :longer_than, 93)",
            **asked,
        )
        assert only == [row for row in rows if row[0] == 93], minutes


def test_no_gaps_where_nothing_is(site: Site) -> None:
    assert site.sql("SELECT * FROM air.gaps('2017-01-01', '2018-01-01')") == []


# --- moved, stuck ---------------------------------------------------------------------------------


def test_who_moved_and_who_was_only_rounded_anew(site: Site) -> None:
    day = timedelta(days=1)
    load_dust(
        site,
        [
            # 190 m north, the same location: rounded anew. 210 m: moved. Another number: moved.
            dust(START, 1, 1, 92, "42;42.7000;23.3000"),
            dust(START + day, 1, 1, 92, "42;42.70171;23.3000"),
            dust(START, 1, 1, 94, "44;42.7000;23.3000"),
            dust(START + day, 1, 1, 94, "44;42.70189;23.3000"),
            dust(START, 1, 1, 96, "46;42.7000;23.3000"),
            dust(START + day, 1, 1, 96, "47;42.7000;23.3000"),
            dust(START, 1, 1, 98, "48;;"),
            dust(START + day, 1, 1, 98, "48;42.7000;23.3000"),
        ],
    )
    rows = site.sql(
        "SELECT sensor_id, moved_at, from_location_id, to_location_id, round(distance)"
        " FROM air.moved ORDER BY sensor_id"
    )
    assert rows == [(94, START + day, 44, 44, 210), (96, START + day, 46, 47, 0)]


def test_who_is_stuck(site: Site) -> None:
    rows = []
    for hour in range(20):
        for i in range(18):
            at = START + hour * HOUR + i * CADENCE
            # PM10 stands still for six hours, goes on, and then for five. PM2.5 never does.
            pm10 = 12.5 if 2 <= hour < 8 or 10 <= hour < 15 else i
            rows.append(dust(at, pm10, i))
    load_dust(site, rows)
    assert site.sql("SELECT * FROM air.stuck") == [
        (92, "pm10", 12.5, START + 2 * HOUR, START + 8 * HOUR, 6, 108)
    ]


def test_two_values_that_do_not_change_are_two_times_of_being_stuck(site: Site) -> None:
    load_dust(
        site,
        [
            dust(START + hour * HOUR + i * CADENCE, 5 if hour < 6 else 6, i)
            for hour in range(12)
            for i in range(18)
        ],
    )
    rows = site.sql("SELECT value, since, hours FROM air.stuck ORDER BY since")
    assert rows == [(5.0, START, 6), (6.0, START + 6 * HOUR, 6)]


# --- quality --------------------------------------------------------------------------------------


def test_the_quality_of_files_shows_its_parts(site: Site) -> None:
    good = [dust(START + i * CADENCE, 10, 5) for i in range(8)]
    bad = [dust(START + HOUR, -7, 5), dust(START + HOUR, 5000, 5)]
    load_dust(site, [*good, *bad], "bad.csv")
    load_dust(site, [*good, dust(START + 2 * HOUR, 1500, 5, 94)], "again.csv")
    site.load("what;is;this\n", "refused.csv")
    rows = site.sql(
        "SELECT name, state, rows_read, accepted, fresh, typical, score FROM air.quality_file"
        " ORDER BY file_id"
    )
    assert rows == [
        ("bad.csv", "loaded", 10, 0.8, 1.0, 1.0, 80),
        ("again.csv", "loaded", 9, 1.0, pytest.approx(1 / 9), 0.5, 50),
        ("refused.csv", "refused", 0, None, None, None, 0),
    ]


def test_the_quality_of_a_day_is_that_of_its_worst_part(site: Site) -> None:
    rows = []
    for hour in range(12):
        for i in range(18):
            pm10 = 1500 if hour == 0 and i == 0 else 10 + i
            pm25 = 5 if hour < 3 else 5 + i
            rows.append(dust(START + hour * HOUR + i * CADENCE, pm10, pm25))
    load_dust(site, rows)
    assert site.sql("SELECT * FROM air.quality_sensor_day") == [
        (
            92, date(2017, 7, 1), pytest.approx(12 * 18 * 148 / 86400), 0.5,
            pytest.approx(23 / 24), pytest.approx(21 / 24), 37,
        )
    ]  # fmt: skip


def test_the_flags_of_quality(site: Site) -> None:
    minute = timedelta(minutes=1)
    given = [
        # Alone, so neither a spike nor a change can be seen.
        (-60, 20.0),
        (0, 20.0), (1, 21.0), (2, 190.0), (3, 22.0),  # a spike, up and down again
        (4, 900.0), (5, 23.0),                        # one beyond belief
        (6, 1500.0),                                  # beyond the range, too; the last for long
        (100, 20.0), (101, 21.0),
    ]  # fmt: skip
    load_dust(site, [dust(START + m * minute, value, 5 + i) for i, (m, value) in enumerate(given)])
    rows = site.sql(
        "SELECT extract(epoch FROM ts - :start)::int / 60, value, gross_range, spike,"
        " rate_of_change, flat_line, flag FROM air.qc_flags(92, :start, :end)"
        " WHERE quantity = 'pm10'",
        start=START,
        end=START + 2 * HOUR,
    )
    assert rows == [
        (0, 20.0, 1, 2, 2, 1, 1),
        (1, 21.0, 1, 1, 1, 1, 1),
        (2, 190.0, 1, 3, 3, 1, 3),
        (3, 22.0, 1, 3, 3, 1, 3),
        (4, 900.0, 1, 4, 3, 1, 4),
        (5, 23.0, 1, 4, 3, 1, 4),
        (6, 1500.0, 3, 2, 3, 1, 3),
        (100, 20.0, 1, 2, 2, 1, 1),
        (101, 21.0, 1, 2, 1, 1, 1),
    ]
    quantities = site.sql(
        "SELECT DISTINCT quantity FROM air.qc_flags(92, :start, :end) ORDER BY 1",
        start=START,
        end=START + 2 * HOUR,
    )
    assert quantities == [("pm10",), ("pm25",)]


def test_what_does_not_change_is_suspect_and_then_fails(site: Site) -> None:
    moments = ticks(START, START + 8 * HOUR)
    load_weather(site, [weather(t, 20 + i % 3, 99.9) for i, t in enumerate(moments)])
    rows = site.sql(
        "SELECT ts, flat_line, flag FROM air.qc_flags(93, :since, :until)"
        " WHERE quantity = 'humidity'",
        since=START + 2 * HOUR,
        until=START + 7 * HOUR,
    )
    assert len(rows) == sum(2 * HOUR <= t - START < 7 * HOUR for t in moments)
    for ts, flat, flag in rows:
        since_start = ts - START
        due = 4 if since_start >= 6 * HOUR else 3 if since_start >= 3 * HOUR else 1
        # 99.9 % is accepted and suspect in any case.
        assert (flat, flag) == (due, max(due, 3)), ts
    others = site.sql(
        "SELECT DISTINCT quantity, flat_line FROM air.qc_flags(93, :since, :until) ORDER BY 1, 2",
        since=START,
        until=START + 2 * HOUR,
    )
    assert others == [("humidity", 1), ("pressure", 1), ("temperature", 1)]


def test_a_reading_that_is_not_there_is_missing(site: Site) -> None:
    load_dust(site, [dust(START + i * CADENCE, 10, 5) for i in range(3)])
    site.sql("UPDATE air.raw_particulate SET pm25 = NULL WHERE ts > :start", start=START)
    rows = site.sql(
        "SELECT gross_range, spike, rate_of_change, flat_line, flag"
        " FROM air.qc_flags(92, :start, :end) WHERE quantity = 'pm25' ORDER BY ts",
        start=START,
        end=START + HOUR,
    )
    assert rows == [(1, 2, 2, 1, 1), (9,) * 5, (9,) * 5]
    site.sql("UPDATE air.raw_particulate SET pm25 = 5")
