"""The sensor models: which columns of a file each one fills, and with which quantity.

Source: the archive writer's column lists (opendata-stuttgart/feinstaub-api) and the sensor
firmware (opendata-stuttgart/sensors-software). P1 is PM10, P2 is PM2.5 and P0 is PM1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Model:
    """One sensor model.

    Attributes:
        name: as the archive's `sensor_type` column spells it, in lower case.
        columns: file column → name of the quantity it carries.
        optional: those of `columns` that may be empty, or missing from a file. The others are core
            readings: none may be empty, unless the contract accepts rows that are not complete.
        other: columns that the model's files also carry and that are not stored.
        sentinels: file column → numbers by which this very model says "no reading", beyond those
            of the quantity.
    """

    name: str
    columns: Mapping[str, str]
    other: tuple[str, ...] = ()
    sentinels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    optional: tuple[str, ...] = ()

    @cached_property
    def core(self) -> tuple[str, ...]:
        """The file columns that carry core readings."""
        return tuple(column for column in self.columns if column not in self.optional)


_PM = {"P1": "pm10", "P2": "pm25"}
_PM_AND_PM1 = {"P1": "pm10", "P2": "pm25", "P0": "pm1"}
_PM1 = ("P0",)  # real rows of a PMS3003 and a PMS7003 lack it
_T = {"temperature": "temperature"}
_TH = {"temperature": "temperature", "humidity": "humidity"}
_PT = {"pressure": "pressure", "temperature": "temperature"}
_PTH = {"pressure": "pressure", "temperature": "temperature", "humidity": "humidity"}
_OPTICAL = ("durP1", "ratioP1", "durP2", "ratioP2")
_BAROMETRIC = ("altitude", "pressure_sealevel")

# Where a file does not say its sensor type (the Sofia set), the first model here that explains the
# most columns of the header is taken: so the most widespread model of each kind comes first.
MODELS: tuple[Model, ...] = (
    Model("sds011", _PM, _OPTICAL),
    Model("bme280", _PTH, _BAROMETRIC),
    Model("dht22", _TH),
    Model("bmp280", _PT, _BAROMETRIC),
    Model("ds18b20", _T, sentinels={"temperature": (85.0, -127.0)}),
    Model("pms5003", _PM_AND_PM1, optional=_PM1),
    Model("sds021", _PM, _OPTICAL),
    Model("pms1003", _PM_AND_PM1, optional=_PM1),
    Model("pms3003", _PM_AND_PM1, optional=_PM1),
    Model("pms6003", _PM_AND_PM1, optional=_PM1),
    Model("pms7003", _PM_AND_PM1, optional=_PM1),
    Model("hpm", _PM),
    Model("sps30", _PM_AND_PM1, ("P4", "N10", "N4", "N25", "N1", "N05", "TS"), optional=_PM1),
    Model("nextpm", _PM_AND_PM1, ("N1", "N25", "N10"), optional=_PM1),
    Model("ips-7100", _PM_AND_PM1, optional=_PM1),
    Model("dht11", _TH),
    Model("htu21d", _TH),
    Model("sht10", _TH),
    Model("sht11", _TH),
    Model("sht12", _TH),
    Model("sht15", _TH),
    Model("sht30", _TH),
    Model("sht31", _TH),
    Model("sht35", _TH),
    Model("sht85", _TH),
    Model("bmp180", _PT, _BAROMETRIC),
    Model("scd30", _TH, ("co2_ppm",)),
)

# Kinds of file that the network publishes and that this project stores no quantity for:
# a column that gives the kind away → what it is.
NOT_STORED: Mapping[str, str] = {
    "noise_LAeq": "noise",
    "noise_LA_max": "noise",
    "noise_LA_min": "noise",
    "noise_LA01": "noise",
    "noise_LA95": "noise",
    "counts_per_minute": "radiation",
    "hv_pulses": "radiation",
    "counts": "radiation",
    "sample_time_ms": "radiation",
    "brightness": "brightness",
}

# Sensor types with the columns of others and another unit, or of a kind that is not stored: what
# their rows hold. A site that knows better declares the type as a model of its own.
NOT_STORED_TYPES: Mapping[str, str] = {
    "ppd42ns": "counts of particles per litre, for which no factor to µg/m³ is valid",
    "laerm": "noise",
    "dnms (laerm)": "noise",
    "radiation sbm-19": "radiation",
    "radiation sbm-20": "radiation",
    "radiation si22g": "radiation",
}
