"""Changes: the feed that says what every transaction did to readings and to quarantine.

Revision 0007. Files that are loaded already are entered into the feed as if they had just been, so
that it sums to the raw tables from its first row.

What that costs: a row for each file of the ledger, made of the ledger and the statistics per file.
Only of files with readings of several months, or in both raw tables, the readings have to be
counted, in the span of months that these files have. Writers wait meanwhile; readers do not.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The lock of all writers: what is counted here is all there is.
WAIT_FOR_WRITERS = "SELECT pg_advisory_xact_lock(hashtextextended('sofia-air: writer', 0))"

# Which raw tables a file has readings in, and of which sensors.
FILE_TABLES = """
CREATE TEMPORARY TABLE file_table ON COMMIT DROP AS
SELECT file_id, raw_table, array_agg(DISTINCT sensor_id ORDER BY sensor_id) AS sensors
  FROM (SELECT file_id, sensor_id,
               CASE WHEN quantity IN ('pm10', 'pm25', 'pm1') THEN 'raw_particulate'
                    ELSE 'raw_climate' END AS raw_table
          FROM air.file_aggregate) AS each
 GROUP BY file_id, raw_table
"""
# Of a file with one table and one month, the ledger tells how many readings are in it.
FILE_MONTHS = """
CREATE TEMPORARY TABLE file_month ON COMMIT DROP AS
SELECT file_id, raw_table, rows_loaded AS rows,
       (date_trunc('month', first_ts, 'UTC') AT TIME ZONE 'UTC')::date AS month
  FROM air.source_file
  JOIN (SELECT file_id, min(raw_table) AS raw_table
          FROM file_table GROUP BY file_id HAVING count(*) = 1) AS sole USING (file_id)
 WHERE state = 'loaded' AND rows_loaded > 0
   AND date_trunc('month', first_ts, 'UTC') = date_trunc('month', last_ts, 'UTC')
"""
UNCLEAR = """
CREATE TEMPORARY TABLE unclear ON COMMIT DROP AS
SELECT file_id, first_ts, last_ts
  FROM air.source_file
 WHERE state = 'loaded' AND rows_loaded > 0
   AND file_id NOT IN (SELECT file_id FROM file_month)
"""
# The span stands there as values, so that only its months are read.
COUNT = """
DO $$
DECLARE
    span record;
    name text;
BEGIN
    SELECT min(first_ts) AS first, max(last_ts) AS last INTO span FROM unclear;
    IF span.first IS NULL THEN
        RETURN;
    END IF;
    FOREACH name IN ARRAY ARRAY['raw_particulate', 'raw_climate'] LOOP
        EXECUTE format(
            'INSERT INTO file_month (file_id, raw_table, month, rows)
             SELECT file_id, %L, (date_trunc(''month'', ts, ''UTC'') AT TIME ZONE ''UTC'')::date,
                    count(*)
               FROM air.%I JOIN unclear USING (file_id)
              WHERE ts BETWEEN %L AND %L
              GROUP BY 1, 3', name, name, span.first, span.last);
    END LOOP;
END
$$
"""
FEED = """
WITH touched AS (
    SELECT file_id, raw_table, jsonb_object_agg(month::text, rows) AS months, sum(rows) AS rows
      FROM file_month
     GROUP BY file_id, raw_table), waiting AS (
    SELECT file_id, sum(open) AS rows FROM air.quarantine_summary GROUP BY file_id)
INSERT INTO air.change (at, kind, file_id, raw_table, months, rows_added, sensors,
    quarantine_opened)
SELECT file.loaded_at,
       CASE WHEN parent.state <> 'refused' THEN 'replay' ELSE 'load' END,
       file.file_id, touched.raw_table, coalesce(months, '{}'), coalesce(touched.rows, 0),
       coalesce(sensors, '{}'),
       -- Of a file in both tables, the first row has what is about the file as a whole.
       CASE WHEN row_number() OVER (PARTITION BY file.file_id ORDER BY touched.raw_table) = 1
            THEN coalesce(waiting.rows, 0) ELSE 0 END
  FROM air.source_file AS file
  LEFT JOIN air.source_file AS parent ON parent.file_id = file.parent_file_id
  LEFT JOIN touched ON touched.file_id = file.file_id
  LEFT JOIN file_table
         ON file_table.file_id = file.file_id AND file_table.raw_table = touched.raw_table
  LEFT JOIN waiting ON waiting.file_id = file.file_id
 WHERE file.state <> 'retracted'
 ORDER BY file.loaded_at, file.file_id, touched.raw_table
"""

# Whoever loads or reads goes on doing so, whatever the roles are called, and whoever migrates.
GRANTS = """
DO $$
DECLARE
    entitled record;
BEGIN
    FOR entitled IN
        SELECT privilege_type, is_grantable, grantee
          FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))
         WHERE oid = 'air.source_file'::regclass
    LOOP
        CONTINUE WHEN entitled.grantee = current_user::regrole;
        EXECUTE format('GRANT %s ON TABLE air.change TO %s', entitled.privilege_type,
            CASE entitled.grantee WHEN 0 THEN 'PUBLIC' ELSE entitled.grantee::regrole::text END)
            || CASE WHEN entitled.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
