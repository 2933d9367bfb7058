"""The first tables: ledger, dimensions, raw readings, quarantine and statistics.

Revision 0001. A migration is history: it names everything itself and imports nothing of the
package, so that it still means the same when the package has moved on.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

QUANTITIES = "pm10, pm25, pm1, temperature, humidity, pressure"
MOMENT = sa.TIMESTAMP(timezone=True)

# Makes the partition of a month by CREATE and ATTACH, not by CREATE ... PARTITION OF: that wants an
# ACCESS EXCLUSIVE lock on the parent, so it waits for every query there and blocks every new one.
ENSURE_MONTH = """
CREATE FUNCTION air.ensure_month(parent regclass, month date) RETURNS void
LANGUAGE plpgsql
-- So that a role that may only write readings can have their month made.
SECURITY DEFINER
SET search_path = pg_catalog, air, pg_temp
AS $$
DECLARE
    first_day timestamp := date_trunc('month', month::timestamp);
    next_month timestamp := first_day + interval '1 month';
    part text := (SELECT relname FROM pg_class WHERE oid = parent)
        || to_char(first_day, '_YYYY_MM');
    existing regclass;
BEGIN
    IF parent IS NULL
        OR parent NOT IN ('air.raw_particulate'::regclass, 'air.raw_climate'::regclass)
    THEN
        RAISE EXCEPTION '% is not a raw table of the schema air', coalesce(parent::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF month IS NULL OR month NOT BETWEEN DATE '1970-01-01' AND DATE '2999-12-31' THEN
        RAISE EXCEPTION '% is not a month that a reading can have', coalesce(month::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Twice: without the locks, since nearly always the month is there, and then under them.
    FOR attempt IN 1..2 LOOP
        existing := to_regclass(format('air.%I', part));
        IF existing IS NOT NULL THEN
            IF pg_partition_root(existing) IS DISTINCT FROM parent THEN
                RAISE EXCEPTION 'the table air.% exists and is not a partition of %', part, parent
                    USING ERRCODE = 'duplicate_table',
                          HINT = 'Attach it to its parent again, or rename it.';
            END IF;
            RETURN;
        END IF;
        IF attempt = 1 THEN
            -- One lock for all months and both parents, so that two loaders that want several
            -- cannot wait for each other in a ring.
            PERFORM pg_advisory_xact_lock(8243104180526868577);
            -- ATTACH takes this one anyway. Waiting for the first lock does not refresh what this
            -- session remembers of the catalogs; locking a table does.
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
        END IF;
    END LOOP;

    EXECUTE format('CREATE TABLE air.%I (LIKE %s INCLUDING ALL)', part, parent);
    EXECUTE format(
        'COMMENT ON TABLE air.%I IS %L',
        part,
        format(
            'Readings of %s, UTC: a partition of %s, and best queried through that.',
            to_char(first_day, 'YYYY-MM'), parent
        )
    );
    -- The offset is written out: months are those of UTC, whatever the zone of this session.
    EXECUTE format(
        'ALTER TABLE %s ATTACH PARTITION air.%I FOR VALUES FROM (%L) TO (%L)',
        parent,
        part,
        to_char(first_day, 'YYYY-MM-DD HH24:MI:SS') || '+00',
        to_char(next_month, 'YYYY-MM-DD HH24:MI:SS') || '+00'
    );
END
$$
"""


def upgrade() -> None:
    op.execute(
        "COMMENT ON SCHEMA air IS 'Readings of air-quality sensors: raw rows, statistics, and a "
        "ledger of every file they came from. All times are UTC.'"
    )
    op.execute(
        "COMMENT ON TABLE air.alembic_version IS 'How far this database has been migrated. Written "
        "by alembic, not to be changed by hand.'"
    )
    op.execute(
        "COMMENT ON COLUMN air.alembic_version.version_num IS 'Last migration that was applied.'"
    )
    op.create_table(
        "source_file",
        sa.Column(
            "file_id",
            sa.Integer(),
            sa.Identity(always=True),
            nullable=False,
            comment="Number of the file. Raw rows, aggregates and quarantined rows refer to it.",
        ),
        required("name", sa.Text(), "Name of the file when it was dropped, without its folder."),
        required(
            "sha256",
            sa.Text(),
            "SHA-256 of the bytes of the file, 64 hex digits. This is what a file is known by: "
            "the same bytes under another name are the same file.",
        ),
        required("bytes", sa.BigInteger(), "Size of the file as it was dropped, in bytes."),
        optional("dialect", sa.Text(), "Kind of CSV that was recognised; null: none was."),
        optional(
            "sensor_model",
            sa.Text(),
            "Sensor model that was recognised by the header, in lower case; null: none was.",
        ),
        required(
            "state",
            sa.Text(),
            "loaded: its good rows are in the raw tables. refused: unusable as a whole, nothing "
            "was loaded (see rule and reason). retracted: it was loaded, and its rows were taken "
            "out again.",
        ),
        counter(
            "rows_read", "Data rows found in the file; equals the sum of the next three columns."
        ),
        counter("rows_loaded", "Rows that went into a raw table."),
        counter(
            "rows_duplicate",
            "Rows whose reading (sensor_id, ts) was already known, from this file or an earlier "
            "one.",
        ),
        counter("rows_quarantined", "Rows that broke a rule and are kept in quarantined_row."),
        optional(
            "first_ts",
            MOMENT,
            "Time of the earliest row loaded from the file, UTC; null: none was.",
        ),
        optional(
            "last_ts", MOMENT, "Time of the latest row loaded from the file, UTC; null: none was."
        ),
        required("detected_at", MOMENT, "When the file was first seen in data/, UTC."),
        required("loaded_at", MOMENT, "When the file was loaded or refused, UTC."),
        required(
            "contract_version", sa.Text(), "Version of the rules that were in force: a short hash."
        ),
        required("app_version", sa.Text(), "Version of the software that handled the file."),
        optional(
            "parent_file_id",
            sa.Integer(),
            "The file whose quarantined rows this one brings back, repaired; "
            "null: it is a file of its own.",
        ),
        optional(
            "rule",
            sa.Text(),
            "Machine-readable name of the rule that the whole file broke, for example "
            "unknown_header; null: it was not refused.",
        ),
        optional(
            "reason",
            sa.Text(),
            "What was wrong with the file and what would have been accepted, as a sentence; "
            "null: it was not refused.",
        ),
        sa.PrimaryKeyConstraint("file_id", name=op.f("source_file_pkey")),
        sa.ForeignKeyConstraint(
            ["parent_file_id"],
            ["air.source_file.file_id"],
            name=op.f("source_file_parent_file_id_fkey"),
        ),
        sa.CheckConstraint(
            "state IN ('loaded', 'refused', 'retracted')", name=op.f("source_file_state_known")
        ),
        sa.CheckConstraint(
            "rows_read = rows_loaded + rows_duplicate + rows_quarantined",
            name=op.f("source_file_books_balance"),
        ),
        sa.CheckConstraint(
            "rows_read >= 0 AND rows_loaded >= 0 AND rows_duplicate >= 0 AND rows_quarantined >= 0",
            name=op.f("source_file_counts_not_negative"),
        ),
        schema="air",
        comment="The ledger: one row for every file that was ever taken, with books that balance: "
        "rows_read = rows_loaded + rows_duplicate + rows_quarantined.",
    )
    op.create_index(
        "source_file_sha256_once",
        "source_file",
        ["sha256"],
        unique=True,
        schema="air",
        postgresql_where=sa.text("state <> 'retracted'"),
    )
    op.create_index(op.f("source_file_loaded_at_idx"), "source_file", ["loaded_at"], schema="air")

    op.create_table(
        "sensor",
        required(
            "sensor_id", sa.Integer(), "Number of the sensor in the sensor.community network."
        ),
        required("model", sa.Text(), "Sensor model, in lower case, for example sds011."),
        sa.PrimaryKeyConstraint("sensor_id", name=op.f("sensor_pkey")),
        schema="air",
        comment="Every sensor that has a reading in the raw tables.",
    )

    op.create_table(
        "location",
        sa.Column(
            "location_key",
            sa.Integer(),
            sa.Identity(always=True),
            nullable=False,
            comment="Number of the place. Raw rows refer to it.",
        ),
        optional(
            "location_id",
            sa.Integer(),
            "Number of the location in the sensor.community network; null: the file gave none.",
        ),
        optional(
            "lat",
            sa.Double(),
            "Latitude in degrees north, WGS 84, as the file gave it; null: the file gave none.",
        ),
        optional(
            "lon",
            sa.Double(),
            "Longitude in degrees east, WGS 84, as the file gave it; null: the file gave none.",
        ),
        sa.PrimaryKeyConstraint("location_key", name=op.f("location_pkey")),
        sa.UniqueConstraint(
            "location_id",
            "lat",
            "lon",
            name=op.f("location_location_id_lat_lon_key"),
            postgresql_nulls_not_distinct=True,
        ),
        schema="air",
        comment="Every place that a reading came from. A location whose coordinates changed, "
        "because it moved or was rounded anew, has one row for each.",
    )

    raw_table(
        "raw_particulate",
        "Accepted readings of fine dust",
        {
            "pm10": "Particulate matter up to 10 µm, µg/m³",
            "pm25": "Particulate matter up to 2.5 µm, µg/m³",
            "pm1": "Particulate matter up to 1 µm, µg/m³",
        },
        "1 = the file gave no coordinates; "
        "2 = pm10 is accepted but outside its typical range; "
        "4 = pm25 is accepted but outside its typical range; "
        "8 = pm1 is accepted but outside its typical range",
    )
    raw_table(
        "raw_climate",
        "Accepted readings of temperature, humidity and air pressure",
        {
            "temperature": "Air temperature, °C",
            "humidity": "Relative humidity, %RH",
            "pressure": "Air pressure at the sensor, hPa",
        },
        "1 = the file gave no coordinates; "
        "2 = temperature is accepted but outside its typical range; "
        "4 = humidity is accepted but outside its typical range; "
        "8 = pressure is accepted but outside its typical range",
    )
    op.execute(ENSURE_MONTH)
    op.execute(
        "COMMENT ON FUNCTION air.ensure_month(regclass, date) IS 'Makes the partition of a raw "
        "table for the month of a day (UTC), if it is not there yet.'"
    )
    # Everybody could run it otherwise, and it runs with its owner's rights.
    op.execute("REVOKE ALL ON FUNCTION air.ensure_month(regclass, date) FROM PUBLIC")

    op.create_table(
        "quarantined_row",
        required("file_id", sa.Integer(), "The file that the row came from; see source_file."),
        required(
            "line_no",
            sa.BigInteger(),
            "Number of the line in that file; the header is line 1.",
        ),
        required(
            "line",
            sa.Text(),
            "The line as it stood in the file, readable: bytes that are not UTF-8, and NUL, are "
            "shown as U+FFFD.",
        ),
        optional(
            "line_bytes",
            sa.LargeBinary(),
            "The exact bytes of the line, where line cannot show them; null: line is exact.",
        ),
        required(
            "reasons",
            JSONB(),
            "Every rule that the row broke: a list of objects that name the rule, the column and "
            "the value.",
        ),
        required(
            "state",
            sa.Text(),
            "open: waits for somebody. repaired: came back in replay_file_id. discarded: somebody "
            "decided that it is not wanted.",
            server_default="open",
        ),
        optional(
            "replay_file_id",
            sa.Integer(),
            "The file that brought the row back, repaired; see source_file. null: none did.",
        ),
        sa.PrimaryKeyConstraint("file_id", "line_no", name=op.f("quarantined_row_pkey")),
        sa.CheckConstraint(
            "state IN ('open', 'repaired', 'discarded')", name=op.f("quarantined_row_state_known")
        ),
        schema="air",
        comment="Every row that was not loaded because it broke a rule, verbatim, with the "
        "reasons.",
    )

    op.create_table(
        "file_aggregate",
        required("file_id", sa.Integer(), "The file; see source_file."),
        required("sensor_id", sa.Integer(), "The sensor; see sensor."),
        required(
            "quantity",
            sa.Text(),
            f"What was measured: a column of a raw table ({QUANTITIES}).",
        ),
        required(
            "n", sa.BigInteger(), "Number of readings loaded from the file, nulls not counted."
        ),
        required("min", sa.REAL(), "Lowest reading, in the unit of the quantity."),
        required("max", sa.REAL(), "Highest reading, in the unit of the quantity."),
        required("mean", sa.Double(), "Arithmetic mean, in the unit of the quantity."),
        optional(
            "std",
            sa.Double(),
            "Sample standard deviation (n - 1), in the unit of the quantity; "
            "null: one reading only.",
        ),
        sa.PrimaryKeyConstraint(
            "file_id", "sensor_id", "quantity", name=op.f("file_aggregate_pkey")
        ),
        sa.ForeignKeyConstraint(
            ["file_id"], ["air.source_file.file_id"], name=op.f("file_aggregate_file_id_fkey")
        ),
        schema="air",
        comment="Statistics of the rows that were loaded from each file, per sensor and quantity. "
        "Committed with the rows, so never stale.",
    )

    op.create_table(
        "hourly",
        required("sensor_id", sa.Integer(), "The sensor; see sensor."),
        required(
            "quantity",
            sa.Text(),
            f"What was measured: a column of a raw table ({QUANTITIES}).",
        ),
        required(
            "hour", MOMENT, "Start of the hour, UTC: readings with hour <= ts < hour + 1 hour."
        ),
        required("n", sa.BigInteger(), "Number of readings in the hour, nulls not counted."),
        required("min", sa.REAL(), "Lowest reading, in the unit of the quantity."),
        required("max", sa.REAL(), "Highest reading, in the unit of the quantity."),
        required("mean", sa.Double(), "Arithmetic mean, in the unit of the quantity."),
        required(
            "m2",
            sa.Double(),
            "Sum of the squared deviations from the mean. Unlike a standard deviation, it merges "
            "exactly when hours are joined or late readings arrive.",
        ),
        sa.Column(
            "std",
            sa.Double(),
            sa.Computed(
                "CASE WHEN n > 1 THEN sqrt(m2 / (n - 1)::double precision) "
                "ELSE NULL::double precision END",
                persisted=True,
            ),
            comment="Sample standard deviation (n - 1), in the unit of the quantity, computed from "
            "m2; null: one reading only.",
        ),
        sa.PrimaryKeyConstraint("sensor_id", "quantity", "hour", name=op.f("hourly_pkey")),
        schema="air",
        comment="Statistics of every hour, per sensor and quantity, over all files. "
        "Committed with the rows, so never stale.",
    )
    op.create_index(op.f("hourly_hour_idx"), "hourly", ["hour"], schema="air")


def downgrade() -> None:
    # The schema itself goes in env.py, after alembic has noted this step in the version table.
    op.execute("DROP FUNCTION air.ensure_month(regclass, date)")
    for table in (
        "hourly",
        "file_aggregate",
        "quarantined_row",
        "raw_climate",
        "raw_particulate",
        "location",
        "sensor",
        "source_file",
    ):
        op.drop_table(table, schema="air")


def raw_table(name: str, contents: str, quantities: dict[str, str], marks: str) -> None:
    op.create_table(
        name,
        required("sensor_id", sa.Integer(), "The sensor; see sensor."),
        required("ts", MOMENT, "Time of the reading, UTC."),
        required("location_key", sa.Integer(), "Where the sensor was; see location."),
        required("file_id", sa.Integer(), "The file that the row came from; see source_file."),
        *(
            optional(quantity, sa.REAL(), f"{meaning}; null: the sensor gave no reading.")
            for quantity, meaning in quantities.items()
        ),
        required(
            "flags",
            sa.SmallInteger(),
            f"Marks on the row, a sum of: {marks}. 0: nothing to remark.",
            server_default="0",
        ),
        sa.PrimaryKeyConstraint("sensor_id", "ts", name=op.f(f"{name}_pkey")),
        schema="air",
        postgresql_partition_by="RANGE (ts)",
        comment=f"{contents}, one row a reading, known by (sensor_id, ts). "
        "Partitioned by month of ts in UTC: name a range of ts in a query to read only its months.",
    )


def required(name: str, kind: Any, comment: str, server_default: str | None = None) -> Any:
    return sa.Column(
        name,
        kind,
        server_default=server_default,
        nullable=False,
        autoincrement=False,
        comment=comment,
    )


def optional(name: str, kind: Any, comment: str) -> Any:
    return sa.Column(name, kind, nullable=True, comment=comment)


def counter(name: str, comment: str) -> Any:
    return required(name, sa.BigInteger(), comment, server_default="0")
