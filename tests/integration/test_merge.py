"""However readings come, in one file or in many that overlap, the same database comes of it.

Readings whose keys are new go straight into the raw table; as soon as one key is taken they take
the way through the staging table. Both ways, and every mixture, must agree.
"""

from __future__ import annotations

import gzip
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.integration.conftest import (
    ARCHIVE_BME,
    ARCHIVE_SDS,
    SOFIA_BME,
    MakeSite,
    Site,
    clock,
    pm,
    sds,
)

START = datetime(2017, 6, 30, 20, tzinfo=UTC)
PMS = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2;P0\n"


def climate(number: int) -> str:
    """Return the row of a BME280, told apart by its time; every hour has about 25 of them."""
    rng = random.Random(number)
    moment = START + timedelta(seconds=number * 148)
    # Nearly constant beside its mean: where sums of squares would lose all their digits.
    pressure, warmth, damp = 95270 + rng.random(), rng.gauss(20, 5), rng.uniform(20, 100)
    return (
        f"{number % 3 + 1};BME280;{number % 3};42.{number % 3};23.3;{moment:%Y-%m-%dT%H:%M:%S};"
        f"{pressure:.2f};;;{warmth:.2f};{damp:.2f}"
    )


ROWS = [climate(number) for number in range(400)]


def overlapping(rng: random.Random, rows: list[str]) -> list[list[str]]:
    """Return pieces that overlap, in any order, each row in one of them at least."""
    pieces = []
    for start in range(0, len(rows), 50):
        piece = rows[max(0, start - rng.randrange(50)) : start + 50 + rng.randrange(50)]
        piece += rng.sample(rows, 10)
        rng.shuffle(piece)
        pieces.append(piece)
    rng.shuffle(pieces)
    return pieces


def readings(site: Site) -> list[tuple[Any, ...]]:
    """Return what analysts see, without the numbers that tell which file came first."""
    found = []
    for table, names in {
        "raw_particulate": "pm10, pm25, pm1",
        "raw_climate": "temperature, humidity, pressure",
    }.items():
        found += site.sql(
            f"SELECT sensor_id, ts, {names}, flags, location_id, lat, lon FROM air.{table}"
            " JOIN air.location USING (location_key) ORDER BY sensor_id, ts"
        )
    return found


def hours(site: Site) -> list[tuple[Any, ...]]:
    return site.sql(
        "SELECT sensor_id, quantity, hour, n, min, max, mean, std FROM air.hourly"
        " ORDER BY sensor_id, quantity, hour"
    )


