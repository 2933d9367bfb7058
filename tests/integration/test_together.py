"""Readings of several blocks that are copied together: the same comes of it as one by one.

Blocks that follow each other may repeat or contradict each other, or what is in the database. Which
of them share a COPY depends on the clock, so nothing else may.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from itertools import islice

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import reading
from pipeline.core.process import Processed
from pipeline.core.records import Block, Readings
from pipeline.store import load as loading
from pipeline.store import parts as preparing
from pipeline.store.copy import Cursor, copy_in
from pipeline.store.load import Landed, Load, Store
from tests.integration.conftest import MakeSite, clock, emptied

START = np.datetime64("2018-01-31T23:50:00", "us")  # two months, so two partitions
Key = tuple[int, int]
Part = dict[Key, float]

# Few keys and few values: what is there already, and what contradicts it, comes up often.
keys = st.tuples(st.integers(1, 3), st.integers(0, 20))
parts = st.dictionaries(keys, st.sampled_from([1.0, 2.0]), max_size=40)
# In order, as files are: each block's readings are later than those of the block before it.
late = st.dictionaries(
    st.tuples(st.integers(1, 3), st.integers(0, 9)), st.sampled_from([1.0, 2.0]), max_size=2
)


@st.composite
def blocks_in_order(draw: st.DrawFn) -> list[Part]:
    every = []
    for number in range(draw(st.integers(1, 4))):
        steps = range(number * 30, number * 30 + 30)
        every.append(dict.fromkeys(((s, step) for s in (1, 2) for step in steps), 1.0))
        every[-1] |= draw(late)
    return every


def readings(part: Part) -> Readings:
    """Return readings whose `row` is their position in `part`."""
    sensors = np.array([sensor for sensor, _ in part], np.int32)
    steps = np.array([step for _, step in part], np.int64)
    frame = pd.DataFrame(
        {
            "sensor_id": sensors,
            "ts": START + steps * np.timedelta64(1, "m"),
            "location_id": np.ones(len(part), np.int64),
            "lat": 42.7,
            "lon": 23.3,
            "pm10": np.array(list(part.values()), np.float32),
            "flags": np.zeros(len(part), np.int16),
            "file": np.zeros(len(part), np.int64),
            "row": np.arange(len(part)),
        }
    ).sort_values(["sensor_id", "ts"])
    return Readings("raw_particulate", ("pm10",), frame, dict.fromkeys(range(1, 4), "sds011"))


def by_model(stored: Part, part: Part) -> tuple[set[int], int, set[int]]:
    """Return which rows land, how many repeat what is there, and which rows contradict it."""
    landed, duplicates, conflicts = set(), 0, set()
    for row, (key, value) in enumerate(part.items()):
        if key not in stored:
            stored[key] = value
            landed.add(row)
        elif stored[key] == value:
            duplicates += 1
        else:
            conflicts.add(row)
    return landed, duplicates, conflicts


def as_model(landed: Landed) -> tuple[set[int], int, set[int]]:
    return (
        set(landed.readings.frame["row"].tolist()),
        sum(landed.duplicates.values()),
        {stored.row for stored in landed.conflicts},
    )


def check(engine: sa.Engine, before: Part, several: list[Part]) -> None:
    emptied(engine)
    store, ids = Store(engine), np.array([7])
    stored: Part = {}
    with store.loading() as load:
        load.readings(readings(before), ids)
        load.finish()
    by_model(stored, before)
    with store.loading() as load:
        those = [readings(part) for part in several]
        copies = load.copies(those, ids)
        load._background.wait()
        found = load.together(copies)
        load.finish()
    due = [by_model(stored, part) for part in several]
    assert [as_model(landed) for landed in found] == due
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT sensor_id, extract(epoch FROM ts - :start)::int / 60, pm10, file_id"
                " FROM air.raw_particulate"
            ),
            {"start": f"{START}+00"},
        ).all()
        places = connection.execute(
            sa.text("SELECT sensor_id, first_ts, last_ts FROM air.sensor_place ORDER BY 1")
        ).all()
        due_places = connection.execute(
            sa.text(
                "SELECT sensor_id, min(ts), max(ts) FROM air.raw_particulate GROUP BY 1 ORDER BY 1"
            )
        ).all()
    assert {(sensor, step): value for sensor, step, value, _ in rows} == stored
    assert len(rows) == len(stored)
    assert places == due_places


@settings(max_examples=40)
@given(before=parts, several=st.lists(parts, max_size=4))
def test_blocks_that_collide(shared_engine: sa.Engine, before: Part, several: list[Part]) -> None:
    check(shared_engine, before, several)


@settings(max_examples=25)
@given(before=st.just({}) | parts, several=blocks_in_order())
def test_blocks_in_order_with_a_few_late_rows(
    shared_engine: sa.Engine, before: Part, several: list[Part]
) -> None:
    check(shared_engine, before, several)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each COPY into a raw table had."""
    counted: list[int] = []

    def counting(cursor: Cursor, table: tuple[str, ...], columns: dict[str, pa.Array]) -> None:
        if table[0] == "air":
            counted.append(len(columns["sensor_id"]))
        copy_in(cursor, table, columns)

    monkeypatch.setattr(loading, "copy_in", counting)
    return counted


