"""The database at work in a thread: in order, told of the first failure, not waited for long."""

from __future__ import annotations

import errno
import os
import threading
import time
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipeline.contract import Contract
from pipeline.core import aggregate
from pipeline.core import process as processing
from pipeline.core.records import Block, Columns
from pipeline.errors import DatabaseTrouble, DatabaseUnavailable
from pipeline.store import load as loading
from pipeline.store import rollup
from pipeline.store.background import Background
from pipeline.store.copy import Cursor, copy_in, savepoint
from pipeline.store.engine import driver_of
from pipeline.store.load import Load, Store
from tests.integration.conftest import ARCHIVE_SDS, MakeSite, Site, emptied

_LONG = 120.0  # nothing here takes so long unless it hangs


def test_jobs_run_in_their_order_in_one_thread() -> None:
    done: list[tuple[int, int]] = []

    def note(number: int) -> None:
        done.append((number, threading.get_ident()))

    with Background(lambda: None) as background:
        for number in range(20):
            background.later(partial(note, number))
        background.wait()
        assert [number for number, _ in done] == list(range(20))
    assert len({thread for _, thread in done}) == 1
    assert done[0][1] != threading.get_ident()


def test_after_one_that_failed_none_runs_and_all_tell_of_it() -> None:
    done: list[str] = []

    def fail() -> None:
        raise LookupError("the first")

    with Background(lambda: None) as background:
        first, second = background.later(fail), background.later(lambda: done.append("second"))
        for job in (first.result, second.result, background.wait):
            with pytest.raises(LookupError, match="the first"):
                job()
    assert done == []


def sleeping(load: Load, begun: threading.Event) -> None:
    begun.set()
    load._cursor.execute("SELECT pg_sleep(%s)", [2 * _LONG])


def go_wrong_meanwhile(engine: sa.Engine) -> None:
    with Store(emptied(engine)).loading() as load:
        load.file_ids(1)
        begun = threading.Event()
        load.later(partial(sleeping, load, begun))
        assert begun.wait(_LONG)
        raise ZeroDivisionError


def test_what_goes_wrong_meanwhile_does_not_wait_for_the_server(shared_engine: sa.Engine) -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        go_wrong_meanwhile(shared_engine)
    assert time.monotonic() - began < _LONG


def test_a_job_between_two_statements_is_cut_short_all_the_same() -> None:
    """What cuts it short does nothing to a job that the server is not at work on just then."""
    begun, between, ended = threading.Event(), threading.Event(), threading.Event()
    asked = 0

    def cut_short() -> None:
        nonlocal asked
        asked += 1
        (between if asked == 1 else ended).set()

    def job() -> None:
        begun.set()
        assert between.wait(_LONG)  # no statement yet: the first is lost
        assert ended.wait(_LONG), "asked but once"

    def go_wrong() -> None:
        with Background(cut_short) as background:
            future = background.later(job)
            failed.append(future)
            assert begun.wait(_LONG)
            raise ZeroDivisionError

    failed: list[Future[None]] = []
    with pytest.raises(ZeroDivisionError):
        go_wrong()
    assert failed[0].exception() is None
    assert asked >= 2


def test_a_job_is_waited_for_also_when_it_cannot_be_cut_short() -> None:
    """It would go on beside the transaction that it belongs to, which is rolled back by then."""
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def cut_short() -> None:
        # What a cancel takes is not to be had: too many files are open.
        end.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def job() -> None:
        begun.set()
        assert end.wait(_LONG)
        time.sleep(0.05)  # the longer it takes, the surer it is that nobody waited
        ended.set()

    def fail() -> None:
        with Background(cut_short) as background:
            background.later(job)
            assert begun.wait(_LONG)
            raise ValueError

    with pytest.raises(OSError, match="Too many open files"):
        fail()
    assert ended.is_set()


def test_a_savepoint_needs_a_transaction(shared_engine: sa.Engine) -> None:
    with shared_engine.connect() as connection:
        cursor = driver_of(connection).cursor()
        with pytest.raises(DatabaseUnavailable, match="has ended"), savepoint(cursor):
            pass
        cursor.execute("SELECT 1")
        with savepoint(cursor):
            pass


