"""The daemon as a service: what it tells the service manager and Prometheus, and how it ends."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import daemon as daemons
from tests.faults.daemon import free_port, get, scrape, text, wait_for

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.faults.daemon import House

house, zygote = daemons.house, daemons.zygote

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "sofia-air.service"


class Manager:
    """Listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.heard.append(message.decode())

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", self.address)
        self._thread.join(60)
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    # A socket's address is short, and pytest's folders are not.
    path = Path(f"/tmp/sofia-air-{os.getpid()}-notify")
    path.unlink(missing_ok=True)
    one = Manager(path)
    yield one
    one.close()
    path.unlink()


# --- the service manager -------------------------------------------------------------------------


def test_what_the_service_manager_is_told(house: House, manager: Manager) -> None:
    daemon = house.daemon(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC=2_000_000, scan_seconds=300)
    wait_for("READY=1", lambda: "READY=1" in manager.heard)
    house.drop("one.csv", text(5))
    house.wait_until_quiet()
    wait_for("the status", lambda: "STATUS=waiting for files" in manager.heard)
    assert "STATUS=loading 1 files" in manager.heard
    # Idle, it is alive all the same, though the next look is minutes away.
    before = manager.heard.count("WATCHDOG=1")
    wait_for("WATCHDOG=1", lambda: manager.heard.count("WATCHDOG=1") >= before + 3, 10)
    assert daemon.stop() == 0
    wait_for("STOPPING=1", lambda: "STOPPING=1" in manager.heard)
    assert manager.heard.count("READY=1") == 1


def test_no_sign_of_life_from_a_loop_that_is_stuck(house: House, manager: Manager) -> None:
    port = free_port()
    house.daemon(
        hooks=["before-process:stuck.csv"],
        NOTIFY_SOCKET=manager.address,
        WATCHDOG_USEC=2_000_000,
        metrics_port=port,
    )
    assert get(port, "/healthz") == (200, "ok\n")
    house.drop("stuck.csv", text(5))
    sign = house.wait_for_pause("before-process")
    # The same two seconds after which systemd would end it.
    wait_for("/healthz to tell", lambda: get(port, "/healthz") == (503, "stuck\n"))
    heard = len(manager.heard)
    until = time.monotonic() + 1.5
    wait_for("some silence", lambda: time.monotonic() > until)
    assert manager.heard[heard:] == []
    sign.unlink()
    house.wait_for_rows(5)
    wait_for("WATCHDOG=1", lambda: "WATCHDOG=1" in manager.heard[heard:])
    wait_for("/healthz to recover", lambda: get(port, "/healthz") == (200, "ok\n"))


