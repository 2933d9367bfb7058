"""What readings are measured against: completeness, indices, limits, and the tests of quality.

The SQL functions and views of the schema `air` say the same, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# --- Completeness ---------------------------------------------------------------------------------

# Seconds from one reading of a sensor to its next, by the firmware of most of the network.
CADENCE = 148
# Readings that an hour needs: three quarters of 3600 / CADENCE, rounded down.
COMPLETE_HOUR = 18
# Complete hours that a day needs: three quarters.
COMPLETE_DAY = 18

# --- The European air quality index ---------------------------------------------------------------

INDEX_VERSION = "EAQI 2024"
INDEX_SOURCE = "European Environment Agency, ETC HE report 2024/17: bands for means of one hour"
BANDS = ("Good", "Fair", "Moderate", "Poor", "Very poor", "Extremely poor")
# Quantity → the highest value of each band but the last, inclusive, in µg/m³.
BOUNDS: dict[str, tuple[float, float, float, float, float]] = {
    "pm10": (15.0, 45.0, 120.0, 195.0, 270.0),
    "pm25": (5.0, 15.0, 50.0, 90.0, 140.0),
}


def band(quantity: str, value: float) -> int:
    """Return the index's band of an hourly mean, 1 (good) to 6 (extremely poor)."""
    return 1 + sum(value > bound for bound in BOUNDS[quantity])


# --- Limits ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """A guideline or a legal limit for a mean.

    Attributes:
        standard: who set it.
        quantity: what it is for.
        period: of what it limits the mean.
        value: the highest mean that is allowed, in µg/m³.
        allowed_days: days of a year on which it may be exceeded; 0 for a yearly mean.
    """

    standard: str
    quantity: str
    period: Literal["day", "year"]
    value: float
    allowed_days: int = 0


# WHO global air quality guidelines (2021): that for a day is the 99th percentile of a year.
# Directive 2008/50/EC, annex XI; for PM2.5 the second stage, since 2020.
LIMITS: tuple[Limit, ...] = (
    Limit("WHO 2021", "pm10", "day", 45.0, 3),
    Limit("WHO 2021", "pm25", "day", 15.0, 3),
    Limit("WHO 2021", "pm10", "year", 15.0),
    Limit("WHO 2021", "pm25", "year", 5.0),
    Limit("EU 2008/50/EC", "pm10", "day", 50.0, 35),
    Limit("EU 2008/50/EC", "pm10", "year", 40.0),
    Limit("EU 2008/50/EC", "pm25", "year", 20.0),
)

# --- Humidity -------------------------------------------------------------------------------------

# Hygroscopicity of the dust, without a unit: between that of organic matter and that of salts.
KAPPA = 0.4
# Density of dry dust over that of water.
DENSITY = 1.65
# Above this relative humidity, in %, the growth by water runs away; it is taken as this.
MOST_HUMID = 95.0

# --- Tests of quality -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Steps:
    """How much readings may differ from their neighbours: the project's own figures.

    Attributes:
        spike_suspect: from the middle of the two neighbours, in the unit of the quantity.
        spike_fail: the same, beyond belief.
        rate_suspect: from the reading before, for each minute that passed.
    """

    spike_suspect: float
    spike_fail: float
    rate_suspect: float


STEPS: dict[str, Steps] = {
    "pm10": Steps(150.0, 600.0, 100.0),
    "pm25": Steps(100.0, 400.0, 70.0),
    "pm1": Steps(100.0, 400.0, 70.0),
    "temperature": Steps(3.0, 10.0, 2.0),
    "humidity": Steps(10.0, 30.0, 6.0),
    "pressure": Steps(2.0, 10.0, 1.0),
}
