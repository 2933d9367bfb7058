"""Any sequence of deliveries and faults, against a model of a dozen lines.

Hypothesis invents the sequence: files that repeat or contradict each other, dirty and useless
ones, crashes at any point, outages, cut COMMITs. After each drain the database must hold what the
model says, whatever happened before. A crash is an exception that nothing catches; the tests with
real kills are next door.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipeline.config import load_settings
from pipeline.errors import DatabaseUnavailable
from pipeline.files import archive
from pipeline.files.quarantine import Quarantine
from pipeline.files.watch import scan
from pipeline.flow import Flow, batches
from pipeline.store import engine as store_engine
from pipeline.store import ledger, load
from pipeline.store.load import Load, Store
from tests.faults.harness import File, Site, invariants
from tests.faults.proxy import Cut, Proxy

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow

HEADER = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
TABLES = (
    "source_file, sensor, location, raw_particulate, raw_climate, quarantined_row,"
    " file_aggregate, hourly, daily, sensor_place, quarantine_summary, file_duplicates, change"
)


class Crash(BaseException):
    """The end of the process, as far as the flow can tell."""


# Where it may crash: what is wrapped, and whether before or after it has done its work.
CRASHES: dict[str, tuple[Any, str, bool]] = {
    "quarantine written": (Quarantine, "publish", True),
    "before a COPY": (load, "copy_in", False),
    "after a COPY": (load, "copy_in", True),
    "ledger written": (ledger, "write", True),
    "before the commit": (Load, "finish", True),
    "after the commit": (Flow, "_move", False),
    "between link and unlink": (os, "link", True),
    "a file put away": (archive, "put_away", True),
}


@contextmanager
def crashing(where: str, n: int) -> Iterator[None]:
    """Crash when a point is reached for the n-th time."""
    owner, name, afterwards = CRASHES[where]
    original = getattr(owner, name)
    left = n

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not afterwards:
            raise Crash
        result = original(*args, **kwargs)
        if left == 0:
            raise Crash
        return result

    setattr(owner, name, wrapped)
    try:
        yield
    finally:
        setattr(owner, name, original)


@dataclass(frozen=True)
class Row:
    """A row of a file: few sensors, times and values, so that rows often meet."""

    sensor: int
    minute: int
    value: str  # a number, or something that is none

    @property
    def text(self) -> str:
        when = f"2018-01-31T23:{50 + self.minute}:00"
        return f"{self.sensor};SDS011;7;42.7;23.3;{when};{self.value};;;5.0;;\n"


ROWS = st.lists(
    st.builds(
        Row,
        sensor=st.integers(1, 2),
        minute=st.integers(0, 4),
        value=st.sampled_from(["1.5", "2.5", "2.5", "2.5", "x", ""]),
    ),
    max_size=8,
)


class Model(RuleBasedStateMachine):
    """What was delivered, in order; what must come of it follows."""

    def __init__(self, site: Site, proxy: Proxy) -> None:
        super().__init__()
        self.site = site
        self.proxy = proxy
        self.rows: dict[str, list[Row]] = {}
        self.site.delivered.clear()
        for folder in (site.data / "archive", site.quarantine, site.data):
            for path in folder.rglob("*") if folder.exists() else ():
                if path.is_file():
                    path.unlink()
        with psycopg.connect(site.url) as connection:
            tables = ", ".join(f"air.{name}" for name in TABLES.split(", "))
            connection.execute(f"TRUNCATE {tables} CASCADE".encode())
        self.settings = load_settings(site.home, batch_files=3)
        self.engine = store_engine.create(proxy.url)
        self.restart()

    def restart(self) -> None:
        """Begin as a new process does: nothing is remembered."""
        self.engine.dispose()
        self.engine = store_engine.create(self.proxy.url)
        self.flow = Flow(self.settings, Store(self.engine), self.settings.site_contract(), 10.0)

    def teardown(self) -> None:
        self.drain()
        self.engine.dispose()

    def run(self) -> None:
        for batch in batches(scan(self.site.data)[0], self.settings):
            self.flow.process(batch)

    def deliver(self, data: bytes, rows: list[Row] | None) -> None:
        name = f"{len(self.site.delivered)}.csv"
        file = File(name, data, None if rows is None else len(rows))
        if rows is not None:
            self.rows.setdefault(file.sha256, rows)
        self.site.deliver([file])

    # --- what may happen

    @rule(rows=ROWS)
    def drop(self, rows: list[Row]) -> None:
        self.deliver((HEADER + "".join(row.text for row in rows)).encode(), rows)

    @rule(which=st.integers(0, 99))
    def redeliver(self, which: int) -> None:
        if self.site.delivered:
            again = self.site.delivered[which % len(self.site.delivered)]
            self.deliver(again.data, self.rows.get(again.sha256))

    @rule(data=st.sampled_from([b"", b"what;is;this\n1;2;3\n", b"PK\x03\x04 and so on"]))
    def drop_nonsense(self, data: bytes) -> None:
        self.deliver(data, None)

    @rule(where=st.sampled_from(sorted(CRASHES)), n=st.integers(1, 4))
    def crash(self, where: str, n: int) -> None:
        with crashing(where, n), suppress(Crash):
            self.run()
        self.restart()

    @rule()
    def outage(self) -> None:
        self.proxy.unplug()
        self.flow.retry_seconds = 0.0  # as long as a command waits, or a daemon until it is stopped
        with suppress(DatabaseUnavailable):
            self.run()
            assert not self.site.waiting()
        self.proxy.plug_in()
        self.restart()

    @rule(cut=st.sampled_from(["before", "at once", "after"]), passing=st.integers(0, 1))
    def cut_commit(self, cut: Cut, passing: int) -> None:
        ways = iter([*[None] * passing, cut])
        self.proxy.decide = lambda: next(ways, None)
        self.run()  # tries again by itself
        self.proxy.decide = lambda: None

    @rule()
    def drain(self) -> None:
        self.run()
        invariants(self.site, None)
        self.check()

    # --- what must have come of it

    def check(self) -> None:
        readings: dict[tuple[int, int], tuple[float, str]] = {}
        books: dict[str, tuple[int, int, int, int]] = {}
        for file in self.site.delivered:
            if file.sha256 in books:
                continue
            loaded = duplicate = bad = 0
            for row in self.rows.get(file.sha256, []):
                key = row.sensor, row.minute
                if row.value in {"", "x"}:
                    bad += 1
                elif key not in readings:
                    readings[key] = float(row.value), file.sha256
                    loaded += 1
                elif readings[key][0] == float(row.value):
                    duplicate += 1
                else:
                    bad += 1
            books[file.sha256] = loaded + duplicate + bad, loaded, duplicate, bad
        with psycopg.connect(self.site.url) as connection:
            found = connection.execute(
                "SELECT sensor_id, extract(minute FROM ts)::integer - 50, pm10, sha256"
                " FROM air.raw_particulate JOIN air.source_file USING (file_id)"
            ).fetchall()
            in_table = {(sensor, minute): (value, by) for sensor, minute, value, by in found}
            assert in_table == readings
            assert len(found) == len(readings)
            ledger_rows = connection.execute(
                "SELECT sha256, rows_read, rows_loaded, rows_duplicate, rows_quarantined"
                " FROM air.source_file"
            ).fetchall()
            assert {by: tuple(rest) for by, *rest in ledger_rows} == books


def check_model(make_site: Callable[..., Site], examples: int, steps: int) -> None:
    site = make_site()
    with Proxy(site.url) as proxy:
        run_state_machine_as_test(
            lambda: Model(site, proxy),  # type: ignore[arg-type]  # anything that makes one does
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                # A sequence is short enough to read; to make it shorter would take minutes.
                phases=[Phase.generate],
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_any_sequence_of_faults_ends_as_the_model_says(make_site: Callable[..., Site]) -> None:
    check_model(make_site, examples=6, steps=10)


@pytest.mark.slow
def test_many_sequences_of_faults_end_as_the_model_says(make_site: Callable[..., Site]) -> None:
    check_model(make_site, examples=60, steps=25)
