"""The contract: declared once, versioned as a whole, changed by a site with care."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.contract import (
    FILE_RULES,
    KEY_COLUMNS,
    PLACE_UNKNOWN,
    ROW_RULES,
    Contract,
    Model,
    flag_bits,
)
from pipeline.contract.quantities import QUANTITIES
from pipeline.errors import ConfigurationError
from pipeline.store.tables import RAW

DEFAULT = Contract.default()


def changed(name: str, **fields: Any) -> Contract:
    quantity = replace(DEFAULT.quantities[name], **fields)
    return Contract({**DEFAULT.quantities, name: quantity}, DEFAULT.models)


def with_model(model: Model) -> Contract:
    return Contract(DEFAULT.quantities, {**DEFAULT.models, model.name: model})


# --- the version ----------------------------------------------------------------------------------


def test_the_version_is_short_and_lasting() -> None:
    assert len(DEFAULT.version) == 12
    assert DEFAULT.version == Contract.default().version
    assert DEFAULT.version == Contract.with_overrides({}, {}).version


@pytest.mark.parametrize(
    "other",
    [
        changed("pm10", accept=(0.0, 1999.8)),
        changed("pm10", typical=(0.0, 999.8)),
        changed("pm10", sentinels=()),
        changed("pm10", unit="mg/m³"),
        changed("pressure", file_scale=1.0),
        changed("pressure", mistaken_unit=None),
        with_model(Model("new", {"P1": "pm10"})),
        with_model(replace(DEFAULT.models["ds18b20"], sentinels={})),
        with_model(Model("hpm", {"P1": "pm25", "P2": "pm10"})),
        Contract.with_overrides({"pm10": {"accept": (0, 500)}}, {}),
        Contract.with_overrides({}, {"dust": {"dust": "pm10"}}),
    ],
    ids=[
        "accepted range",
        "typical range",
        "sentinels",
        "unit",
        "scale",
        "mistaken unit",
        "a new model",
        "a model's sentinels",
        "a model's columns",
        "a site's range",
        "a site's model",
    ],
)
def test_the_version_changes_with_whatever_decides(other: Contract) -> None:
    assert other.version != DEFAULT.version


def test_the_version_does_not_depend_on_the_order_of_quantities() -> None:
    shuffled = dict(reversed(list(DEFAULT.quantities.items())))
    assert Contract(shuffled, DEFAULT.models).version == DEFAULT.version


# --- what is declared fits together ---------------------------------------------------------------


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.name)
def test_every_quantity_is_stored_and_makes_sense(quantity: Any) -> None:
    column = RAW[quantity.table].columns[quantity.name]
    assert isinstance(column.type, sa.REAL)
    assert quantity.unit in column.comment
    low, high = quantity.accept
    assert low <= quantity.typical[0] < quantity.typical[1] <= high
    assert quantity.file_range == pytest.approx(
        (low * quantity.file_scale, high * quantity.file_scale)
    )
    assert quantity.source
    if quantity.mistaken_unit:
        _, least, most = quantity.mistaken_unit
        assert most < quantity.file_range[0] or least > quantity.file_range[1]


def test_raw_tables_hold_no_quantity_that_is_not_declared() -> None:
    keys = {"sensor_id", "ts", "location_key", "file_id", "flags"}
    for name, table in RAW.items():
        declared = {quantity.name for quantity in QUANTITIES if quantity.table == name}
        assert set(table.columns.keys()) == declared | keys


@pytest.mark.parametrize("model", DEFAULT.models.values(), ids=lambda model: model.name)
def test_every_model_fills_columns_of_one_table(model: Model) -> None:
    assert model.columns
    assert {DEFAULT.quantities[name].table for name in model.columns.values()} == {
        DEFAULT.table_of(model)
    }
    assert model.name == model.name.lower()
    assert not set(model.columns) & {*KEY_COLUMNS, "sensor_type"}
    assert set(model.sentinels) <= set(model.columns)
    assert len(set(model.columns.values())) == len(model.columns)


def test_flags_are_distinct_bits_of_a_smallint() -> None:
    for table in RAW:
        bits = [PLACE_UNKNOWN, *flag_bits(table).values()]
        assert len(set(bits)) == len(bits)
        assert all(bit.bit_count() == 1 and bit < 2**15 for bit in bits)


def test_sentinels_of_a_model_add_to_those_of_its_quantity() -> None:
    plain = DEFAULT.sentinels_of(DEFAULT.models["bme280"], "temperature")
    probe = DEFAULT.sentinels_of(DEFAULT.models["ds18b20"], "temperature")
    assert set(probe) - set(plain) == {85.0, -127.0}


def test_every_rule_is_told_in_words() -> None:
    # A whole file of what is not stored, or some rows of it.
    assert set(ROW_RULES) & set(FILE_RULES) == {"not_stored"}
    assert all(words and not words.endswith(".") for words in {**ROW_RULES, **FILE_RULES}.values())


# --- a site's own ranges and models ---------------------------------------------------------------


def test_a_site_changes_a_range() -> None:
    contract = Contract.with_overrides({"temperature": {"accept": (-20, 40)}}, {})
    assert contract.quantities["temperature"].accept == (-20, 40)
    assert contract.quantities["humidity"] == DEFAULT.quantities["humidity"]
    # What was typical and is no longer accepted cannot be typical.
    low, high = contract.quantities["temperature"].typical
    assert -20 <= low < high <= 40


def test_a_site_changes_what_is_typical() -> None:
    contract = Contract.with_overrides({"pm10": {"typical": (0, 200)}}, {})
    assert contract.quantities["pm10"].typical == (0, 200)
    assert contract.quantities["pm10"].accept == DEFAULT.quantities["pm10"].accept


def test_a_site_adds_a_model() -> None:
    contract = Contract.with_overrides({}, {"SuperDust": {"dust10": "pm10", "dust25": "pm25"}})
    assert contract.models["superdust"].columns == {"dust10": "pm10", "dust25": "pm25"}
    assert contract.table_of(contract.models["superdust"]) == "raw_particulate"
    assert list(contract.models)[:-1] == list(DEFAULT.models)


def test_a_site_changes_the_columns_of_a_known_model_and_keeps_its_codes() -> None:
    """A probe that also measures humidity still says 85 for "no reading"."""
    contract = Contract.with_overrides(
        {}, {"DS18B20": {"temperature": "temperature", "RH": "humidity"}}
    )
    assert contract.models["ds18b20"].columns["RH"] == "humidity"
    assert 85.0 in contract.sentinels_of(contract.models["ds18b20"], "temperature")


def test_a_site_writes_columns_in_any_case_and_spoils_no_other_model() -> None:
    contract = Contract.with_overrides({}, {"dust": {"p1": "pm10"}})
    assert contract.models["dust"].columns == {"P1": "pm10"}


def test_a_range_may_leave_nothing_of_what_was_typical() -> None:
    contract = Contract.with_overrides({"temperature": {"accept": (-50, -40)}}, {})
    assert contract.quantities["temperature"].typical == (-50, -40)


WRONG: dict[str, tuple[Callable[[], Contract], str]] = {
    "unknown quantity": (
        lambda: Contract.with_overrides({"pm100": {"accept": (0, 1)}}, {}),
        r"contract\.ranges\.pm100: 'pm100' is not a quantity; known are pm10, ",
    ),
    "empty range": (
        lambda: Contract.with_overrides({"pm10": {"accept": (5, 5)}}, {}),
        r"contract\.ranges\.pm10\.accept: 5 is not below 5",
    ),
    "upside down": (
        lambda: Contract.with_overrides({"pm10": {"typical": (9, 1)}}, {}),
        r"contract\.ranges\.pm10\.typical: 9 is not below 1",
    ),
    "without end": (
        lambda: Contract.with_overrides({"pm10": {"accept": (0, float("inf"))}}, {}),
        r"contract\.ranges\.pm10\.accept: .*has no end",
    ),
    "not a number": (
        lambda: Contract.with_overrides({"pm10": {"accept": (0, float("nan"))}}, {}),
        r"contract\.ranges\.pm10\.accept",
    ),
    "typical outside accepted": (
        lambda: Contract.with_overrides({"pm10": {"accept": (0, 10), "typical": (5, 20)}}, {}),
        r"contract\.ranges\.pm10\.typical: must lie within accept",
    ),
    "model without columns": (
        lambda: Contract.with_overrides({}, {"dust": {}}),
        r"contract\.models\.dust: names no column",
    ),
    "model of both tables": (
        lambda: Contract.with_overrides({}, {"dust": {"P1": "pm10", "T": "temperature"}}),
        r"contract\.models\.dust: a model is either particulate or climate",
    ),
    "model of an unknown quantity": (
        lambda: Contract.with_overrides({}, {"dust": {"P1": "pm11"}}),
        r"contract\.models\.dust\.P1: 'pm11' is not a quantity",
    ),
    "model with a quantity twice": (
        lambda: Contract.with_overrides({}, {"dust": {"P1": "pm10", "P9": "pm10"}}),
        r"contract\.models\.dust: two columns carry the same quantity",
    ),
    "model with columns that differ in case only": (
        lambda: Contract.with_overrides({}, {"dust": {"PM": "pm10", "pm": "pm25"}}),
        r"contract\.models\.dust: two columns differ only in their case",
    ),
    "model that takes a key's column": (
        lambda: Contract.with_overrides({}, {"dust": {"Lat": "pm10"}}),
        r"contract\.models\.dust\.Lat: .*every file",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused_and_the_key_named(
    make: Callable[[], Contract], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{message}"):
        make()
