"""The quantities: what is measured, in which unit, and which values are believable.

Ranges are in the unit that is stored; `Quantity.file_scale` says how a file's number becomes the
stored one (files carry pressure in Pa, the tables hPa). The figures come from the datasheets
named in `source`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Table = Literal["raw_particulate", "raw_climate"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One measured quantity and the rules for its values.

    Attributes:
        name: the standard name, also the column in the raw table.
        title: the name in words.
        unit: the unit that is stored.
        table: the raw table that holds it.
        accept: lowest and highest accepted value, inclusive, in `unit`.
        typical: accepted values outside this are kept and flagged as suspect, inclusive, in `unit`.
        source: where the ranges come from.
        file_unit: the unit that files carry.
        file_scale: stored value = file value ÷ this.
        sentinels: numbers that sensors and loggers write when they have no reading, in `file_unit`.
        mistaken_unit: a unit people confuse with `file_unit`, and the range (in `file_unit`
            numbers) that gives it away; None where there is no such trap.
    """

    name: str
    title: str
    unit: str
    table: Table
    accept: tuple[float, float]
    typical: tuple[float, float]
    source: str
    file_unit: str
    file_scale: float = 1.0
    sentinels: tuple[float, ...] = ()
    mistaken_unit: tuple[str, float, float] | None = None

    @property
    def file_range(self) -> tuple[float, float]:
        """`accept` in the numbers that a file carries, in `file_unit`."""
        low, high = self.accept
        return low * self.file_scale, high * self.file_scale


# Loggers and exports write these for "no reading", whatever the quantity.
MISSING_CODES = (-999.0, -9999.0)

_SDS011 = "Nova SDS011 datasheet V1.3"

QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        name="pm10",
        title="Particulate matter up to 10 µm",
        unit="µg/m³",
        table="raw_particulate",
        accept=(0.0, 1999.9),
        typical=(0.0, 999.9),
        source=f"{_SDS011}: 999.9 is its ceiling, 1999.9 is saturation",
        file_unit="µg/m³",
        sentinels=(-1.0, *MISSING_CODES),
    ),
    Quantity(
        name="pm25",
        title="Particulate matter up to 2.5 µm",
        unit="µg/m³",
        table="raw_particulate",
        accept=(0.0, 1999.9),
        typical=(0.0, 999.89),  # at 999.9 it is saturated
        source=f"{_SDS011}: 999.9 is saturation",
        file_unit="µg/m³",
        sentinels=(-1.0, *MISSING_CODES),
    ),
    Quantity(
        name="pm1",
        title="Particulate matter up to 1 µm",
        unit="µg/m³",
        table="raw_particulate",
        accept=(0.0, 1999.9),
        typical=(0.0, 999.9),
        source="as for PM10 and PM2.5",
        file_unit="µg/m³",
        sentinels=(-1.0, *MISSING_CODES),
    ),
    Quantity(
        name="temperature",
        title="Air temperature",
        unit="°C",
        table="raw_climate",
        accept=(-50.0, 50.0),
        typical=(-30.0, 45.0),
        source="the network's own rule for outdoor air",
        file_unit="°C",
        sentinels=(-128.0, *MISSING_CODES),
    ),
    Quantity(
        name="humidity",
        title="Relative humidity",
        unit="%RH",
        table="raw_climate",
        accept=(0.0, 100.0),
        typical=(1.01, 99.89),  # readings resolve 0.01: at most 1 and at least 99.9 are suspect
        source="Bosch BME280 and Aosong DHT22 datasheets; a DHT22 sticks at 1 and 99.9",
        file_unit="%RH",
        sentinels=(-1.0, *MISSING_CODES),
    ),
    Quantity(
        name="pressure",
        title="Air pressure at the sensor",
        unit="hPa",
        table="raw_climate",
        accept=(300.0, 1100.0),
        typical=(300.0, 1100.0),
        source="Bosch BME280 datasheet",
        file_unit="Pa",
        file_scale=100.0,
        sentinels=(-1.0, *MISSING_CODES),
        mistaken_unit=("hPa", 300.0, 1100.0),
    ),
)

# In the order of the alphabet, as the database sorts them: a short number stands for a long word.
SORTED_NAMES = tuple(sorted(quantity.name for quantity in QUANTITIES))
