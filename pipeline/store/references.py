"""References: readings whose sensor or place is missing, found, and given back what they had.

The loader cannot make such readings, and foreign keys of `air.sensor_place` keep others from it. An
earlier release could, after a restore; so can whoever switches the keys off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import sqlalchemy as sa

from pipeline.errors import DatabaseTrouble, DatabaseUnavailable
from pipeline.store.blocking import impatient
from pipeline.store.engine import driver_of, guarded
from pipeline.store.sql import statement
from pipeline.store.tables import RAW

__all__ = ["Dangling", "References"]

_KEYS = ("sensor_place_sensor_id_fkey", "sensor_place_location_key_fkey")
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


class References:
    """Looks for readings whose sensor or place is missing. Each may raise `DatabaseUnavailable`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def dangling(self, *, thorough: bool = False) -> Dangling:
        """Return what is missing.

        Args:
            thorough: look at every reading's place, however long that takes.
        """
        tables: list[str] = [*RAW]
        sensors = self._numbers("dangling_sensors", tables, None)
        places = self._numbers("dangling_places", ["sensor_place"], None)
        try:
            places |= self._numbers("dangling_places", tables, None if thorough else _SECONDS)
        except DatabaseUnavailable:
            if thorough:
                raise
            return Dangling(sorted(sensors), sorted(places), thorough=False)
        return Dangling(sorted(sensors), sorted(places))

    def affected(self, dangling: Dangling) -> list[Affected]:
        """Return the files whose readings refer to what is missing, oldest first."""
        found: dict[int, Affected] = {}
        asked = {"sensors": list(dangling.sensors), "places": list(dangling.places)}
        with self._looking() as ask:
            for table in RAW:
                for file_id, sensor, readings in ask(
                    statement("dangling_files", table=table), asked
                ):
                    file = found.setdefault(file_id, Affected(file_id))
                    file.sensors.add(sensor)
                    file.readings += readings
        return [found[file_id] for file_id in sorted(found)]

    def sensors_at(self, places: Sequence[int]) -> set[int]:
        """Return the sensors that `air.sensor_place` has at these places."""
        text = "SELECT sensor_id FROM air.sensor_place WHERE location_key = ANY (%(places)s)"
        with self._looking() as ask:
            return {sensor for (sensor,) in ask(text, {"places": list(places)})}

    def validate(self) -> None:
        """Have the server confirm that nothing is missing any more, if we may."""
        for key in _KEYS:
            with suppress(DatabaseTrouble), guarded(), self._engine.begin() as connection:
                driver_of(connection).execute(
                    f"ALTER TABLE air.sensor_place VALIDATE CONSTRAINT {key}".encode()
                )

    def _numbers(self, name: str, tables: Sequence[str], seconds: int | None) -> set[int]:
        with self._looking(seconds) as ask:
            return {
                number for table in tables for (number,) in ask(statement(name, table=table), {})
            }

    @contextmanager
    def _looking(
        self, seconds: int | None = None
    ) -> Iterator[Callable[[str, dict[str, list[int]]], Sequence[tuple[int, ...]]]]:
        with guarded(), self._engine.connect() as connection, impatient(connection):
            cursor = driver_of(connection).cursor()
            if seconds is not None:
                cursor.execute(f"SET LOCAL statement_timeout = '{seconds}s'".encode())

            def ask(text: str, asked: dict[str, list[int]]) -> Sequence[tuple[int, ...]]:
                cursor.execute(text.encode(), asked or None)
                return cursor.fetchall()

            yield ask
