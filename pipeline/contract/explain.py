"""Explain: why a cell failed, in words that a person understands.

The most telling reason wins, one for each cell: an empty value is not also "out of range", and a
fault code is not merely "too low".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import overload

from pipeline.contract import MAX_ID, Contract, Model, Quantity, Reason
from pipeline.contract.schemas import Named, time_window
from pipeline.contract.timestamps import parse_time
from pipeline.visible import visible

_SHOWN = 80
_REMEMBERED = 8_192  # texts: some megabytes at most
_NOT_FINITE = {"nan", "inf", "infinity"}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# Written so that no text, however long, can make it go back: cells come from strangers.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)
# Day or month first with a two- or four-digit year, or a date as a spreadsheet's day number.
_SPREADSHEET_DATE = re.compile(
    r"\d{1,2}[./-]\d{1,2}[./-](?:\d{4}|\d{2})(?:,?\s+\d{1,2}[:.]\d\d.*)?|\d{5}(?:[.,]\d+)?"
)
# What spreadsheets make of 5.10, 12.5.17 or 5.83: the beginnings of months in some languages.
_MONTHS = (
    "jan|feb|fév|mar|mär|mrz|apr|avr|abr|may|mai|mag|jun|jui|giu|jul|lug|aug|aoû|ago|sep|set|oct|okt"
    "|ott|out|nov|dec|dez|déc|dic|ene|gen|яну|фев|мар|апр|май|юни|юли|авг|сеп|окт|ное|дек"
)
_DATE_AS_VALUE = re.compile(
    rf"\d{{1,2}}[./-]\d{{1,2}}[./-](\d{{4}}|\d{{2}})( .{{0,20}})?|\d{{4}}-\d\d-\d\d([T ].{{0,20}})?"
    rf"|\d{{1,2}}[. /-]{{1,2}}({_MONTHS})\w{{0,9}}\.?([ -]\d{{2,4}})?"
    rf"|({_MONTHS})\w{{0,9}}\.?[ -]\d{{1,4}}",
    re.IGNORECASE,
)


def explainer(contract: Contract, model: Model, now: datetime) -> Explainer:
    """Return who explains the failing cells of a model's rows; for the next block the same."""
    return _explainer(contract.version, Named(contract, model), now)


@lru_cache(maxsize=8)
def _explainer(_version: str, named: Named, now: datetime) -> Explainer:
    return Explainer(named.contract, named.model, now)


