"""`air.ensure_month`: the right month, once, whoever asks and however many at a time."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

Session = psycopg.Connection[tuple[Any, ...]]

ENSURE = "SELECT air.ensure_month(%s::regclass, %s::date)"


@pytest.fixture
def session(migrated_url: str) -> Iterator[Session]:
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        yield connection


def ensure(session: Session, day: str | None, parent: str | None = "air.raw_climate") -> None:
    session.execute(ENSURE, (parent, day))


def partitions(session: Session, parent: str = "air.raw_climate") -> dict[str, str]:
    """Return partition → its bounds."""
    with session.transaction():
        session.execute("SET LOCAL TIME ZONE 'UTC'")
        found = session.execute(
            "SELECT relname, pg_get_expr(relpartbound, pg_class.oid) FROM pg_inherits"
            " JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = %s::regclass ORDER BY 1",
            (parent,),
        )
        return dict(found.fetchall())


def insert(session: Session, moment: str) -> str:
    """Insert a reading; return the partition that it went to."""
    row = session.execute(
        "INSERT INTO air.raw_climate (sensor_id, ts, location_key, file_id)"
        " VALUES (1, %s, 1, 1) RETURNING tableoid::regclass::text",
        (moment,),
    ).fetchone()
    assert row is not None
    return str(row[0])


@contextmanager
def waiting(call: Any, *args: Any) -> Iterator[Future[Any]]:
    """Run a call in a thread of its own, and go on once it has had the time to wait somewhere."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *args)


def until_blocked(watcher: Session, blocked: Session) -> None:
    """Wait until a session waits for a lock."""
    deadline = time.monotonic() + 120
    question = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
    while watcher.execute(question, (blocked.info.backend_pid,)).fetchone() != ("Lock",):
        assert time.monotonic() < deadline, "the session never waited"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles", "Asia/Kolkata"]
)
def test_a_month_is_a_month_of_utc(session: Session, zone: str) -> None:
    session.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
    ensure(session, "2019-12-31")
    ensure(session, "2020-02-01")
    december = "('2019-12-01 00:00:00+00') TO ('2020-01-01 00:00:00+00')"
    february = "('2020-02-01 00:00:00+00') TO ('2020-03-01 00:00:00+00')"
    assert partitions(session) == {
        "raw_climate_2019_12": f"FOR VALUES FROM {december}",
        "raw_climate_2020_02": f"FOR VALUES FROM {february}",
    }


def test_readings_find_their_month(session: Session) -> None:
    for day in ("2019-02-14", "2019-03-14"):
        ensure(session, day)
    assert insert(session, "2019-02-28 23:59:59.999999+00") == "air.raw_climate_2019_02"
    assert insert(session, "2019-03-01 00:00:00+00") == "air.raw_climate_2019_03"
    assert insert(session, "2019-03-31 23:59:59+00") == "air.raw_climate_2019_03"
    with pytest.raises(errors.CheckViolation, match="no partition"):
        insert(session, "2019-04-01 00:00:00+00")


def test_asking_again_changes_nothing(session: Session) -> None:
    ensure(session, "2019-03-01")
    insert(session, "2019-03-01 00:00:00+00")
    before = partitions(session)
    for day in ("2019-03-01", "2019-03-15", "2019-03-31"):
        ensure(session, day)
    assert partitions(session) == before
    assert session.execute("SELECT count(*) FROM air.raw_climate").fetchone() == (1,)


def test_the_tables_have_months_of_their_own(session: Session) -> None:
    ensure(session, "2019-03-01", "air.raw_particulate")
    assert list(partitions(session, "air.raw_particulate")) == ["raw_particulate_2019_03"]
    assert partitions(session) == {}


def test_a_partition_is_like_its_parent(session: Session) -> None:
    ensure(session, "2019-03-01")
    ensure(session, "2019-04-01")
    # Attached to the parent's key, not beside it: one index, and unique.
    indexes = session.execute(
        "SELECT indexrelid::regclass::text, indisunique, indisprimary, inhparent::regclass::text"
        " FROM pg_index LEFT JOIN pg_inherits ON inhrelid = indexrelid"
        " WHERE indrelid = 'air.raw_climate_2019_03'::regclass"
    ).fetchall()
    assert indexes == [("air.raw_climate_2019_03_pkey", True, True, "air.raw_climate_pkey")]
    insert(session, "2019-03-01 00:00:00+00")
    with pytest.raises(errors.UniqueViolation):
        insert(session, "2019-03-01 00:00:00+00")
    defaults = session.execute("SELECT flags FROM air.raw_climate_2019_03").fetchall()
    assert defaults == [(0,)]
    comment = session.execute(
        "SELECT obj_description('air.raw_climate_2019_03'::regclass, 'pg_class')"
    ).fetchone()
    assert comment is not None
    assert "2019-03, UTC" in comment[0]


