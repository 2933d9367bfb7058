"""The database at work in a thread: in order, told of the first failure, not waited for long."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import sqlalchemy as sa

from pipeline.errors import StoreError
from pipeline.store.background import Background
from pipeline.store.load import Load, Store
from tests.integration.conftest import emptied

_LONG = 60.0  # nothing here takes so long unless it hangs


def test_jobs_run_in_their_order_in_one_thread() -> None:
    done: list[tuple[int, int]] = []
    with Background(lambda: None) as background:
        for number in range(20):
            background.later(lambda number=number: done.append((number, threading.get_ident())))  # type: ignore[misc]
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


def sleeping(load: Load, seconds: float) -> None:
    load._cursor.execute("SELECT pg_sleep(%s)", [seconds])


def go_wrong_meanwhile(engine: sa.Engine) -> None:
    with Store(emptied(engine)).loading() as load:
        load.file_ids(1)
        job = load.later(lambda: sleeping(load, 2 * _LONG))
        while not job.running():
            time.sleep(0.001)
        raise ZeroDivisionError


def test_what_goes_wrong_meanwhile_does_not_wait_for_the_server(shared_engine: sa.Engine) -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        go_wrong_meanwhile(shared_engine)
    assert time.monotonic() - began < _LONG


def be_refused(engine: sa.Engine) -> None:
    def refused(load: Load) -> None:
        load._cursor.execute("INSERT INTO air.sensor (sensor_id) VALUES (NULL)")

    with Store(emptied(engine)).loading() as load:
        load.later(lambda: refused(load))
        # By itself this would complain that the transaction is aborted.
        load.later(lambda: load.finish([], None, np.zeros(0, np.int64))).result()


def test_the_servers_refusal_is_what_the_next_job_tells(shared_engine: sa.Engine) -> None:
    with pytest.raises(StoreError, match="sensor_id"):
        be_refused(shared_engine)
