"""Every broken rule is told in words that a person understands, and in fields for machines."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.contract import ROW_RULES, Contract, Reason
from pipeline.contract.explain import Explainer, conflict

NOW = datetime(2026, 3, 1, 12, 30, 45, tzinfo=UTC)
DEFAULT = Contract.default()
WINDOW = "an ISO 8601 time from 2010-01-01 to 2026-03-02 12:30 UTC"


def explain(model: str, column: str, text: str | None) -> Reason:
    return Explainer(DEFAULT, DEFAULT.models[model], NOW).explain(column, text)


TOLD: list[tuple[str, str, str | None, str, str, str]] = [
    ("sds011", "P1", None, "null", "P1 is empty", "0 to 1999.9 µg/m³"),
    ("sds011", "P1", " ", "null", "P1 is empty", "0 to 1999.9 µg/m³"),
    ("sds011", "sensor_id", None, "null", "sensor_id is empty", "a whole number from 1 to"),
    ("sds011", "timestamp", None, "null", "timestamp is empty", WINDOW),
    ("sds011", "P1", "much", "type", "P1 'much' is not a number", "0 to 1999.9 µg/m³"),
    ("sds011", "P1", "1_000", "type", "P1 '1_000' is not a number", "0 to 1999.9 µg/m³"),
    ("sds011", "sensor_id", "1764.5", "type", "sensor_id '1764.5' is not a whole number", "a wh"),
    ("sds011", "sensor_id", "٧", "type", "sensor_id '٧' is not a whole number", "a whole"),
    (
        *("sds011", "sensor_id", "-5", "range", "sensor_id -5 is out of range; accepted: a whole "),
        "a whole number from 1 to 2147483647",
    ),
    ("sds011", "P2", "NaN", "not_finite", "P2 is 'NaN', which is not a number", "0 to 1999.9"),
    ("sds011", "P2", "-inf", "not_finite", "P2 is '-inf', which is not a number", "0 to 1999.9"),
    ("sds011", "P2", "2,5", "decimal_comma", "P2 '2,5' has a decimal comma; write 2.5", "0 to"),
    ("sds011", "P2", "-999", "sentinel", "P2 -999 is a code for 'no reading', not a", "0 to"),
    ("sds011", "P2", "2000", "range", "P2 2000 µg/m³ is above 1999.9; accepted: 0 to", "0 to"),
    ("sds011", "P2", "-0.1", "range", "P2 -0.1 µg/m³ is below 0; accepted: 0 to 1999.9", "0 to"),
    ("sds011", "P2", "1e400", "range", "P2 1e400 µg/m³ is above 1999.9", "0 to 1999.9"),
    ("bme280", "temperature", "-128", "sentinel", "temperature -128 is a code", "−50 to 50 °C"),
    ("bme280", "temperature", "85", "range", "temperature 85 °C is above 50", "−50 to 50 °C"),
    ("bme280", "temperature", "-51", "range", "temperature -51 °C is below −50", "−50 to 50 °C"),
    ("ds18b20", "temperature", "85.0", "sentinel", "temperature 85.0 is a code", "−50 to 50 °C"),
    (
        "bme280",
        "pressure",
        "952.7",
        "unit",
        "pressure 952.7 looks like hPa, but files carry Pa",
        "",
    ),
    ("bme280", "pressure", "29000", "range", "pressure 29000 Pa is below 30000", "30000 to 110000"),
    ("bme280", "humidity", "101", "range", "humidity 101 %RH is above 100", "0 to 100 %RH"),
    ("sds011", "lat", "91", "range", "lat 91 is not on Earth", "−90 to 90 degrees"),
    ("sds011", "lon", "x", "type", "lon 'x' is not a number", "−180 to 180 degrees"),
    ("sds011", "lat,lon", None, "null_island", "the coordinates are 0,0, in the Atlantic", "the"),
    ("sds011", "timestamp", "soon", "timestamp", "timestamp 'soon' is not a time", WINDOW),
    ("sds011", "timestamp", "2017-07-01", "timestamp", "'2017-07-01' is not a time", WINDOW),
    ("sds011", "timestamp", "20170701T000209", "timestamp", "is not a time", WINDOW),
    ("sds011", "timestamp", "2017-02-30T00:00", "timestamp", "does not exist", WINDOW),
    ("sds011", "timestamp", "2017-07-01T00:00+03:60", "timestamp", "does not exist", WINDOW),
    ("sds011", "timestamp", "1.7.17", "spreadsheet_date", "rewritten by a spreadsheet", WINDOW),
    ("sds011", "timestamp", "43000", "spreadsheet_date", "rewritten by a spreadsheet", WINDOW),
    ("sds011", "timestamp", "1970-01-01T00:00", "range", "before 2010-01-01: the clock", WINDOW),
    ("sds011", "timestamp", "2999-01-01T00:00", "range", "is in the future (at most", WINDOW),
    ("sds011", "timestamp", "2026-03-02T12:30:01", "range", "is in the future", WINDOW),
]


@pytest.mark.parametrize(
    ("model", "column", "text", "rule", "words", "expected"),
    TOLD,
    ids=[f"{model} {column} {text!a}" for model, column, text, *_ in TOLD],
)
def test_told(
    model: str, column: str, text: str | None, rule: str, words: str, expected: str
) -> None:
    reason = explain(model, column, text)
    assert reason.rule == rule
    assert words in reason.message
    assert reason.column == column
    assert reason.expected is not None
    assert reason.expected.startswith(expected)
    assert reason.value == ("0,0" if column == "lat,lon" else text)
    assert reason.record() == {
        "column": column,
        "rule": rule,
        "value": reason.value,
        "expected": reason.expected,
        "message": reason.message,
    }


def test_the_table_above_and_those_of_whole_rows_cover_every_rule() -> None:
    of_cells = {rule for _, _, _, rule, _, _ in TOLD}
    of_rows = {"model", "width", "quote", "nul_byte", "encoding", "repeated_header", "conflict"}
    of_rows |= {"unknown_section", "not_stored"}
    assert of_cells | of_rows == set(ROW_RULES)


def test_a_sites_range_is_the_one_that_is_told() -> None:
    contract = Contract.with_overrides({"pressure": {"accept": (900, 1050)}}, {})
    reason = Explainer(contract, contract.models["bme280"], NOW).explain("pressure", "80000")
    assert reason.expected == "90000 to 105000 Pa"
    assert "is below 90000" in reason.message


def test_the_present_may_be_told_in_any_zone() -> None:
    there = NOW.astimezone(tz=None) + timedelta(0)
    reason = Explainer(DEFAULT, DEFAULT.models["sds011"], there).explain("timestamp", "soon")
    assert reason.expected == WINDOW


def test_long_texts_are_shortened() -> None:
    reason = explain("sds011", "P1", "x" * 1000)
    assert reason.value == "x" * 79 + "…"
    assert len(reason.message) < 200


@pytest.mark.parametrize(
    "text",
    ["9" * 200_000 + "x", "1," * 100_000, "+" * 200_000, "9." * 100_000, "1e" * 100_000],
    ids=["digits", "commas", "signs", "points", "exponents"],
)
@pytest.mark.parametrize("column", ["P1", "sensor_id", "timestamp", "lat"])
def test_no_text_takes_long_to_explain(column: str, text: str) -> None:
    before = time.process_time()
    explain("sds011", column, text)
    assert time.process_time() - before < 1


def test_a_conflict_names_both_values_and_the_place() -> None:
    nan = float("nan")
    reason = conflict({"pm10": 9.54, "pm25": nan}, {"pm10": 9.53, "pm25": 2.0}, "line 7 of a.csv")
    assert reason.rule == "conflict"
    assert reason.value == "pm10 9.54, pm25 empty"
    assert reason.expected == "pm10 9.53, pm25 2"
    assert reason.message == (
        "the same sensor and time has pm10 9.53, pm25 2 in line 7 of a.csv; "
        "this row says pm10 9.54, pm25 empty"
    )
