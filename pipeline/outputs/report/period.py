"""The time that a report is about: a day, an ISO week or a calendar month, all of them in UTC."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

from pipeline.errors import InvalidArgument

Kind = Literal["day", "week", "month"]

# Not by strftime: a report reads the same in every locale.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Period:
    """A span of whole days.

    Attributes:
        kind: what it is called.
        first: its first day, UTC.
        days: how many days it has.
    """

    kind: Kind
    first: date
    days: int

    @property
    def after(self) -> date:
        """The day after the last one."""
        return self.first + timedelta(days=self.days)

    @property
    def last(self) -> date:
        """The last day."""
        return self.first + timedelta(days=self.days - 1)

    @property
    def since(self) -> datetime:
        """Its first moment."""
        return datetime.combine(self.first, time(), tzinfo=UTC)

    @property
    def until(self) -> datetime:
        """The first moment after it."""
        return datetime.combine(self.after, time(), tzinfo=UTC)

    @property
    def step(self) -> Literal["hour", "day"]:
        """What its charts go by."""
        return "day" if self.kind == "month" else "hour"

    @property
    def steps(self) -> list[datetime]:
        """Every hour or day in it."""
        step = timedelta(days=1) if self.step == "day" else timedelta(hours=1)
        return [self.since + i * step for i in range((self.until - self.since) // step)]

    @property
    def name(self) -> str:
        """A short name, fit for a file: 2018-01-31, 2018-W05 or 2018-01."""
        if self.kind == "day":
            return self.first.isoformat()
        if self.kind == "month":
            return f"{self.first:%Y-%m}"
        year, week, _ = self.first.isocalendar()
        return f"{year}-W{week:02}"

    @property
    def title(self) -> str:
        """What a person calls it."""
        if self.kind == "day":
            return f"{_WEEKDAYS[self.first.weekday()]}, {spoken(self.first)}"
        if self.kind == "month":
            return f"{_MONTHS[self.first.month - 1]} {self.first.year}"
        year, week, _ = self.first.isocalendar()
        return f"Week {week} of {year}, {self._days}"

    @property
    def span(self) -> str:
        """From when to when, as it is put under a chart."""
        if self.kind == "day":
            return f"{spoken(self.first)}, 00:00 to 24:00 UTC"
        return f"{self._days}, UTC"

    @property
    def _days(self) -> str:
        start = spoken(self.first)
        if self.first.year == self.last.year:
            start = start.removesuffix(f" {self.first.year}")
        return f"{start} to {spoken(self.last)}"


def spoken(day: date) -> str:
    """Return for example `31 January 2018`."""
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def day_of(text: str) -> Period:
    """Return the day written as YYYY-MM-DD.

    Raises:
        InvalidArgument: it is no such day.
    """
    return Period("day", _date(text, "day", "a day as 2018-01-31"), 1)


def week_of(text: str) -> Period:
    """Return the ISO week written as YYYY-Www, or that in which a date lies.

    Raises:
        InvalidArgument: it is neither.
    """
    accepted = "a week as 2018-W05, or a day in it as 2018-01-31"
    if found := re.fullmatch(r"(\d{4})-?[Ww](\d{1,2})", text, re.ASCII):
        try:
            return Period("week", date.fromisocalendar(int(found[1]), int(found[2]), 1), 7)
        except ValueError:
            raise _wrong(text, "week", accepted) from None
    return _around("week", _date(text, "week", accepted))


def month_of(text: str) -> Period:
    """Return the month written as YYYY-MM.

    Raises:
        InvalidArgument: it is no such month.
    """
    accepted = "a month as 2018-01"
    if not re.fullmatch(r"\d{4}-\d{2}", text, re.ASCII):
        raise _wrong(text, "month", accepted)
    return _around("month", _date(f"{text}-01", "month", accepted, shown=text))


def last(kind: Kind, today: date) -> Period:
    """Return the newest day, week or month that was over before a day began."""
    if kind == "day":
        return Period("day", today - timedelta(days=1), 1)
    return _around(kind, _around(kind, today).first - timedelta(days=1))


def _around(kind: Kind, day: date) -> Period:
    if kind == "week":
        return Period("week", day - timedelta(days=day.weekday()), 7)
    return Period("month", day.replace(day=1), monthrange(day.year, day.month)[1])


def _date(text: str, argument: str, accepted: str, shown: str | None = None) -> date:
    try:
        # Only the form that is shown to people, though fromisoformat() knows more of them.
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
            raise _wrong(shown or text, argument, accepted)
        return date.fromisoformat(text)
    except ValueError:
        raise _wrong(shown or text, argument, accepted) from None


def _wrong(text: str, argument: str, accepted: str) -> InvalidArgument:
    return InvalidArgument(f"{argument}: {text!r} is not {accepted}", argument)
