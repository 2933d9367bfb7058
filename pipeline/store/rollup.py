"""Rollup: the statistics of hours and days, kept in the transaction of the readings they sum up."""

from __future__ import annotations

import pandas as pd
import psycopg
import pyarrow as pa

from pipeline.store.copy import Cursor, copy_in
from pipeline.store.sql import statement


def merge(cursor: Cursor, statistics: pd.DataFrame) -> None:
    """Merge statistics of newly loaded readings into the rollup.

    Args:
        cursor: of the transaction that loads the readings.
        statistics: as `steps.aggregate.hourly` returns them.
    """
    if len(statistics):
        _hours(cursor, statistics.sort_values(["sensor_id", "quantity", "hour"]))


def _hours(cursor: Cursor, ordered: pd.DataFrame) -> None:
    columns = {
        "sensor_id": pa.array(ordered["sensor_id"].to_numpy(), pa.int32()),
        "quantity": pa.array(ordered["quantity"].to_numpy(object), pa.string()),
        "hour": pa.array(ordered["hour"].to_numpy(), pa.timestamp("us", "UTC")),
        "n": pa.array(ordered["n"].to_numpy(), pa.int64()),
        "min": pa.array(ordered["min"].to_numpy(), pa.float32()),
        "max": pa.array(ordered["max"].to_numpy(), pa.float32()),
        "mean": pa.array(ordered["mean"].to_numpy(), pa.float64()),
        "m2": pa.array(ordered["m2"].to_numpy(), pa.float64()),
    }
    try:
        with cursor.connection.transaction():  # a savepoint
            copy_in(cursor, ("air", "hourly"), columns)
    except psycopg.errors.UniqueViolation:
        # Some of these hours have readings already.
        cursor.execute("DROP TABLE IF EXISTS pg_temp.hourly_stage")
        cursor.execute(statement("hourly_stage_create"))
        copy_in(cursor, ("hourly_stage",), columns)
        cursor.execute(statement("hourly_merge"))
