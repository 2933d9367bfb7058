"""References that stay whole: foreign keys of places, and the generation of the database.

Revision 0004.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Called under the writers' lock, so never by two at a time.
CURRENT_GENERATION = """
CREATE FUNCTION air.current_generation() RETURNS uuid
LANGUAGE plpgsql
-- So that a role that may only write readings need not write this, and every role sees the same.
SECURITY DEFINER
SET search_path = pg_catalog, air, pg_temp
AS $$
DECLARE
    cluster bigint := 0;
    here text;
    latest record;
    name uuid;
    writer bigint;
BEGIN
    BEGIN
        cluster := (SELECT system_identifier FROM pg_control_system());
    EXCEPTION WHEN insufficient_privilege THEN
        NULL; -- hidden by whoever runs the server
    END;
    -- A restore to a moment of the past begins a new timeline.
    here := concat_ws('/', cluster, left(pg_walfile_name(pg_current_wal_lsn()), 8),
        (SELECT oid FROM pg_database WHERE datname = current_database()));
    SELECT generation, place, written_by, generation.xmin::text::bigint AS wrote, number
        INTO latest
        FROM air.generation ORDER BY number DESC LIMIT 1;
    -- A row that a dump brought back was written by another transaction than it says.
    IF latest.place = here AND latest.written_by = latest.wrote THEN
        RETURN latest.generation;
    END IF;
    INSERT INTO air.generation (number, generation, began_at, place, written_by)
        VALUES (coalesce(latest.number, 0) + 1, gen_random_uuid(), clock_timestamp(), here, 0)
        RETURNING generation, generation.xmin::text::bigint INTO name, writer;
    UPDATE air.generation SET written_by = writer WHERE generation = name;
    RETURN name;
END
$$
"""
# Whoever loads or reads goes on doing so, whatever the roles are called, and whoever migrates.
GRANTS = """
DO $$
DECLARE
    entitled record;
BEGIN
    FOR entitled IN
        SELECT DISTINCT 'TABLE air.generation' AS object, privilege_type, is_grantable, grantee
          FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))
         WHERE oid = 'air.source_file'::regclass
        UNION
        SELECT 'FUNCTION air.current_generation()', privilege_type, is_grantable, grantee
          FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
         WHERE oid = 'air.ensure_month(regclass, date)'::regprocedure
    LOOP
        CONTINUE WHEN entitled.grantee = current_user::regrole;
        EXECUTE format('GRANT %s ON %s TO %s', entitled.privilege_type, entitled.object,
            CASE entitled.grantee WHEN 0 THEN 'PUBLIC' ELSE entitled.grantee::regrole::text END)
            || CASE WHEN entitled.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
END
$$
"""
# Which tables have months: by name, so that one that is missing does not stop the other.
BOTH = """
        OR parent NOT IN ('air.raw_particulate'::regclass, 'air.raw_climate'::regclass)
"""
BY_NAME = """
        OR NOT EXISTS (
            SELECT FROM pg_class
            WHERE oid = parent AND relnamespace = 'air'::regnamespace
                AND relname IN ('raw_particulate', 'raw_climate'))
"""
KEYS = {
    "sensor_place_sensor_id_fkey": ("sensor", "sensor_id"),
    "sensor_place_location_key_fkey": ("location", "location_key"),
}


def upgrade() -> None:
    for name, (table, column) in KEYS.items():
        # A database whose references are broken already is migrated all the same: what is new is
        # kept whole, and `doctor` says what is broken and mends it.
        op.execute(
            f"ALTER TABLE air.sensor_place ADD CONSTRAINT {name} FOREIGN KEY ({column})"
            f" REFERENCES air.{table} ({column}) NOT VALID"
        )
        op.execute(
            "DO $$ BEGIN "
            f"IF NOT EXISTS (SELECT FROM air.sensor_place LEFT JOIN air.{table} USING ({column})"
            f" WHERE {table}.{column} IS NULL) THEN"
            f" ALTER TABLE air.sensor_place VALIDATE CONSTRAINT {name}; END IF; END $$"
        )
    op.create_table(
        "generation",
        required("number", sa.Integer(), "1, 2, 3, ...; the highest is the one that counts."),
        required(
            "generation",
            sa.Uuid(),
            "Name of the generation. Whoever follows the database from outside and sees another "
            "one than last time starts anew: what it knew may never have happened.",
        ),
        required("began_at", sa.TIMESTAMP(timezone=True), "When it was first seen, UTC."),
        required(
            "place",
            sa.Text(),
            "The server, its timeline and the database that it was seen in.",
        ),
        required(
            "written_by",
            sa.BigInteger(),
            "The transaction that wrote this row. One that was written by another has been "
            "restored from a dump.",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("generation_pkey")),
        schema="air",
        comment="Generations of this database. A restore from a dump, to a moment of the past or "
        "on another server begins a new one, which the next load notices (air.current_generation). "
        "A data folder that was brought back from a copy or a snapshot of its disk or machine "
        "looks the same as before, and begins none.",
    )
    op.execute(CURRENT_GENERATION)
    op.execute(
        "COMMENT ON FUNCTION air.current_generation() IS 'The generation of this database; a new "
        "one when it was restored since it was last asked.'"
    )
    # Everybody could run it otherwise, and it runs with its owner's rights.
    op.execute("REVOKE ALL ON FUNCTION air.current_generation() FROM PUBLIC")
    op.execute(GRANTS)

    change_ensure_month(BOTH, BY_NAME)


def change_ensure_month(before: str, after: str) -> None:
    op.execute(
        "DO $do$ BEGIN EXECUTE replace("
        "pg_get_functiondef('air.ensure_month(regclass, date)'::regprocedure),"
        f" $old${before}$old$, $new${after}$new$); END $do$"
    )


def downgrade() -> None:
    change_ensure_month(BY_NAME, BOTH)
    op.execute("DROP FUNCTION air.current_generation()")
    op.drop_table("generation", schema="air")
    for name in KEYS:
        op.drop_constraint(op.f(name), "sensor_place", schema="air")


def required(name: str, kind: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, autoincrement=False, comment=comment)
