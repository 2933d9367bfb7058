"""The written-down run: many kills, stops and cuts, and a table of what came of them.

    python -m tests.faults.run --kills 1000 --postgres-stops 100 --commit-cuts 100

Loads the big set of files over and over, each time into a fresh database, while the daemon is
killed, PostgreSQL is taken away or the line is cut at a COMMIT. Each of these loads is then
finished undisturbed and compared with one that was never disturbed. The table goes to standard
output and into `docs/reliability.md`.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg

from pipeline import __version__
from tests.faults.harness import (
    Contents,
    File,
    Postgres,
    Site,
    Starter,
    big_set,
    invariants,
    site,
    undisturbed,
    wait_for,
)
from tests.faults.proxy import Proxy
from tests.faults.test_commit_cut import Cutting, drain_through
from tests.faults.test_kill import MOVES, QUARANTINE, TRANSACTION, crash_at, kills
from tests.faults.test_postgres_kill import outages

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
WAYS = {"immediate": "stopped at once", "kill": "server killed", "backend": "backend killed"}
KILLS_A_LOAD = 100
POINTS = (*QUARANTINE, *TRANSACTION, *MOVES, "mid-copy:12", "linked:20")
SETTINGS = {"batch_files": 8, "block_bytes": 2**20}


@dataclass
class Result:
    """What one kind of fault came to."""

    what: str
    wanted: int
    done: int = 0
    busy: int = 0
    loads: int = 0
    seconds: float = 0.0
    details: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, **numbers: int) -> None:
        for name, number in numbers.items():
            self.details[name] = self.details.get(name, 0) + number


class Lane:
    """A server, a starter, and the reference to compare with; several lanes run side by side."""

    def __init__(self, room: Path, files: list[File], deadline: float) -> None:
        self.room = room
        self.files = files
        self.deadline = deadline
        self.version = ""
        self._numbers = count(1)

    @contextmanager
    def open(self) -> Iterator[None]:
        self.room.mkdir()
        with Starter() as self.starter, Postgres(self.room) as self.postgres:
            self.expected = undisturbed(
                self.room / "calm", self.postgres.database(), self.starter, self.files
            )
            yield

    def load(self, result: Result, disturb: Callable[[Site], None]) -> None:
        """Load everything once, disturbed, and check what is there at the end."""
        home = self.room / f"home-{next(self._numbers)}"
        url = self.postgres.database()
        started = time.monotonic()
        try:
            with site(home, url, self.starter, **SETTINGS) as there:
                there.deliver(self.files)
                disturb(there)
                if there.waiting() or there.pid:
                    there.via = None
                    there.drain()
                invariants(there, self.expected)
        except Exception:  # noqa: BLE001  # whatever it was, it goes into the table
            # The home stays, to be looked at.
            result.wrong.append(f"{home}\n{traceback.format_exc()}")
        else:
            shutil.rmtree(home)
            self.postgres.drop(url)
        result.loads += 1
        result.seconds += time.monotonic() - started
        print(f"{datetime.now(UTC):%T} {result}", flush=True)

    def goes_on(self, result: Result) -> bool:
        return result.done < result.wanted and time.monotonic() < self.deadline


def kill_daemon(lane: Lane, result: Result, rng: random.Random) -> None:
    def disturb(there: Site) -> None:
        for _ in range(KILLS_A_LOAD):
            if not there.waiting() or not lane.goes_on(result):
                return
            by_exec = int(result.done % 25 == 0)
            result.busy += kills(there, 1, rng, longest=0.9, by_exec=by_exec)
            result.done += 1
            result.add(of_the_installed_command=by_exec)

    while lane.goes_on(result):
        lane.load(result, disturb)


def crash_points(lane: Lane, result: Result, rng: random.Random) -> None:
    def disturb(there: Site) -> None:
        for crash in POINTS:
            crash_at(there, crash)
            result.busy += bool(there.waiting())
            result.done += 1

    while lane.goes_on(result):
        lane.load(result, disturb)


def stop_postgres(lane: Lane, result: Result, rng: random.Random) -> None:
    def disturb(there: Site) -> None:
        there.start()
        wait_for("the first file", lambda: there.events("file.loaded"))
        for _ in range(result.wanted):
            if not lane.goes_on(result):
                return
            way = list(WAYS)[result.done % len(WAYS)]
            done = outages(lane.postgres, there, 1, rng, (way,))
            if not done:
                return
            result.done += done
            result.busy += done
            result.add(**{WAYS[way]: done})

    while lane.goes_on(result):
        lane.load(result, disturb)


def cut_commits(lane: Lane, result: Result, rng: random.Random) -> None:
    def disturb(there: Site) -> None:
        with Proxy(there.url, Cutting(result.wanted - result.done, rng)) as proxy:
            drain_through(proxy, there)
        for way, number in proxy.cuts.items():
            result.done += number
            result.busy += number
            result.add(**{way: number})

    while lane.goes_on(result):
        lane.load(result, disturb)


Work = Callable[[Lane, Result, random.Random], None]


def run(lane: Lane, jobs: list[tuple[Work, Result]], seed: int) -> Contents:
    with lane.open():
        for work, result in jobs:
            work(lane, result, random.Random(seed))
        with psycopg.connect(lane.postgres.embedded.url) as connection:
            lane.version = connection.info.parameter_status("server_version") or "?"
        return lane.expected


def table(
    results: list[Result], expected: Contents, files: int, postgres: str, seed: int, began: datetime
) -> str:
    """Write the figures down."""
    minutes = (datetime.now(UTC) - began).total_seconds() / 60
    about = (
        f"Run of {began:%Y-%m-%d %H:%M} UTC, {minutes:.0f} minutes, seed {seed}; "
        f"sofia-air {__version__}, Python {platform.python_version()}, PostgreSQL {postgres}, "
        f"{platform.system()}, {os.cpu_count()} CPUs. Each load: {files} files, "
        f"{expected.rows_read:,} rows read, of which {expected.rows:,} belong in the raw tables "
        f"and {len(expected.quarantined):,} in quarantine."
    )
    heads = ("fault", "times", "while files waited", "loads compared", "loads with anything wrong")
    lines = [about, "", f"| {' | '.join(heads)} |", "|---|--:|--:|--:|--:|"]
    for result in results:
        details = ", ".join(
            f"{number} {name.replace('_', ' ')}" for name, number in result.details.items()
        )
        what = result.what + (f" ({details})" if details else "")
        lines.append(
            f"| {what} | {result.done:,} | {result.busy:,} | {result.loads} | {len(result.wrong)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Run it all; return 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--postgres-stops", type=int, default=100)
    parser.add_argument("--commit-cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="begin no new load after that")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table is written")
    given = parser.parse_args()
    began = datetime.now(UTC)
    deadline = time.monotonic() + 60 * given.minutes
    room = Path(tempfile.mkdtemp(prefix="sofia-air-faults-"))
    made = room / "made"
    made.mkdir()
    files = big_set(made)
    killed = Result("SIGKILL of the daemon at a random moment", given.kills)
    points = Result("SIGKILL of the daemon at each named point", len(POINTS))
    stops = Result("PostgreSQL stopped or killed", given.postgres_stops)
    cuts = Result("connection cut at a COMMIT", given.commit_cuts)
    lanes = [
        (Lane(room / "1", files, deadline), [(kill_daemon, killed)]),
        (
            Lane(room / "2", files, deadline),
            [(crash_points, points), (cut_commits, cuts), (stop_postgres, stops)],
        ),
    ]
    found: list[tuple[Contents, str]] = []

    def work(lane: Lane, jobs: list[tuple[Work, Result]]) -> None:
        expected = run(lane, jobs, given.seed)
        found.append((expected, lane.version))

    threads = [threading.Thread(target=work, args=lane) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = [killed, points, stops, cuts]
    if len(found) < len(lanes):
        print("A lane broke down: nothing is written.", file=sys.stderr)
        return 1
    expected, postgres = found[0]
    text = table(results, expected, len(files), postgres, given.seed, began)
    print(text)
    page = given.page.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    given.page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    for result in results:
        for wrong in result.wrong:
            print(wrong, file=sys.stderr)
    if any(result.wrong for result in results):
        return 1
    shutil.rmtree(room)
    return 0


if __name__ == "__main__":
    sys.exit(main())
