"""Timestamps: which times of day are accepted, and how they are read.

ISO 8601 with a date and a time of day. Besides the usual form, the standard allows a comma before
the fraction of a second, and 24:00 for the end of a day; RFC 3339 allows small letters.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

PATTERN = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)?"
# The end of a day. Its fraction can only be zero.
END_OF_DAY = r"^(\d{4}-\d\d-\d\d[Tt ])24(:00(:00([.,]0+)?)?([Zz]|[+-]\d\d(:?\d\d)?)?)$"

_TIME = re.compile(PATTERN, re.ASCII)
_END_OF_DAY = re.compile(END_OF_DAY, re.ASCII)


def parse_time(text: str) -> datetime | None:
    """Return a time with its zone, which is UTC where there is none. None: it is no such time.

    Args:
        text: a cell without spaces around it.

    Raises:
        ValueError: it is written as a time, and does not exist.
    """
    if not _TIME.fullmatch(text):
        return None
    usual, ends_day = _END_OF_DAY.subn(r"\g<1>00\2", text)
    found = datetime.fromisoformat(usual.upper().replace(",", ".")) + timedelta(days=ends_day)
    # Not brought to UTC: at the ends of the calendar that has no answer.
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