def assert_same_hours(left: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> None:
    assert [row[:6] for row in left] == [row[:6] for row in right]
    for column in (6, 7):
        kept, anew = (np.array([row[column] for row in rows], np.float64) for rows in (left, right))
        np.testing.assert_allclose(kept, anew, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_many_overlapping_files_or_one(seed: int, make_site: MakeSite) -> None:
    once = make_site()
    once.load(ARCHIVE_BME + "\n".join(ROWS))
    assert once.counts() == (400, 400, 0, 0)
    due, due_hours = readings(once), hours(once)

    pieces = overlapping(random.Random(seed), ROWS)
    ways = {
        "one by one": [[piece] for piece in pieces],
        "all at once": [pieces],
        "some at a time": [pieces[:3], pieces[3:4], pieces[4:]],
    }
    for way, runs in ways.items():
        site = make_site()
        numbers = iter(range(len(pieces)))
        for run in runs:
            for piece in run:
                site.drop(f"{next(numbers)}.csv", ARCHIVE_BME + "\n".join(piece))
            assert {outcome.state for outcome in site.run()} == {"loaded"}, way
        assert readings(site) == due, way
        assert_same_hours(hours(site), due_hours)
        total = sum(len(piece) for piece in pieces)
        books = "SELECT sum(rows_read), sum(rows_loaded), sum(rows_duplicate) FROM air.source_file"
        assert site.sql(books) == [(total, 400, total - 400)], way


def test_all_keys_collide(site: Site) -> None:
    site.load(ARCHIVE_BME + "\n".join(ROWS), "first.csv")
    before = {name: rows for name, rows in site.dump().items() if name != "source_file"}

    # The same readings in other bytes; the second time the store remembers nothing.
    for number, end in enumerate(["\r\n", " \n"]):
        name = f"again {number}.csv"
        site.load(ARCHIVE_BME + end.join(ROWS), name)
        assert site.counts(name) == (400, 0, 400, 0)
        assert site.ledger(name)["first_ts"] is None
        site.reopen()

    after = {name: rows for name, rows in site.dump().items() if name != "source_file"}
    assert after == before


def test_some_keys_collide(site: Site) -> None:
    site.load(ARCHIVE_BME + "\n".join(ROWS[100:150]), "first.csv")
    site.load(ARCHIVE_BME + "\n".join(ROWS[:200]), "second.csv")
    assert site.counts("second.csv") == (200, 150, 50, 0)
    ledger = site.ledger("second.csv")
    assert (ledger["first_ts"], ledger["last_ts"]) == (START, START + timedelta(seconds=199 * 148))
    assert site.raw_rows() == 200
    # What was there first keeps its file.
    by_file = "SELECT file_id, count(*) FROM air.raw_climate GROUP BY file_id ORDER BY file_id"
    assert site.sql(by_file) == [
        (site.ledger("first.csv")["file_id"], 50),
        (ledger["file_id"], 150),
    ]


def test_some_collide_and_some_contradict(site: Site) -> None:
    changed = [row.rsplit(";", 1)[0] + ";55.55" for row in ROWS[40:60]]
    site.load(ARCHIVE_BME + "\n".join(ROWS[:100]), "first.csv")
    before = readings(site)

    site.load(ARCHIVE_BME + "\n".join([*ROWS[:40], *changed, *ROWS[60:120]]), "second.csv")

    assert site.counts("second.csv") == (120, 20, 80, 20)
    rejected = site.rejected("second.csv")
    assert [bad.line for bad in rejected.values()] == changed
    assert list(rejected) == list(range(42, 62))
    for bad in rejected.values():
        (reason,) = bad.reasons
        assert reason["rule"] == "conflict"
        assert "humidity 55.55" in reason["value"]
        assert "in the database, from first.csv" in reason["message"]
    kept = readings(site)
    assert len(kept) == 120
    assert set(before) < set(kept)


# --- equal means equal as stored ------------------------------------------------------------------

NEXT = repr(float(np.nextafter(np.float32(9.53), np.float32(10))))

WRITTEN = {
    "9.530": True,
    "9.53000000": True,
    "+9.53": True,
    "953e-2": True,
    "9.5299999": True,  # the same 32-bit number
    NEXT: False,  # the next one
    "9.54": False,
}


@pytest.mark.parametrize("where", ["in one file", "in one batch", "in the database"])
@pytest.mark.parametrize(("text", "same"), WRITTEN.items(), ids=WRITTEN)
def test_values_are_equal_when_they_are_stored_equal(
    text: str, same: bool, where: str, site: Site
) -> None:
    first, second = pm(0, p1="9.53"), pm(0, p1=text)
    if where == "in one file":
        site.load(sds(first, second), "second.csv")
        counts = (2, 1, 1, 0) if same else (2, 1, 0, 1)
    else:
        site.drop("first.csv", sds(first))
        if where == "in the database":
            site.run()
        site.load(sds(second), "second.csv")
        counts = (1, 0, 1, 0) if same else (1, 0, 0, 1)
    assert site.counts("second.csv") == counts
    assert site.sql("SELECT pm10 FROM air.raw_particulate") == [(9.53,)]


def test_a_converted_unit_is_compared_after_conversion(site: Site) -> None:
    row = "0,7,1,42.6,23.3,2017-07-01T00:00:00,{},20,50\n"
    site.load(SOFIA_BME + row.format("95270.27"), "first.csv")
    site.load(SOFIA_BME + row.format("95270.2700"), "second.csv")
    site.load(SOFIA_BME + row.format("95270.28"), "third.csv")
    assert site.counts("second.csv") == (1, 0, 1, 0)
    assert site.counts("third.csv") == (1, 0, 0, 1)


def test_a_negative_zero_is_zero(site: Site) -> None:
    site.load(sds(pm(0, p1="0"), pm(0, p1="-0")), "first.csv")
    site.load(sds(pm(0, p1="-0.0")), "second.csv")
    assert site.counts("first.csv") == (2, 1, 1, 0)
    assert site.counts("second.csv") == (1, 0, 1, 0)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
def test_a_quantity_that_the_stored_row_lacks_is_a_difference(together: bool, site: Site) -> None:
    """An SDS011 brings no PM1. NULL equals NULL, and nothing else."""
    place = "42;42.689;23.341"
    site.drop("first.csv", sds(pm(0), pm(1)))
    if not together:
        site.run()
    rows = [f"92;PMS5003;{place};{clock(second)};9.53;2.83;1.5" for second in (1, 2)]
    site.drop("second.csv", PMS + "\n".join(rows))
    site.run()

    assert site.counts("second.csv") == (2, 1, 0, 1)
    (bad,) = site.rejected("second.csv").values()
    (reason,) = bad.reasons
    assert reason["expected"] == "pm10 9.53, pm25 2.83, pm1 empty"
    assert reason["value"] == "pm10 9.53, pm25 2.83, pm1 1.5"
    assert site.sql("SELECT pm1 FROM air.raw_particulate ORDER BY ts") == [(None,), (None,), (1.5,)]


def test_a_row_that_says_less_than_the_stored_one_repeats_it(site: Site) -> None:
    site.load(PMS + f"92;PMS5003;42;42.689;23.341;{clock(0)};9.53;2.83;1.5\n", "first.csv")
    site.load(sds(pm(0), pm(1)), "second.csv")
    assert site.counts("second.csv") == (2, 1, 1, 0)


def test_both_raw_tables_have_keys_of_their_own(site: Site) -> None:
    """A number stands for one sensor in the network, but nothing here depends on it."""
    site.load(sds(pm(0, sensor=1), pm(148, sensor=1)), "first.csv")
    row = f"1;BME280;42;42.689;23.341;{clock(0)};95000;;;20;50\n"
    site.load(ARCHIVE_BME + row, "second.csv")
    assert site.counts("second.csv") == (1, 1, 0, 0)


def test_places_are_told_apart_and_found_again(site: Site) -> None:
    """Empty ones too; and a place is no part of a reading's key."""
    places = ["42;42.1;23.1", "42;42.2;23.1", "42;;", ";;", ";42.1;23.1", "43;42.1;23.1"]

    def content(day: str, order: list[str]) -> str:
        rows = [pm(n).replace("42;42.689;23.341", place) for n, place in enumerate(order)]
        return sds(*rows).replace("2017-07-01", day)

    site.load(content("2017-07-01", places), "first.csv")
    site.load(content("2017-07-02", places), "second.csv")
    site.reopen()
    site.load(content("2017-07-03", places), "third.csv")
    assert site.one("SELECT count(*) FROM air.location") == len(places)
    # The same keys from elsewhere are the same readings: the first place stays.
    site.load(content("2017-07-03", places[::-1]), "moved.csv")
    assert site.counts("moved.csv") == (6, 0, 6, 0)
    kept = site.sql(
        "SELECT location_id, lat, lon FROM air.raw_particulate JOIN air.location"
        " USING (location_key) WHERE ts >= '2017-07-03' ORDER BY ts"
    )
    assert kept == [
        (42, 42.1, 23.1),
        (42, 42.2, 23.1),
        (42, None, None),
        (None, None, None),
        (None, 42.1, 23.1),
        (43, 42.1, 23.1),
    ]


# --- where one block ends and the next begins -----------------------------------------------------


def long_file(end: str) -> tuple[str, dict[int, str], int]:
    """Return a file in which every row comes three times, two of them as neighbours, with a bad
    row and a blank line now and then; its bad rows by number; and how many good ones differ."""
    lines, bad = [ARCHIVE_SDS.rstrip()], {}
    good = [pm(n, p1=n % 97 / 8, sensor=n % 5 + 1) for n in range(1500)]
    for number, row in enumerate(good):
        lines += [row, row]
        if number % 97 == 0:
            lines += ["", f"{row};Ж"]
            bad[len(lines)] = lines[-1]
    lines += good
    return end.join(lines), bad, len(good)


# Any two of these ways meet in the usual run, all three of them in the long one.
@pytest.mark.parametrize(
    ("streamed", "end", "packed"),
    [
        pytest.param(False, "\n", False, id="held-LF-plain"),
        pytest.param(False, "\r\n", True, id="held-CRLF-gzip"),
        pytest.param(True, "\n", True, id="streamed-LF-gzip"),
        pytest.param(True, "\r\n", False, id="streamed-CRLF-plain"),
        pytest.param(False, "\n", True, id="held-LF-gzip", marks=pytest.mark.slow),
        pytest.param(False, "\r\n", False, id="held-CRLF-plain", marks=pytest.mark.slow),
        pytest.param(True, "\n", False, id="streamed-LF-plain", marks=pytest.mark.slow),
        pytest.param(True, "\r\n", True, id="streamed-CRLF-gzip", marks=pytest.mark.slow),
    ],
)
def test_duplicates_and_bad_rows_on_both_sides_of_block_boundaries(
    streamed: bool, end: str, packed: bool, make_site: MakeSite
) -> None:
    text, bad, differing = long_file(end)
    content = gzip.compress(text.encode()) if packed else text.encode()
    assert len(text) > 4 * 2**16
    limit = len(content) - 1 if streamed else 2**24
    site = make_site(block_bytes=2**16, batch_bytes=limit)
    site.drop("small.csv", sds(pm(1499, p1=1499 % 97 / 8, sensor=5), pm(3000)))

    site.load(content, "long.csv")

    assert site.counts("long.csv") == (
        3 * differing + len(bad),
        differing - 1,
        2 * differing + 1,
        len(bad),
    )
    assert {n: row.exact.decode() for n, row in site.rejected("long.csv").items()} == bad
    assert site.raw_rows() == differing + 1


def test_small_files_that_share_blocks(make_site: MakeSite) -> None:
    """Many files are joined into blocks; each row is still known by its own file and line."""
    site = make_site(block_bytes=2**16)
    for number in range(60):
        rows = [pm(number * 60 + second, sensor=second % 3 + 1) for second in range(60)]
        rows.insert(number, f"bad {number}")
        if number:
            rows.append(pm(number * 60 - 1, sensor=3))  # the last of the file before
        site.drop(f"{number:02}.csv", sds(*rows))
    site.run()
    for number in range(60):
        name = f"{number:02}.csv"
        ((line_no, bad),) = site.rejected(name).items()
        assert (line_no, bad.line) == (number + 2, f"bad {number}")
        assert site.counts(name) == ((62, 60, 1, 1) if number else (61, 60, 0, 1))
    assert site.raw_rows() == 3600
