"""The network: which sensors stand where around Sofia, and when each of them reports.

A station carries a sensor of each model: the first at its own id, the others at the next ids. They
report together, a second or so apart, every 148 seconds and a little sooner or later; now and then
a report is lost or a station is silent for hours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.simulate.noise import Bools, Floats, Ints, Noise

DAY = 86_400
CADENCE = 148.0

# How many reports a sensor makes a day, roughly: some are lost.
REPORTS_A_DAY = 577

_SILENCE_BLOCK = 6 * 3600
_SILENCE_SHARE = 0.02
_LOST_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Network:
    """The stations. Each array has one entry a station.

    Attributes:
        sensor_id: its first sensor; the next model's is the next id.
        location: its location id.
        lat: its latitude, as files write it.
        lon: its longitude, as files write it.
        altitude: in metres.
    """

    sensor_id: Ints
    location: Ints
    lat: list[str]
    lon: list[str]
    altitude: Floats

    @classmethod
    def around_sofia(cls, noise: Noise, stations: int, models: int) -> Network:
        """Put up stations, each with one sensor of each of so many models."""
        station = np.arange(stations)
        # Room for the station's other sensors, and for other people's.
        room = max(models, 2) + (noise.uniform("ids", station) * 30).astype(np.int64)
        first = 1000 + (noise.uniform("first id", np.zeros(1, np.int64)) * 1000).astype(np.int64)
        sensor_id = first + np.cumsum(room) - room[0]
        lat = 42_600 + (noise.uniform("lat", station) * 201).astype(np.int64)
        lon = 23_200 + (noise.uniform("lon", station) * 251).astype(np.int64)
        return cls(
            sensor_id=sensor_id,
            location=sensor_id // 2,
            lat=[f"{thousandths / 1000:.3f}" for thousandths in lat.tolist()],
            lon=[f"{thousandths / 1000:.3f}" for thousandths in lon.tolist()],
            # The city rises towards Vitosha, in its south.
            altitude=520.0 + np.maximum(0, 42_720 - lat) * 1.1,
        )


def reports(noise: Noise, stations: int, position: int, first: int, last: int) -> tuple[Ints, Ints]:
    """Return the reports of all stations' sensors of one model in a stretch of time.

    Within a station the times grow strictly, by much more than the file's resolution of a second.

    Args:
        noise: the source of randomness.
        stations: how many stations.
        position: which of a station's sensors.
        first: the beginning, in seconds since 1970.
        last: the end, exclusive.

    Returns:
        The station and the time of each report, by station and then by time.
    """
    station = np.arange(stations)[:, None]
    # No two clocks run alike, and none of them minds midnight.
    period = CADENCE + noise.uniform("period", station) - 0.5
    phase = noise.uniform("phase", station) * CADENCE
    # Beats are counted from 1970; a margin before `first` makes up for phase and lateness.
    before = np.floor((first - 3 * CADENCE) / period).astype(np.int64)
    beat = before + np.arange(int((last - first) / (CADENCE - 0.5)) + 6)[None, :]
    times = beat * period + phase + _lateness(noise, station, beat)
    # The station's sensors are read one after the other.
    times += position + 1.4 * noise.uniform(f"lag {position}", station, beat) * (position > 0)
    seconds = np.floor(times).astype(np.int64)
    kept = (seconds >= first) & (seconds < last)
    kept &= noise.uniform(f"lost {position}", station, beat) >= _LOST_SHARE
    kept &= ~_silent(noise, station, seconds)
    return np.nonzero(kept)[0], seconds[kept]


def _lateness(noise: Noise, station: Ints, beat: Ints) -> Floats:
    """Mostly within two seconds; some reports need several attempts to get through."""
    usual = (
        noise.uniform("jitter a", station, beat) + noise.uniform("jitter b", station, beat)
    ) * 2
    attempts = noise.uniform("attempts", station, beat)
    waiting = noise.uniform("waiting", station, beat)
    late: Floats = usual + np.where(attempts < 0.06, 4 + 14 * waiting, 0.0)
    late += np.where(attempts < 0.008, 40 * waiting, 0.0)
    return late


def _silent(noise: Noise, station: Ints, seconds: Ints) -> Bools:
    """Whether a station has lost power or network: for part of some six-hour blocks."""
    block = seconds // _SILENCE_BLOCK
    within = (seconds % _SILENCE_BLOCK) / _SILENCE_BLOCK
    hit = noise.uniform("silence", station, block) < _SILENCE_SHARE
    begin = noise.uniform("silence begins", station, block) * 0.8
    length = noise.uniform("silence lasts", station, block) ** 2
    silent: Bools = hit & (within >= begin) & (within < begin + length)
    return silent