# --- the end -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big() -> str:
    return text(150_000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_asked_to_stop_in_the_middle_of_a_big_load(
    house: House, big: str, number: signal.Signals
) -> None:
    # Small blocks: many occasions to be in the middle.
    daemon = house.daemon(block_bytes=1 << 16)
    house.drop("big.csv", big)
    wait_for("rows on their way", lambda: _copying(house))
    started = time.monotonic()
    daemon.send(number)
    assert daemon.wait() == 0, daemon.said
    seconds = time.monotonic() - started
    print(f"{number.name}: ended after {seconds:.1f} s")
    assert seconds < 60
    assert house.events("daemon.stopping")[0]["signal"] == number.name
    assert house.log[-1]["event"] == "daemon.stopped"
    # Either all of it or nothing.
    assert house.waiting() == ([] if house.loaded() else ["big.csv"])
    assert house.loaded() in (0, 150_000)
    house.check_books()
    assert not list(house.home.rglob(".*.part"))
    assert house.command("run", "--once").wait() == 0
    assert house.loaded() == 150_000
    house.check_books()


def _copying(house: House) -> bool:
    return bool(
        house.one(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sofia-air'"
            " AND datname = current_database() AND backend_xid IS NOT NULL"
        )
    )


def test_a_second_signal_ends_it_at_once(house: House) -> None:
    daemon = house.daemon(hooks=["before-commit"])
    house.drop("one.csv", text(5))
    house.wait_for_pause("before-commit")
    daemon.send(signal.SIGTERM)
    house.wait_for_event("daemon.stopping")
    assert daemon.poll() is None
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == -signal.SIGTERM
    assert (house.loaded(), house.waiting()) == (0, ["one.csv"])


def test_asked_to_stop_while_the_database_is_locked(house: House) -> None:
    """Another writer has it, for as long as it likes: the server is asked to cancel our wait."""
    import psycopg

    daemon = house.daemon()
    with psycopg.connect(house.url) as other:
        lock = (ROOT / "pipeline" / "store" / "sql" / "lock_writers.sql").read_bytes()
        other.execute(lock)
        house.drop("one.csv", text(5))
        wait_for("the wait for the lock", lambda: _waiting_for_lock(house))
        assert daemon.stop(15) == 0
    assert house.waiting() == ["one.csv"]


def _waiting_for_lock(house: House) -> bool:
    return bool(house.one("SELECT count(*) FROM pg_locks WHERE NOT granted"))


_IN_A_LOCK = """
import signal, threading
from pipeline.daemon import stopping

event = threading.Event()
with stopping(event.set):
    with event._cond:  # where Event.wait and Event.clear are for a moment
        signal.raise_signal(signal.SIGTERM)
    assert event.wait(60)
print("ended")
"""


def test_a_signal_in_the_wrong_moment() -> None:
    """A handler that takes the lock which the main thread holds would wait for ever."""
    command = [sys.executable, "-c", _IN_A_LOCK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("ended\n"), done.stderr


def test_the_installed_command(house: House) -> None:
    """All the others start it from a process that has its imports done already."""
    program = Path(sys.executable).with_name("sofia-air")
    command = [str(program), "--home", str(house.home), "run"]
    with subprocess.Popen(
        command, env=house.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        house.drop("one.csv", text(5))
        house.wait_for_rows(5)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()


# --- metrics -------------------------------------------------------------------------------------


def documented_metrics() -> set[str]:
    """Return the names in the table of docs/monitoring.md."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    return set(re.findall(r"^\| `(sofia_air_\w+)`", page, re.MULTILINE))


def _families(samples: dict[str, float]) -> set[str]:
    names = {name.partition("{")[0] for name in samples}
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    return {name for name in names if not name.endswith("_created")}


def test_metrics_after_known_files(house: House) -> None:
    port = free_port()
    house.daemon(metrics_port=port, scan_seconds=300)  # each look is for an event
    # 7 good rows, 3 with a bad location, 2 repeated, and one file that is unusable.
    repeated = text(7, bad=3) + "".join(text(2).splitlines(keepends=True)[1:])
    house.drop("one.csv", repeated)
    house.drop("same.csv", repeated)
    house.drop("refused.csv", "who;goes;there\n1;2;3\n")
    house.wait_until_quiet()
    wait_for("an idle daemon", lambda: scrape(port)["sofia_air_backlog_files"] == 0)
    found = scrape(port)
    expected = {
        "sofia_air_files_total{outcome=loaded}": 1,
        "sofia_air_files_total{outcome=known}": 1,
        "sofia_air_files_total{outcome=refused}": 1,
        "sofia_air_rows_total{outcome=loaded}": 7,
        "sofia_air_rows_total{outcome=duplicate}": 2,
        "sofia_air_rows_total{outcome=quarantined}": 3,
        "sofia_air_backlog_bytes": 0,
        "sofia_air_database_up": 1,
        "sofia_air_database_retries_total": 0,
        "sofia_air_watcher_restarts_total": 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    reasons = Counter(
        reason["rule"]
        for (all_,) in house.sql("SELECT reasons FROM air.quarantined_row")
        for reason in all_
    )
    assert reasons
    assert {f"sofia_air_reasons_total{{rule={rule}}}": n for rule, n in reasons.items()} == {
        name: value for name, value in found.items() if name.startswith("sofia_air_reasons_total")
    }
    stages = {name for name in found if name.startswith("sofia_air_stage_seconds_total")}
    for stage in ("read", "split", "validate", "normalise", "load", "aggregate", "quarantine"):
        assert f"sofia_air_stage_seconds_total{{stage={stage}}}" in stages
    assert all(found[name] > 0 for name in stages)
    now = time.time()
    assert now - 60 < found["sofia_air_last_success_timestamp_seconds"] <= now
    assert now - 60 < found["sofia_air_last_loop_timestamp_seconds"] <= now
    assert found["sofia_air_batch_seconds_count"] >= 1
    assert [name for name in found if name.startswith("sofia_air_info{version=")]
    assert documented_metrics() == _families(found)


def test_other_pages(house: House) -> None:
    port = free_port()
    house.daemon(metrics_port=port)
    assert get(port, "/")[0] == 404
    assert get(port, "/metrics?name=x")[0] == 200


def test_clients_that_stay_take_nothing_from_the_loading(house: House) -> None:
    """Idle, slow and deaf clients by the thousand: files are loaded, and others are answered."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))  # for the clients
    port = free_port()
    daemon = house.daemon(metrics_port=port, scan_seconds=0.5)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (1024, 1024))
    with ExitStack() as clients:
        for number in range(1_100):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            if number % 3 == 1:
                client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
            if number % 3 == 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        house.drop("one.csv", text(5))
        house.wait_for_rows(5, 20)
        assert get(port, "/healthz") == (200, "ok\n")
        assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) < 100
        assert len(list(Path(f"/proc/{daemon.pid}/task").iterdir())) < 60
    assert house.events("batch.failed") == []
    assert daemon.stop() == 0


def _said_or_done(house: House, lines: int) -> bool:
    return len(house.log) >= lines or not house.waiting()


def test_too_many_open_files(house: House) -> None:
    """Said as what it is; no file is refused for it, and it is over when it is over."""
    daemon = house.daemon(scan_seconds=0.2)
    house.drop("first.csv", text(5, bad=1))
    house.wait_for_rows(5)
    house.wait_until_quiet()
    limits = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    taken = max(int(entry.name) for entry in Path(f"/proc/{daemon.pid}/fd").iterdir()) + 1
    for room in range(5):
        # Less and less is missing, so that one step after another fails.
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (taken + room, limits[1]))
        lines = len(house.log) + 1
        house.drop(f"file-{room}.csv", text(5, start=100 * room + 100, bad=1))
        wait_for("a word", partial(_said_or_done, house, lines))
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limits)
        house.wait_for_rows(5 * (room + 2))
        house.wait_until_quiet()
    told = [line for line in house.log if line["level"] in {"warning", "error"}]
    assert told
    assert all("too many open files: this process may have" in str(line) for line in told), told
    assert house.events("batch.recovered")
    assert not house.sql("SELECT 1 FROM air.source_file WHERE state <> 'loaded'")
    assert not list(house.quarantine.glob("*refused*"))
    house.check_books()
    assert daemon.poll() is None


