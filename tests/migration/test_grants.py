"""Migrations hand on the rights that a site has given: its roles may have names of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

from pipeline.config import load_settings
from pipeline.store import engine as store_engine
from pipeline.store import migrate
from tests.integration.conftest import Site, pm, sds
from tests.migration.test_migrations import config_for

MEMBERS = ("carrier", "looker", "keeper")
# What docs/roles.sql gives, to roles of other names.
RIGHTS = """
    GRANT USAGE ON SCHEMA air TO carrier, looker;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA air TO carrier;
    GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA air TO carrier;
    GRANT EXECUTE ON FUNCTION air.ensure_month(regclass, date) TO carrier;
    GRANT SELECT ON ALL TABLES IN SCHEMA air TO looker WITH GRANT OPTION
"""
OWNED = """
    DO $$ DECLARE thing record; BEGIN
    ALTER SCHEMA air OWNER TO keeper;
    FOR thing IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'air'::regnamespace AND relkind IN ('r', 'p', 'v') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO keeper', thing.name);
    END LOOP;
    FOR thing IN SELECT oid::regprocedure AS name FROM pg_proc
        WHERE pronamespace = 'air'::regnamespace LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO keeper', thing.name);
    END LOOP;
    END $$
"""
FILE = """
    INSERT INTO air.source_file (name, sha256, bytes, state, rows_read, rows_quarantined,
        detected_at, loaded_at, contract_version, app_version, header)
    VALUES ('some.csv', repeat('0', 64), 1, 'loaded', 1, 1, now(), now(), 'old', '0.1.0', NULL);
    INSERT INTO air.quarantined_row (file_id, line_no, line, reasons)
    SELECT file_id, 2, 'bad', '[{"rule": "null"}]' FROM air.source_file
"""


def _as(url: str, role: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{role}@{rest.partition('@')[2]}"


@pytest.fixture
def before(database_url: str) -> Iterator[sa.Engine]:
    """A filled database of an earlier revision, and roles of other names than ours."""
    engine = store_engine.create(database_url)
    with engine.begin() as connection:
        command.upgrade(config_for(connection), "0003")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(FILE.encode())
        for role in MEMBERS:
            connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    yield engine
    engine.dispose()
    with psycopg.connect(database_url, autocommit=True) as connection:
        for role in MEMBERS:
            connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
            connection.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize(
    ("prepared", "role"),
    [(RIGHTS, "carrier"), (OWNED, "keeper"), (f"{OWNED}; {RIGHTS}", "carrier")],
    ids=["roles of other names", "an owner, migrated by a superuser", "both"],
)
def test_loading_goes_on_after_a_migration(
    prepared: str, role: str, before: sa.Engine, database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(prepared.encode())
    migrate.upgrade(before)
    engine = store_engine.create(_as(database_url, role))
    try:
        site = Site(load_settings(tmp_path / "home"), engine)
        assert site.load(sds(pm(1), "bad"), "one.csv").state == "loaded"
        assert site.load(sds(pm(1), pm(2)), "two.csv").state == "loaded"
        assert site.one("SELECT count(*) FROM air.quarantine_summary") == 2
        assert site.one("SELECT count(*) FROM air.generation") == 1
        assert site.one("SELECT count(*) FROM air.file_duplicates") == 1
        # Three files, one of them from before.
        assert site.one("SELECT count(*) FROM air.change") == 3
    finally:
        engine.dispose()


def test_readers_read_what_is_new_and_no_more(before: sa.Engine, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(RIGHTS.encode())
    migrate.upgrade(before)
    with psycopg.connect(_as(database_url, "looker"), autocommit=True) as looker:
        for name in ("generation", "quarantine_summary", "file_duplicates", "change"):
            looker.execute(f"SELECT FROM air.{name}".encode())
            looker.execute(f"GRANT SELECT ON air.{name} TO keeper".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                looker.execute(f"DELETE FROM air.{name}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            looker.execute("SELECT air.current_generation()")
    with psycopg.connect(_as(database_url, "keeper"), autocommit=True) as keeper:
        for statement in (b"SELECT FROM air.generation", b"SELECT air.current_generation()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                keeper.execute(statement)
