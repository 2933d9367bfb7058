"""Summaries: how many rejected rows wait, and where a file's duplicates may be.

Revision 0005.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.TIMESTAMP(timezone=True)

# Where the sensor stands in the lines of a file, counted from 0, and what is between the cells:
# null when the header is not known.
COLUMNS = r"""
CREATE TEMPORARY TABLE sensor_column ON COMMIT DROP AS
SELECT file_id, delimiter, at - 1 AS at
  FROM (SELECT file_id, header,
               CASE WHEN semicolons >= commas AND semicolons >= tabs THEN ';'
                    WHEN commas >= tabs THEN ',' ELSE E'\t' END AS delimiter
          FROM (SELECT file_id, header,
                       length(header) - length(replace(header, ';', '')) AS semicolons,
                       length(header) - length(replace(header, ',', '')) AS commas,
                       length(header) - length(replace(header, E'\t', '')) AS tabs
                  FROM air.source_file
                 WHERE rows_quarantined > 0) AS counted) AS files
 CROSS JOIN LATERAL (
     SELECT min(position) AS at
       FROM unnest(string_to_array(header, delimiter)) WITH ORDINALITY AS cell (name, position)
      WHERE lower(trim(both E' \t\r"' from name)) = 'sensor_id') AS found
"""

# A cell as CSV has it; where quotation marks are out of place, what is between the delimiters.
CELL = r"""
CREATE FUNCTION pg_temp.cell(line text, delimiter text, at bigint) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    plain text := '[^"\r\n' || delimiter || '][^\r\n' || delimiter || ']*';
    field text := '(?:"(?:[^"]|"")*"|' || plain || ')?';
    rest text := line;
    found text;
    width integer;
BEGIN
    IF at IS NULL THEN
        RETURN NULL;
    END IF;
    IF position('"' IN line) = 0
       OR line !~ ('^' || field || '(?:' || delimiter || field || ')*$') THEN
        RETURN split_part(line, delimiter, at::integer + 1);
    END IF;
    FOR number IN 0 .. at LOOP
        IF left(rest, 1) = '"' THEN
            found := substring(rest FROM '^"(?:[^"]|"")*"');
            width := length(found);
            found := replace(substr(found, 2, width - 2), '""', '"');
        ELSE
            found := split_part(rest, delimiter, 1);
            width := length(found);
        END IF;
        IF number < at AND width >= length(rest) THEN
            RETURN NULL;
        END IF;
        rest := substr(rest, width + 2);
    END LOOP;
    RETURN found;
END $$
"""

ROWS = r"""
CREATE TEMPORARY TABLE kind ON COMMIT DROP AS
SELECT row.file_id, row.line_no, row.state,
       coalesce(left(btrim(pg_temp.cell(row.line, delimiter, at), E' \t'), 20), '') AS sensor,
       ARRAY(SELECT reason ->> 'rule'
               FROM jsonb_array_elements(row.reasons) WITH ORDINALITY AS told (reason, position)
              ORDER BY position) AS rules
  FROM air.quarantined_row AS row
  LEFT JOIN sensor_column USING (file_id)
"""

SUMMARY = """
INSERT INTO air.quarantine_summary (file_id, group_no, sensor, rules, open, repaired, discarded)
SELECT file_id, row_number() OVER (PARTITION BY file_id ORDER BY min(line_no)),
       nullif(sensor, ''), rules, count(*) FILTER (WHERE state = 'open'),
       count(*) FILTER (WHERE state = 'repaired'), count(*) FILTER (WHERE state = 'discarded')
  FROM kind
 GROUP BY file_id, sensor, rules
"""

NUMBERS = """
UPDATE air.quarantined_row AS row
   SET group_no = summary.group_no
  FROM kind
  JOIN (SELECT file_id, group_no, coalesce(sensor, '') AS sensor, rules
          FROM air.quarantine_summary) AS summary USING (file_id, sensor, rules)
 WHERE row.file_id = kind.file_id AND row.line_no = kind.line_no
"""

# Whoever loads or reads goes on doing so, whatever the roles are called, and whoever migrates.
GRANTS = """
DO $$
DECLARE
    entitled record;
BEGIN
    FOR entitled IN
        SELECT made.name, privilege_type, is_grantable, grantee
          FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))),
               (VALUES ('air.quarantine_summary'), ('air.file_duplicates')) AS made (name)
         WHERE oid = 'air.source_file'::regclass
    LOOP
        CONTINUE WHEN entitled.grantee = current_user::regrole;
        EXECUTE format('GRANT %s ON TABLE %s TO %s', entitled.privilege_type, entitled.name,
            CASE entitled.grantee WHEN 0 THEN 'PUBLIC' ELSE entitled.grantee::regrole::text END)
            || CASE WHEN entitled.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
