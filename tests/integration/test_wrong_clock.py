"""A wrong system clock costs no good row and no original: with real files and a real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline import cli
from pipeline.clock import MEMORY_NAME, Clock, Reading, read_clocks
from pipeline.daemon import Daemon
from pipeline.store.clock import ServerTime
from tests.integration.conftest import ARCHIVE_SDS, Site, in_small_blocks, pm, sds

DAY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
_PATIENCE = 120.0


def set_clock(site: Site, off: timedelta, *, database_too: bool) -> None:
    """Let the system's clock be wrong, and the database's if it is on the same machine."""

    def read() -> Reading:
        seen = read_clocks()
        return replace(seen, wall=seen.wall + off.total_seconds())

    def ask() -> ServerTime:
        seen = site.flow.store.server_time()
        return replace(seen, clock=seen.clock + off) if database_too else seen

    site.flow.clock = Clock(site.settings.home, ask, read)


def reading(moment: datetime) -> str:
    return f"92;SDS011;42;42.689;23.341;{moment:%FT%T};9.53;;;2.83;;\n"


def turn(daemon: Daemon) -> list[dict[str, Any]]:
    """Let the loop go round as after a long time; return what it logs."""
    daemon._clock_at = daemon._swept_at = float("-inf")
    daemon._held._until = 0.0
    with capture_logs() as logged:
        daemon._look()
    return [dict(entry) for entry in logged]


def aged(site: Site, days: int) -> Path:
    """Make the one archived file look as if it had been taken long ago."""
    (path,) = site.settings.archive_folder.rglob("*.csv")
    old = datetime.now(UTC) - days * DAY
    moved = site.settings.archive_folder / f"{old:%Y-%m-%d}" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    os.utime(moved, (old.timestamp(),) * 2)
    site.sql("UPDATE air.source_file SET loaded_at = :old", old=old)
    return moved


def test_run_once_and_ingest_end_with_1_and_name_what_is_left(
    site: Site,
    migrated_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", migrated_url)
    believed = asdict(Reading((datetime.now(UTC) + 300 * DAY).timestamp(), 1.0, "another boot"))
    memory = {"believed": believed, "doubted": None, "steady": 0.0}
    (site.settings.home / MEMORY_NAME).write_text(json.dumps(memory))
    later = tmp_path / "later.csv"
    later.write_text(ARCHIVE_SDS + reading(datetime.now(UTC) + 310 * DAY))
    site.drop("good.csv", sds(pm(1)))
    site.drop("refused.csv", "nothing\n")
    site.drop("later.csv", later.read_text())
    home = ["sofia-air", "--home", str(site.settings.home)]
    for command in (["run", "--once"], ["run", "--once", "--json"], ["ingest", str(later)]):
        monkeypatch.setattr("sys.argv", [*home, *command])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        said = capsys.readouterr()
        assert "left in data/" in said.err
        assert "later." in said.err  # the copy of an ingested file has its hash in the name
        assert "good.csv" not in said.err
    assert {path.name for path in site.data.glob("*.csv")} >= {"later.csv"}
    (site.settings.home / MEMORY_NAME).unlink()


@pytest.fixture
def keeping(site: Site) -> Site:
    """A site that keeps its archive for 30 days."""
    site.settings = site.settings.changed(archive_keep_days=30)
    site.reopen()
    return site


@pytest.mark.parametrize("database_too", [True, False], ids=["same machine", "other machine"])
@pytest.mark.parametrize("days", [40, 400, 4000])
def test_a_clock_that_jumps_ahead_deletes_nothing(
    days: int, database_too: bool, keeping: Site
) -> None:
    keeping.load(sds(pm(1)))
    Daemon(keeping.flow, keeping.settings)._look()
    set_clock(keeping, days * DAY, database_too=database_too)
    for second in (2, 3):
        daemon = Daemon(keeping.flow, keeping.settings)  # a restart does not help it along
        keeping.drop(f"{second}.csv", sds(pm(second)))
        logged = [entry["event"] for entry in turn(daemon)]
        assert "archive.swept" not in logged
        assert keeping.raw_rows() == second  # loading goes on
    assert len(keeping.archived()) == 3
    keeping.check_books()


def test_what_is_old_goes_and_the_rest_stays(keeping: Site) -> None:
    keeping.load(sds(pm(1)))
    old = aged(keeping, 31)
    keeping.load(sds(pm(2)), "new.csv")
    (swept,) = [
        entry
        for entry in turn(Daemon(keeping.flow, keeping.settings))
        if entry["event"].startswith("archive.")
    ]
    assert (swept["event"], swept["folder"], swept["files"]) == (
        "archive.swept",
        old.parent.name,
        1,
    )
    assert keeping.archived() == ["new.csv"]


@pytest.mark.parametrize("witness", ["folder", "file", "ledger", "database"])
def test_each_witness_is_heard(witness: str, keeping: Site) -> None:
    keeping.load(sds(pm(1)))
    old = aged(keeping, 31)
    match witness:
        case "folder":
            old.parent.rename(old.parent.with_name(f"{datetime.now(UTC):%Y-%m-%d}"))
        case "file":
            os.utime(old)
        case "ledger":
            keeping.sql("UPDATE air.source_file SET loaded_at = now()")
        case _:
            keeping.sql("UPDATE air.source_file SET sha256 = repeat('0', 64)")
    logged = [entry["event"] for entry in turn(Daemon(keeping.flow, keeping.settings))]
    assert keeping.archived() == ["some.csv"]
    assert ("archive.unknown" in logged) == (witness == "database")


@pytest.mark.parametrize("wrong", ["1970", "last year"])
def test_behind_no_row_is_rejected_for_being_in_the_future(wrong: str, site: Site) -> None:
    now = datetime.now(UTC)
    off = EPOCH - now if wrong == "1970" else -300 * DAY
    site.load(sds(pm(1)))
    set_clock(site, off, database_too=True)
    site.drop("old.csv", sds(pm(2)))
    site.drop("new.csv", ARCHIVE_SDS + reading(now - DAY) + reading(now + 3 * DAY))
    # Too early by the contract, which needs no clock.
    site.drop("bad.csv", ARCHIVE_SDS + reading(EPOCH))
    daemon = Daemon(site.flow, site.settings)
    logged = turn(daemon)
    (left,) = [entry for entry in logged if entry["event"] == "file.left"]
    assert left["file"] == "new.csv"
    assert "until the clock is set" in left["reason"]
    assert [p.name for p in site.data.glob("*.csv")] == ["new.csv"]
    assert site.raw_rows() == 2
    # Not read again at every look.
    with capture_logs() as held:
        daemon._look()
    assert [entry["event"] for entry in held] == []
    # The folder's name comes from the last time that was believed, not from 1970.
    assert {p.name for p in site.settings.archive_folder.iterdir()} == {f"{now:%Y-%m-%d}"}

    set_clock(site, timedelta(), database_too=True)
    turn(daemon)
    assert list(site.data.glob("*.csv")) == []
    assert site.counts("new.csv") == (2, 1, 0, 1)
    site.check_books()


def test_behind_a_streamed_file_waits_too(site: Site) -> None:
    site.settings = site.settings.changed(batch_bytes=1, block_bytes=65536)
    site.reopen()
    site.load(sds(pm(1)))
    now = datetime.now(UTC)
    set_clock(site, -300 * DAY, database_too=True)
    old = "".join(reading(now - 300 * DAY + timedelta(seconds=n)) for n in range(3000))
    path = site.drop("large.csv", ARCHIVE_SDS + old + reading(now + 2 * DAY))
    (outcome,) = site.run()
    assert outcome.state == "left"
    assert path.exists()
    assert site.raw_rows() == 1
    set_clock(site, timedelta(), database_too=True)
    site.run()
    assert site.counts("large.csv") == (3001, 3000, 0, 1)
    site.check_books()


@pytest.mark.parametrize("off", [-20_000 * DAY, -300 * DAY, -3 * DAY])
def test_behind_the_clock_of_a_database_elsewhere_is_enough(off: timedelta, site: Site) -> None:
    now = datetime.now(UTC)
    set_clock(site, off, database_too=False)
    site.drop("new.csv", ARCHIVE_SDS + reading(now) + reading(now + 3 * DAY))
    site.run()
    assert site.counts("new.csv") == (2, 1, 0, 1)
    site.check_books()


def test_a_batch_is_processed_against_one_present(site: Site) -> None:
    """The clock passes the limit between two attempts: both decide alike."""
    now = datetime.now(UTC)
    off = [timedelta()]

    def read() -> Reading:
        seen = read_clocks()
        return replace(seen, wall=seen.wall + off[0].total_seconds())

    site.flow.clock = Clock(site.settings.home, site.flow.store.server_time, read)
    site.settings = site.settings.changed(batch_bytes=1)
    site.flow.settings = site.settings
    site.drop("edge.csv", ARCHIVE_SDS + reading(now + timedelta(hours=30)))
    prepared = site.flow._prepare(site.scan())
    off[0] = timedelta(hours=20)
    site.flow._finish(site.scan(), prepared)
    assert site.counts("edge.csv") == (1, 0, 0, 1)


def test_a_large_file_that_is_tried_again_is_processed_against_the_same_present(
    site: Site,
) -> None:
    """It is read and processed anew at each attempt, and the present stays what it was."""
    now = datetime.now(UTC)
    off, waits = [timedelta()], []

    def read() -> Reading:
        seen = read_clocks()
        return replace(seen, wall=seen.wall + off[0].total_seconds())

    def cut_off() -> None:
        """Cut the connection in the middle of the first attempt; the clock passes the limit."""
        loading = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND xact_start < now() AND query LIKE 'COPY%'"
        )
        if not off[0] and site.sql(loading):
            off[0] = timedelta(hours=20)

    site.flow.clock = Clock(site.settings.home, site.flow.store.server_time, read)
    site.settings = in_small_blocks(site.settings, batch_bytes=1, block_bytes=2**12)
    site.flow.settings = site.settings
    site.flow.on_progress, site.flow.retry_seconds = cut_off, 120.0
    site.flow.on_wait = lambda error, _: waits.append(str(error))
    usual = [reading(now - timedelta(hours=9, seconds=second)) for second in range(2_000)]
    future = reading(now + timedelta(hours=30))
    site.drop("large.csv", ARCHIVE_SDS + "".join([future, *usual, future]))
    site.run()
    assert waits
    assert site.counts("large.csv") == (2_002, 2_000, 0, 2)
    site.check_books()


# --- real processes under a shifted clock ---------------------------------------------------------


@contextmanager
def daemon_at(home: Path, shift: str, **settings: object) -> Iterator[Callable[[], list[Any]]]:
    """Run a daemon whose clock is shifted; give a way to read its log."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {f"SOFIA_AIR_{name.upper()}": str(value) for name, value in settings.items()}
    if shift:
        environment |= {
            "LD_PRELOAD": str(_LIBRARY),
            "FAKETIME": shift,
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    with (home / "said").open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", "from pipeline.cli import main; main()", "--home", home, "run"],
            env=environment,
            stdout=said,
            stderr=said,
        )
    path = home / "logs" / "sofia-air.jsonl"
    seen = len(path.read_text().splitlines()) if path.exists() else 0

    def log() -> list[Any]:
        assert process.poll() is None, (home / "said").read_text()
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines[seen:]]

    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()


