"""A full disk under a home with a private PostgreSQL that crashed: `run` waits, others say why."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline.embedded import EmbeddedPostgres, running_url
from tests.faults import test_disk
from tests.faults.daemon import text, wait_for
from tests.faults.test_disk import Disk, MakeDisk

make_disk = test_disk.make_disk

# Real processes, a real outage.
pytestmark = pytest.mark.slow

SOFIA_AIR = Path(sys.executable).with_name("sofia-air")


def command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    whole = [str(SOFIA_AIR), "--home", str(home), *words]
    return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def running(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    daemon = [str(SOFIA_AIR), "--home", str(home), "run"]
    with subprocess.Popen(daemon, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def events(home: Path, name: str) -> list[dict[str, Any]]:
    found = []
    with suppress(FileNotFoundError):
        for line in (home / "logs" / "sofia-air.jsonl").read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return [event for event in found if event["event"] == name]


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def rows(home: Path) -> int:
    url = running_url(home)
    if url is None:
        return -1
    with suppress(psycopg.Error), psycopg.connect(url) as connection:
        found = connection.execute("SELECT count(*) FROM air.raw_particulate").fetchone()
        return int(found[0]) if found else -1
    return -1


def crash_on_a_full_disk(disk: Disk) -> None:
    """Let the server write until its log has no room: it gives up, and cannot recover either."""
    with EmbeddedPostgres(disk.path) as server:
        disk.fill()
        pid = int((disk.path / ".postgres/data/postmaster.pid").read_text().split()[0])
        with suppress(psycopg.Error), psycopg.connect(server.url, autocommit=True) as connection:
            for _ in range(100):
                connection.execute(
                    "SELECT pg_logical_emit_message(false, '', repeat('x', 1000000))"
                )
        wait_for("PostgreSQL to end", lambda: not Path(f"/proc/{pid}").exists())
    disk.fill()


@pytest.fixture
def disk(make_disk: MakeDisk, tmp_path: Path) -> Disk:
    # Logs elsewhere: what the daemon says is looked at while the disk is full.
    home = tmp_path / "home"
    disk = make_disk(home)
    subprocess.run(["mount", "-o", "remount,size=256m,mode=0755", home], check=True)
    (tmp_path / "logs").mkdir()
    (home / "logs").symlink_to(tmp_path / "logs")
    return disk


def test_run_waits_for_space_when_the_private_server_crashed(disk: Disk) -> None:
    home = disk.path
    (home / "data").mkdir()
    (home / "data" / "first.csv").write_text(text(10, sensor=1))
    assert command(home, "run", "--once").returncode == 0
    crash_on_a_full_disk(disk)
    for words in (["run", "--once"], ["db", "url"], ["status"]):
        done = command(home, *words)
        assert done.returncode == 1, done
        assert "full" in done.stderr or "No space left" in done.stderr
        assert "Traceback" not in done.stderr
    with running(home) as daemon:
        wait_for("the outage", lambda: events(home, "database.not_revived"))
        # It goes on trying: what it starts for that comes and goes.
        tried = set(children(daemon.pid))
        wait_for("another attempt", lambda: set(children(daemon.pid)) - tried)
        assert daemon.poll() is None
        assert len(events(home, "database.down")) == 1
        disk.free()
        (home / "data" / "second.csv").write_text(text(10, sensor=2))
        wait_for("the rows", lambda: rows(home) == 20)
        assert len(events(home, "database.not_revived")) == 1
        assert len(events(home, "database.up")) == 1
        daemon.terminate()
        assert daemon.wait(60) == 0
    assert running_url(home) is None


def test_run_waits_for_space_to_prepare_the_private_server(disk: Disk) -> None:
    home = disk.path
    for name in ("data", "quarantine"):
        (home / name).mkdir()
    (home / "data" / "first.csv").write_text(text(10, sensor=1))
    disk.fill()
    with running(home) as daemon:
        wait_for("the outage", lambda: events(home, "database.not_revived"))
        (told,) = events(home, "database.not_revived")
        assert "full" in told["error"] or "No space left" in told["error"]
        assert daemon.poll() is None
        disk.free()
        wait_for("the rows", lambda: rows(home) == 10)
        daemon.terminate()
        assert daemon.wait(60) == 0
