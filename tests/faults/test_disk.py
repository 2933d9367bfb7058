"""Disks that are full, read-only or elsewhere: nothing is lost, and it is told once."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import DiskTrouble, FileChanged
from pipeline.files import archive, atomic
from pipeline.files.drop import drop
from pipeline.files.read import content
from pipeline.simulate import Simulation
from pipeline.simulate import write as simulate
from tests.faults import daemon as daemons
from tests.faults.daemon import sha256, text, wait_for

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.faults.daemon import House

house, zygote = daemons.house, daemons.zygote


class Disk:
    """A small filesystem of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no byte free, the end of the last block of each file apart."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            for piece in (4096, 1):
                try:
                    while True:
                        file.write(bytes(piece))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        (self.path / "filler").unlink()

    def remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", self.path], check=True)


MakeDisk = Callable[[Path], Disk]


@pytest.fixture
def make_disk() -> Iterator[MakeDisk]:
    with ExitStack() as mounted:

        def make(path: Path) -> Disk:
            path.mkdir(parents=True, exist_ok=True)
            tmpfs = [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                "size=256k,mode=0755",
                "sofia-air-tests",
                str(path),
            ]
            done = subprocess.run(tmpfs, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"a small filesystem cannot be mounted here: {done.stderr.strip()}")
            mounted.callback(subprocess.run, ["umount", "-l", str(path)], check=True)
            return Disk(path)

        yield make


def _some_looks(house: House) -> None:
    """Wait until the daemon, which looks every 0.1 s, has had many occasions to complain."""
    until = time.monotonic() + 1.5
    wait_for("some looks", lambda: time.monotonic() > until)


# --- the daemon -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_quarantine_cannot_be_written(house: House, make_disk: MakeDisk, trouble: str) -> None:
    disk = make_disk(house.quarantine)
    if trouble == "full":
        disk.fill()
    else:
        disk.remount("ro")
    daemon = house.daemon(scan_seconds=0.1, batch_files=1)
    bad = text(10, sensor=1, bad=300)
    house.drop("bad.csv", bad)
    house.drop("refused.csv", "who;goes;there\n1;2;3\n")
    house.wait_for_event("batch.failed", 2 if trouble == "read-only" else 1)
    # Files without a bad row need no quarantine, and are not kept waiting.
    house.drop("good.csv", text(10, sensor=2))
    house.wait_for_rows(10)
    _some_looks(house)
    words = {"full": "No space left on device", "read-only": "Read-only file system"}[trouble]
    told = [line["error"] for line in house.events("batch.failed")]
    assert len(told) == len(set(told)) <= 3, told
    assert all(words in error and str(house.quarantine) in error for error in told)
    assert set(house.waiting()) >= {"bad.csv"}
    assert house.loaded() == 10
    if trouble == "full":
        disk.free()
    else:
        disk.remount("rw")
    house.wait_for_rows(20)
    house.wait_until_quiet()
    house.wait_for_event("batch.recovered")
    assert house.one("SELECT count(*) FROM air.quarantined_row") == 300
    (kept,) = house.quarantine.glob("bad.*.csv")
    assert len(kept.read_text().splitlines()) == 301
    assert not list(house.quarantine.glob(".*.part"))
    house.check_books()
    assert daemon.stop() == 0


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_archive_on_another_disk(house: House, make_disk: MakeDisk, trouble: str) -> None:
    disk = make_disk(house.archive)
    house.daemon(scan_seconds=0.1)
    contents = {f"{n}.csv": text(50, sensor=n) for n in range(1, 4)}
    house.drop("first.csv", text(10, sensor=9))
    house.wait_until_quiet()  # copied there, since it cannot be renamed
    assert house.archived() == {"first.csv": sha256(text(10, sensor=9))}
    if trouble == "full":
        disk.fill()
    else:
        disk.remount("ro")
    for name, written in contents.items():
        house.drop(name, written)
    house.wait_for_rows(160)
    house.wait_for_event("file.not_moved", 3)
    _some_looks(house)
    # Committed, told once a file, and still where it was dropped.
    assert len(house.events("file.not_moved")) == 3
    assert len(house.events("file.known")) == 0
    assert house.waiting() == sorted(contents)
    assert {name: (house.data / name).read_text() for name in contents} == contents
    house.drop("later.csv", text(10, sensor=10))
    house.wait_for_rows(170)
    if trouble == "full":
        disk.free()
    else:
        disk.remount("rw")
    house.wait_until_quiet()
    house.wait_for_event("batch.recovered")
    assert {name: house.archived()[name] for name in contents} == {
        name: sha256(written) for name, written in contents.items()
    }
    assert not list(house.archive.rglob(".*"))
    house.check_books()