def wait_for(log: Callable[[], list[Any]], event: str, file: str | None = None) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        if any(e["event"] == event and (file is None or e.get("file") == file) for e in log()):
            return
        time.sleep(0.1)
    raise AssertionError([entry["event"] for entry in log()])


@pytest.mark.slow
@pytest.mark.skipif(_LIBRARY is None, reason="faketime is not installed")
def test_a_real_daemon_400_days_ahead(tmp_path: Path, migrated_url: str) -> None:
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    settings: dict[str, object] = {
        "database_url": migrated_url,
        "archive_keep_days": 30,
        "scan_seconds": 0.2,
    }
    archive = home / "data" / "archive"
    for number, shift in enumerate(["", "+400d", "+400d", ""]):
        with daemon_at(home, shift, **settings) as log:
            name = f"{number}.csv"
            part = home / "data" / f".{name}.part"
            part.write_text(sds(pm(number)))
            part.rename(home / "data" / name)
            wait_for(log, "file.loaded", name)
            if shift:
                wait_for(log, "clock.doubted")
            assert [e for e in log() if e["event"] == "archive.swept"] == []
        assert sum(1 for p in archive.rglob("*.csv")) == number + 1


@pytest.mark.slow
@pytest.mark.skipif(_LIBRARY is None, reason="faketime is not installed")
def test_a_real_daemon_without_a_battery(tmp_path: Path, migrated_url: str) -> None:
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    settings: dict[str, object] = {"database_url": migrated_url, "scan_seconds": 0.2}
    with daemon_at(home, "@1970-01-02 00:00:00", **settings) as log:
        (home / "data" / "today.csv").write_text(ARCHIVE_SDS + reading(datetime.now(UTC)))
        wait_for(log, "file.loaded", "today.csv")
        (loaded,) = [entry for entry in log() if entry["event"] == "file.loaded"]
        assert (loaded["rows_loaded"], loaded["rows_quarantined"]) == (1, 0)
        wait_for(log, "clock.doubted")
    today = datetime.now(UTC).date()
    (folder,) = (home / "data" / "archive").iterdir()
    assert abs(datetime.fromisoformat(folder.name).date() - today) <= DAY
