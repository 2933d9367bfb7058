"""`sofia-air changes --follow`: a process follows the feed, whatever happens to either side."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.integration.conftest import Site, pm, sds
from tests.integration.test_restored import AFTER, BEFORE, LOST, Restorable, load, make

if TYPE_CHECKING:
    from pytest_postgresql.executors import NoopExecutor

    from tests.conftest import Server

__all__ = ["make"]  # a fixture

PATIENCE = 30.0


class Follower:
    """A process that prints the feed of a database, and what it has printed."""

    def __init__(self, url: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("sofia-air"), "changes", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "SOFIA_AIR_DATABASE_URL": url},
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._said: queue.Queue[bytes] = queue.Queue()
        streams = ((self.process.stdout, self._lines), (self.process.stderr, self._said))
        self._threads = [threading.Thread(target=self._read, args=each) for each in streams]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream: Any, lines: queue.Queue[bytes]) -> None:
        with stream:
            for line in stream:
                lines.put(line)

    def ended(self) -> int:
        """Wait until it has ended by itself; return its exit code."""
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return code

    def abandon(self) -> None:
        """Leave no process behind, whatever state a failed test is in."""
        self.process.kill()
        self.ended()

    def next(self) -> dict[str, Any]:
        """Return the next line, which must be whole."""
        line = self._lines.get(timeout=PATIENCE)
        assert line.endswith(b"\n"), line
        found: dict[str, Any] = json.loads(line)
        return found

    def said(self) -> str:
        """Return the next line that is not for machines."""
        return self._said.get(timeout=PATIENCE).decode()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def rest(self) -> list[bytes]:
        """Return what was printed and not taken, when it has ended."""
        return list(self._lines.queue)


@pytest.fixture
def place(server: Server, template: NoopExecutor, tmp_path: Any) -> Iterator[tuple[Site, str]]:
    """A site of its own, and its database's address."""
    from pipeline.config import load_settings
    from pipeline.store import engine as store_engine

    with server.database(template.template_dbname) as url:
        engine = store_engine.create(url)
        yield Site(load_settings(tmp_path / "home"), engine), url
        engine.dispose()


@pytest.fixture
def show() -> Iterator[Callable[..., Follower]]:
    """Start `sofia-air changes`; no process outlives the test."""
    with ExitStack() as stack:

        def started(url: str, *words: str) -> Follower:
            follower = Follower(url, *words)
            stack.callback(follower.abandon)
            return follower

        yield started


@pytest.fixture
def follow(show: Callable[..., Follower]) -> Callable[..., Follower]:
    """Start followers."""
    return lambda url, *words: show(url, "--follow", "--json", *words)


Place = tuple[Site, str]
Follow = Callable[..., Follower]


