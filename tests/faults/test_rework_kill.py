"""SIGKILL while rows are brought back or a file is taken back: exactly once, as everywhere."""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import psycopg
import pytest

from pipeline.simulate import Simulation, write
from tests.faults.harness import File, Site, _environment, contents, deliver

# Real processes, real kills: minutes, not seconds.
pytestmark = pytest.mark.slow

MakeSite = Callable[..., Site]
DIRTY = Simulation(
    sensors=1,
    start=date(2018, 1, 1),
    days=4,
    dialect="archive",
    models=("sds011", "bme280"),
    fault_rate=0.1,
    faults=("range_reading", "null_reading", "decimal_comma", "conflict"),
)
REPLAY = ("quarantine", "reprocess", "--all", "--json")


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    written = write(DIRTY, tmp_path_factory.mktemp("dirty"))
    overlap = write(
        replace(DIRTY, models=("sds011",), dialect="sofia", faults=("null_reading",)),
        tmp_path_factory.mktemp("overlap"),
    )
    return [
        File(each.path.name, each.path.read_bytes(), each.rows) for each in (*written, *overlap)
    ]


def repaired(site: Site) -> None:
    """Repair every other row in each sheet of quarantine/."""
    for sheet in sorted(site.quarantine.glob("*.csv")):
        text = sheet.read_bytes().decode("utf-8-sig")
        delimiter = text[len("line_no")]
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        for row in rows[::2]:
            for name, right in {"P1": "7", "P2": "3", "temperature": "20"}.items():
                if name in header:
                    row[header.index(name)] = right
            for name, right in {"humidity": "50", "pressure": "95000"}.items():
                if name in header:
                    row[header.index(name)] = right
        with sheet.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def begun(site: Site, *arguments: str, crash: str | None = None) -> int:
    """Start a command; return its process number."""
    return site.starter.start(
        environment=_environment({"database_url": site.url}),
        arguments=["--home", str(site.home), *arguments],
        output=str(site.home / "output.txt"),
        crash=crash,
    )


def ready(site: Site, files: list[File]) -> Site:
    """Load the files, and let somebody repair rows."""
    deliver(files, site.data)
    site.delivered += files
    site.drain()
    repaired(site)
    return site


def everything(site: Site) -> dict[str, Any]:
    """Return what is in the database and in quarantine/, whatever the files' numbers."""
    found = contents(site.url)
    with psycopg.connect(site.url) as connection:
        rows = connection.execute(
            "SELECT file.sha256, line_no, row.state, replay.sha256, replay_line"
            " FROM air.quarantined_row AS row JOIN air.source_file AS file USING (file_id)"
            " LEFT JOIN air.source_file AS replay ON replay.file_id = row.replay_file_id"
            " ORDER BY 1, 2"
        ).fetchall()
        hours = connection.execute(
            "SELECT sensor_id, quantity, hour, n, min, max, round(mean::numeric, 6)"
            " FROM air.hourly ORDER BY 1, 2, 3"
        ).fetchall()
        files = connection.execute(
            "SELECT sha256, state, count(*) FROM air.source_file GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
    sheets = {
        path.name: path.read_bytes()
        for path in site.quarantine.iterdir()
        if not path.name.endswith(".part")  # a draft that a crash has left goes at the next start
    }
    return {
        "raw": found.raw,
        "ledger": found.ledger,
        "rows": rows,
        "hours": hours,
        "files": files,
        "sheets": sheets,
    }


def assert_same(site: Site, due: dict[str, Any]) -> None:
    found = everything(site)
    for what, expected in due.items():
        assert found[what] == expected, what


@pytest.fixture
def calm(make_site: MakeSite, dirty: list[File]) -> dict[str, Any]:
    """What one undisturbed replay leaves."""
    site = ready(make_site(), dirty)
    before = everything(site)
    assert site.starter.wait(begun(site, *REPLAY)) in {0, 3}
    after = everything(site)
    states = [row[2] for row in after["rows"]]
    assert states.count("repaired") > 100
    assert states.count("open") > 20
    assert after["rows"] != before["rows"]
    return after


POINTS = (
    "mid-copy:1",
    "rows-repaired:1",
    "rows-repaired:4",
    "ledger-written:2",
    "before-commit:3",
    "replay-committed:1",
    "quarantine-half:1",
    "replay-committed:2",
    "quarantine-written:2",
)


def test_a_replay_that_is_killed_at_every_point_brings_each_row_back_once(
    make_site: MakeSite, dirty: list[File], calm: dict[str, Any]
) -> None:
    site = ready(make_site(), dirty)
    for crash in POINTS:
        code = site.starter.wait(begun(site, *REPLAY, crash=crash))
        assert code == -signal.SIGKILL, f"{crash} was never reached: {site.output()}"
    assert site.starter.wait(begun(site, *REPLAY)) in {0, 3}, site.output()
    assert_same(site, calm)


def test_replays_that_are_killed_at_random_two_at_a_time(
    make_site: MakeSite, dirty: list[File], calm: dict[str, Any]
) -> None:
    site = ready(make_site(), dirty)
    rng = random.Random(7)
    for _ in range(15):
        pids = [begun(site, *REPLAY) for _ in range(2)]
        time.sleep(rng.uniform(0, 0.8))  # the moment
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            site.starter.wait(pid)
    assert site.starter.wait(begun(site, *REPLAY)) in {0, 3}, site.output()
    assert_same(site, calm)


@pytest.mark.parametrize("crash", ["rows-taken:1", "rows-retracted:1", "replay-committed:1"])
def test_a_retraction_that_is_killed_took_everything_or_nothing(
    make_site: MakeSite, dirty: list[File], crash: str
) -> None:
    name = next(file.name for file in dirty if "sds011_sensor" in file.name)
    retract = ("retract", name, "--yes")
    undisturbed = ready(make_site(), dirty)
    assert undisturbed.starter.wait(begun(undisturbed, *REPLAY)) in {0, 3}
    before = everything(undisturbed)
    assert undisturbed.starter.wait(begun(undisturbed, *retract)) == 0, undisturbed.output()
    due = everything(undisturbed)
    assert due["raw"] != before["raw"]

    site = ready(make_site(), dirty)
    assert site.starter.wait(begun(site, *REPLAY)) in {0, 3}
    assert site.starter.wait(begun(site, *retract, crash=crash)) == -signal.SIGKILL
    if crash != "replay-committed:1":
        assert everything(site)["raw"] == before["raw"]
    assert site.starter.wait(begun(site, *retract)) in {0, 2}, site.output()
    if crash != "replay-committed:1":
        assert_same(site, due)
    # Else the file's sheet is there still: the next command takes it away, and nothing more than
    # it does where nobody was killed.
    for each in (undisturbed, site):
        assert each.starter.wait(begun(each, *REPLAY)) in {0, 3}, each.output()
    assert_same(site, everything(undisturbed))
