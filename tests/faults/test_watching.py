"""Finding files: quickly when all is well, and whatever befalls the events when it is not."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import daemon as daemons
from tests.faults.daemon import HEADER, rows, sha256, text, wait_for

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.faults.daemon import House

house, zygote = daemons.house, daemons.zygote

_QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
# So that only events can explain that a file is found quickly, and only a scan that it is found.
RARELY = 300.0


# --- when all is well -----------------------------------------------------------------------------


def test_a_closed_and_a_renamed_file_are_taken_at_once(house: House) -> None:
    house.daemon(scan_seconds=RARELY)
    seconds = []
    for number in range(20):
        content = text(10, start=number * 10)
        if number % 2:
            done = time.time()
            house.drop(f"{number}.csv", content)
        else:
            (house.data / f"{number}.csv").write_text(content)
            done = time.time()
        house.wait_for_rows((number + 1) * 10)
        seconds.append(time.time() - done)
    # The ledger's own clock: from the first sight of the file to the commit.
    commits = house.sql(
        "SELECT extract(epoch FROM loaded_at - detected_at)::float FROM air.source_file"
    )
    inside = [float(value) for (value,) in commits]
    for name, found in (("seen to committed", inside), ("closed to visible", seconds)):
        p95 = statistics.quantiles(found, n=20)[-1]
        print(f"{name}: median {statistics.median(found):.3f} s, p95 {p95:.3f} s")
        assert p95 < 10  # far below the time between two scans
    house.wait_until_quiet()
    house.check_books()


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(30, marks=pytest.mark.slow)], ids=["short", "long"]
)
@pytest.mark.parametrize("old", [False, True], ids=["new", "old mtime"])
def test_a_file_in_the_making_is_not_read(house: House, seconds: float, old: bool) -> None:
    """A writer that pauses for less than `settle_seconds` at a time, however long it takes."""
    house.daemon(scan_seconds=0.1, settle_seconds=3)
    _after_the_first_look(house)
    path = house.data / "slow.csv"
    pieces = int(seconds / 0.5)
    with path.open("w") as file:
        file.write(HEADER)
        for number in range(pieces):
            # Cut within a line: read too early, it would be a different number.
            lines = "".join(rows(10, start=number * 10))
            file.write(lines[:-8])
            file.flush()
            if old:  # as `cp -p` and `rsync -t` do, only too early
                os.utime(path, (1_500_000_000, 1_500_000_000 + number))
            time.sleep(0.5)
            file.write(lines[-8:])
        assert house.files() == 1
    house.wait_until_quiet()
    assert house.files() == 2
    assert house.archived()["slow.csv"] == sha256(text(pieces * 10))
    house.check_books()


def _after_the_first_look(house: House) -> None:
    """What lies there when the daemon starts is judged by its time; what comes later is not."""
    house.drop("first.csv", text(1, sensor=1))
    house.wait_until_quiet()


def test_an_old_file_that_pauses_is_given_the_settle_time(house: House) -> None:
    """Also when its time says that it has not been touched for years."""
    house.daemon(scan_seconds=0.1, settle_seconds=4)
    _after_the_first_look(house)
    path = house.data / "old.csv"
    with path.open("w") as file:
        file.write(HEADER + rows(1)[0][:-8])
        file.flush()
        os.utime(path, (1_500_000_000, 1_500_000_000))
        seen = time.monotonic()
        wait_for("some looks at it", lambda: time.monotonic() - seen > 1.0)
        assert house.files() == 1
        file.write(rows(1)[0][-8:])
    house.wait_for_rows(2)


def test_a_file_that_nobody_closes_is_taken_when_it_stands_still(house: House) -> None:
    house.daemon(scan_seconds=0.1, settle_seconds=0.5)
    with (house.data / "open.csv").open("w") as file:
        file.write(text(5))
        file.flush()
        house.wait_for_rows(5)


def test_a_file_is_created_empty_and_filled_later(house: House) -> None:
    """As by mktemp, and by some file servers: the close of the empty file means nothing."""
    house.daemon(scan_seconds=0.1, settle_seconds=5)
    (house.data / "later.csv").touch()
    house.drop("first.csv", text(1, sensor=1))
    house.wait_for_rows(1)  # so there was a look
    (house.data / "later.csv").write_text(text(5))
    house.wait_for_rows(6)
    assert house.one("SELECT count(*) FROM air.source_file WHERE state = 'refused'") == 0


def test_only_whole_names_are_taken(house: House) -> None:
    for name in (".hidden.csv", "a.csv.part", "b.csv.tmp", "notes.txt"):
        (house.data / name).write_text(text(5, sensor=1))
    house.daemon(scan_seconds=0.1, settle_seconds=0)
    house.drop("whole.csv", text(5))
    house.wait_for_rows(5)
    assert house.waiting() == [".hidden.csv", "a.csv.part", "b.csv.tmp", "notes.txt"]
    (house.data / "a.csv.part").rename(house.data / "a.csv")
    house.wait_for_rows(10)


# --- the same again, and not the same ------------------------------------------------------------


def test_another_file_under_the_name_that_is_being_read(house: House) -> None:
    first, second = text(10), text(10, start=10)
    house.daemon(hooks=["before-commit"])
    house.drop("day.csv", first)
    sign = house.wait_for_pause("before-commit")
    house.drop("day.csv", second)  # replaces it: the first is now nowhere but in memory
    sign.unlink()
    house.wait_for_rows(20)
    house.wait_until_quiet()
    assert sha256(second) in house.archived().values()
    house.check_books()


def test_a_file_that_grows_while_it_is_read_is_read_again(house: House) -> None:
    house.daemon(hooks=["before-commit"])
    house.drop("day.csv", text(10))
    sign = house.wait_for_pause("before-commit")
    with (house.data / "day.csv").open("a") as file:
        file.writelines(rows(10, start=10))
    sign.unlink()
    house.wait_for_rows(20)
    house.wait_until_quiet()
    assert list(house.archived().values()) == [sha256(text(20))]
    house.check_books()


def test_the_same_content_under_another_name(house: House) -> None:
    house.daemon()
    house.drop("one.csv", text(10))
    house.wait_until_quiet()
    house.drop("two.csv", text(10))
    house.wait_for_event("file.known")
    house.wait_until_quiet()
    assert (house.files(), house.loaded()) == (1, 10)
    assert sorted(house.archived()) == ["one.csv", "two.csv"]


def test_every_file_delivered_ten_times(house: House) -> None:
    files = {f"{n}.csv": text(20, sensor=n + 1, bad=n % 2) for n in range(5)}
    house.daemon(scan_seconds=1)
    before = None
    for time_ in range(10):
        for name, content in files.items():
            house.drop(name, content)
        house.wait_until_quiet()
        tables = [
            house.sql(f"SELECT * FROM air.{table} ORDER BY 1, 2, 3")
            for table in ("source_file", "raw_particulate", "quarantined_row", "hourly")
        ]
        assert before in (None, tables), f"delivery {time_} changed something"
        before = tables
    # The same bytes are in the archive already: a second copy is of no use.
    assert house.archived() == {name: sha256(content) for name, content in files.items()}
    assert len(house.events("file.known")) == 45
    house.check_books()


# --- when the events fail ------------------------------------------------------------------------


def _burst(house: House, number: int, patience: float) -> None:
    daemon = house.started[-1]
    daemon.send(signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        for n in range(number):
            pool.submit(house.drop, f"{n}.csv", HEADER + rows(1, start=n)[0])
    daemon.send(signal.SIGCONT)
    house.wait_for_rows(number, patience)
    house.wait_until_quiet()
    house.wait_for_event("watcher.overflow")  # told after the look that was going on
    assert house.files() == number
    assert len(house.archived()) == number
    house.check_books()


def test_a_burst_that_overflows_the_queue_of_events(house: House) -> None:
    before = _QUEUE.read_text()
    try:
        _QUEUE.write_text("16")
    except OSError as error:
        pytest.skip(f"{_QUEUE} cannot be written to: {error}")
    try:  # the length is fixed when the watching starts
        house.daemon(scan_seconds=RARELY)
    finally:
        _QUEUE.write_text(before)
    _burst(house, 100, patience=60)


@pytest.mark.slow
def test_a_burst_of_50_000_files(house: House) -> None:
    house.daemon(scan_seconds=5)
    started = time.monotonic()
    _burst(house, 50_000, patience=1500)
    print(f"50,000 files in {time.monotonic() - started:.0f} s")


@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        ("shoot-emitter", "an emitter thread died"),
        ("shoot-reader", "the inotify thread died"),
    ],
)
def test_a_dead_watcher_is_replaced_and_nothing_is_missed(
    house: House, hook: str, reason: str
) -> None:
    daemon = house.daemon(hooks=[hook], scan_seconds=1)
    daemon.send(signal.SIGUSR1)
    house.drop("lost.csv", text(5))  # its event dies with the thread
    house.wait_for_event("watcher.restarted")
    assert house.events("watcher.restarted")[0]["reason"] == reason
    house.wait_for_rows(5)
    # And events are back.
    house.drop("next.csv", text(5, start=5))
    house.wait_for_rows(10)
    assert len(house.events("watcher.restarted")) == 1


def test_the_data_folder_is_removed_and_made_again(house: House) -> None:
    daemon = house.daemon(scan_seconds=0.2)
    house.drop("before.csv", text(5))
    house.wait_until_quiet()
    threads = Path(f"/proc/{daemon.pid}/task")
    before = len(list(threads.iterdir()))
    house.data.rename(house.home / "elsewhere")
    house.wait_for_event("batch.failed")
    looks = time.monotonic() + 3
    wait_for("some more looks", lambda: time.monotonic() > looks)
    (failed,) = house.events("batch.failed")
    assert failed["error"] == (
        f"{house.data}: cannot be listed: No such file or directory; make it a readable folder"
    )
    assert len(house.events("watcher.restarted")) == 1
    assert len(house.events("watcher.unavailable")) == 1
    # Every attempt to watch starts a thread of watchdog's; none may be left over.
    assert len(list(threads.iterdir())) <= before
    house.data.mkdir()
    house.wait_for_event("batch.recovered")
    house.wait_for_event("watcher.available")
    house.drop("after.csv", text(5, start=5))
    house.wait_for_rows(10)
    assert daemon.stop() == 0


def test_the_data_folder_is_replaced_by_another(house: House) -> None:
    house.daemon(scan_seconds=0.3)
    house.data.rename(house.home / "old")
    house.data.mkdir()
    house.wait_for_event("watcher.restarted")
    house.drop("after.csv", text(5))
    house.wait_for_rows(5)


@pytest.mark.parametrize("watcher", ["polling", "off"])
def test_other_ways_to_watch(house: House, watcher: str) -> None:
    house.daemon(watcher=watcher, scan_seconds=0.3 if watcher == "off" else RARELY)
    house.drop("one.csv", text(5))
    (house.data / "two.csv").write_text(text(5, start=5))
    # Polling wakes the daemon, which then lets the file settle.
    house.wait_for_rows(10)
    house.wait_until_quiet()


# --- not alone -----------------------------------------------------------------------------------


def test_a_second_daemon_names_the_first(house: House) -> None:
    first = house.daemon()
    second = house.command("run")
    assert second.wait() == 1
    assert f"taken by another daemon (process {first.pid} on " in second.said
    house.drop("one.csv", text(5))
    house.wait_for_rows(5)
    first.send(signal.SIGKILL)
    first.wait()
    house.daemon()  # the lock went with its holder


def test_ingest_beside_the_daemon(house: House, tmp_path: Path) -> None:
    rng = random.Random(1)
    sources = []
    for n in range(30):
        path = tmp_path / f"{n}.csv"
        path.write_text(text(20, sensor=n + 1, bad=rng.randrange(3)))
        sources.append(path)
    house.daemon(scan_seconds=0.2)
    commands = [house.command("ingest", "--json", *map(str, sources)) for _ in range(2)]
    for n in range(30, 40):
        house.drop(f"{n}.csv", text(20, sensor=n + 1))
    codes = [command.wait() for command in commands]
    assert codes == [0, 0], [command.said for command in commands]
    for command in commands:
        # Whoever took it, the command can tell what became of it.
        assert '"state": "left"' not in command.said
    house.wait_until_quiet()
    assert (house.files(), house.loaded()) == (40, 800)
    contents = {sha256(path.read_bytes()) for path in sources}
    assert contents <= set(house.archived().values())
    house.check_books()


@pytest.mark.parametrize("point", ["before-read", "before-process"])
@pytest.mark.parametrize(
    ("content", "code", "state"),
    [(text(5), 0, "known"), ("who;goes;there\n1;2;3\n", 3, "refused")],
    ids=["good", "refused"],
)
def test_ingest_tells_what_the_daemon_took_from_it(
    house: House, tmp_path: Path, content: str, code: int, state: str, point: str
) -> None:
    source = tmp_path / "a.csv"
    source.write_text(content)
    house.daemon()
    command = house.command("ingest", "--json", str(source), hooks=[point])
    sign = house.wait_for_pause(point)
    house.wait_until_quiet()  # the daemon was quicker
    sign.unlink()
    assert command.wait() == code
    (told,) = json.loads(command.said)["files"]
    assert told["state"] == state
    assert told["message"] == "the daemon or another command took it meanwhile (file 1)"
    assert source.read_text() == content