def numbers(site: Site) -> list[int]:
    return [seq for (seq,) in site.sql("SELECT seq FROM air.change ORDER BY seq")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_changes_come_one_a_line_until_a_signal(
    number: signal.Signals, place: Place, follow: Follow
) -> None:
    site, url = place
    site.load(sds(pm(0)), "first.csv")
    follower = follow(url, "--after", "0")
    first = follower.next()
    assert (first["kind"], first["rows_added"]) == ("load", 1)
    assert first["months"] == {"2017-07-01": 1}
    site.load(sds(pm(1), pm(2, "x")), "second.csv")
    second = follower.next()
    assert (second["rows_added"], second["quarantine_opened"]) == (1, 1)
    assert [first["seq"], second["seq"]] == numbers(site)
    assert (
        first["generation"]
        == second["generation"]
        == str(site.one("SELECT generation FROM air.generation"))
    )
    assert follower.end(number) == 0
    assert follower.rest() == []


def test_it_ends_when_nobody_reads_any_more(place: Place) -> None:
    """At once, not only when it has something to print."""
    site, url = place
    site.load(sds(pm(0)), "first.csv")
    follower = subprocess.Popen(
        [
            Path(sys.executable).with_name("sofia-air"),
            *("changes", "--follow", "--json", "--after", "0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SOFIA_AIR_DATABASE_URL": url},
    )
    assert follower.stdout is not None
    assert follower.stdout.readline()
    follower.stdout.close()
    assert follower.wait(PATIENCE) == 0
    assert follower.stderr is not None
    assert follower.stderr.read() == b""
    follower.stderr.close()


def test_it_ends_after_as_many_as_were_asked_for(place: Place, follow: Follow) -> None:
    site, url = place
    for number in range(3):
        site.load(sds(pm(number)), f"{number}.csv")
    follower = follow(url, "--after", "0", "--limit", "2")
    assert follower.ended() == 0
    assert [follower.next()["seq"] for _ in range(2)] == numbers(site)[:2]


def test_whoever_was_away_gets_what_was_missed_and_nothing_twice(
    place: Place, follow: Follow
) -> None:
    site, url = place
    follower = follow(url, "--after", "0")
    site.load(sds(pm(0)), "0.csv")
    last = follower.next()
    assert follower.end(signal.SIGKILL) == -signal.SIGKILL
    for number in range(1, 4):
        site.load(sds(pm(number)), f"{number}.csv")
    again = follow(url, "--after", str(last["seq"]), "--generation", last["generation"])
    seen = [again.next() for _ in range(3)]
    site.load(sds(pm(9)), "9.csv")
    seen.append(again.next())
    assert [last["seq"], *(each["seq"] for each in seen)] == numbers(site)
    assert again.end() == 0
    assert again.rest() == []


def test_it_comes_back_when_the_connection_breaks(place: Place, follow: Follow) -> None:
    site, url = place
    site.load(sds(pm(0)), "0.csv")
    follower = follow(url, "--after", "0")
    follower.next()
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE '%%air.change%%' AND pid <> pg_backend_pid()"
        " AND application_name = 'sofia-air' AND datname = current_database()"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute(cut.encode()).fetchall() == [(True,)]
    assert "trying again" in follower.said()
    site.engine.dispose()
    site.load(sds(pm(1)), "1.csv")
    assert follower.next()["seq"] == numbers(site)[1]
    assert follower.end() == 0


def test_a_restored_database_is_followed_from_its_beginning(
    make: Callable[[str], tuple[Site, Restorable]], follow: Follow, show: Follow
) -> None:
    site, database = make("restored")
    load(site, BEFORE)
    database.back_up_dump()
    follower = follow(database.url, "--after", "0")
    load(site, LOST)
    seen = [follower.next() for _ in [*BEFORE, *LOST]]
    database.restore_dump()
    load(site, AFTER)
    # It may have been looked at before anything was loaded into it: the old name, fewer numbers.
    anew = follower.next()
    while anew.get("anew"):
        generation, anew = anew["generation"], follower.next()
    due = numbers(site)
    after = [anew]
    while after[-1]["seq"] < due[-1]:
        line = follower.next()
        if line.get("anew"):
            generation, after = line["generation"], [follower.next()]
        else:
            after.append(line)
    assert [each["seq"] for each in after] == due
    assert generation == str(
        site.one("SELECT generation FROM air.generation ORDER BY number DESC LIMIT 1")
    )
    assert generation != seen[0]["generation"]
    assert follower.end() == 0
    # Whoever was away all the while.
    last = seen[-1]
    words = ("--after", str(last["seq"]), "--generation", last["generation"])
    away = follow(database.url, *words)
    assert away.next() == {"anew": True, "generation": generation}
    assert [away.next()["seq"] for _ in due] == due
    assert away.end() == 0
    shown = show(database.url, "--json", *words)
    assert shown.ended() == 0
    document = json.loads(b"".join(shown.rest()))
    assert (document["anew"], document["generation"]) == (True, generation)
    assert [change["seq"] for change in document["changes"]] == due


def test_without_a_number_the_newest_are_shown(place: Place, show: Follow) -> None:
    site, url = place
    for number in range(3):
        site.load(sds(pm(number)), f"{number}.csv")
    shown = show(url, "--limit", "2")
    assert shown.ended() == 0
    lines = b"".join(shown.rest()).decode().splitlines()
    assert [int(line.split()[0]) for line in lines] == numbers(site)[1:]
    assert "+1 readings, raw_particulate, 2017-07, 1 sensor" in lines[0]
    wrong = show(url, "--generation", "0" * 32)
    assert wrong.ended() == 2
    assert "--after" in wrong.said()


def test_a_database_that_is_not_there_is_said_and_waited_for(follow: Follow) -> None:
    follower = follow("postgresql://somebody@127.0.0.1:1/nothing", "--after", "0")
    code = follower.ended()
    assert code == 1
    assert follower.said().startswith("error: ")
