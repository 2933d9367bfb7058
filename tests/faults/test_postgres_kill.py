"""PostgreSQL stops, crashes or is killed in the middle of a load; the daemon outlives it all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.faults.harness import (
    Contents,
    File,
    Postgres,
    Site,
    Starter,
    invariants,
    site,
    wait_for,
)

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow


@pytest.fixture
def at_home(postgres: Postgres, starter: Starter, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make a site whose database is on the server that is killed."""
    with ExitStack() as opened:
        numbers = count(1)

        def make(**settings: object) -> Site:
            home = tmp_path / f"home-{next(numbers)}"
            return opened.enter_context(site(home, postgres.database(), starter, **settings))

        yield make


def await_copy(url: str) -> None:
    """Wait until the server is in the middle of a COPY from the daemon."""
    with psycopg.connect(url, autocommit=True) as connection:
        wait_for(
            "a COPY",
            lambda: connection.execute(
                "SELECT FROM pg_stat_progress_copy WHERE datname = current_database()"
            ).fetchall(),
            patience=1.0,
        )


def outage(postgres: Postgres, there: Site, how: str) -> None:
    """Take the database away, bring it back, and wait until the daemon has noticed both."""
    down, up = len(there.events("database.down")), len(there.events("database.up"))
    if how == "backend":
        assert postgres.kill_backend(there.url), "the daemon had no connection"
    else:
        postgres.stop_immediately() if how == "immediate" else postgres.kill()
        postgres.start()
    wait_for("database.down", lambda: len(there.events("database.down")) == down + 1)
    wait_for("database.up", lambda: len(there.events("database.up")) == up + 1)


def outages(
    postgres: Postgres, there: Site, number: int, rng: random.Random, ways: tuple[str, ...]
) -> int:
    """Take the database away while there is something to load; return how often."""
    pid = there.pid
    earlier = len(there.events("database.down", "database.up"))
    done = 0
    while done < number and len(there.waiting()) > 5:
        if rng.random() < 0.5:
            try:
                await_copy(there.url)
            except AssertionError:
                continue  # look whether anything is left
        else:
            time.sleep(rng.uniform(0, 0.2))  # the moment
            if len(there.waiting()) <= 5:
                break
        outage(postgres, there, ways[done % len(ways)])
        done += 1
        assert there.alive, there.output()
        assert there.pid == pid
    told = [event["event"] for event in there.events("database.down", "database.up")]
    assert told[earlier:] == ["database.down", "database.up"] * done
    return done


def test_postgres_is_stopped_while_files_are_loaded(
    postgres: Postgres, at_home: Callable[..., Site], small: list[File], expected: Contents
) -> None:
    there = at_home(batch_files=2, block_bytes=65_536)
    there.deliver(small)
    there.start()
    wait_for("the first file", lambda: there.events("file.loaded"))
    assert outages(postgres, there, 1, random.Random(1), ("immediate",)) == 1
    there.drain()
    invariants(there, expected)


@pytest.mark.slow
def test_postgres_is_stopped_and_killed_twenty_times(
    postgres: Postgres, at_home: Callable[..., Site], big: list[File], expected_of_big: Contents
) -> None:
    rng = random.Random(2)
    done = 0
    while done < 20:
        there = at_home(batch_files=8, block_bytes=2**20)
        there.deliver(big)
        there.start()
        wait_for("the first file", lambda: there.events("file.loaded"))  # noqa: B023
        done += outages(postgres, there, 20 - done, rng, ("immediate", "kill", "backend"))
        there.drain()
        invariants(there, expected_of_big)
