"""The tables: what the database promises, with the words that explain it to psql's users.

This is alembic's target: `alembic check` compares it with a migrated database, comments included.
The columns of the raw tables and the marks in `flags` derive from the contract, so a new quantity
shows up here by itself, and the check then asks for the migration that adds it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from pipeline.contract import PARTIAL, PLACE_UNKNOWN, flag_bits
from pipeline.contract.indices import CADENCE, COMPLETE_HOUR
from pipeline.contract.quantities import QUANTITIES, Table
from pipeline.store.sql import statement

__all__ = [
    "RAW",
    "SCHEMA",
    "change",
    "daily",
    "file_aggregate",
    "file_duplicates",
    "generation",
    "hourly",
    "location",
    "metadata",
    "quarantine_summary",
    "quarantined_row",
    "raw_climate",
    "raw_particulate",
    "sensor",
    "sensor_place",
    "source_file",
    "source_section",
]

SCHEMA = "air"

# PostgreSQL's own default names: people meet them in error messages and in plans.
metadata = sa.MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    },
)

_QUANTITY_NAMES = ", ".join(quantity.name for quantity in QUANTITIES)
_MOMENT = sa.TIMESTAMP(timezone=True)
# Written as PostgreSQL itself writes it, so that alembic sees no difference.
_STD = "CASE WHEN n > 1 THEN sqrt(m2 / (n - 1)::double precision) ELSE NULL::double precision END"


def _required(name: str, kind: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def _optional(name: str, kind: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=True, comment=comment)


def _counter(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment)


def _sensor_id() -> sa.Column[Any]:
    return sa.Column(
        "sensor_id",
        sa.Integer(),
        primary_key=True,
        autoincrement=False,
        comment="The sensor; see sensor.",
    )


def _quantity() -> sa.Column[Any]:
    return sa.Column(
        "quantity",
        sa.Text(),
        primary_key=True,
        comment=f"What was measured: a column of a raw table ({_QUANTITY_NAMES}).",
    )


def _extremes_and_mean(mean: str = "Arithmetic mean") -> tuple[sa.Column[Any], ...]:
    return (
        _required("min", sa.REAL(), "Lowest reading, in the unit of the quantity."),
        _required("max", sa.REAL(), "Highest reading, in the unit of the quantity."),
        _required("mean", sa.Double(), f"{mean}, in the unit of the quantity."),
    )


def _std_of_m2() -> sa.Column[Any]:
    return sa.Column(
        "std",
        sa.Double(),
        sa.Computed(_STD, persisted=True),
        comment="Sample standard deviation (n - 1), in the unit of the quantity, computed from m2; "
        "null: one reading only.",
    )


source_file = sa.Table(
    "source_file",
    metadata,
    sa.Column(
        "file_id",
        sa.Integer(),
        sa.Identity(always=True),
        primary_key=True,
        comment="Number of the file. Raw rows, aggregates and quarantined rows refer to it.",
    ),
    _required("name", sa.Text(), "Name of the file when it was dropped, without its folder."),
    _required(
        "sha256",
        sa.Text(),
        "SHA-256 of the bytes of the file, 64 hex digits. This is what a file is known by: "
        "the same bytes under another name are the same file.",
    ),
    _required("bytes", sa.BigInteger(), "Size of the file as it was dropped, in bytes."),
    _optional("dialect", sa.Text(), "Kind of CSV that was recognised; null: none was."),
    _optional(
        "sensor_model",
        sa.Text(),
        "Sensor model that was recognised by the header, in lower case; null: none was.",
    ),
    _required(
        "state",
        sa.Text(),
        "loaded: its good rows are in the raw tables. refused: unusable as a whole, nothing "
        "was loaded (see rule and reason). retracted: it was loaded, and its rows were taken out "
        "again.",
    ),
    _counter("rows_read", "Data rows found in the file; equals the sum of the next three columns."),
    _counter("rows_loaded", "Rows that went into a raw table."),
    _counter(
        "rows_duplicate",
        "Rows whose reading (sensor_id, ts) was already known, from this file or an earlier one.",
    ),
    _counter("rows_quarantined", "Rows that broke a rule and are kept in quarantined_row."),
    _optional(
        "first_ts", _MOMENT, "Time of the earliest row loaded from the file, UTC; null: none was."
    ),
    _optional(
        "last_ts", _MOMENT, "Time of the latest row loaded from the file, UTC; null: none was."
    ),
    _required("detected_at", _MOMENT, "When the file was first seen in data/, UTC."),
    _required("loaded_at", _MOMENT, "When the file was loaded or refused, UTC."),
    _required(
        "contract_version", sa.Text(), "Version of the rules that were in force: a short hash."
    ),
    _required("app_version", sa.Text(), "Version of the software that handled the file."),
    sa.Column(
        "parent_file_id",
        sa.Integer(),
        sa.ForeignKey(f"{SCHEMA}.source_file.file_id"),
        comment="The file whose quarantined rows this one brings back, repaired, or the refused "
        "file that it replaces; null: it is a file of its own.",
    ),
    _optional(
        "rule",
        sa.Text(),
        "Machine-readable name of the rule that the whole file broke, for example "
        "unknown_header; null: it was not refused.",
    ),
    _optional(
        "reason",
        sa.Text(),
        "What was wrong with the file and what would have been accepted, as a sentence; "
        "null: it was not refused.",
    ),
    _optional(
        "header",
        sa.Text(),
        "The header line as it stood in the file: what its quarantined rows are read by when they "
        "are judged again; null: none was recognised.",
    ),
    _optional(
        "decided_at",
        _MOMENT,
        "When somebody retracted the file, or discarded it or replaced it by a repaired one after "
        "it was refused, UTC; null: nobody did.",
    ),
    _optional("decided_by", sa.Text(), "Who that was: the name of the user; null: nobody."),
    _optional("note", sa.Text(), "What that person noted down; null: nothing."),
    sa.CheckConstraint("state IN ('loaded', 'refused', 'retracted')", name="state_known"),
    # The first law of the design, where nobody can get around it.
    sa.CheckConstraint(
        "rows_read = rows_loaded + rows_duplicate + rows_quarantined", name="books_balance"
    ),
    sa.CheckConstraint(
        "rows_read >= 0 AND rows_loaded >= 0 AND rows_duplicate >= 0 AND rows_quarantined >= 0",
        name="counts_not_negative",
    ),
    comment="The ledger: one row for every file that was ever taken, with books that balance: "
    "rows_read = rows_loaded + rows_duplicate + rows_quarantined.",
)
# Exactly once: two processes that load the same bytes cannot both commit. A file that was
# retracted, or refused and then settled by a person, may come again.
sa.Index(
    "source_file_sha256_once",
    source_file.c.sha256,
    unique=True,
    postgresql_where=sa.text("state <> 'retracted' AND decided_at IS NULL"),
)
sa.Index(
    None, source_file.c.parent_file_id, postgresql_where=source_file.c.parent_file_id.is_not(None)
)
sa.Index(None, source_file.c.loaded_at)
# Bytes are looked up in both: those that nobody decided about are in the index above.
sa.Index(
    "source_file_settled",
    source_file.c.sha256,
    postgresql_where=source_file.c.decided_at.is_not(None),
)
# A replay asks for copies of its sheet that were dropped into data/, and hardly ever is there one.
sa.Index(
    "source_file_dropped_sheets",
    source_file.c.file_id,
    postgresql_where=sa.text("left(header, 7) = 'line_no'"),
)
# Few files have duplicates, and a retraction asks for all of them.
sa.Index(
    "source_file_with_duplicates",
    source_file.c.file_id,
    postgresql_where=source_file.c.rows_duplicate > 0,
)

source_section = sa.Table(
    "source_section",
    metadata,
    sa.Column(
        "file_id",
        sa.Integer(),
        sa.ForeignKey(source_file.c.file_id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="The file; see source_file.",
    ),
    sa.Column(
        "first_line",
        sa.BigInteger(),
        primary_key=True,
        autoincrement=False,
        comment="Number of the first line of the file that is read by this header.",
    ),
    _required("header", sa.Text(), "The header line as it stands in the file."),
    comment="Files that were joined of several with different headers: which header each line is "
    "read by. Lines before the first of these are read by source_file.header.",
)

sensor = sa.Table(
    "sensor",
    metadata,
    # The network gives out the numbers, not this database.
    sa.Column(
        "sensor_id",
        sa.Integer(),
        primary_key=True,
        autoincrement=False,
        comment="Number of the sensor in the sensor.community network.",
    ),
    _required("model", sa.Text(), "Sensor model, in lower case, for example sds011."),
    comment="Every sensor that has a reading in the raw tables.",
)

location = sa.Table(
    "location",
    metadata,
    sa.Column(
        "location_key",
        sa.Integer(),
        sa.Identity(always=True),
        primary_key=True,
        comment="Number of the place. Raw rows refer to it.",
    ),
    _optional(
        "location_id",
        sa.Integer(),
        "Number of the location in the sensor.community network; null: the file gave none.",
    ),
    _optional(
        "lat",
        sa.Double(),
        "Latitude in degrees north, WGS 84, as the file gave it; null: the file gave none.",
    ),
    _optional(
        "lon",
        sa.Double(),
        "Longitude in degrees east, WGS 84, as the file gave it; null: the file gave none.",
    ),
    _optional(
        "height",
        sa.Double(),
        "Height above sea level in metres. No file tells it: set it by hand where it is known, and "
        "air.paired shows the pressure at sea level. null: not known.",
    ),
    sa.UniqueConstraint("location_id", "lat", "lon", postgresql_nulls_not_distinct=True),
    comment="Every place that a reading came from. A location whose coordinates changed, because "
    "it moved or was rounded anew, has one row for each.",
)


def _raw(table: Table, contents: str) -> sa.Table:
    """Build a raw table.

    It has no foreign keys: each would cost a lookup per row, and loading is bound by what the
    server does per row. Each sensor and place of its rows is in `sensor_place`, in the same
    transaction, and that has them.
    """
    marks = [f"{PLACE_UNKNOWN} = the file gave no coordinates"]
    marks += [
        f"{bit} = {quantity} is accepted but outside its typical range"
        for quantity, bit in flag_bits(table).items()
    ]
    marks.append(f"{PARTIAL} = a reading that this sensor model has is empty")
    return sa.Table(
        table,
        metadata,
        _sensor_id(),
        sa.Column("ts", _MOMENT, primary_key=True, comment="Time of the reading, UTC."),
        _required("location_key", sa.Integer(), "Where the sensor was; see location."),
        _required("file_id", sa.Integer(), "The file that the row came from; see source_file."),
        *(
            _optional(
                quantity.name,
                sa.REAL(),
                f"{quantity.title}, {quantity.unit}; null: the sensor gave no reading.",
            )
            for quantity in QUANTITIES
            if quantity.table == table
        ),
        sa.Column(
            "flags",
            sa.SmallInteger(),
            nullable=False,
            server_default="0",
            comment=f"Marks on the row, a sum of: {'; '.join(marks)}. 0: nothing to remark.",
        ),
        postgresql_partition_by="RANGE (ts)",
        comment=f"{contents}, one row a reading, known by (sensor_id, ts). "
        "Partitioned by month of ts in UTC: name a range of ts in a query to read only its months.",
    )


raw_particulate = _raw("raw_particulate", "Accepted readings of fine dust")
raw_climate = _raw("raw_climate", "Accepted readings of temperature, humidity and air pressure")

RAW: dict[Table, sa.Table] = {"raw_particulate": raw_particulate, "raw_climate": raw_climate}


quarantined_row = sa.Table(
    "quarantined_row",
    metadata,
    # No foreign keys here either: a bad file can bring a million of these.
    sa.Column(
        "file_id",
        sa.Integer(),
        primary_key=True,
        autoincrement=False,
        comment="The file that the row came from; see source_file.",
    ),
    sa.Column(
        "line_no",
        sa.BigInteger(),
        primary_key=True,
        autoincrement=False,
        comment="Number of the line in that file; the header is line 1.",
    ),
    _required(
        "line",
        sa.Text(),
        "The line as it stood in the file, readable: bytes that are not UTF-8, and NUL, are shown "
        "as U+FFFD.",
    ),
    _optional(
        "line_bytes",
        sa.LargeBinary(),
        "The exact bytes of the line, where line cannot show them; null: line is exact.",
    ),
    _required(
        "reasons",
        JSONB(),
        "Every rule that the row broke: a list of objects that name the rule, the column and the "
        "value.",
    ),
    sa.Column(
        "state",
        sa.Text(),
        nullable=False,
        server_default="open",
        comment="open: waits for somebody. repaired: came back in replay_file_id. "
        "discarded: somebody decided that it is not wanted.",
    ),
    _optional(
        "replay_file_id",
        sa.Integer(),
        "The file that brought the row back, repaired; see source_file. null: none did.",
    ),
    _optional(
        "replay_line",
        sa.Text(),
        "The line as somebody repaired it, and as it came back; kept when its replay is "
        "retracted. null: it never came back, or came back as it stood.",
    ),
    _optional("decided_at", _MOMENT, "When it was repaired or discarded, UTC; null: it is open."),
    _optional(
        "decided_by",
        sa.Text(),
        "Who repaired or discarded it: the name of the user; null: it is open.",
    ),
    _optional("note", sa.Text(), "Why it was discarded, in that person's words; null: it was not."),
    _required("group_no", sa.Integer(), "What the row is counted under; see quarantine_summary."),
    sa.CheckConstraint("state IN ('open', 'repaired', 'discarded')", name="state_known"),
    sa.CheckConstraint("(state = 'open') = (decided_at IS NULL)", name="decided"),
    sa.CheckConstraint("(state = 'repaired') = (replay_file_id IS NOT NULL)", name="replayed"),
    comment="Every row that was not loaded because it broke a rule, verbatim, with the reasons. "
    "A file's rows_quarantined are its rows here: open + repaired + discarded.",
)
sa.Index(
    None,
    quarantined_row.c.replay_file_id,
    postgresql_where=quarantined_row.c.replay_file_id.is_not(None),
)

quarantine_summary = sa.Table(
    "quarantine_summary",
    metadata,
    sa.Column(
        "file_id",
        sa.Integer(),
        sa.ForeignKey(source_file.c.file_id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="The file that the rows came from; see source_file.",
    ),
    sa.Column(
        "group_no",
        sa.Integer(),
        primary_key=True,
        autoincrement=False,
        comment="Number of the group within its file; its rows in quarantined_row name it.",
    ),
    _optional(
        "sensor",
        sa.Text(),
        "What stands in the rows' column of the sensor, 20 characters at most; null: nothing does; "
        "'…': one of the rest, where a load brought very many.",
    ),
    _required(
        "rules",
        sa.ARRAY(sa.Text()),
        "The rules that each of the rows broke, in the order of their reasons; a rule that was "
        "broken in two columns comes twice.",
    ),
    _counter("open", "Number of rows that wait for somebody."),
    _counter("repaired", "Number of rows that came back."),
    _counter("discarded", "Number of rows that somebody decided are not wanted."),
    sa.CheckConstraint(
        "open >= 0 AND repaired >= 0 AND discarded >= 0", name="counts_not_negative"
    ),
    comment="How many rows of quarantined_row there are of every file, sensor and combination of "
    "broken rules. Committed with the rows, so never stale.",
)

file_aggregate = sa.Table(
    "file_aggregate",
    metadata,
    sa.Column(
        "file_id",
        sa.Integer(),
        sa.ForeignKey(source_file.c.file_id),
        primary_key=True,
        autoincrement=False,
        comment="The file; see source_file.",
    ),
    _sensor_id(),
    _quantity(),
    _required("n", sa.BigInteger(), "Number of readings loaded from the file, nulls not counted."),
    *_extremes_and_mean(),
    _optional(
        "std",
        sa.Double(),
        "Sample standard deviation (n - 1), in the unit of the quantity; null: one reading only.",
    ),
    comment="Statistics of the rows that were loaded from each file, per sensor and quantity. "
    "Committed with the rows, so never stale.",
)

file_duplicates = sa.Table(
    "file_duplicates",
    metadata,
    sa.Column(
        "file_id",
        sa.Integer(),
        sa.ForeignKey(source_file.c.file_id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
        comment="The file that the rows came from; see source_file.",
    ),
    _sensor_id(),
    _required("first_ts", _MOMENT, "None of these rows has an earlier time, UTC."),
    _required("last_ts", _MOMENT, "None of these rows has a later time, UTC."),
    comment="Where the duplicate rows of a file may be: of which sensors, and from when to "
    "when. A file with duplicates and without rows here was loaded by a version that did not "
    "note it: its duplicates may be anywhere.",
)
# Who else may have had the readings of a sensor?
sa.Index(None, file_duplicates.c.sensor_id, file_duplicates.c.first_ts)

hourly = sa.Table(
    "hourly",
    metadata,
    _sensor_id(),
    _quantity(),
    sa.Column(
        "hour",
        _MOMENT,
        primary_key=True,
        comment="Start of the hour, UTC: readings with hour <= ts < hour + 1 hour.",
    ),
    _required("n", sa.BigInteger(), "Number of readings in the hour, nulls not counted."),
    *_extremes_and_mean(),
    _required(
        "m2",
        sa.Double(),
        "Sum of the squared deviations from the mean. Unlike a standard deviation, it merges "
        "exactly when hours are joined or late readings arrive.",
    ),
    _std_of_m2(),
    comment="Statistics of every hour, per sensor and quantity, over all files. "
    "Committed with the rows, so never stale.",
)
# For questions about a span over all sensors; the primary key serves one sensor. Hours are loaded
# more or less in their order, so this finds their pages, and costs a load next to nothing.
sa.Index(None, hourly.c.hour, postgresql_using="brin")

daily = sa.Table(
    "daily",
    metadata,
    _sensor_id(),
    _quantity(),
    sa.Column("day", sa.Date(), primary_key=True, comment="The day, UTC."),
    _required("n", sa.BigInteger(), "Number of readings on the day, nulls not counted."),
    _required("hours", sa.SmallInteger(), "Number of hours with a reading, 1 to 24."),
    _required(
        "complete_hours",
        sa.SmallInteger(),
        f"Number of hours with at least {COMPLETE_HOUR} readings: three quarters of those that a "
        f"sensor gives that reports every {CADENCE} seconds.",
    ),
    *_extremes_and_mean("Mean of all readings"),
    _required("m2", sa.Double(), "Sum of the squared deviations from the mean."),
    _std_of_m2(),
    comment="Statistics of every day, per sensor and quantity: the hours of air.hourly joined. "
    "Committed with the rows, so never stale.",
)

sensor_place = sa.Table(
    "sensor_place",
    metadata,
    sa.Column(
        "sensor_id",
        sa.Integer(),
        sa.ForeignKey(sensor.c.sensor_id),
        primary_key=True,
        autoincrement=False,
        comment="The sensor; see sensor.",
    ),
    sa.Column(
        "location_key",
        sa.Integer(),
        sa.ForeignKey(location.c.location_key),
        primary_key=True,
        autoincrement=False,
        comment="Where it stood; see location.",
    ),
    _required("first_ts", _MOMENT, "Time of its first reading there, UTC."),
    _required("last_ts", _MOMENT, "Time of its last reading there, UTC."),
    comment="Which sensor stood where, and from when to when, as the raw tables have it. "
    "Committed with the rows, so never stale.",
)
# Who else stood there?
sa.Index(None, sensor_place.c.location_key)

generation = sa.Table(
    "generation",
    metadata,
    sa.Column(
        "number",
        sa.Integer(),
        primary_key=True,
        autoincrement=False,
        comment="1, 2, 3, ...; the highest is the one that counts.",
    ),
    _required(
        "generation",
        sa.Uuid(),
        "Name of the generation. Whoever follows the database from outside and sees another one "
        "than last time starts anew: what it knew may never have happened.",
    ),
    _required("began_at", _MOMENT, "When it was first seen, UTC."),
    _required(
        "place",
        sa.Text(),
        "The server, its timeline and the database that it was seen in.",
    ),
    _required(
        "written_by",
        sa.BigInteger(),
        "The transaction that wrote this row. One that was written by another has been restored "
        "from a dump.",
    ),
    comment="Generations of this database. A restore from a dump, to a moment of the past or "
    "on another server begins a new one, which the next load notices (air.current_generation). "
    "A data folder that was brought back from a copy or a snapshot of its disk or machine "
    "looks the same as before, and begins none.",
)

change = sa.Table(
    "change",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger(),
        sa.Identity(always=True),
        primary_key=True,
        comment="Number of the change. Later changes have higher numbers, and become visible "
        "later: whoever has seen a number asks for what comes after it. Numbers may be left out.",
    ),
    _required(
        "at",
        _MOMENT,
        "When it was written, UTC; of files that were loaded before there was a feed: when they "
        "were.",
    ),
    _required(
        "kind",
        sa.Text(),
        "What was done: load, replay (rows in quarantine brought back), retract, discard, or mend "
        "(readings got back their sensor or place).",
    ),
    # No foreign key: the feed goes on telling of a refusal that the ledger has dropped.
    _required(
        "file_id",
        sa.Integer(),
        "The file whose readings or rows in quarantine it is about; see source_file. The ledger "
        "may no longer have one that was refused and then judged anew.",
    ),
    _optional(
        "raw_table",
        sa.Text(),
        "The raw table whose readings it is about; null: no readings, but rows in quarantine, or "
        "the ledger alone. A file with readings in both tables has a row for each.",
    ),
    sa.Column(
        "months",
        JSONB(),
        nullable=False,
        server_default="{}",
        comment="The months (UTC, by their first day) whose readings it is about, and by how many "
        "readings each has grown: negative where readings were taken out, 0 where they only were "
        "changed.",
    ),
    _counter("rows_added", "Number of readings that came into the raw table."),
    _counter("rows_removed", "Number of readings that were taken out of it."),
    _counter("rows_changed", "Number of readings that were changed where they stood."),
    sa.Column(
        "sensors",
        sa.ARRAY(sa.Integer()),
        nullable=False,
        server_default="{}",
        comment="The sensors of these readings, ascending.",
    ),
    _counter(
        "quarantine_opened",
        "Number of rows of the file that began to wait in quarantine; of a file with two rows "
        "here, the first has it.",
    ),
    _counter(
        "quarantine_closed",
        "Number of rows of the file that no longer wait there; of a file with two rows here, the "
        "first has it.",
    ),
    sa.CheckConstraint(
        "kind IN ('load', 'replay', 'retract', 'discard', 'mend')", name="kind_known"
    ),
    sa.CheckConstraint(
        "raw_table IS NOT NULL OR (months = '{}' AND rows_added = 0 AND rows_removed = 0"
        " AND rows_changed = 0)",
        name="of_a_table",
    ),
    comment="The change feed: what every transaction did to readings and to quarantine, one row a "
    "file and raw table, committed with what it tells of and kept for ever. The readings added "
    "less those removed are what is in the raw tables, by month and file. After a restore the "
    "numbers begin again where the back-up had them, in another generation (see generation): "
    "whoever follows then starts anew.",
)


@sa.event.listens_for(metadata, "after_create")
def _analysis(_target: sa.MetaData, connection: sa.Connection, **_: object) -> None:
    """Make the functions and views, where all tables are made from here."""
    connection.exec_driver_sql(statement("analysis").replace("%", "%%"))