def test_a_full_disk_for_the_log(house: House, make_disk: MakeDisk) -> None:
    disk = make_disk(house.home / "logs")
    daemon = house.daemon(scan_seconds=0.1)
    disk.fill()
    # More lines than the rest of the last block takes.
    for n in range(1, 41):
        house.drop(f"{n}.csv", text(5, sensor=n))
    house.wait_for_rows(200)
    house.wait_until_quiet()
    complaint = f"{house.home}/logs/sofia-air.jsonl: cannot be written: "
    assert daemon.said.count(complaint) == 1
    assert "Traceback" not in daemon.said
    disk.free()
    house.drop("after.csv", text(5, sensor=50))
    house.wait_for_rows(205)

    # One line may have been cut short; it does not spoil the next one.
    def told() -> bool:
        return any(line.get("file") == "after.csv" for line in _whole_lines(house))

    wait_for("the log to go on", told)
    assert daemon.stop() == 0


def _whole_lines(house: House) -> list[dict[str, Any]]:
    whole = []
    for line in (house.home / "logs" / "sofia-air.jsonl").read_text().splitlines():
        with suppress(ValueError):
            whole.append(json.loads(line))
    return whole


def test_a_home_without_a_free_byte(house: House, make_disk: MakeDisk) -> None:
    disk = make_disk(house.home)
    for name in ("data", "quarantine", "logs"):
        (house.home / name).mkdir()
    disk.fill()
    process = house.command("run", scan_seconds=0.1)
    wait_for("the start", lambda: "daemon.started" in process.said)
    assert "Traceback" not in process.said
    disk.free()
    house.drop("one.csv", text(5))
    house.wait_for_rows(5)
    house.wait_until_quiet()
    assert process.stop() == 0


def test_a_file_that_vanishes_before_it_is_read(house: House) -> None:
    house.daemon(hooks=["before-read:gone.csv"], scan_seconds=0.1)
    house.drop("gone.csv", text(5))
    sign = house.wait_for_pause("before-read")
    (house.data / "gone.csv").unlink()
    sign.unlink()
    house.wait_for_event("file.left")
    house.drop("next.csv", text(5))
    house.wait_for_rows(5)
    assert house.events("batch.failed") == []


# --- the archive's own promises ------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["link", "fsync"])
@pytest.mark.parametrize("policy", ["keep", "gzip"])
def test_a_failed_move_keeps_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str, policy: str
) -> None:
    source = tmp_path / "a.csv"
    source.write_text(text(5))
    read = content(source, 1 << 20)
    real = os.link

    def fail(*args: object, **_: object) -> None:
        raise OSError(code, os.strerror(code), str(args[0]))

    def other_disk(*args: object, **_: object) -> None:
        if args[0] == source:
            raise OSError(errno.EXDEV, "another disk")
        real(*args)  # type: ignore[arg-type]

    if call == "fsync":
        monkeypatch.setattr(os, "link", other_disk)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(DiskTrouble, match="it stays where it is"):
        archive.put_away(read, tmp_path / "archive", policy)
    assert source.read_text() == text(5)
    assert list((tmp_path / "archive").iterdir()) == []


