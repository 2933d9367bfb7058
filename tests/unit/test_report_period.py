"""Which days a report is about, and how they are called."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from pipeline.errors import InvalidArgument
from pipeline.outputs.report import period as periods
from pipeline.outputs.report.period import Kind, Period


def test_a_day() -> None:
    day = periods.day_of("2018-01-31")
    assert (day.name, day.title) == ("2018-01-31", "Wednesday, 31 January 2018")
    assert day.span == "31 January 2018, 00:00 to 24:00 UTC"
    assert day.since == datetime(2018, 1, 31, tzinfo=UTC)
    assert day.until == datetime(2018, 2, 1, tzinfo=UTC)
    assert len(day.steps) == 24


@pytest.mark.parametrize("text", ["2018-W01", "2018W1", "2018-w01", "2018-01-01", "2018-01-07"])
def test_a_week(text: str) -> None:
    week = periods.week_of(text)
    assert week == Period("week", date(2018, 1, 1), 7)
    assert (week.name, week.title) == ("2018-W01", "Week 1 of 2018, 1 January to 7 January 2018")
    assert len(week.steps) == 168


def test_a_week_of_two_years() -> None:
    week = periods.week_of("2020-12-31")
    assert (week.name, week.first, week.last) == ("2020-W53", date(2020, 12, 28), date(2021, 1, 3))
    assert week.span == "28 December 2020 to 3 January 2021, UTC"


@pytest.mark.parametrize(("text", "days"), [("2018-01", 31), ("2018-02", 28), ("2020-02", 29)])
def test_a_month(text: str, days: int) -> None:
    month = periods.month_of(text)
    assert (month.name, month.days, month.first.day, len(month.steps)) == (text, days, 1, days)


@pytest.mark.parametrize(
    ("kind", "today", "name"),
    [
        ("day", date(2018, 3, 1), "2018-02-28"),
        ("week", date(2018, 1, 1), "2017-W52"),
        ("week", date(2018, 1, 7), "2017-W52"),
        ("week", date(2018, 1, 8), "2018-W01"),
        ("month", date(2018, 1, 31), "2017-12"),
        ("month", date(2018, 2, 1), "2018-01"),
    ],
)
def test_the_last_one_is_over(kind: Kind, today: date, name: str) -> None:
    found = periods.last(kind, today)
    assert found.name == name
    assert found.after <= today


@pytest.mark.parametrize(
    "text", ["31.01.2018", "20180131", "2018-1-31", "2018-02-30", "", "٢٠١٨-٠١-٣١"]
)
def test_no_day(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^day: .* is not a day as 2018-01-31"):
        periods.day_of(text)


@pytest.mark.parametrize("text", ["2018-W54", "2018-W00", "W01", "2018-01", "5"])
def test_no_week(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^week: .* is not a week as 2018-W05"):
        periods.week_of(text)


@pytest.mark.parametrize("text", ["2018-13", "2018-1", "2018-01-01", "January"])
def test_no_month(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^month: .* is not a month as 2018-01"):
        periods.month_of(text)
