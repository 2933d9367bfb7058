-- Three roles for Sofia Air Pipeline, each with no more rights than it needs:
--
--   air_owner   owns the tables and migrates them      sofia-air db upgrade
--   air_writer  loads readings; cannot change tables   the daemon, ingest, quarantine, retract
--   air_reader  reads everything; cannot write         people, pgAdmin, notebooks, Grafana
--
-- Run it as a superuser (or a role with CREATEROLE that owns the database), connected to the
-- database of the readings, before or after `sofia-air db upgrade`, and again after every upgrade
-- that brings new tables or functions. Running it again changes nothing that is right already:
--
--   psql -d air -f docs/roles.sql
--
-- The roles cannot log in by themselves. Make users that can, as members:
--
--   CREATE ROLE sofia_air LOGIN PASSWORD '...' IN ROLE air_writer;
--   CREATE ROLE maria LOGIN PASSWORD '...' IN ROLE air_reader;
--
-- To migrate as the owner: a user IN ROLE air_owner whose address has ?options=-crole%3Dair_owner,
-- so that what it makes belongs to the role.

BEGIN;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['air_owner', 'air_writer', 'air_reader'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;

    -- The writer stages readings in temporary tables; nobody else needs to make any.
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO air_owner, air_writer, air_reader',
        current_database());
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO air_owner, air_writer', current_database());
END
$$;

CREATE SCHEMA IF NOT EXISTS air AUTHORIZATION air_owner;

-- All that is there already goes to the owner, the months' partitions too.
DO $$
DECLARE
    thing record;
BEGIN
    ALTER SCHEMA air OWNER TO air_owner;
    FOR thing IN
        SELECT oid::regclass AS name, relkind FROM pg_class
        WHERE relnamespace = 'air'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO air_owner',
            CASE thing.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                ELSE 'TABLE' END, thing.name);
    END LOOP;
    FOR thing IN
        SELECT c.oid::regclass AS name FROM pg_class AS c
        WHERE c.relnamespace = 'air'::regnamespace AND c.relkind = 'S'
            -- Those of an identity column follow their table.
            AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'i')
    LOOP
        EXECUTE format('ALTER SEQUENCE %s OWNER TO air_owner', thing.name);
    END LOOP;
    FOR thing IN
        SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'air'::regnamespace
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO air_owner', thing.name);
    END LOOP;
END
$$;

REVOKE ALL ON SCHEMA air FROM PUBLIC;
GRANT USAGE ON SCHEMA air TO air_writer, air_reader;

-- Rows, not tables: no DROP, no ALTER, no TRUNCATE.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA air TO air_writer;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA air TO air_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA air TO air_reader;

-- What a migration makes later, and the partition of each new month. That one is made by
-- air.ensure_month, which runs with its owner's rights: so the writer need not be able to.
ALTER DEFAULT PRIVILEGES FOR ROLE air_owner IN SCHEMA air
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO air_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE air_owner IN SCHEMA air
    GRANT USAGE, SELECT ON SEQUENCES TO air_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE air_owner IN SCHEMA air
    GRANT SELECT ON TABLES TO air_reader;
-- Else everybody could run what runs with the owner's rights.
ALTER DEFAULT PRIVILEGES FOR ROLE air_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC;

DO $$
DECLARE
    thing record;
BEGIN
    FOR thing IN
        SELECT oid::regprocedure AS name, prosecdef FROM pg_proc
        WHERE pronamespace = 'air'::regnamespace
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', thing.name);
        EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO air_writer', thing.name);
        -- Formulas and questions; but not what runs with the owner's rights.
        IF NOT thing.prosecdef THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO air_reader', thing.name);
        END IF;
    END LOOP;
    -- The version of the tables is read by everybody and written by migrations alone.
    IF to_regclass('air.alembic_version') IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON air.alembic_version FROM air_writer;
    END IF;
END
$$;

COMMIT;
