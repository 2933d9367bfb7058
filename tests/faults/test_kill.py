"""SIGKILL, at random and at every named point: nothing lost, nothing doubled, nothing stranded."""

from __future__ import annotations

import gzip
import hashlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.harness import Contents, File, Site, contents, invariants, wait_for

# Real processes, real kills: minutes, not seconds; but for a short one, which all run.
slow = pytest.mark.slow

MakeSite = Callable[..., Site]

# Small batches, so that a load has many moments; and blocks so small that some files need several.
CUT_UP = {"batch_files": 4, "block_bytes": 65_536}


def kills(site: Site, number: int, rng: random.Random, *, longest: float, by_exec: int) -> int:
    """Start the daemon and kill it so many times; return how often it had something to do."""
    busy = 0
    for each in range(number):
        started = len(site.events("daemon.started"))
        site.start(by_exec=each < by_exec)
        if each < by_exec:
            wait_for("the daemon", lambda: len(site.events("daemon.started")) > started)  # noqa: B023
        time.sleep(rng.uniform(0, longest))  # the moment
        busy += bool(site.waiting())
        assert site.kill(), site.output()
    return busy


@slow
def test_kills_at_random_leave_what_one_undisturbed_run_leaves(
    make_site: MakeSite, small: list[File], expected: Contents
) -> None:
    site = make_site(**CUT_UP)
    site.deliver(small)
    assert kills(site, 6, random.Random(1), longest=0.3, by_exec=1) > 1
    site.drain()
    invariants(site, expected)


@slow
def test_two_hundred_kills_while_300_000_rows_are_loaded(
    make_site: MakeSite, big: list[File], expected_of_big: Contents
) -> None:
    assert len(big) >= 300
    assert expected_of_big.rows_read >= 300_000
    rng = random.Random(2)
    left = 200
    while left > 0:
        site = make_site(batch_files=8, block_bytes=2**20)
        site.deliver(big)
        while left > 0 and site.waiting():
            left -= 1
            kills(site, 1, rng, longest=0.7, by_exec=left % 20 == 0)
        site.drain()
        invariants(site, expected_of_big)


def crash_at(site: Site, crash: str) -> None:
    site.start(crash=crash)
    wait_for(f"the crash at {crash}", lambda: not (site.alive and site.waiting()))
    assert not site.alive, f"{crash} was never reached: {site.output()}"
    assert site.buried() == -signal.SIGKILL, site.output()


@slow
def test_two_that_drain_the_same_folder_load_everything_once(
    make_site: MakeSite, small: list[File], expected: Contents
) -> None:
    one = make_site(**CUT_UP)
    one.deliver(small)
    other = replace(one)
    try:
        for each in (one, other):
            each.start(once=True)
        for each in (one, other):
            assert each.buried() in {0, 3}, each.output()
    finally:
        other.abandon()
    invariants(one, expected)


# Each at a moment of its own, in an order in which all of them are reached.
QUARANTINE = ("quarantine-half:2", "quarantine-written:2", "refusal-written:1")
TRANSACTION = ("mid-copy:2", "ledger-written:1", "before-commit:2", "after-commit:1", "mid-copy:4")
MOVES = ("linked:2", "between-files:1", "aside:1", "aside:3", "linked:6", "between-files:3")
MOVES_ACROSS = ("mid-file-copy:3", "linked:2", "aside:2", "between-files:2")


def crash_and_restart(site: Site, files: list[File], crashes: Sequence[str]) -> None:
    site.deliver(files)
    for crash in crashes:
        crash_at(site, crash)
        assert site.waiting(), "the crash came too late to mean anything"
    site.drain()


@pytest.mark.parametrize(
    "crashes",
    [pytest.param(QUARANTINE, marks=slow), TRANSACTION, pytest.param(MOVES, marks=slow)],
    ids=" ".join,
)
def test_killed_at_one_point_after_the_other(
    make_site: MakeSite, small: list[File], expected: Contents, crashes: tuple[str, ...]
) -> None:
    site = make_site(**CUT_UP)
    crash_and_restart(site, small, crashes)
    invariants(site, expected)


@slow
@pytest.mark.parametrize("crash", [*QUARANTINE, *TRANSACTION, *MOVES, "mid-copy:1", "mid-copy:7"])
def test_killed_at_one_point(
    make_site: MakeSite, small: list[File], expected: Contents, crash: str
) -> None:
    site = make_site(**CUT_UP)
    crash_and_restart(site, small, [crash])
    invariants(site, expected)


@pytest.fixture
def other_filesystem(tmp_path: Path) -> Iterator[Path]:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second filesystem here")
    with tempfile.TemporaryDirectory(dir=shm, prefix="sofia-air-") as folder:
        yield Path(folder)


@slow
@pytest.mark.parametrize(
    "crashes",
    [MOVES_ACROSS, *((crash,) for crash in MOVES_ACROSS)],
    ids=" ".join,
)
def test_killed_while_a_file_is_moved_to_another_filesystem(
    make_site: MakeSite,
    small: list[File],
    expected: Contents,
    other_filesystem: Path,
    crashes: tuple[str, ...],
) -> None:
    site = make_site(**CUT_UP)
    (site.data / "archive").symlink_to(other_filesystem)
    crash_and_restart(site, small, crashes)
    invariants(site, expected)


@slow
@pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])
@pytest.mark.parametrize("crash", ["aside:1", "aside-newer:1"])
def test_killed_while_a_file_is_aside(make_site: MakeSite, crash: str, policy: str) -> None:
    """It has nothing but its hidden name, and may be a newer file than the one that was loaded."""
    site = make_site(archive_policy=policy)
    names = ["2024-05-01_sds011_sensor_1.csv", "2024-05-01_sds011_sensor_2.csv"]
    first, second = (File(name, _sds(number), 1) for number, name in enumerate(names))
    newer = crash.startswith("aside-newer")
    site.deliver([first])
    if newer:
        (site.data / f"{first.name}.newer").write_bytes(second.data)
    site.start(crash=crash)
    wait_for(f"the crash at {crash}", lambda: not site.alive)
    assert site.buried() == -signal.SIGKILL, site.output()
    (left,) = site.waiting()
    assert left.startswith(f".{first.name}.")
    site.drain()
    due = {first.sha256, second.sha256} if newer else {first.sha256}
    found = contents(site.url)
    assert found.ledger.keys() == due
    assert found.rows == len(due)
    kept = [path.read_bytes() for path in (site.data / "archive").rglob("*") if path.is_file()]
    if policy == "gzip":
        kept = [gzip.decompress(data) for data in kept]
    # What was loaded first may be gone with the name that the newer file took, by its owner's hand.
    held = {hashlib.sha256(data).hexdigest() for data in kept}
    assert policy == "delete" or held >= (due - {first.sha256} if newer else due)
    assert [event["file"] for event in site.events("aside.returned")] == [first.name]


def _sds(second: int) -> bytes:
    return (
        "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
        f"92;SDS011;42;42.689;23.341;2024-05-01T00:00:{second:02};9.53;;;2.83;;\n"
    ).encode()