END
$$
"""


def required(name: str, kind: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def counter(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment)


def upgrade() -> None:
    op.create_table(
        "change",
        sa.Column(
            "seq",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Number of the change. Later changes have higher numbers, and become visible "
            "later: whoever has seen a number asks for what comes after it. Numbers may be left "
            "out.",
        ),
        required(
            "at",
            sa.TIMESTAMP(timezone=True),
            "When it was written, UTC; of files that were loaded before there was a feed: when "
            "they were.",
        ),
        required(
            "kind",
            sa.Text(),
            "What was done: load, replay (rows in quarantine brought back), retract, discard, or "
            "mend (readings got back their sensor or place).",
        ),
        required(
            "file_id",
            sa.Integer(),
            "The file whose readings or rows in quarantine it is about; see source_file. The "
            "ledger may no longer have one that was refused and then judged anew.",
        ),
        sa.Column(
            "raw_table",
            sa.Text(),
            comment="The raw table whose readings it is about; null: no readings, but rows in "
            "quarantine, or the ledger alone. A file with readings in both tables has a row for "
            "each.",
        ),
        sa.Column(
            "months",
            JSONB(),
            nullable=False,
            server_default="{}",
            comment="The months (UTC, by their first day) whose readings it is about, and by how "
            "many readings each has grown: negative where readings were taken out, 0 where they "
            "only were changed.",
        ),
        counter("rows_added", "Number of readings that came into the raw table."),
        counter("rows_removed", "Number of readings that were taken out of it."),
        counter("rows_changed", "Number of readings that were changed where they stood."),
        sa.Column(
            "sensors",
            sa.ARRAY(sa.Integer()),
            nullable=False,
            server_default="{}",
            comment="The sensors of these readings, ascending.",
        ),
        counter(
            "quarantine_opened",
            "Number of rows of the file that began to wait in quarantine; of a file with two rows "
            "here, the first has it.",
        ),
        counter(
            "quarantine_closed",
            "Number of rows of the file that no longer wait there; of a file with two rows here, "
            "the first has it.",
        ),
        sa.CheckConstraint(
            "kind IN ('load', 'replay', 'retract', 'discard', 'mend')",
            name=op.f("change_kind_known"),
        ),
        sa.CheckConstraint(
            "raw_table IS NOT NULL OR (months = '{}' AND rows_added = 0 AND rows_removed = 0"
            " AND rows_changed = 0)",
            name=op.f("change_of_a_table"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("change_pkey")),
        schema="air",
        comment="The change feed: what every transaction did to readings and to quarantine, one "
        "row a file and raw table, committed with what it tells of and kept for ever. The readings "
        "added less those removed are what is in the raw tables, by month and file. After a "
        "restore the numbers begin again where the back-up had them, in another generation (see "
        "generation): whoever follows then starts anew.",
    )
    op.execute(GRANTS)
    op.execute(WAIT_FOR_WRITERS)
    for statement in (FILE_TABLES, FILE_MONTHS, UNCLEAR, COUNT, FEED):
        op.execute(sa.text(statement.replace(":", r"\:")))
    op.execute("DROP TABLE file_table, file_month, unclear")


def downgrade() -> None:
    op.drop_table("change", schema="air")
