"""Arrow reads every cell that is not called odd, and means by it what we mean."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.malformed import (
    IDS,
    NUMBERS,
    TIMES,
    Letters,
    malformed_ids,
    malformed_numbers,
    malformed_times,
)
from pipeline.core.records import Bools

Odd = Callable[[pa.Array], Bools]

near_numbers = st.text(alphabet="0123456789.-+eE x,", max_size=20)
near_times = st.from_regex(r"[0-9]{4}[-/][0-9]{2}-[0-9]{2}[T _][0-9]{2}:[0-9]{2}:[0-9]{2}Z?")
KINDS: list[tuple[Odd, pa.DataType]] = [
    (malformed_numbers, pa.float64()),
    (malformed_ids, pa.int64()),
    (malformed_times, pa.timestamp("us")),
]


columns = st.lists(st.none() | near_numbers | near_times | st.text(max_size=25), max_size=30)


@pytest.mark.parametrize(("odd", "kind"), KINDS)
@settings(max_examples=30)
@given(cells=columns)
def test_what_is_not_odd_can_be_cast(odd: Odd, kind: pa.DataType, cells: list[str | None]) -> None:
    check_cast(odd, kind, cells)


@pytest.mark.slow
@pytest.mark.parametrize(("odd", "kind"), KINDS)
@settings(max_examples=500)
@given(cells=columns)
def test_what_is_not_odd_can_be_cast_at_length(
    odd: Odd, kind: pa.DataType, cells: list[str | None]
) -> None:
    check_cast(odd, kind, cells)


def check_cast(odd: Odd, kind: pa.DataType, cells: list[str | None]) -> None:
    text = pa.array(cells, pa.string())
    plain = text.filter(pa.array(~odd(text)))
    assert pc.cast(plain, kind).null_count == 0


@pytest.mark.parametrize(
    ("odd", "plain", "others"),
    [
        (
            malformed_numbers,
            ["0", "-0.5", "12.34", ".5", "5."],
            ["", "-", ".", "1.2.3", "1-", "1e5"],
        ),
        (malformed_ids, ["0", "007", "9" * 18], ["", "-1", "1.0", " 1", "0x1A", "9" * 19]),
        (
            malformed_times,
            ["2017-07-01T00:02:09", "2016-02-29 23:59:59", "2000-02-29T00:00:00"],
            [
                *("", "2017-02-29T00:00:00", "1900-02-29T00:00:00", "2017-04-31T00:00:00"),
                *("2017-13-01T00:00:00", "2017-00-01T00:00:00", "2017-01-00T00:00:00"),
                *("2017-07-01T24:00:00", "2017-07-01T00:60:00", "2017-07-01T00:00:60"),
                *("2017-07-01T00:02", "2017-07-01T00:02:09Z", "2017/07/01T00:02:09"),
            ],
        ),
    ],
)
def test_the_border(odd: Odd, plain: list[str], others: list[str]) -> None:
    cells = [None, *plain, *others]
    due = [True, *[False] * len(plain), *[True] * len(others)]
    # Also within a longer column, where the first cell does not start at the first letter.
    text = pa.array(["x", *cells, "y"], pa.string()).slice(1, len(cells))
    assert odd(text).tolist() == due


@pytest.mark.parametrize(
    ("letters", "plain", "others"),
    [
        (NUMBERS, ["0", "-0.5", "1.2.3", "-"], ["", "1e5", " 1", "1,5", "nan"]),
        (IDS, ["0", "007", "9" * 19], ["", "-1", "1.0", " 1", "0x1A"]),
        (
            TIMES,
            ["2017-07-01T00:02:09", "2017-02-30 00:00:00"],
            ["", "2017-07-01T00:02", "2017-07-01T00:02:09Z", "2017/07/01T00:02:09"],
        ),
    ],
)
def test_strange_letters(letters: Letters, plain: list[str], others: list[str]) -> None:
    cells = [None, *others, None, "", *plain, None, *others]
    due = [True] * (len(others) + 3) + [False] * len(plain) + [True] * (len(others) + 1)
    text = pa.array(["x", *cells, "y"], pa.string()).slice(1, len(cells))
    assert letters.foreign(text).tolist() == due


@pytest.mark.parametrize(("odd", "letters"), [(malformed_numbers, NUMBERS), (malformed_ids, IDS)])
@given(cells=st.lists(st.none() | near_numbers | st.text(max_size=25), min_size=1, max_size=30))
def test_what_is_strange_is_odd(odd: Odd, letters: Letters, cells: list[str | None]) -> None:
    text = pa.array(cells, pa.string())
    assert not (letters.foreign(text) & ~odd(text)).any()


@given(moment=st.datetimes(timezones=st.just(UTC)))
def test_every_moment_is_plain(moment: datetime) -> None:
    text = pa.array([f"{moment:%Y-%m-%dT%H:%M:%S}".zfill(19)])
    assert malformed_times(text).tolist() == [False]
    assert np.array_equal(malformed_ids(text), [True])