def test_a_port_that_is_taken(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = house.command("run", metrics_port=port)
        assert process.wait() == 2
    assert f"[metrics] port: cannot listen on 127.0.0.1:{port}: Address already" in process.said


# --- events --------------------------------------------------------------------------------------


def logged_events() -> dict[str, set[str]]:
    """Return every event in the code, and its levels."""
    found: dict[str, set[str]] = {}
    call = re.compile(r'\blog\.(debug|info|warning|error|critical|exception)\(\s*"([\w.]+)"')
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for level, name in call.findall(path.read_text()):
            # `log.exception` is `log.error` with the traceback added.
            found.setdefault(name, set()).add("error" if level == "exception" else level)
    return found


def test_every_event_is_documented() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    documented = {
        name: set(levels.split(", "))
        for name, levels in re.findall(r"^\| `([\w.]+)` \| ([\w, ]+?) \|", page, re.MULTILINE)
    }
    assert documented == logged_events()


# --- the unit ------------------------------------------------------------------------------------

analyze = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(analyze is None, reason="systemd-analyze is not installed")


def _unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_says_what_the_daemon_does() -> None:
    unit = _unit()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert int(unit["WatchdogSec"][0]) >= 60
    # A wrong setting does not mend itself.
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["User"] == ["sofia-air"]
    assert all(path.startswith("-") for path in unit["EnvironmentFile"])


@needs_analyze
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "sofia-air"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "sofia-air.service"
    installed = _unit()["ExecStart"][0].split()[0]
    unit.write_text(UNIT.read_text().replace(installed, str(program)))
    done = _analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
def test_the_unit_is_locked_down(tmp_path: Path) -> None:
    unit = tmp_path / "sofia-air.service"
    unit.write_text(UNIT.read_text())
    done = _analyze("security", "--offline=true", "--threshold=15", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.strip().splitlines()[-1])


def _analyze(*arguments: str) -> Any:
    assert analyze
    return subprocess.run([analyze, *arguments], capture_output=True, text=True, check=False)


# --- alerts --------------------------------------------------------------------------------------

DEPLOY = ROOT / "deploy"
promtool = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(promtool is None, reason="promtool is not installed")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "sofia-air.rules.yml"),
        ("test", "rules", "sofia-air.rules.test.yml"),
    ],
    ids=["check", "test"],
)
def test_prometheus_accepts_the_alert_rules(arguments: tuple[str, ...]) -> None:
    assert promtool
    done = subprocess.run(
        [promtool, *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["sofia-air.rules.yml", "grafana-dashboard.json"])
def test_what_is_watched_is_told(name: str) -> None:
    """Every metric that an alert or a panel names is documented, and so is in /metrics."""
    used = set(re.findall(r"\bsofia_air_\w+", (DEPLOY / name).read_text()))
    used = {re.sub(r"_(bucket|count|sum)$", "", metric) for metric in used}
    assert used
    assert used <= documented_metrics()


def test_every_alert_is_documented() -> None:
    rules = (DEPLOY / "sofia-air.rules.yml").read_text()
    page = (ROOT / "docs" / "monitoring.md").read_text()
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert alerts
    assert set(re.findall(r"^\| `(SofiaAir\w+)`", page, re.MULTILINE)) == alerts
