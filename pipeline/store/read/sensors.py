"""Sensors: what each one's readings add up to."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.store.read.fetch import fetch
from pipeline.store.read.reader import Connection


@dataclass(frozen=True, slots=True)
class SensorStatistics:
    """The statistics of one quantity of a sensor, in the unit of the quantity."""

    sensor_id: int
    model: str
    quantity: str
    n: int
    min: float
    max: float
    mean: float
    std: float | None


def sensor_statistics(connection: Connection, limit: int) -> list[SensorStatistics]:
    """Return statistics per sensor and quantity."""
    return fetch(connection, SensorStatistics, "sensor_statistics", limit=limit)
