"""An archived file goes when all witnesses call it old, and never more than a share in a day."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import DatabaseUnavailable, DiskTrouble, Stopped
from pipeline.files.retention import SHARE_NAME, Retention, Swept

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


class Archive:
    """An archive, and the ledger beside it."""

    def __init__(self, home: Path, keep_days: int) -> None:
        self.home = home
        self.folder = home / "archive"
        self.folder.mkdir()
        self.keep_days = keep_days
        self.ledger: dict[str, datetime] = {}
        self.asked = 0
        self.restart()

    def restart(self) -> None:
        self.retention = Retention(self.folder, self.keep_days, self.home, self._loaded_at)

    def _loaded_at(self, hashes: Sequence[str]) -> dict[str, datetime]:
        self.asked += len(hashes)
        return {sha256: self.ledger[sha256] for sha256 in hashes if sha256 in self.ledger}

    def put(
        self,
        day: datetime,
        name: str,
        loaded: datetime | None = None,
        written: datetime | None = None,
    ) -> Path:
        """Archive a file; the ledger and its own time are of that day unless said otherwise."""
        data = f"{day} {name}".encode()
        path = self.folder / f"{day:%Y-%m-%d}" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        moment = (written or day).timestamp()
        os.utime(path, (moment, moment))
        self.ledger[hashlib.sha256(data).hexdigest()] = loaded or day
        return path

    def files(self) -> int:
        return sum(1 for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path, 30)


def test_old_days_are_deleted_and_nothing_else(archive: Archive) -> None:
    old = archive.put(NOW - 31 * DAY, "a.csv")
    kept = [
        archive.put(NOW - 30 * DAY, "b.csv"),
        archive.put(NOW - 31 * DAY, "loaded-later.csv", loaded=NOW - 3 * DAY),
        archive.put(NOW - 31 * DAY, "touched.csv", written=NOW - 3 * DAY),
        archive.put(NOW - 3 * DAY, "known-before.csv", loaded=NOW - 300 * DAY),
    ]
    unknown = old.with_name("unknown.csv")
    unknown.write_text("the ledger does not have it")
    os.utime(unknown, (0, 0))
    others = [old.with_name("notes"), old.parent.with_name("notes"), old.parent.with_name("2")]
    for other in others:
        other.mkdir()
    link = old.with_name("link.csv")
    link.symlink_to(unknown)
    done = archive.retention.sweep(NOW)
    assert done == Swept({old.parent.name: 1}, unknown=1)
    assert not old.exists()
    assert all(path.exists() for path in [*kept, unknown, *others, link])


@pytest.mark.parametrize("name", ["20200101", "2020-W01-1", "2020-01-01 mine", "notes"])
def test_folders_that_are_not_ours(name: str, archive: Archive) -> None:
    path = archive.put(NOW - 400 * DAY, "a.csv")
    path.parent.rename(archive.folder / name)
    (archive.folder / "2020-01-03").symlink_to(archive.folder / name)
    (archive.folder / "2020-01-02").write_text("a file")
    assert archive.retention.sweep(NOW) == Swept()
    assert (archive.folder / name / "a.csv").exists()


def test_an_empty_folder_goes_and_no_archive_is_no_trouble(archive: Archive) -> None:
    old = archive.put(NOW - 31 * DAY, "a.csv")
    archive.retention.sweep(NOW)
    assert not old.parent.exists()
    archive.folder.rmdir()
    assert archive.retention.sweep(NOW) == Swept()


def test_a_time_in_the_future_does_not_keep_a_file_for_ever(archive: Archive) -> None:
    path = archive.put(NOW - 31 * DAY, "a.csv", written=NOW + 4000 * DAY)
    archive.retention.sweep(NOW)
    assert not path.exists()


def test_what_was_compressed_for_the_archive(archive: Archive) -> None:
    path = archive.put(NOW - 31 * DAY, "a.csv")
    packed = path.with_name("a.csv.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    os.utime(packed, (0, 0))
    path.unlink()
    damaged = path.with_name("b.csv.gz")
    damaged.write_bytes(b"no gzip")
    os.utime(damaged, (0, 0))
    assert archive.retention.sweep(NOW) == Swept({path.parent.name: 1}, unknown=1)
    assert not packed.exists()
    assert damaged.exists()


def many(archive: Archive, days: int, each: int) -> None:
    for day in range(days):
        for number in range(each):
            archive.put(NOW - (31 + day) * DAY, f"{number}.csv")


def test_a_tenth_goes_in_a_day_the_oldest_first(archive: Archive) -> None:
    many(archive, days=25, each=8)
    oldest = [f"{NOW - (55 - day) * DAY:%Y-%m-%d}" for day in range(3)]
    done = archive.retention.sweep(NOW)
    assert done == Swept(dict(zip(oldest, (8, 8, 4), strict=True)), waiting=True)
    assert archive.files() == 180


@pytest.mark.parametrize("restarted", [False, True])
def test_neither_hours_nor_restarts_multiply_the_share(restarted: bool, archive: Archive) -> None:
    many(archive, days=25, each=8)
    for hour in range(24):
        if restarted:
            archive.restart()
        archive.retention.sweep(NOW + timedelta(hours=hour))
    assert archive.files() == 180
    assert archive.retention.sweep(NOW + DAY).folders
    assert archive.files() < 180


def test_killed_in_the_middle_the_share_is_used(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(archive, days=25, each=8)

    def killed(path: Path, *, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    for _ in range(30):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                archive.retention.sweep(NOW)
        archive.restart()
        if archive.retention.sweep(NOW).waiting:
            break
    assert archive.files() >= 180


def test_without_a_place_to_write_it_down_nothing_goes(archive: Archive) -> None:
    many(archive, days=2, each=2)
    (archive.home / SHARE_NAME).mkdir()
    with pytest.raises(DiskTrouble, match=SHARE_NAME):
        archive.retention.sweep(NOW)
    assert archive.files() == 4


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"since": 3}', b"\xff"])
def test_a_damaged_share_begins_anew(damage: bytes, archive: Archive) -> None:
    many(archive, days=1, each=3)
    (archive.home / SHARE_NAME).write_bytes(damage)
    archive.retention.sweep(NOW)
    assert archive.files() == 0


def test_a_small_archive_goes_too(archive: Archive) -> None:
    many(archive, days=3, each=10)
    for day in range(3):
        archive.retention.sweep(NOW + day * DAY)
    assert archive.files() == 0


@pytest.mark.parametrize("keep_days", [1, 2, 5, 30])
@pytest.mark.parametrize("each", [1, 20])
def test_day_by_day_it_never_falls_behind(each: int, keep_days: int, tmp_path: Path) -> None:
    archive = Archive(tmp_path, keep_days)
    for day in range(keep_days + 12):
        now = NOW + day * DAY
        for number in range(each):
            archive.put(now, f"{number}.csv")
        for hour in (0, 1, 12):
            archive.retention.sweep(now + timedelta(hours=hour))
        # The day that is being filled, those that are kept, and the one at the limit.
        assert archive.files() <= (keep_days + 2) * each


def test_a_day_with_a_hundred_times_as_many_is_worked_off(archive: Archive) -> None:
    for day in range(70):
        now = NOW + day * DAY
        for number in range(200 if day == 3 else 2):
            archive.put(now, f"{number}.csv")
        archive.retention.sweep(now + timedelta(hours=1))
    assert archive.files() <= 32 * 2


def test_what_stays_is_not_read_again_at_each_sweep(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive.put(NOW - 31 * DAY, "a.csv", loaded=NOW)
    archive.retention.sweep(NOW)

    def read(path: Path, *_: object) -> str:
        raise AssertionError(path)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.files.retention.sha256_of", read)
        archive.retention.sweep(NOW)
    assert path.exists()


def test_without_a_ledger_nothing_goes(archive: Archive) -> None:
    path = archive.put(NOW - 31 * DAY, "a.csv")

    def away(_hashes: Sequence[str]) -> dict[str, datetime]:
        raise DatabaseUnavailable("away")

    archive.retention.loaded_at = away
    with pytest.raises(DatabaseUnavailable):
        archive.retention.sweep(NOW)
    assert path.exists()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_keeps_no_other_from_going(
    code: int, name: str, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = archive.put(NOW - 33 * DAY, name)
    others = [archive.put(NOW - day * DAY, "b.csv") for day in (33, 31)]
    real_open, real_gzip = os.open, gzip.open

    def opened(path: Path, *args: int, **how: int) -> int:
        if path == bad:
            raise OSError(code, os.strerror(code), str(path))
        return real_open(path, *args, **how)

    monkeypatch.setattr(os, "open", opened)
    done = archive.retention.sweep(NOW)
    assert (done.failed, done.unknown) == (1, 0)
    assert done.reason == f"{bad}: {os.strerror(code)}"
    assert bad.exists()
    assert not any(path.exists() for path in others)
    monkeypatch.setattr(os, "open", real_open)

    def inflated(path: Path, *_: object) -> object:
        raise OSError(code, os.strerror(code), str(path))

    archive.ledger.clear()
    monkeypatch.setattr(gzip, "open", inflated)
    packed = name.endswith(".gz")
    done = archive.retention.sweep(NOW)
    assert (done.failed, done.unknown) == (int(packed), int(not packed))
    monkeypatch.setattr(gzip, "open", real_gzip)


def test_files_that_cannot_be_deleted_do_not_use_up_the_share(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        archive.put(NOW - 40 * DAY, f"fixed-{number:02}.csv")
        archive.put(NOW - 40 * DAY, f"free-{number:02}.csv")
    archive.put(NOW - 35 * DAY, "later.csv")
    real = Path.unlink

    def unlink(path: Path, *, missing_ok: bool = False) -> None:
        if path.name.startswith("fixed"):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    for day in range(2):
        done = archive.retention.sweep(NOW + day * DAY)
        assert done.failed
    assert sorted({p.name[:5] for p in archive.folder.rglob("*.csv")}) == ["fixed"]
    assert archive.files() == 12


def test_a_folder_that_cannot_be_listed_keeps_no_other_from_going(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    shut = archive.put(NOW - 33 * DAY, "a.csv").parent
    other = archive.put(NOW - 31 * DAY, "a.csv")
    real = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == shut:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    done = archive.retention.sweep(NOW)
    assert (done.failed, done.folders) == (1, {other.parent.name: 1})
    assert not other.exists()


def test_too_many_open_files_are_no_fault_of_a_file(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.put(NOW - 31 * DAY, "a.csv")

    def opened(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(DiskTrouble, match="too many open files"):
        archive.retention.sweep(NOW)


@pytest.mark.parametrize("packed", [False, True])
def test_asked_to_stop_it_ends_within_a_file(packed: bool, archive: Archive) -> None:
    large = archive.put(NOW - 32 * DAY, "large.csv.gz" if packed else "large.csv")
    data = bytes(5 << 20)
    large.write_bytes(gzip.compress(data) if packed else data)
    os.utime(large, (0, 0))
    archive.ledger[hashlib.sha256(data).hexdigest()] = NOW - 32 * DAY
    for number in range(3):
        archive.put(NOW - 33 * DAY, f"{number}.csv")
    asked: list[int] = []

    def alive() -> None:
        asked.append(len(asked))
        if len(asked) > 8:
            raise Stopped("asked to stop")

    archive.retention.alive = alive
    assert archive.retention.sweep(NOW) == Swept({f"{NOW - 33 * DAY:%Y-%m-%d}": 3})
    assert large.exists()
    archive.retention.alive = lambda: None
    archive.retention.sweep(NOW)
    assert not large.exists()