@pytest.mark.parametrize(
    "parent", ["air.source_file", "air.raw_climate_2019_03", "public.raw_climate", None]
)
def test_other_tables_are_refused(session: Session, parent: str | None) -> None:
    ensure(session, "2019-03-01")
    session.execute("CREATE TABLE public.raw_climate (ts timestamptz) PARTITION BY RANGE (ts)")
    with pytest.raises(errors.InvalidParameterValue, match="is not a raw table"):
        ensure(session, "2019-04-01", parent)
    assert list(partitions(session)) == ["raw_climate_2019_03"]


@pytest.mark.parametrize("day", [None, "infinity", "-infinity", "1969-12-31", "3000-01-01"])
def test_impossible_months_are_refused(session: Session, day: str | None) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="is not a month"):
        ensure(session, day)
    assert partitions(session) == {}


def test_a_table_in_the_way_is_named(session: Session) -> None:
    ensure(session, "2019-03-01")
    session.execute("ALTER TABLE air.raw_climate DETACH PARTITION air.raw_climate_2019_03")
    with pytest.raises(errors.DuplicateTable, match=r"raw_climate_2019_03 exists and is not"):
        ensure(session, "2019-03-01")


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize("commits", [True, False])
def test_two_sessions_at_once(
    session: Session, migrated_url: str, isolation: str, commits: bool
) -> None:
    with psycopg.connect(migrated_url) as first, psycopg.connect(migrated_url) as second:
        ensure(first, "2019-03-01")
        # The second has looked before, so it remembers that there is no such table.
        second.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}".encode())
        second.execute("SELECT to_regclass('air.raw_climate_2019_03')")
        with waiting(ensure, second, "2019-03-01") as done:
            until_blocked(session, second)
            first.commit() if commits else first.rollback()
            done.result(timeout=120)
        second.commit()
    assert list(partitions(session)) == ["raw_climate_2019_03"]


def test_two_sessions_that_want_several_months_do_not_deadlock(
    session: Session, migrated_url: str
) -> None:
    with psycopg.connect(migrated_url) as first, psycopg.connect(migrated_url) as second:
        ensure(first, "2019-03-01", "air.raw_climate")
        with waiting(ensure, second, "2019-03-01", "air.raw_particulate") as done:
            until_blocked(session, second)
            ensure(first, "2019-03-01", "air.raw_particulate")
            first.commit()
            done.result(timeout=120)
            ensure(second, "2019-04-01", "air.raw_climate")
            second.commit()
    assert len(partitions(session)) == 2


def test_many_sessions_at_once(session: Session, migrated_url: str) -> None:
    def one(_number: int) -> None:
        with psycopg.connect(migrated_url, autocommit=True) as mine:
            for month in range(1, 7):
                ensure(mine, f"2019-{month:02}-01")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert len(partitions(session)) == 6


def test_queries_and_months_do_not_wait_for_each_other(session: Session, migrated_url: str) -> None:
    ensure(session, "2019-03-01")
    with psycopg.connect(migrated_url) as analyst, psycopg.connect(migrated_url) as loader:
        for other in (analyst, loader):
            other.execute("SET lock_timeout = '2s'")
            other.commit()
        analyst.execute("SELECT count(*) FROM air.raw_climate")  # its transaction stays open
        ensure(loader, "2019-04-01")  # and this one
        analyst.execute("SELECT count(*) FROM air.raw_climate")
        with psycopg.connect(migrated_url) as another:
            another.execute("SET lock_timeout = '2s'")
            another.execute("SELECT count(*) FROM air.raw_climate")
            insert(another, "2019-03-05 00:00:00+00")


def test_a_role_that_may_only_write_readings(session: Session) -> None:
    session.execute("CREATE ROLE writer")
    try:
        session.execute("GRANT USAGE ON SCHEMA air TO writer")
        session.execute("GRANT INSERT, SELECT ON air.raw_climate TO writer")
        session.execute("SET ROLE writer")
        with pytest.raises(errors.InsufficientPrivilege):
            ensure(session, "2019-03-01")
        session.execute("RESET ROLE")
        session.execute("GRANT EXECUTE ON FUNCTION air.ensure_month TO writer")
        session.execute("SET ROLE writer")
        # Its own temporary tables must not stand in for the real ones.
        session.execute("CREATE TEMP TABLE pg_class (oid oid, relname name)")
        ensure(session, "2019-03-01")
        assert insert(session, "2019-03-01 00:00:00+00") == "air.raw_climate_2019_03"
        session.execute("RESET ROLE")
        session.execute("DROP TABLE pg_temp.pg_class")
        assert list(partitions(session)) == ["raw_climate_2019_03"]
    finally:
        session.execute("RESET ROLE")
        session.execute("DROP OWNED BY writer")
        session.execute("DROP ROLE writer")
