"""The rule for readings with the same key, and the core and the oracle held to it."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.contract.repeats import Resolved, Values, as_stored, resolve, says_the_same
from pipeline.core.normalise import settle
from pipeline.core.process import process
from pipeline.core.records import Block, Segment
from tests.oracle import Oracle

CONTRACT = Contract.default()
NOW = datetime(2020, 1, 1, 12, tzinfo=UTC)
HEADER = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2;P0"
# As text: some differ as it, and are the same as they are stored; the last is another 32-bit float.
NUMBERS = ["9.53", "9.530", "9.5300000001", "9.530001"]
# Of these, two measure the same, the last one quantity more.
MODELS = {"SDS011": ("pm10", "pm25"), "HPM": ("pm10", "pm25"), "PMS7003": ("pm10", "pm25", "pm1")}

Row = tuple[int, str, tuple[str, str, str]]  # sensor, model, its cells

rows = st.tuples(
    st.sampled_from([1, 2]),
    st.sampled_from(list(MODELS)),
    st.tuples(*[st.sampled_from(NUMBERS)] * 2, st.sampled_from(["", *NUMBERS[::3]])),
)


def lines_of(some: list[Row]) -> list[str]:
    return [
        f"{sensor};{model};42;42.7;23.3;2017-07-01T00:00:00;{';'.join(cells)}"
        for sensor, model, cells in some
    ]


def values_of(row: Row) -> Values:
    """Return what a row says, of what its model measures."""
    _, model, cells = row
    numbers = [float(cell) if cell else None for cell in cells]
    return dict(zip(MODELS[model], numbers, strict=False))


def resolved(some: list[Row]) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """Return sensor → the positions of what the rule keeps, of duplicates and of conflicts."""
    by_sensor: dict[int, list[int]] = defaultdict(list)
    for position, (sensor, _, _) in enumerate(some):
        by_sensor[sensor].append(position)
    found = {}
    for sensor, positions in by_sensor.items():
        done = resolve([values_of(some[position]) for position in positions])
        parts = ([done.kept], done.duplicates, done.conflicts)
        found[sensor] = tuple([positions[at] for at in part if at is not None] for part in parts)
    return found  # type: ignore[return-value]  # three of them


def test_the_first_row_is_kept_and_others_compared_with_it() -> None:
    same, other = {"pm10": 1.0, "pm25": None}, {"pm10": 1.0, "pm25": 2.0}
    assert resolve([same]) == Resolved(0, (), ())
    assert resolve([same, other, same, other]) == Resolved(0, (2,), (1, 3))
    assert resolve([same, other], stored=other) == Resolved(None, (1,), (0,))
    assert resolve([], stored=other) == Resolved(None, (), ())


def test_what_a_model_does_not_measure_is_not_compared() -> None:
    two, three = {"pm10": 1.0, "pm25": 2.0}, {"pm10": 1.0, "pm25": 2.0, "pm1": 3.0}
    assert says_the_same(two, three)
    assert not says_the_same(three, two)
    assert says_the_same({**three, "pm1": None}, two)


@pytest.mark.parametrize(
    ("value", "stored"),
    [(None, None), (math.nan, None), (0.1, 0.10000000149011612), (-0.0, 0.0), (9.5, 9.5)],
)
def test_values_are_compared_as_they_are_stored(value: float | None, stored: float | None) -> None:
    assert as_stored(value) == stored


@settings(deadline=None, derandomize=True, max_examples=150)
@given(some=st.lists(rows, min_size=1, max_size=8))
def test_a_block_is_processed_by_the_rule(some: list[Row]) -> None:
    text = "".join(f"{line}\n" for line in lines_of(some)).encode()
    header = recognise(HEADER, CONTRACT)
    done = process(Block(header, text, (Segment(0, 2, len(some), source="it"),)), CONTRACT, NOW)
    due = resolved(some)
    kept = sorted(position for each in due.values() for position in each[0])
    again = sorted(position for each in due.values() for position in each[1] + each[2])
    assert sorted(line - 2 for line in done.readings["line_no"].to_pylist()) == kept
    assert sorted(line - 2 for line in done.repeats["line_no"].to_pylist()) == again
    # Which of the rows of one model repeat or contradict the first of it, or what is stored.
    for group in done.groups:
        stored = {"pm10": 9.53, "pm25": 9.53, "pm1": math.nan}
        for beaten in (False, True):
            stays = {int(row): (stored, "it") for row in group.readings.frame["row"]}
            counted, conflicts = settle(
                group.readings, group.repeats, done.lines, ["it"], stays if beaten else {}
            )
            duplicate, conflicting = 0, []
            for sensor in group.readings.frame["sensor_id"]:
                frame = group.repeats.frame
                first = group.readings.frame.set_index("sensor_id")["row"][sensor]
                own = [int(first), *frame["row"][frame["sensor_id"] == sensor].tolist()]
                values = [values_of(some[position]) for position in own]
                outcome = resolve(values, stored if beaten else None)
                conflicting += [own[at] for at in outcome.conflicts if at]
                duplicate += sum(at > 0 for at in outcome.duplicates)
            assert sum(counted.values()) == duplicate
            assert sorted(row.line_no - 2 for row in conflicts) == sorted(conflicting)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(some=st.lists(rows, min_size=1, max_size=8), split=st.integers(0, 8))
def test_the_oracle_goes_by_the_rule(some: list[Row], split: int) -> None:
    oracle = Oracle(NOW)
    books = [
        oracle.take_bytes(name, "\n".join([HEADER, *lines_of(part), "", name]).encode())
        for name, part in (("a;", some[:split]), ("b;", some[split:]))
    ]
    got_duplicates = [number - 2 for number in books[0].duplicates]
    got_duplicates += [number - 2 + len(some[:split]) for number in books[1].duplicates]
    conflict = frozenset({(None, "conflict")})
    conflicts = [n - 2 for n, bad in books[0].bad.items() if bad.broken == conflict]
    offset = len(some[:split])
    conflicts += [n - 2 + offset for n, bad in books[1].bad.items() if bad.broken == conflict]
    due = resolved(some)
    assert sorted(got_duplicates) == sorted(at for each in due.values() for at in each[1])
    assert sorted(conflicts) == sorted(at for each in due.values() for at in each[2])
