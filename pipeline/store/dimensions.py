"""Dimensions: the sensors, places and months that readings refer to, made known when needed.

What was committed is remembered, so that it need not be asked for again. What a transaction added
counts for others only after its commit: until then it is kept apart. Memory can be wrong: a
database may be restored, or edited by hand, under a running process. So before its commit every
transaction checks all that it used (`Adding.check`); foreign keys from `air.sensor_place` keep it
whole afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.core.groups import group_sizes, group_starts
from pipeline.core.records import Ints, Readings
from pipeline.errors import Outdated
from pipeline.store.copy import Cursor
from pipeline.store.sql import statement

Place = tuple[int, int, int]  # location id, and the bits of lat and lon, so that NaN equals NaN
_REMEMBERED = 150_000


@dataclass(slots=True)
class Dimensions:
    """What is known to be in the database."""

    sensors: set[int] = field(default_factory=set)
    places: dict[Place, int] = field(default_factory=dict)
    months: set[tuple[str, str]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.sensors or self.places or self.months)

    def adopt(self, added: Dimensions) -> None:
        """Remember what a transaction added, once it is committed."""
        # Bounded whatever comes: ids are data, and data can be garbage.
        if len(self.sensors) + len(self.places) > _REMEMBERED:
            self.sensors.clear()
            self.places.clear()
        self.sensors |= added.sensors
        self.places |= added.places
        self.months |= added.months


@dataclass(slots=True)
class Adding:
    """Makes dimensions known within one transaction.

    Attributes:
        later: gives the database something to do that needs no answer.
        when_idle: returns the transaction's cursor, once all of that is done.
        known: what the database has.
        added: what the transaction adds.
        used: the sensors and places that its readings refer to, not yet checked.
    """

    later: Callable[[Callable[[Cursor], object]], object]
    when_idle: Callable[[], Cursor]
    known: Dimensions
    added: Dimensions = field(default_factory=Dimensions)
    used: Dimensions = field(default_factory=Dimensions)

    def months(self, readings: Readings) -> None:
        """See to it that every month of the readings has its partition."""
        ts = readings.frame["ts"].to_numpy()
        first, last = ts.min().astype("datetime64[M]"), ts.max().astype("datetime64[M]")
        months = np.unique(ts.astype("datetime64[M]")) if first != last else np.array([first])
        for month in months.astype(str).tolist():
            key = (readings.table, month)
            if key in self.known.months or key in self.added.months:
                continue
            self._execute(
                "ensure_month", {"table": f"air.{readings.table}", "month": f"{month}-01"}
            )
            self.added.months.add(key)

    def sensors(self, readings: Readings) -> None:
        """See to it that every sensor of the readings, sorted by sensor, is known."""
        every = readings.frame["sensor_id"].to_numpy()
        sensors = every[group_starts(every)].tolist()
        self.used.sensors.update(sensors)
        new = [
            sensor
            for sensor in sensors
            if sensor not in self.known.sensors and sensor not in self.added.sensors
        ]
        if new:
            models = [readings.models[sensor] for sensor in new]
            self._execute("insert_sensors", {"sensor_ids": new, "models": models})
            self.added.sensors.update(new)

    def location_keys(self, readings: Readings) -> npt.NDArray[np.int32]:
        """Return the location key of every reading, making places known as needed."""
        frame = readings.frame
        parts: list[Ints] = [
            frame["location_id"].to_numpy(),
            frame["lat"].to_numpy().view(np.int64),
            frame["lon"].to_numpy().view(np.int64),
        ]
        # Readings are sorted by sensor, and sensors seldom move: long runs share a place.
        starts = group_starts(*parts)
        runs: list[Place] = list(zip(*(part[starts].tolist() for part in parts), strict=True))
        places = set(runs)
        if new := {place for place in places if self._key(place) is None}:
            self._add(sorted(new))
        keys = {place: key for place in places if (key := self._key(place)) is not None}
        self.used.places |= keys
        each = np.array([keys[place] for place in runs], np.int32)
        return np.repeat(each, group_sizes(starts, len(frame)))

    def check(self, cursor: Cursor) -> None:
        """Make sure that every sensor and place that was used is there, and is what it was.

        Raises:
            Outdated: something is missing or has changed.
        """
        used, self.used = self.used, Dimensions()
        if not used:
            return
        ids, lats, lons = zip(*used.places, strict=True) if used.places else ((), (), ())
        cursor.execute(
            statement("check_dimensions"),
            {
                "sensor_ids": list(used.sensors),
                "location_keys": list(used.places.values()),
                **_columns(ids, lats, lons),
            },
        )
        if missing := [f"{kind} {number}" for kind, number in cursor]:
            shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            message = f"database: it was restored or changed meanwhile ({shown})"
            raise Outdated(message)

    def _execute(self, name: str, parameters: dict[str, object]) -> None:
        self.later(lambda cursor: cursor.execute(statement(name), parameters))

    def _key(self, place: Place) -> int | None:
        return self.known.places.get(place) or self.added.places.get(place)

    def _add(self, places: list[Place]) -> None:
        ids, lats, lons = zip(*places, strict=True)
        parameters = _columns(ids, lats, lons)
        cursor = self.when_idle()
        cursor.execute(statement("insert_locations"), parameters)
        cursor.execute(statement("find_locations"), parameters)
        keys = [key for (key,) in cursor]
        if len(keys) != len(places):
            message = f"database: {len(places)} places were written to air.location, and "
            message += f"{len(keys)} of them are there"
            raise Outdated(message)
        self.added.places.update(zip(places, keys, strict=True))


def _columns(
    ids: tuple[int, ...], lats: tuple[int, ...], lons: tuple[int, ...]
) -> dict[str, object]:
    return {
        "location_ids": [None if number < 0 else number for number in ids],
        "lats": _degrees(lats),
        "lons": _degrees(lons),
    }


def _degrees(bits: tuple[int, ...]) -> list[float | None]:
    degrees = np.array(bits, np.int64).view(np.float64)
    return [None if pd.isna(value) else value for value in degrees.tolist()]
