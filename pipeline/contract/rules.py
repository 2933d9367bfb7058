"""The rules a row can break, and how each is told to a person.

A `Reason` is one broken rule at one place. Its `message` is a whole sentence; the other fields are
for machines. The same object is written to the quarantine CSV, to the reason log and, as jsonb,
to `air.quarantined_row`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

# Rule → what it means. This is the documented list; `docs/contract.md` is checked against it.
ROW_RULES: dict[str, str] = {
    "null": "a value that may not be empty is empty",
    "type": "a value is not a number (or not a whole number where one is due)",
    "not_finite": "a value is nan or infinite",
    "range": "a number or a time lies outside the accepted range",
    "sentinel": "a number is a code for 'no reading', not a reading",
    "unit": "a number is believable only in another unit than the file's",
    "decimal_comma": "a number is written with a decimal comma",
    "timestamp": "a time cannot be read, or its date does not exist",
    "spreadsheet_date": "a date was rewritten by a spreadsheet",
    "null_island": "the coordinates are 0,0: a place nobody set",
    "model": "the row's sensor type is unknown, or its file lacks that type's columns",
    "width": "the row has more or fewer fields than the header",
    "quote": "a quotation mark is out of place, so the fields cannot be told apart",
    "nul_byte": "the line contains a NUL byte",
    "encoding": "the line is not valid UTF-8",
    "repeated_header": "the line is a header where a reading is due",
    "unknown_section": "the line is, or is below, a header in the middle of the file that is not "
    "understood",
    "not_stored": "the row is a kind of measurement that is not stored here",
    "conflict": "another row has the same sensor and time, but other values",
}

FILE_RULES: dict[str, str] = {
    "empty": "the file has no bytes, or no line that could be a header",
    "binary": "the file is not text",
    "utf16": "the file is UTF-16, where UTF-8 is due",
    "unknown_header": "the header is not that of any known sensor model",
    "not_stored": "the file carries a kind of measurement that is not stored here",
    "too_many_headers": "the header changes more often than in files that were joined",
    "corrupt_gzip": "the compressed file is damaged or cut short",
    "too_large": "the compressed file inflates beyond what a file of its size may",
    "line_too_long": "a line is longer than the configured limit",
    "mostly_malformed": "most rows cannot be split, or have neither a sensor nor a time",
    "too_many_rejected": "more rows are rejected than one file may leave in quarantine",
    "over_budget": "the file takes more processor time or memory than a file of its size may",
    "database": "the database cannot hold a value of the file",
}

# Refusals that a setting may undo.
LIMIT_RULES = frozenset(
    {"too_large", "line_too_long", "mostly_malformed", "too_many_rejected", "over_budget"}
)
# Such a file is read anew when it comes again: a setting, or the database, may be another by then.
RETRIED_RULES = LIMIT_RULES | {"database"}

_encode = json.JSONEncoder(ensure_ascii=False).encode


class ReasonRecord(TypedDict):
    """A reason as it is stored: the keys of one element of `air.quarantined_row.reasons`."""

    column: str | None
    rule: str
    value: str | None
    expected: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Reason:
    """One broken rule.

    Attributes:
        rule: a key of `ROW_RULES`.
        message: the whole story in one sentence.
        column: the file's column, or None when the row as a whole is meant.
        value: the offending text, verbatim (shortened when very long), or None.
        expected: what would have been accepted, or None.
    """

    rule: str
    message: str
    column: str | None = None
    value: str | None = None
    expected: str | None = None

    def record(self) -> ReasonRecord:
        """Return the plain dictionary that is stored."""
        return {
            "column": self.column,
            "rule": self.rule,
            "value": self.value,
            "expected": self.expected,
            "message": self.message,
        }


def as_json(rows: Iterable[tuple[Reason, ...]]) -> list[str]:
    """Return the reasons of each row as a JSON array, NULs and lone surrogates made harmless.

    Rows of one file often share theirs; what they share is written out once.
    """
    written: dict[int, str] = {}
    every = []
    for reasons in rows:
        text = written.get(id(reasons))
        if text is None:
            text = written[id(reasons)] = _encode([reason.record() for reason in reasons])
        every.append(text)
    return every
