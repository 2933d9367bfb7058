"""The formulas in SQL: against published worked examples, and against Python's own arithmetic.

Where a source was found that shows its result, it is named beside the example. Where none was, the
test says that the formula itself is the source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pipeline.contract import indices
from pipeline.contract.quantities import QUANTITIES

if TYPE_CHECKING:
    import sqlalchemy as sa


@pytest.fixture
def connection(shared_engine: sa.Engine) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with shared_engine.connect() as opened:
        driver = opened.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        yield driver


def value(connection: psycopg.Connection[tuple[Any, ...]], formula: str, *given: object) -> Any:
    row = connection.execute(f"SELECT {formula}".encode(), given).fetchone()
    assert row is not None
    return row[0]


def celsius(fahrenheit: float) -> float:
    return (fahrenheit - 32) / 1.8


# --- dew point ------------------------------------------------------------------------------------

DEW_POINT = "air.dew_point(%s, %s)"


@pytest.mark.parametrize(
    ("temperature", "humidity", "due"),
    # Sensirion, "Application Note Dew-point Calculation" (SHTxx), section 2: the Magnus formula
    # after Sonntag 1990, with its constants, and these two examples.
    [(25, 10, -8.77), (50, 90, 47.90)],
)
def test_the_dew_point_of_sensirions_examples(
    connection: Any, temperature: float, humidity: float, due: float
) -> None:
    assert value(connection, DEW_POINT, temperature, humidity) == pytest.approx(due, abs=0.005)


@pytest.mark.parametrize("temperature", [-40.0, -0.5, 0.0, 17.3, 49.9])
def test_the_dew_point_of_saturated_air_is_its_temperature(
    connection: Any, temperature: float
) -> None:
    assert value(connection, DEW_POINT, temperature, 100) == pytest.approx(temperature, abs=1e-9)


@pytest.mark.parametrize("given", [(20, 0), (20, None), (None, 50)])
def test_no_dew_point_without_water_or_readings(connection: Any, given: tuple[Any, ...]) -> None:
    assert value(connection, "air.dew_point(%s::float8, %s::float8)", *given) is None


# --- heat index -----------------------------------------------------------------------------------

HEAT_INDEX = "air.heat_index(%s, %s) * 1.8 + 32"


@pytest.mark.parametrize(
    ("fahrenheit", "humidity", "due"),
    # The Heat Index chart of the U.S. National Weather Service, in °F, as rfcafe.com
    # ("Heat Index Chart", from NOAA) shows it. The chart is rounded to whole degrees.
    [
        (80, 40, 80), (82, 60, 84), (84, 95, 100), (88, 60, 95), (90, 50, 95), (94, 75, 124),
        (96, 65, 121), (100, 40, 109), (104, 55, 137), (110, 40, 136),
    ],
)  # fmt: skip
def test_the_heat_index_of_the_weather_services_chart(
    connection: Any, fahrenheit: float, humidity: float, due: float
) -> None:
    got = value(connection, HEAT_INDEX, celsius(fahrenheit), humidity)
    assert got == pytest.approx(due, abs=1.0)


def heat_index(f: float, rh: float) -> float:
    """Return the heat index in °F: "The Heat Index Equation", Weather Prediction Center, NWS."""
    simple = 0.5 * (f + 61.0 + (f - 68.0) * 1.2 + rh * 0.094)
    if (simple + f) / 2 < 80:
        return (simple + f) / 2
    terms = (
        (-42.379, 0, 0), (2.04901523, 1, 0), (10.14333127, 0, 1), (-0.22475541, 1, 1),
        (-6.83783e-3, 2, 0), (-5.481717e-2, 0, 2), (1.22874e-3, 2, 1), (8.5282e-4, 1, 2),
        (-1.99e-6, 2, 2),
    )  # fmt: skip
    full = math.fsum(factor * f**power_f * rh**power_rh for factor, power_f, power_rh in terms)
    if rh < 13 and 80 <= f <= 112:
        full -= ((13 - rh) / 4) * math.sqrt((17 - abs(f - 95)) / 17)
    if rh > 85 and 80 <= f <= 87:
        full += ((rh - 85) / 10) * ((87 - f) / 5)
    return full


@pytest.mark.parametrize("humidity", [0, 5, 12.9, 13, 40, 85, 85.1, 100])
@pytest.mark.parametrize("fahrenheit", [-20, 50, 78, 79.9, 80.5, 86.9, 87.5, 95, 111.9, 112.5, 120])
def test_the_heat_index_with_its_adjustments(
    connection: Any, fahrenheit: float, humidity: float
) -> None:
    got = value(connection, HEAT_INDEX, celsius(fahrenheit), humidity)
    assert got == pytest.approx(heat_index(fahrenheit, humidity), abs=1e-6)


# --- pressure at sea level ------------------------------------------------------------------------

SEA_LEVEL = "air.sea_level_pressure(%s, %s, %s)"


def test_the_sea_level_pressure_of_keisokus_example(connection: Any) -> None:
    # keisoku.magicgifted.com, "Sea-Level Pressure Correction Calculator": 1003 hPa, 15 °C, 150 m.
    # Its exponent is 5.257 where ours is 5.255, which makes 0.007 hPa.
    assert value(connection, SEA_LEVEL, 1003, 15, 150) == pytest.approx(1020.970202, abs=0.01)


def test_the_sea_level_pressure_of_a_standard_atmosphere(connection: Any) -> None:
    # By definition of the ICAO standard atmosphere: 1013.25 hPa and 15 °C at sea level, 6.5 °C less
    # for every kilometre, and the exponent g·M/(R·L) = 5.25588.
    for height in (0, 550, 1500):
        temperature = 15 - 0.0065 * height
        pressure = 1013.25 * (1 - 0.0065 * height / 288.15) ** 5.25588
        got = value(connection, SEA_LEVEL, pressure, temperature, height)
        assert got == pytest.approx(1013.25, abs=0.2)


def test_no_sea_level_pressure_without_a_height(connection: Any) -> None:
    assert value(connection, "air.sea_level_pressure(950, 10, NULL)") is None


# --- dust in humid air ----------------------------------------------------------------------------

DRY_DUST = "air.dry_dust(%s, %s)"


@pytest.mark.parametrize("humidity", [1.0, 50.0, 85.0, 94.9])
def test_dry_dust_is_the_formula(connection: Any, humidity: float) -> None:
    # Crilley et al. 2018 (doi 10.5194/amt-11-709-2018) give the correction; no worked example was
    # found, so the definition is computed here: growth = 1 + (κ / 1.65) / (1 / a_w − 1).
    growth = 1 + (indices.KAPPA / indices.DENSITY) / (1 / (humidity / 100) - 1)
    assert value(connection, DRY_DUST, 42.5, humidity) == pytest.approx(42.5 / growth, rel=1e-12)


def test_dry_dust_at_the_ends(connection: Any) -> None:
    assert value(connection, DRY_DUST, 42.5, 0) == 42.5
    at_most = value(connection, DRY_DUST, 42.5, indices.MOST_HUMID)
    for humidity in (99.9, 100):
        assert value(connection, DRY_DUST, 42.5, humidity) == at_most
    assert value(connection, "air.dry_dust(42.5, NULL)") is None
    assert value(connection, "air.dry_dust(42.5, 80, 0)") == 42.5


# --- distance -------------------------------------------------------------------------------------


def test_the_distance_of_a_degree_and_of_two_cities(connection: Any) -> None:
    # By definition: a degree of a great circle is 1/360 of it; a quarter of the globe is π/2 radii.
    degree = 6371008.8 * math.pi / 180
    assert value(connection, "air.distance(42, 23, 43, 23)") == pytest.approx(degree)
    assert value(connection, "air.distance(0, 0, 0, 90)") == pytest.approx(6371008.8 * math.pi / 2)
    assert value(connection, "air.distance(42.7, 23.3, 42.7, 23.3)") == 0
    assert value(connection, "air.distance(0, 0, 0, 180)") == pytest.approx(6371008.8 * math.pi)
    assert value(connection, "air.distance(42, 23, NULL, 23)") is None


# --- the SQL and the declarations say the same ----------------------------------------------------


@pytest.mark.parametrize("quantity", indices.BOUNDS)
def test_the_bands_are_those_declared(connection: Any, quantity: str) -> None:
    probes = [0.0, 0.01, 5000.0]
    for bound in indices.BOUNDS[quantity]:
        probes += [math.nextafter(bound, 0), bound, math.nextafter(bound, math.inf)]
    for probe in probes:
        got = value(connection, "air.aqi_band(%s, %s::float8)", quantity, probe)
        assert got == indices.band(quantity, probe), probe
    assert value(connection, "air.aqi_band(%s, NULL)", quantity) is None


def test_the_names_and_the_version_of_the_index(connection: Any) -> None:
    names = [value(connection, "air.aqi_band_name(%s::int)", band) for band in range(8)]
    assert names == [None, *indices.BANDS, None]
    assert value(connection, "air.aqi_version()") == indices.INDEX_VERSION
    assert value(connection, "air.aqi_band('pm1', 5)") is None


def test_the_limits_are_those_declared(connection: Any) -> None:
    rows = connection.execute("SELECT * FROM air.limit_value").fetchall()
    assert sorted(rows) == sorted(
        (limit.standard, limit.quantity, limit.period, limit.value, limit.allowed_days)
        for limit in indices.LIMITS
    )


def test_the_quantities_are_those_declared(connection: Any) -> None:
    rows = connection.execute("SELECT * FROM air.quantity").fetchall()
    found = [(*row[:3], *map(float, row[3:])) for row in rows]
    assert found == [
        (
            *(quantity.name, quantity.title, quantity.unit, *quantity.accept, *quantity.typical),
            *(steps.spike_suspect, steps.spike_fail, steps.rate_suspect),
        )
        for quantity in QUANTITIES
        for steps in [indices.STEPS[quantity.name]]
    ]


def test_the_formulas_are_free_to_be_used_anywhere(connection: Any) -> None:
    """What is immutable and parallel safe may stand in an index, and run on every core."""
    rows = connection.execute(
        "SELECT proname, provolatile::text, proparallel::text FROM pg_proc"
        " WHERE pronamespace = 'air'::regnamespace AND NOT proretset"
        " AND proname NOT IN ('ensure_month', 'current_generation')"
    ).fetchall()
    assert len(rows) == 8
    assert {(volatile, parallel) for _, volatile, parallel in rows} == {("i", "s")}