END
$$
"""


def required(name: str, kind: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment)


def key(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(
        name, sa.Integer(), primary_key=True, autoincrement=False, nullable=False, comment=comment
    )


def counter(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), nullable=False, server_default="0", comment=comment)


def of_file(table: str) -> tuple[sa.Column[Any], sa.Constraint]:
    return (
        key("file_id", "The file that the rows came from; see source_file."),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["air.source_file.file_id"],
            name=op.f(f"{table}_file_id_fkey"),
            ondelete="CASCADE",
        ),
    )


def upgrade() -> None:
    op.create_table(
        "quarantine_summary",
        *of_file("quarantine_summary"),
        key(
            "group_no", "Number of the group within its file; its rows in quarantined_row name it."
        ),
        sa.Column(
            "sensor",
            sa.Text(),
            comment="What stands in the rows' column of the sensor, 20 characters at most; null: "
            "nothing does; '…': one of the rest, where a load brought very many.",
        ),
        required(
            "rules",
            sa.ARRAY(sa.Text()),
            "The rules that each of the rows broke, in the order of their reasons; a rule that was "
            "broken in two columns comes twice.",
        ),
        counter("open", "Number of rows that wait for somebody."),
        counter("repaired", "Number of rows that came back."),
        counter("discarded", "Number of rows that somebody decided are not wanted."),
        sa.CheckConstraint(
            "open >= 0 AND repaired >= 0 AND discarded >= 0",
            name=op.f("quarantine_summary_counts_not_negative"),
        ),
        sa.PrimaryKeyConstraint("file_id", "group_no", name=op.f("quarantine_summary_pkey")),
        schema="air",
        comment="How many rows of quarantined_row there are of every file, sensor and combination "
        "of broken rules. Committed with the rows, so never stale.",
    )
    op.add_column(
        "quarantined_row",
        sa.Column(
            "group_no",
            sa.Integer(),
            comment="What the row is counted under; see quarantine_summary.",
        ),
        schema="air",
    )
    for statement in (COLUMNS, CELL, ROWS, SUMMARY, "ANALYZE kind", NUMBERS):
        op.execute(sa.text(statement.replace(":", r"\:")))
    op.execute("DROP FUNCTION pg_temp.cell(text, text, bigint)")
    op.execute("DROP TABLE kind, sensor_column")
    op.alter_column("quarantined_row", "group_no", nullable=False, schema="air")

    # The summary tells what is open; each rejected row had to be entered here, too.
    op.drop_index("quarantined_row_open", table_name="quarantined_row", schema="air")

    op.create_table(
        "file_duplicates",
        *of_file("file_duplicates"),
        key("sensor_id", "The sensor; see sensor."),
        required("first_ts", MOMENT, "None of these rows has an earlier time, UTC."),
        required("last_ts", MOMENT, "None of these rows has a later time, UTC."),
        sa.PrimaryKeyConstraint("file_id", "sensor_id", name=op.f("file_duplicates_pkey")),
        schema="air",
        comment="Where the duplicate rows of a file may be: of which sensors, and from when to "
        "when. A file with duplicates and without rows here was loaded by a version that did not "
        "note it: its duplicates may be anywhere.",
    )
    op.create_index(
        op.f("file_duplicates_sensor_id_first_ts_idx"),
        "file_duplicates",
        ["sensor_id", "first_ts"],
        schema="air",
    )
    op.create_index(
        "source_file_with_duplicates",
        "source_file",
        ["file_id"],
        schema="air",
        postgresql_where=sa.text("rows_duplicate > 0"),
    )
    op.create_index(
        "source_file_settled",
        "source_file",
        ["sha256"],
        schema="air",
        postgresql_where=sa.text("decided_at IS NOT NULL"),
    )
    op.create_index(
        "source_file_dropped_sheets",
        "source_file",
        ["file_id"],
        schema="air",
        postgresql_where=sa.text("left(header, 7) = 'line_no'"),
    )
    op.execute(GRANTS)


def downgrade() -> None:
    for index in ("dropped_sheets", "settled", "with_duplicates"):
        op.drop_index(f"source_file_{index}", table_name="source_file", schema="air")
    op.drop_index(
        op.f("file_duplicates_sensor_id_first_ts_idx"), table_name="file_duplicates", schema="air"
    )
    op.drop_table("file_duplicates", schema="air")
    op.create_index(
        "quarantined_row_open",
        "quarantined_row",
        ["file_id"],
        schema="air",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.drop_column("quarantined_row", "group_no", schema="air")
    op.drop_table("quarantine_summary", schema="air")