class Explainer:
    """Explains the failing cells of one model's rows.

    A file repeats few texts many times: what was said of a short one is remembered.
    """

    def __init__(self, contract: Contract, model: Model, now: datetime) -> None:
        self._contract = contract
        self._model = model
        self._window = time_window(now.astimezone(UTC))
        self._accepted: dict[str, str] = {}
        self._known: dict[tuple[str, str | None], Reason] = {}

    def explain(self, column: str, text: str | None) -> Reason:
        """Return the reason why a cell failed.

        Args:
            column: the file's column, or `lat,lon` for the place as a whole.
            text: what the cell holds; None when it is empty.
        """
        if (known := self._known.get((column, text))) is not None:
            return known
        reason = self._work_out(column, text)
        message = visible(reason.message)
        if message != reason.message:
            reason = replace(reason, message=message)
        if len(self._known) < _REMEMBERED and (text is None or len(text) <= _SHOWN):
            self._known[column, text] = reason
        return reason

    def _work_out(self, column: str, text: str | None) -> Reason:
        if column == "lat,lon":
            message = "the coordinates are 0,0, in the Atlantic: this place was never set"
            return Reason("null_island", message, column, "0,0", "the sensor's place")
        shown = shortened(text)
        expected = self._accepted.get(column) or self._expected(column)
        self._accepted[column] = expected  # one text for all of them
        if text is None or not text.strip():
            return Reason("null", f"{column} is empty{self._hint(column)}", column, shown, expected)
        value = text.strip()
        if column == "timestamp":
            return self._time(value, shown, expected)
        if column in {"sensor_id", "location"}:
            return _whole_number(column, value, shown, expected)
        return self._number(column, value, shown, expected)

    def _expected(self, column: str) -> str:
        if column == "timestamp":
            earliest, latest = self._window
            return f"an ISO 8601 time from {earliest:%Y-%m-%d} to {latest:%Y-%m-%d %H:%M} UTC"
        if column in {"sensor_id", "location"}:
            return f"a whole number from {0 if column == 'location' else 1} to {MAX_ID}"
        if column in {"lat", "lon"}:
            bound = 90 if column == "lat" else 180
            return f"−{bound} to {bound} degrees"
        quantity = self._quantity(column)
        low, high = quantity.file_range
        return f"{_plain(low)} to {_plain(high)} {quantity.file_unit}"

    def _hint(self, column: str) -> str:
        """Return how a row could be accepted without one of several readings."""
        core = self._model.core
        if column not in core or len(core) < 2 or self._model.name in self._contract.partial:
            return ""
        return ", and no reading may be (setting contract.partial)"

    def _quantity(self, column: str) -> Quantity:
        return self._contract.quantities[self._model.columns[column]]

    def _time(self, value: str, shown: str | None, expected: str) -> Reason:
        column = "timestamp"
        if _SPREADSHEET_DATE.fullmatch(value):
            message = (
                f"timestamp '{shown}' was rewritten by a spreadsheet; "
                "the original looks like 2017-07-31T00:02:09"
            )
            return Reason("spreadsheet_date", message, column, shown, expected)
        try:
            time = parse_time(value)
        except (ValueError, OverflowError):
            message = f"timestamp '{shown}' does not exist"
            return Reason("timestamp", message, column, shown, expected)
        if time is None:
            message = f"timestamp '{shown}' is not a time"
            return Reason("timestamp", message, column, shown, expected)
        earliest, latest = self._window
        if time < earliest:
            message = f"timestamp {shown} is before {earliest:%Y-%m-%d}: the clock was not set"
        elif time > latest:
            message = f"timestamp {shown} is in the future (at most {latest:%Y-%m-%d %H:%M} UTC)"
        else:  # Python lets an offset of +03:60 pass
            message = f"timestamp '{shown}' does not exist"
            return Reason("timestamp", message, column, shown, expected)
        return Reason("range", message, column, shown, expected)

    def _number(self, column: str, value: str, shown: str | None, expected: str) -> Reason:
        if value.lstrip("+-").lower() in _NOT_FINITE:
            message = f"{column} is '{shown}', which is not a number"
            return Reason("not_finite", message, column, shown, expected)
        if _DATE_AS_VALUE.fullmatch(value):
            message = (
                f"{column} '{shown}' was made a date by a spreadsheet; the number it was is in the "
                "original file"
            )
            return Reason("spreadsheet_date", message, column, shown, expected)
        if _DECIMAL_COMMA.fullmatch(value):
            mended = shortened(value.replace(",", "."))
            message = f"{column} '{shown}' has a decimal comma; write {mended}"
            return Reason("decimal_comma", message, column, shown, expected)
        # Python reads more than is accepted here: 1_000, digits of other scripts, …
        if not _NUMBER.fullmatch(value):
            message = f"{column} '{shown}' is not a number"
            return Reason("type", message, column, shown, expected)
        number = float(value)
        if column in {"lat", "lon"}:
            message = f"{column} {shown} is not on Earth; accepted: {expected}"
            return Reason("range", message, column, shown, expected)
        return self._reading(column, number, shown, expected)

    def _reading(self, column: str, number: float, shown: str | None, expected: str) -> Reason:
        quantity = self._quantity(column)
        if number in self._contract.sentinels_of(self._model, column):
            message = (
                f"{column} {shown} is a code for 'no reading', not a reading; accepted: {expected}"
            )
            return Reason("sentinel", message, column, shown, expected)
        if quantity.mistaken_unit:
            unit, low, high = quantity.mistaken_unit
            if low <= number <= high:
                message = (
                    f"{column} {shown} looks like {unit}, but files carry {quantity.file_unit}; "
                    f"accepted: {expected}"
                )
                return Reason("unit", message, column, shown, expected)
        low, high = quantity.file_range
        side = "below" if number < low else "above"
        limit = low if number < low else high
        message = (
            f"{column} {shown} {quantity.file_unit} is {side} {_plain(limit)}; accepted: {expected}"
        )
        return Reason("range", message, column, shown, expected)


def conflict(ours: Mapping[str, float], theirs: Mapping[str, float], where: str) -> Reason:
    """Return the reason for a row whose sensor and time is taken by other values.

    Args:
        ours: quantity → the row's own value, as it would be stored.
        theirs: quantity → the value that stays.
        where: the line or file that the staying values came from.
    """
    mine, kept = _values(ours), _values(theirs)
    message = f"the same sensor and time has {kept} in {where}; this row says {mine}"
    return Reason("conflict", message, value=mine, expected=kept)


def _values(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {'empty' if math.isnan(value) else format(value, '.6g')}"
        for name, value in values.items()
    )


def _whole_number(column: str, value: str, shown: str | None, expected: str) -> Reason:
    if _WHOLE.fullmatch(value):
        message = f"{column} {shown} is out of range; accepted: {expected}"
        return Reason("range", message, column, shown, expected)
    message = f"{column} '{shown}' is not a whole number"
    return Reason("type", message, column, shown, expected)


def _plain(number: float) -> str:
    # 30000.000000000004 (300 hPa ÷ 0.01) is 30000 to a person.
    text = f"{number:.6f}".rstrip("0").rstrip(".")
    return text.replace("-", "−") if math.copysign(1, number) < 0 and text != "-0" else text


@overload
def shortened(text: str) -> str: ...
@overload
def shortened(text: None) -> None: ...
def shortened(text: str | None) -> str | None:
    """Return as much of a cell's text as a reason shows."""
    return text if text is None or len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
