"""The air over Sofia: what sensors would read at given places and times.

Not a model of the atmosphere, only its habits: seasons, days, passing weather, and the winter
inversions that keep the city's smoke in the valley for days. Local time is solar time, which is
what the sun and, nearly, the traffic go by. Values are in the units that are stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.simulate.network import DAY, Network
from pipeline.simulate.noise import Floats, Ints, Noise

_HOUR = 3600.0
_YEAR = 365.2425 * DAY
_GRID = 600
_COLDEST = 17 * DAY  # 18 January
_SOLAR_TIME = 23.32 / 15 * _HOUR  # Sofia is 23.32° east

# Sensors saturate far above this; it is the highest that an ordinary smog episode should reach.
_THICKEST = 900.0
_CLEANEST = 0.6


@dataclass(frozen=True, slots=True)
class _City:
    """What the whole city shares, on a grid of times.

    Attributes:
        seconds: the grid.
        temperature: of the air at 550 m, in °C.
        dew_point: in °C.
        pressure: at 550 m, in hPa.
        smoke: PM10 that hangs over the city, in µg/m³.
        fine: which fraction of it is PM2.5.
    """

    seconds: Ints
    temperature: Floats
    dew_point: Floats
    pressure: Floats
    smoke: Floats
    fine: Floats

    def at(self, field: Floats, seconds: Ints) -> Floats:
        """Return one of the fields at any times within the grid."""
        return np.interp(seconds, self.seconds, field)


class Air:
    """The air around a network of stations."""

    def __init__(self, noise: Noise, network: Network) -> None:
        self._noise = noise
        self._network = network

    def readings(
        self, quantities: Iterable[str], station: Ints, seconds: Ints
    ) -> dict[str, Floats]:
        """Return what sensors read.

        Args:
            quantities: names of the contract's quantities.
            station: each reading's station, as its position in the network.
            seconds: each reading's time, in seconds since 1970.
        """
        wanted = set(quantities)
        found: dict[str, Floats] = {}
        if not len(seconds):
            return {name: np.zeros(0) for name in wanted}
        city = self._city(int(seconds.min()), int(seconds.max()))
        if wanted & {"pm10", "pm25", "pm1"}:
            found |= self._particles(city, station, seconds)
        if wanted & {"temperature", "humidity"}:
            found |= self._warmth(city, station, seconds)
        if "pressure" in wanted:
            found["pressure"] = self._pressure(city, station, seconds)
        return {name: found[name] for name in wanted}

    def _city(self, first: int, last: int) -> _City:
        # The grid does not begin at `first`, so that values do not depend on it.
        t = np.arange(first // _GRID, last // _GRID + 2) * _GRID
        smooth = self._noise.smooth
        season = np.cos(2 * np.pi * (t - _COLDEST) / _YEAR)  # 1 in January, −1 in July
        winter = (1 + season) / 2
        # Hours of a clock that the sun goes by, as an angle: noon is π.
        clock = 2 * np.pi * ((t + _SOLAR_TIME) % DAY) / DAY

        weather = smooth("weather", 3.7 * DAY, t)
        calm = smooth("calm", 4.5 * DAY, t)
        inversion = winter**2 / (1 + np.exp(-4 * (calm - 0.5)))  # 0 none … 1 a tight lid

        mean = 10.8 - 11.3 * season + 3.4 * weather
        swing = (6.3 - 3.0 * winter) * (1 - 0.5 * inversion)
        temperature = (
            mean
            - 2.5 * inversion
            + swing * np.cos(clock - _angle(14.5))
            + 0.8 * smooth("hours", 5 * _HOUR, t)
        )
        dryness = 8.5 - 5.2 * winter - 1.5 * inversion + 1.6 * smooth("dryness", 1.9 * DAY, t)
        dew_point = mean - np.maximum(dryness, 0.4)

        tide = 0.5 * np.cos(2 * (clock - _angle(9.7)))
        pressure = (
            950.0
            + (3.0 + 2.5 * winter) * smooth("pressure", 2.9 * DAY, t)
            + 3.0 * smooth("long pressure", 9 * DAY, t)
            + 4.0 * inversion
            + tide
        )

        morning = 0.45 * np.exp(8 * (np.cos(clock - _angle(8.2)) - 1))
        # People heat with wood and coal, in the evening.
        evening = (0.3 + 0.7 * winter) * np.exp(3.5 * (np.cos(clock - _angle(21)) - 1))
        wind = 0.35 * smooth("gusts", 6 * _HOUR, t) + 0.3 * smooth("wind", 1.5 * DAY, t)
        smoke = (12 + 14 * winter) * (0.65 + morning + evening) * np.exp(wind)
        smoke = smoke * (1 + 6.0 * inversion)
        fine = 0.40 + 0.22 * winter + 0.10 * inversion
        return _City(t, temperature, dew_point, pressure, smoke, fine)

    def _particles(self, city: _City, station: Ints, seconds: Ints) -> dict[str, Floats]:
        noise = self._noise
        stations = np.arange(len(self._network.lat))
        street = np.exp(0.25 * noise.normal("street", stations))
        around = np.exp(
            0.16 * noise.smooth("street hour", 1.3 * _HOUR, seconds, station)
            + 0.10 * noise.normal("pm10", station, seconds)
        )
        pm10 = city.at(city.smoke, seconds) * street[station] * around
        # Bends towards the ceiling instead of breaking off at it.
        pm10 = np.maximum(_THICKEST * np.tanh(pm10 / _THICKEST), _CLEANEST)
        fine = city.at(city.fine, seconds)
        fine = fine + 0.06 * noise.smooth("fine", 3 * _HOUR, seconds, station)
        fine = np.clip(fine + 0.02 * noise.normal("pm25", station, seconds), 0.12, 0.92)
        finest = 0.7 + 0.04 * noise.normal("pm1", station, seconds)
        pm25 = pm10 * fine
        return {"pm10": pm10, "pm25": pm25, "pm1": pm25 * np.clip(finest, 0.5, 0.9)}

    def _warmth(self, city: _City, station: Ints, seconds: Ints) -> dict[str, Floats]:
        noise = self._noise
        stations = np.arange(len(self._network.lat))
        # Some hang in the shade, some on a warm wall, some high above the city.
        place = 0.7 * noise.normal("wall", stations) - 0.0065 * (self._network.altitude - 550)
        temperature = (
            city.at(city.temperature, seconds)
            + place[station]
            + 0.35 * noise.smooth("breeze", 0.7 * _HOUR, seconds, station)
            + 0.04 * noise.normal("temperature", station, seconds)
        )
        dew_point = np.minimum(city.at(city.dew_point, seconds), temperature)
        # Magnus: the same water in warmer air is a lower relative humidity.
        humidity = 100 * np.exp(_magnus(dew_point) - _magnus(temperature))
        humidity = humidity + 0.3 * noise.normal("humidity", station, seconds)
        # Towards saturation the element answers less and less.
        damp = humidity > 94.0
        humidity[damp] = 94.0 + 5.5 * np.tanh((humidity[damp] - 94.0) / 5.5)
        return {"temperature": temperature, "humidity": np.maximum(humidity, 8.0)}

    def _pressure(self, city: _City, station: Ints, seconds: Ints) -> Floats:
        height = 0.111 * (self._network.altitude - 550)  # hPa, at this height
        own = 0.03 * self._noise.normal("pressure", station, seconds)
        pressure: Floats = city.at(city.pressure, seconds) - height[station] + own
        return pressure


def _angle(hour: float) -> float:
    return 2 * np.pi * hour / 24


def _magnus(celsius: Floats) -> Floats:
    return 17.62 * celsius / (243.12 + celsius)
