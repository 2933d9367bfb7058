"""Statistics merge exactly, however the rows were split."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract.quantities import SORTED_NAMES
from pipeline.core import aggregate
from pipeline.core.aggregate import summarise
from pipeline.core.records import Columns, Readings

Values = npt.NDArray[np.float32]
KEYS = ("sensor_id", "quantity", "hour")


def readings(
    values: Values, *, seconds: int = 100, sensors: int = 2, files: int = 3, start: int = 0
) -> Readings:
    """Return rows as they come from normalising: sorted by sensor and time."""
    count = len(values)
    at = np.arange(start, start + count)
    frame = pd.DataFrame(
        {
            "sensor_id": (at % sensors).astype(np.int32),
            "ts": np.datetime64("2017-07-01T00:00:00", "us") + at * np.timedelta64(seconds, "s"),
            "file": (at % files).astype(np.int64),
            "pm10": values,
            "pm25": np.where(at % 3 == 0, np.float32("nan"), values * np.float32(0.5)),
        }
    )
    frame = frame.sort_values(["sensor_id", "ts"], kind="stable")
    models = {number: f"model {number}" for number in range(sensors)}
    return Readings("raw_particulate", ("pm10", "pm25"), frame, models)


def by_numpy(parts: list[Readings], by: list[str]) -> dict[tuple[object, ...], list[float]]:
    """Work the statistics out anew, from all rows at once."""
    frame = pd.concat([part.frame for part in parts])
    frame["hour"] = frame["ts"].dt.floor("h")
    found: dict[tuple[object, ...], list[float]] = {}
    for name in ("pm10", "pm25"):
        for key, group in frame.groupby(by):
            values = group[name].dropna().to_numpy().astype(np.float64)
            if len(values):
                deviations = float(((values - values.mean()) ** 2).sum())
                found[(*key, name)] = [
                    *(len(values), values.min(), values.max(), values.mean(), deviations)
                ]
    return found


def table(statistics: Columns | None) -> pd.DataFrame:
    """Return statistics for people."""
    assert statistics is not None
    frame = pd.DataFrame(statistics)
    frame["quantity"] = [SORTED_NAMES[code] for code in statistics["quantity"]]
    if "hour" in frame:
        frame["hour"] = frame["hour"].astype("datetime64[us]")
    return frame


def assert_equal(
    given: Columns | None, due: dict[tuple[object, ...], list[float]], by: list[str]
) -> None:
    statistics = table(given)
    got = {
        (*(row[key] for key in by), row["quantity"]): [row[name] for name in aggregate.STATISTICS]
        for row in statistics.to_dict("records")
    }
    assert got.keys() == due.keys()
    assert len(statistics) == len(due)
    for key, numbers in due.items():
        assert got[key][:3] == numbers[:3], key
        np.testing.assert_allclose(got[key][3], numbers[3], rtol=1e-9)
        # Its own rounding is all that may separate the two, so it is measured by the values.
        scale = max(numbers[4], 1e-9 * numbers[0] * numbers[3] ** 2)
        np.testing.assert_allclose(got[key][4], numbers[4], rtol=1e-9, atol=1e-7 * scale)


RNG = np.random.default_rng(5)
KINDS: dict[str, Values] = {
    "spread": RNG.uniform(0, 2000, 300).astype(np.float32),
    "nearly constant": (np.float32(952.7) + RNG.normal(0, 1e-3, 300)).astype(np.float32),
    "constant": np.full(300, 9.53, np.float32),
    "zeros": np.zeros(300, np.float32),
    "one huge": np.append(np.full(299, 0.01), 1999.9).astype(np.float32),
    "one": np.array([9.53], np.float32),
    "two": np.array([9.53, 2.83], np.float32),
}


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS)
def test_by_hour_and_by_file(values: Values) -> None:
    rows = readings(values)
    by_hour = ["sensor_id", "hour"]
    assert_equal(summarise(rows).hourly, by_numpy([rows], by_hour), by_hour)
    by_file = ["file", "sensor_id"]
    assert_equal(summarise(rows).by_file, by_numpy([rows], by_file), by_file)


# However it is split, the whole is the same, so it is worked out once.
DUE = {kind: by_numpy([readings(values)], ["sensor_id", "hour"]) for kind, values in KINDS.items()}
STEADY = settings(deadline=None, derandomize=True)


@settings(STEADY, max_examples=12)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.integers(0, 300), max_size=8),
    st.sampled_from([1, 3, 100_000]),
)
def test_merging_any_split_equals_numpy(kind: str, cuts: list[int], enough: int) -> None:
    values = KINDS[kind]
    edges = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    parts = [readings(values[low:high], start=low) for low, high in pairwise(edges)]
    due = DUE[kind]

    merged = aggregate.merge([summarise(part).hourly for part in parts], KEYS)
    assert_equal(merged, due, ["sensor_id", "hour"])

    running = aggregate.Running(KEYS, enough)
    for part in parts:
        running.add(summarise(part).hourly)
        if len(cuts) % 2:
            running.settle()
    assert running.full == (len(due) > enough)
    assert_equal(running.take(), due, ["sensor_id", "hour"])
    assert running.take() is None


DAY = 24 * aggregate.HOUR
HOURS = [int(np.datetime64(f"2017-07-01T{hour:02}", "us").astype(np.int64)) for hour in range(24)]


@pytest.mark.parametrize("hour", HOURS[:10])
def test_earlier_hours_are_taken_and_the_others_kept(hour: int) -> None:
    rows = readings(KINDS["spread"])
    due = by_numpy([rows], ["sensor_id", "hour"])
    running = aggregate.Running(KEYS, enough=12)
    for start in range(0, 300, 50):
        running.add(summarise(readings(KINDS["spread"][start : start + 50], start=start)).hourly)
    earlier = running.take_before(hour)
    assert earlier is not None
    later = running.take()
    if later is None:
        assert_equal(earlier, due, ["sensor_id", "hour"])  # too many to keep
        return
    assert earlier["hour"].max() < hour <= later["hour"].min()
    assert len(later["n"]) <= 6
    assert_equal(aggregate.merge([earlier, later], KEYS), due, ["sensor_id", "hour"])


def test_the_day_that_readings_have_reached() -> None:
    # A clock that is behind takes one sensor's readings to another year: that is no reason to wait.
    hours = np.array([HOURS[0] - 400 * DAY, *HOURS * 2, *(HOURS[3] + DAY,) * 9])
    assert aggregate.day_reached({"hour": hours}) == HOURS[0]
    assert aggregate.day_reached({"hour": hours[-9:]}) == HOURS[0] + DAY


@settings(STEADY, max_examples=5)
@given(st.permutations(range(6)))
def test_the_order_of_merging_does_not_matter(order: list[int]) -> None:
    values = KINDS["nearly constant"]
    parts = [
        summarise(readings(values[i : i + 50], start=i)).hourly for i in range(0, len(values), 50)
    ]
    running = parts[order[0]]
    for i in order[1:]:
        running = aggregate.merge([running, parts[i]], KEYS)
    assert_equal(running, DUE["nearly constant"], ["sensor_id", "hour"])


@pytest.mark.parametrize("files", [1, 3])
def test_what_each_file_brought(files: int) -> None:
    rows = readings(KINDS["spread"], files=files, sensors=2)
    found = summarise(rows).spans
    assert [span.file for span in found] == list(range(files))
    for span in found:
        of_file = rows.frame[rows.frame["file"] == span.file]
        assert span.rows == len(of_file)
        assert pd.Timestamp(span.first) == of_file["ts"].min().tz_localize("UTC")
        assert pd.Timestamp(span.last) == of_file["ts"].max().tz_localize("UTC")
        assert span.models == {f"model {number}" for number in of_file["sensor_id"]}


def test_no_rows_give_no_statistics() -> None:
    rows = readings(np.array([], np.float32))
    assert len(table(summarise(rows).hourly)) == 0
    assert len(table(summarise(rows).by_file)) == 0
    assert summarise(rows).spans == []
    running = aggregate.Running(KEYS)
    running.add(summarise(rows).hourly)
    assert running.take() is None


def test_a_quantity_without_a_value_has_no_row() -> None:
    rows = readings(np.full(4, np.nan, np.float32))
    assert len(table(summarise(rows).hourly)) == 0


def test_an_hour_begins_with_its_first_second() -> None:
    rows = readings(np.array([1, 2, 4], np.float32), seconds=3599, sensors=1)
    found = table(summarise(rows).hourly)
    of_pm10 = found[found["quantity"] == "pm10"]
    assert of_pm10["hour"].dt.to_pydatetime().tolist() == [
        datetime.fromisoformat("2017-07-01T00:00"),
        datetime.fromisoformat("2017-07-01T01:00"),
    ]
    assert of_pm10["n"].tolist() == [2, 1]


def test_types_are_those_of_the_tables() -> None:
    found = aggregate.merge([summarise(readings(KINDS["two"])).hourly] * 2, KEYS)
    assert found["min"].dtype == found["max"].dtype == np.float32
    assert found["mean"].dtype == found["m2"].dtype == np.float64
    assert found["n"].dtype == np.int64