def test_a_job_of_many_statements_is_cut_short(shared_engine: sa.Engine) -> None:
    canceled: list[BaseException | None] = []

    def job(load: Load, first: threading.Event) -> None:
        # Busy elsewhere while the first request comes: the server has nothing to cancel.
        assert first.wait(_LONG)
        for _ in range(200):
            load._cursor.execute("SELECT pg_sleep(0.1)")

    def go_wrong(store: Store, first: threading.Event) -> None:
        with store.loading() as load:
            background, real = load._background, load._background._cut_short

            def cut_short() -> None:
                real()
                first.set()

            background._cut_short = cut_short
            future = load.later(partial(job, load, first))
            future.add_done_callback(lambda done: canceled.append(done.exception()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go_wrong(Store(emptied(shared_engine)), threading.Event())
    assert isinstance(canceled[0], psycopg.errors.QueryCanceled)


def be_refused(engine: sa.Engine) -> None:
    def refused(load: Load) -> None:
        load._cursor.execute("INSERT INTO air.sensor (sensor_id) VALUES (NULL)")

    with Store(emptied(engine)).loading() as load:
        load.later(lambda: refused(load))
        # By itself this would complain that the transaction is aborted.
        load.later(load.finish).result()


def test_the_servers_refusal_is_what_the_next_job_tells(shared_engine: sa.Engine) -> None:
    with pytest.raises(DatabaseTrouble, match="sensor_id"):
        be_refused(shared_engine)


def leave_with_jobs(begun: threading.Event, go_on: threading.Event, done: list[str]) -> None:
    def first() -> None:
        begun.set()
        assert go_on.wait(_LONG)

    with Background(go_on.set) as background:
        background.later(first)
        background.later(lambda: done.append("second"))
        assert begun.wait(_LONG)
        raise ZeroDivisionError


def test_jobs_that_have_not_begun_never_will() -> None:
    done: list[str] = []
    with pytest.raises(ZeroDivisionError):
        leave_with_jobs(threading.Event(), threading.Event(), done)
    assert done == []


# --- a file of many blocks -----------------------------------------------------------------------


def many(days: int = 4, sensors: int = 5) -> str:
    """Return a file by time, with late rows, one that repeats another and one that contradicts."""
    rows = [
        f"{sensor};SDS011;42;42.689;23.341;2017-07-{day:02}T{hour:02}:{minute:02}:00;{day}.{hour};;;2;;"
        for day in range(1, days + 1)
        for hour in range(24)
        for minute in range(0, 60, 6)
        for sensor in range(1, sensors + 1)
    ]
    rows.insert(len(rows) // 2, rows.pop(3))
    rows.insert(len(rows) // 3, rows[7])
    rows.insert(len(rows) - 9, rows[9].replace(";2;;", ";3;;"))
    return ARCHIVE_SDS + "".join(f"{row}\n" for row in rows)


@pytest.fixture
def streamed(make_site: MakeSite) -> Site:
    """A site to which that is a large file of many blocks."""
    return make_site(batch_bytes=1, block_bytes=2**16)


@pytest.mark.parametrize("enough", [1, 300, 900])
def test_hours_that_are_stored_on_the_way_are_whole(
    streamed: Site, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    stored: list[int] = []

    def counting(cursor: Cursor, hours: Columns) -> None:
        stored.append(len(hours["n"]))
        real(cursor, hours)

    real = rollup.merge
    monkeypatch.setattr(rollup, "merge", counting)
    monkeypatch.setattr(aggregate.Running.__init__, "__defaults__", (enough,))
    assert streamed.load(many(days=9)).state == "loaded"
    assert len(stored) > 1
    streamed.check_books()


def test_an_outage_that_no_one_waits_for_is_one_all_the_same(
    streamed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours are stored on the way: what goes wrong there is told by whatever comes next."""
    failed: list[str] = []

    def once(cursor: Cursor, hours: Columns) -> None:
        if not failed:
            failed.append("once")
            cursor.execute("SET LOCAL statement_timeout = 20")
            cursor.execute("SELECT pg_sleep(60)")
        real(cursor, hours)

    real = rollup.merge
    monkeypatch.setattr(rollup, "merge", once)
    monkeypatch.setattr(aggregate.Running.__init__, "__defaults__", (30,))
    assert streamed.load(many()).state == "loaded"
    assert failed
    streamed.check_books()


@pytest.mark.parametrize("at", [1, 2, 4])
def test_every_try_starts_anew(streamed: Site, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    copies = 0

    def once(cursor: Cursor, *given: Any, **more: Any) -> None:
        nonlocal copies
        copies += 1
        if copies == at:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        copy_in(cursor, *given, **more)

    monkeypatch.setattr(loading, "copy_in", once)
    assert streamed.load(many()).state == "loaded"
    assert copies > at
    streamed.check_books()


def test_no_more_is_held_while_the_database_is_slow(
    streamed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, stored, most, largest = 0, 0, 0, 0

    def process(
        block: Block, contract: Contract, now: datetime, *bounds: Any, **options: Any
    ) -> processing.Processed:
        nonlocal judged, most, largest
        found = real(block, contract, now, *bounds, **options)
        rows = sum(found.read.values())
        judged, largest = judged + rows, max(largest, rows)
        most = max(most, judged - stored)
        return found

    def slow(
        cursor: Cursor, table: tuple[str, ...], columns: dict[str, pa.Array], **more: Any
    ) -> None:
        nonlocal stored
        copy_in(cursor, table, columns, **more)
        if table == ("air", "raw_particulate"):
            cursor.execute("SELECT pg_sleep(0.1)")  # time for whoever would read on
            stored += len(columns["ts"])

    real = processing.process
    monkeypatch.setattr("pipeline.reading.process", process)
    monkeypatch.setattr(loading, "copy_in", slow)
    assert streamed.load(many(days=20)).state == "loaded"
    # At most two each: being copied, made ready for that, and waiting.
    assert judged > 18 * largest
    assert most <= 6 * largest + 10
