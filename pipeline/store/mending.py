"""Mending: readings get back the sensor and place that their file gives, one file a transaction."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import pyarrow as pa

from pipeline.core.records import Readings
from pipeline.errors import DatabaseTrouble
from pipeline.store.copy import Cursor, copy_in
from pipeline.store.engine import driver_of
from pipeline.store.load import Load, Store, span_of
from pipeline.store.refusals import guarded
from pipeline.store.sql import statement

_KEYS = ("sensor_place_sensor_id_fkey", "sensor_place_location_key_fkey")


class Mending:
    """The open transaction in which readings of a file are mended."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._cursor: Cursor = load._cursor

    def readings(self, readings: Readings, file_id: int) -> int:
        """Make the sensors and places of a file's readings known, and point the readings to them.

        Args:
            readings: what stands in the file, sorted by sensor and time.
            file_id: the file; readings that other files brought are left alone.

        Returns:
            How many readings got another place.
        """
        if not len(readings.frame):
            return 0
        keys = self._load.dimensions(readings)
        frame = readings.frame
        self._cursor.execute("DROP TABLE IF EXISTS pg_temp.mend_stage")
        self._cursor.execute(statement("mend_stage_create"))
        columns = {
            "sensor_id": pa.array(frame["sensor_id"].to_numpy(), pa.int32()),
            "ts": pa.array(frame["ts"].to_numpy(), pa.timestamp("us", "UTC")),
            "location_key": pa.array(keys, pa.int32()),
        }
        copy_in(self._cursor, ("mend_stage",), columns)
        self._cursor.execute("ANALYZE pg_temp.mend_stage")
        text = statement("mend_places", table=readings.table).format(**span_of(readings))
        self._cursor.execute(text.encode(), {"file_id": file_id})
        mended = 0
        for month, rows, sensors in self._cursor:
            self._load.changes.changed(readings.table, file_id, month, rows, sensors)
            mended += rows
        return mended

    def touched(self, file_id: int, sensors: Collection[int]) -> None:
        """Note for the feed that readings of a file are mended: those of these sensors."""
        self._load.changes.file(file_id, sensors=sensors)

    def sensors(self, sensors: Collection[int], model: str) -> None:
        """Make sensors known whose file is gone; the ledger has its model."""
        asked = {"sensors": list(sensors), "model": model}
        self._cursor.execute(statement("mend_sensors"), asked)

    def places(self, sensors: Collection[int]) -> None:
        """Work out anew where sensors stood."""
        asked = {"sensors": list(sensors)}
        self._cursor.execute(
            "DELETE FROM air.sensor_place WHERE sensor_id = ANY (%(sensors)s)", asked
        )
        self._cursor.execute(statement("mend_sensor_place"), asked)


def validate(store: Store) -> None:
    """Have the server confirm that nothing is missing any more, if we may."""
    for key in _KEYS:
        with suppress(DatabaseTrouble), guarded(), store.engine.begin() as connection:
            driver_of(connection).execute(
                f"ALTER TABLE air.sensor_place VALIDATE CONSTRAINT {key}".encode()
            )
