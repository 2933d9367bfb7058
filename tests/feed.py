"""The law of the change feed: what it says was added and removed sums to what is there.

Each question returns what breaks it; an empty answer is the law kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

LAW = {
    "the feed's months sum to the raw tables": """
        WITH fed AS (
            SELECT raw_table, key::date AS month, file_id, sum(value::bigint) AS rows
              FROM air.change, jsonb_each_text(months)
             GROUP BY 1, 2, 3 HAVING sum(value::bigint) <> 0),
        kept AS (
            SELECT raw_table, (date_trunc('month', ts, 'UTC') AT TIME ZONE 'UTC')::date AS month,
                   file_id, count(*) AS rows
              FROM (SELECT 'raw_particulate' AS raw_table, ts, file_id FROM air.raw_particulate
                    UNION ALL SELECT 'raw_climate', ts, file_id FROM air.raw_climate) AS every
             GROUP BY 1, 2, 3)
        SELECT raw_table, month, file_id, fed.rows AS fed, kept.rows AS kept
          FROM fed FULL JOIN kept USING (raw_table, month, file_id)
         WHERE fed.rows IS DISTINCT FROM kept.rows""",
    "a row's months sum to its counts": """
        SELECT seq, months, rows_added, rows_removed FROM air.change
         WHERE rows_added - rows_removed
               <> (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(months))
            OR (rows_added > 0)::integer + (rows_removed > 0)::integer > 1
            OR rows_added < 0 OR rows_removed < 0 OR rows_changed < 0""",
    "a row names months and sensors if it is about readings, and only then": """
        SELECT seq, raw_table, months, sensors FROM air.change
         WHERE (raw_table IS NULL) <> (months = '{}')
            OR (raw_table IS NOT NULL AND sensors = '{}')""",
    "the feed names the sensors of what is there": """
        SELECT raw_table, file_id, sensor_id
          FROM (SELECT 'raw_particulate' AS raw_table, file_id, sensor_id FROM air.raw_particulate
                UNION SELECT 'raw_climate', file_id, sensor_id FROM air.raw_climate) AS every
        EXCEPT SELECT raw_table, file_id, unnest(sensors) FROM air.change""",
    "the feed sums to what waits in quarantine": """
        WITH fed AS (
            SELECT file_id, sum(quarantine_opened - quarantine_closed) AS rows FROM air.change
             GROUP BY 1 HAVING sum(quarantine_opened - quarantine_closed) <> 0),
        kept AS (
            SELECT file_id, count(*) AS rows FROM air.quarantined_row WHERE state = 'open'
             GROUP BY 1)
        SELECT file_id, fed.rows AS fed, kept.rows AS kept FROM fed FULL JOIN kept USING (file_id)
         WHERE fed.rows IS DISTINCT FROM kept.rows""",
    "every file of the ledger is in the feed": """
        SELECT file_id FROM air.source_file WHERE state <> 'retracted'
        EXCEPT SELECT file_id FROM air.change""",
    "a transaction has one row for each file and raw table": """
        SELECT xmin::text, file_id, raw_table FROM air.change
         GROUP BY xmin::text, file_id, raw_table HAVING count(*) > 1""",
}


def broken(ask: Callable[[str], Sequence[tuple[Any, ...]]]) -> dict[str, Sequence[tuple[Any, ...]]]:
    """Return the laws that are broken, and what breaks them.

    Args:
        ask: puts a question to the database.
    """
    return {law: found[:5] for law, question in LAW.items() if (found := ask(question))}
