"""Faults of the database: cut off, restored, locked, and with tables that were changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import psycopg

from tests.faults.proxy import Cut
from tests.faults.storm.kinds import kind, way
from tests.faults.storm.world import World

CUT = kind("cut")
SESSION = kind("session")
RESTORE = kind("restore")
LOCK = kind("lock")
DETACH = kind("detach")
CHECK = kind("check")
RENAME_TABLE = kind("table")

_SESSIONS = (
    " FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sofia-air'"
)


# --- the connection -------------------------------------------------------------------------------


def _cut_commit(world: World, cut: Cut) -> Iterator[None]:
    before = world.proxy.cuts[cut]
    world.proxy.decide = lambda: cut if world.proxy.cuts[cut] == before else None
    world.feed()
    world.wait("a COMMIT", lambda: world.proxy.cuts[cut] > before, 1.5)
    world.proxy.decide = lambda: None
    yield


@way(CUT, "cut before a COMMIT")
def cut_before(world: World) -> Iterator[None]:
    yield from _cut_commit(world, "before")


@way(CUT, "cut at a COMMIT")
def cut_at_once(world: World) -> Iterator[None]:
    yield from _cut_commit(world, "at once")


@way(CUT, "cut after a COMMIT")
def cut_after(world: World) -> Iterator[None]:
    yield from _cut_commit(world, "after")


@way(CUT, "the network away for a moment")
def unplug(world: World) -> Iterator[None]:
    world.pause(0, 0.2)
    world.proxy.unplug()
    world.feed()
    world.pause(0, 0.8)
    world.proxy.plug_in()
    yield


@way(SESSION, "sessions terminated")
def terminate(world: World) -> Iterator[None]:
    world.pause(0, 0.3)
    world.sql(f"SELECT pg_terminate_backend(pid){_SESSIONS}")
    yield


@way(SESSION, "a session terminated idle in its transaction")
def terminate_idle(world: World) -> Iterator[None]:
    world.feed()
    query = f"SELECT pg_terminate_backend(pid){_SESSIONS} AND state = 'idle in transaction'"
    world.wait("a session to be idle in its transaction", lambda: world.sql(query), 1.0)
    yield


@way(SESSION, "statements cancelled")
def cancel(world: World) -> Iterator[None]:
    world.feed()
    query = f"SELECT pg_cancel_backend(pid){_SESSIONS} AND state = 'active'"
    world.wait("a session to be at work", lambda: world.sql(query), 1.0)
    yield


# --- an older database ----------------------------------------------------------------------------


def _restore(world: World, *, swap: bool) -> Iterator[None]:
    # A daemon that starts at this very moment finds no database of that name: a wrong setting, as
    # far as it can know, which ends it with 2. One that has loaded something is past that.
    world.undo()
    world.wait("the daemon to be at work", lambda: not world.waiting(), 20)
    if world.snapshot is None:
        world.take_snapshot()
    # Something has to come after the snapshot, and be taken or be at it.
    world.feed()
    world.wait("files to be taken", lambda: not world.waiting(), world.rng.uniform(0, 3))
    world.restore(swap=swap)
    world.feed()
    yield


@way(RESTORE, "dropped, and made from an older copy", "schema", lasts=False)
def restore_dropped(world: World) -> Iterator[None]:
    yield from _restore(world, swap=False)


@way(RESTORE, "an older copy renamed into its place", "schema", lasts=False)
def restore_swapped(world: World) -> Iterator[None]:
    yield from _restore(world, swap=True)


# --- locks ----------------------------------------------------------------------------------------


def _locked(world: World, statement: str) -> Iterator[None]:
    connection = world.connect()
    try:
        connection.autocommit = False
        connection.execute(statement.encode())
        world.feed()
        world.pause(0.3, 1.0)
        yield
        # It may have died with the server meanwhile, and the lock with it.
        with suppress(psycopg.Error):
            connection.rollback()
    finally:
        connection.close()


@way(LOCK, "a raw table locked", "schema")
def lock_raw(world: World) -> Iterator[None]:
    table = world.rng.choice(["raw_particulate", "raw_climate"])
    yield from _locked(world, f"LOCK TABLE air.{table} IN ACCESS EXCLUSIVE MODE")


@way(LOCK, "the ledger locked", "schema")
def lock_ledger(world: World) -> Iterator[None]:
    yield from _locked(world, "LOCK TABLE air.source_file IN ACCESS EXCLUSIVE MODE")


@way(LOCK, "the writers' lock held", "schema")
def lock_writers(world: World) -> Iterator[None]:
    key = "hashtextextended('sofia-air: writer', 0)"
    yield from _locked(world, f"SELECT pg_advisory_xact_lock({key})")


# --- tables ---------------------------------------------------------------------------------------


@way(DETACH, "a month's partition detached and attached", "schema")
def detach(world: World) -> Iterator[None]:
    found = world.sql(
        "SELECT inhparent::regclass::text, c.oid::regclass::text,"
        " pg_get_expr(relpartbound, c.oid) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid"
        " WHERE c.relkind = 'r' AND relnamespace = 'air'::regnamespace ORDER BY 2"
    )
    if not found:
        yield
        return
    # Those that files keep coming for.
    often = [row for row in found if row[1].endswith(("2018_03", "2018_04"))]
    parent, part, bounds = world.rng.choice(often or found)
    world.sql(f"ALTER TABLE {parent} DETACH PARTITION {part}")
    world.feed()
    world.pause(0.3, 1.0)
    yield
    attached = f"SELECT 1 FROM pg_inherits WHERE inhrelid = '{part}'::regclass"
    if not world.sql(attached):
        world.sql(f"ALTER TABLE {parent} ATTACH PARTITION {part} {bounds}")


@way(CHECK, "a CHECK that refuses every row", "schema")
def check(world: World) -> Iterator[None]:
    table = world.rng.choice(["raw_particulate", "raw_climate", "hourly", "source_file"])
    table = f"air.{table}"
    world.sql(f"ALTER TABLE {table} ADD CONSTRAINT storm CHECK (false) NOT VALID")
    world.feed()
    world.pause(0.3, 1.0)
    yield
    world.sql(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS storm")


@way(CHECK, "a trigger that refuses every row", "schema")
def trigger(world: World) -> Iterator[None]:
    table = world.rng.choice(["raw_particulate", "raw_climate", "sensor_place", "quarantined_row"])
    world.sql(
        "CREATE OR REPLACE FUNCTION public.storm() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'a trigger of somebody''s says no'; END $$",
        f"CREATE TRIGGER storm BEFORE INSERT ON air.{table}"
        " FOR EACH ROW EXECUTE FUNCTION public.storm()",
    )
    world.feed()
    world.pause(0.3, 1.0)
    yield
    world.sql(f"DROP TRIGGER IF EXISTS storm ON air.{table}")


_TABLES = ("raw_particulate", "raw_climate", "location", "hourly", "source_file", "quarantined_row")


@way(RENAME_TABLE, "a table renamed and renamed back", "schema")
def rename_table(world: World) -> Iterator[None]:
    table = world.rng.choice(_TABLES)
    world.sql(f"ALTER TABLE air.{table} RENAME TO {table}_away")
    world.feed()
    world.pause(0.3, 1.0)
    yield
    world.sql(f"ALTER TABLE air.{table}_away RENAME TO {table}")


@way(RENAME_TABLE, "a column renamed and renamed back", "schema")
def rename_column(world: World) -> Iterator[None]:
    table, column = world.rng.choice(
        [("raw_particulate", "pm10"), ("raw_climate", "flags"), ("source_file", "reason")]
    )
    world.sql(f"ALTER TABLE air.{table} RENAME COLUMN {column} TO away")
    world.feed()
    world.pause(0.3, 1.0)
    yield
    world.sql(f"ALTER TABLE air.{table} RENAME COLUMN away TO {column}")


@way(RENAME_TABLE, "a right taken and given back", "schema")
def revoke(world: World) -> Iterator[None]:
    """The database's own login is no superuser's only in this way: by read-only transactions."""
    world.sql(f"ALTER DATABASE {world.dbname} SET default_transaction_read_only = on")
    world.sql(f"SELECT pg_terminate_backend(pid){_SESSIONS}")
    world.feed()
    world.pause(0.3, 1.0)
    yield
    statement = f"ALTER DATABASE {world.dbname} RESET default_transaction_read_only"
    world.sql(statement, dbname="postgres")
    world.sql(f"SELECT pg_terminate_backend(pid){_SESSIONS}")
