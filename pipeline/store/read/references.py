"""References: readings whose sensor or place is missing, found, and given back what they had.

The loader cannot make such readings, and foreign keys of `air.sensor_place` keep others from it. An
earlier release could, after a restore; so can whoever switches the keys off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.errors import DatabaseUnavailable
from pipeline.store.raw import RAW_TABLES
from pipeline.store.read.reader import Reader
from pipeline.store.sql import statement

__all__ = ["Affected", "Dangling", "affected", "dangling", "sensors_at"]

# A look at the place of every reading is cut short: `air.sensor_place` knows nearly as well.
_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Dangling:
    """What readings refer to and is not there.

    Attributes:
        sensors: sensors that `air.sensor` lacks.
        places: location keys that `air.location` lacks.
        thorough: whether each reading's place was looked at; else only `air.sensor_place` was.
    """

    sensors: Sequence[int] = ()
    places: Sequence[int] = ()
    thorough: bool = True

    def __bool__(self) -> bool:
        return bool(self.sensors or self.places)


@dataclass(slots=True)
class Affected:
    """A file with such readings.

    Attributes:
        file_id: its number.
        sensors: the sensors of these readings.
        readings: how many there are.
    """

    file_id: int
    sensors: set[int] = field(default_factory=set)
    readings: int = 0


def dangling(reader: Reader, *, thorough: bool = False) -> Dangling:
    """Return what is missing.

    Args:
        reader: whom to ask.
        thorough: look at every reading's place, however long that takes.

    Raises:
        DatabaseUnavailable: the database cannot be asked.
    """
    sensors = _numbers(reader, "dangling_sensors", RAW_TABLES, None)
    places = _numbers(reader, "dangling_places", ["sensor_place"], None)
    try:
        places |= _numbers(reader, "dangling_places", RAW_TABLES, None if thorough else _SECONDS)
    except DatabaseUnavailable:
        if thorough:
            raise
        return Dangling(sorted(sensors), sorted(places), thorough=False)
    return Dangling(sorted(sensors), sorted(places))


def affected(reader: Reader, dangling: Dangling) -> list[Affected]:
    """Return the files whose readings refer to what is missing, oldest first."""
    found: dict[int, Affected] = {}
    asked = {"sensors": list(dangling.sensors), "places": list(dangling.places)}
    with reader.snapshot(None) as connection:
        for table in RAW_TABLES:
            text = statement("dangling_files", table=table).encode()
            for file_id, sensor, readings in connection.execute(text, asked):
                file = found.setdefault(file_id, Affected(file_id))
                file.sensors.add(sensor)
                file.readings += readings
    return [found[file_id] for file_id in sorted(found)]


def sensors_at(reader: Reader, places: Sequence[int]) -> set[int]:
    """Return the sensors that `air.sensor_place` has at these places."""
    text = "SELECT sensor_id FROM air.sensor_place WHERE location_key = ANY (%s)"
    with reader.snapshot() as connection:
        return {sensor for (sensor,) in connection.execute(text, [list(places)])}


def _numbers(reader: Reader, name: str, tables: Iterable[str], seconds: float | None) -> set[int]:
    with reader.snapshot(seconds) as connection:
        return {
            number
            for table in tables
            for (number,) in connection.execute(statement(name, table=table).encode())
        }
