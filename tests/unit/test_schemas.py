"""Asking the checks one by one finds what pandera's own report names."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from pipeline.contract import MAX_ID, Contract
from pipeline.contract.schemas import EMPTY_ID, UNREADABLE_ID, failing_cells, reading_schema

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CONTRACTS = {
    "published": Contract.default(),
    # Codes for "no reading" within the range are told apart from it only here.
    "wide": Contract.with_overrides(
        {"temperature": {"accept": (-200.0, 200.0)}, "pressure": {"accept": (0.0, 2000.0)}}, {}
    ),
}

ids = st.sampled_from([EMPTY_ID, UNREADABLE_ID, 0, 1, 92, MAX_ID, MAX_ID + 1])
degrees = st.sampled_from([0.0, -0.0, 42.7, -90.0, 90.0, 90.5, 180.0, 181.0, np.nan, np.inf])
moments = st.sampled_from(
    [
        *("2009-12-31T23:59:59.999999", "2010-01-01T00:00:00", "2017-07-01T00:02:09"),
        *("2026-01-03T03:04:00", "2026-01-03T03:04:00.000001", "NaT"),
    ]
)


# Both raw tables, both contracts; the other models differ in their columns only.
USUAL = {("sds011", "published"), ("bme280", "wide")}


@pytest.mark.parametrize(
    ("name", "contract"),
    [
        pytest.param(
            name,
            contract,
            id=f"{name}-{which}",
            marks=() if (name, which) in USUAL else pytest.mark.slow,
        )
        for name in ("sds011", "pms5003", "bme280", "ds18b20")
        for which, contract in CONTRACTS.items()
    ],
)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_failing_cells_are_those_of_panderas_report(
    contract: Contract, name: str, data: st.DataObject
) -> None:
    model = contract.models[name]
    schema = reading_schema(contract, model, NOW)
    count = data.draw(st.integers(1, 8))

    def column(cells: st.SearchStrategy[object], kind: str) -> np.ndarray:
        return np.array(data.draw(st.lists(cells, min_size=count, max_size=count)), kind)

    columns = {
        "sensor_id": column(ids, "int64"),
        "location": column(ids, "int64"),
        "lat": column(degrees, "float64"),
        "lon": column(degrees, "float64"),
        "timestamp": column(moments, "datetime64[us]"),
    }
    for own, target in model.columns.items():
        low, high = contract.quantities[target].file_range
        codes = contract.sentinels_of(model, own)
        cells = [low, high, (low + high) / 2, low - 1, high + 1, np.nan, np.inf, -np.inf, *codes]
        columns[own] = column(st.sampled_from(cells), "float64")
    frame = pd.DataFrame(columns)
    found = {name: rows.tolist() for name, rows in failing_cells(schema, frame).items()}
    assert found == reported(schema, frame)


def reported(schema: object, frame: pd.DataFrame) -> dict[str, list[int]]:
    """Return column → the rows that fail there, as pandera's lazy report has them."""
    try:
        schema.validate(frame, lazy=True)  # type: ignore[attr-defined]
    except SchemaErrors as errors:
        cases = errors.failure_cases
        cases = cases.assign(
            column=cases["column"].where(cases["schema_context"] == "Column", "lat,lon")
        )
        return {
            str(name): sorted({int(index) for index in part["index"]})
            for name, part in cases.groupby("column")
        }
    return {}