def test_a_copy_that_is_not_the_same_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.csv"
    source.write_text(text(5))
    read = content(source, 1 << 20)

    def another_disk(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", another_disk)
    monkeypatch.setattr(shutil, "copyfileobj", lambda _source, copy, _size: copy.write(b"half"))
    with pytest.raises(FileChanged):
        archive.move(read, tmp_path / "archive")
    assert source.exists()
    assert list((tmp_path / "archive").iterdir()) == []


@pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])
def test_what_becomes_of_a_loaded_file(house: House, policy: str) -> None:
    house.daemon(archive_policy=policy, scan_seconds=0.1)
    house.drop("plain.csv", text(5))
    house.drop("packed.csv.gz", gzip.compress(text(5, start=5).encode()))
    house.wait_for_rows(10)
    house.wait_until_quiet()
    house.drop("plain.csv", text(5))  # again: it is there already
    house.wait_for_event("file.known")
    house.wait_until_quiet()
    kept = {p.name: p.read_bytes() for p in house.archive.rglob("*") if p.is_file()}
    match policy:
        case "keep":
            assert set(kept) == {"plain.csv", "packed.csv.gz"}
        case "gzip":
            assert set(kept) == {"plain.csv.gz", "packed.csv.gz"}
            assert gzip.decompress(kept["plain.csv.gz"]) == text(5).encode()
        case "delete":
            assert kept == {}


@pytest.mark.parametrize("policy", ["keep", "gzip"])
def test_nothing_is_written_over(tmp_path: Path, policy: str) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    suffix = ".gz" if policy == "gzip" else ""
    (folder / f"a.csv{suffix}").write_text("somebody's")
    (folder / f"link.csv{suffix}").symlink_to("/etc/hostname")
    for name in ("a.csv", "link.csv"):
        source = tmp_path / name
        source.write_text(text(5))
        put = archive.put_away(content(source, 1 << 20), folder, policy)
        assert put is not None
        assert put.name == f"{source.stem}.{sha256(text(5))[:12]}.csv{suffix}"
        assert not source.exists()
    assert (folder / f"a.csv{suffix}").read_text() == "somebody's"
    assert (folder / f"link.csv{suffix}").is_symlink()


def test_a_file_that_changed_is_left_alone(tmp_path: Path) -> None:
    for policy in ("keep", "gzip", "delete"):
        source = tmp_path / "a.csv"
        source.write_text(text(5))
        read = content(source, 1 << 20)
        source.write_text(text(6))
        with pytest.raises(FileChanged):
            archive.put_away(read, tmp_path / "archive", policy)
        assert source.read_text() == text(6)


def test_the_daemon_deletes_old_days(house: House) -> None:
    first = house.daemon()
    house.drop("a.csv", text(5))
    house.wait_for_event("file.loaded")
    house.wait_until_quiet()
    first.stop()
    (day,) = house.archive.iterdir()
    old = day.rename(house.archive / "2020-01-01")
    os.utime(old / "a.csv", (0, 0))
    house.sql("UPDATE air.source_file SET loaded_at = '2020-01-01' RETURNING file_id")
    house.daemon(archive_keep_days=30)
    house.wait_for_event("archive.swept")
    wait_for("the end of the folder", lambda: not old.exists())


# --- writers --------------------------------------------------------------------------------------


def _dropped(folder: Path) -> Path:
    drop(io.BytesIO(bytes(10_000)), folder, "file", "0123")
    return folder / "file"


def _written(folder: Path) -> Path:
    atomic.write(folder / "file", bytes(10_000))
    return folder / "file"


def _exported(folder: Path) -> Path:
    with atomic.writing_text(folder / "file", new=True) as file:
        file.write("x" * 10_000)
    return folder / "file"


def _simulated(folder: Path) -> Path:
    (file,) = simulate(Simulation(models=("sds011",), sensors=1, days=1), folder)
    return file.path


def _archived(folder: Path) -> Path:
    source = folder.parent / "file"
    source.write_bytes(bytes(range(256)) * 40)
    return archive.move(content(source, 0), folder)


@pytest.mark.parametrize("writer", [_dropped, _written, _exported, _simulated, _archived])
def test_on_a_full_disk_every_writer_says_where_and_what_to_do(
    writer: Callable[[Path], Path], make_disk: MakeDisk, tmp_path: Path
) -> None:
    disk = make_disk(tmp_path / "full")
    disk.fill()
    before = sorted(disk.path.iterdir())
    with pytest.raises(DiskTrouble, match=r"No space left on device.*; make room") as caught:
        writer(disk.path)
    assert caught.value.path is not None
    assert tmp_path in caught.value.path.parents
    assert str(caught.value).startswith(f"{caught.value.path}: cannot be ")
    assert sorted(disk.path.iterdir()) == before
    disk.free()
    assert writer(disk.path).stat().st_size