def loaded(engine: sa.Engine, several: list[Part]) -> None:
    with Store(emptied(engine)).loading() as load:
        copies = load.copies([readings(part) for part in several], np.array([7]))
        load.later(lambda: load.together(copies)).result()


def steps(first: int, count: int) -> Part:
    return {(1, step): 1.0 for step in range(first, first + count)}


def test_blocks_in_order_take_one_copy(shared_engine: sa.Engine, copies: list[int]) -> None:
    loaded(shared_engine, [steps(0, 100), steps(100, 50), steps(150, 50)])
    assert copies == [200]


def test_a_late_row_does_not_make_others_be_copied_twice(
    shared_engine: sa.Engine, copies: list[int]
) -> None:
    loaded(shared_engine, [steps(0, 100), steps(100, 50) | {(1, 3): 1.0}, steps(150, 50)])
    assert copies == [200]


def test_a_block_out_of_order_is_copied_for_itself(
    shared_engine: sa.Engine, copies: list[int]
) -> None:
    loaded(shared_engine, [steps(100, 100), steps(0, 50), steps(200, 50)])
    assert copies == [100, 50, 50]


def test_what_was_noted_is_bounded(
    shared_engine: sa.Engine, copies: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "_SENSORS", 0)
    check(shared_engine, {}, [steps(0, 40), steps(10, 40), steps(60, 40) | {(1, 3): 2.0}])
    # The first stays, whoever is copied with whom: what may have come before is not taken for new.
    there = {key: value for key, value in steps(0, 100).items() if key != (1, 3)}
    first = {(1, 3): 1.0, **steps(100, 40)}
    other = {(2, step): 1.0 for step in range(30)}
    second = {(1, 3): 2.0} | {(3, step): 1.0 for step in range(30)}
    check(shared_engine, {}, [there, first, other, second])


def test_none_at_all(shared_engine: sa.Engine, copies: list[int]) -> None:
    with Store(emptied(shared_engine)).loading() as load:
        assert isinstance(load, Load)
        assert load.together(load.copies([], np.array([7]))) == []
        landed = load.readings(readings({}), np.array([7]))
    assert (len(landed.readings.frame), copies) == (0, [])


MIXED = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2;temperature;humidity\n"


# Without the numbers that sequences give out, but in the order in which they did.
CONTENTS = (
    "SELECT * FROM air.sensor ORDER BY sensor_id",
    "SELECT location_id, lat, lon FROM air.location ORDER BY location_key",
    "SELECT sensor_id, ts, pm10, pm25, flags FROM air.raw_particulate ORDER BY 1, 2",
    "SELECT sensor_id, ts, temperature, humidity, flags FROM air.raw_climate ORDER BY 1, 2",
    "SELECT line_no, line, reasons::text FROM air.quarantined_row ORDER BY 1",
    "SELECT sensor_model, rows_read, rows_loaded, rows_duplicate FROM air.source_file",
    "SELECT sensor_id, quantity, hour, n, min, max FROM air.hourly ORDER BY 1, 2, 3",
)


def mixed(number: int) -> str:
    """Return the row of a sensor that calls itself now this, now that."""
    rng = random.Random(number)
    kind = rng.choice(["SDS011", "DHT22", "SDS011", "HPM"])
    values = ";;21.5;60" if kind == "DHT22" else f"{rng.randrange(1, 4)};5;;"
    where, moment = rng.randrange(700), clock(number % 5)
    return f"{rng.randrange(1, 700)};{kind};{where};42.{where};23.3;{moment};{values}"


def test_what_is_copied_together_makes_no_difference_to_anything(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [mixed(number) for number in range(4_000)]
    text = MIXED + "".join(f"{row}\n" for row in rows)
    found = []
    for several in (1, 2, 3):

        def grouped(
            blocks: Generator[Block],
            work: Callable[[Block], Processed],
            *_: int,
            many: int = several,
        ) -> Generator[list[Processed]]:
            judged = map(work, blocks)
            while some := list(islice(judged, many)):
                yield some

        monkeypatch.setattr(reading, "ahead", grouped)
        site = make_site(block_bytes=2**16, batch_bytes=1)
        assert site.load(text).state == "loaded"
        found.append([site.sql(query) for query in CONTENTS])
    assert found[0] == found[1] == found[2]
