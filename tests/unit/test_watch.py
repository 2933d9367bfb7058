"""Which files are taken and when: by the scan alone, and a clock that the test holds."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import DiskTrouble
from pipeline.files.watch import Found, Settling, scan


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settling(clock: Clock) -> Settling:
    return Settling(2.0, clock)


def drop(folder: Path, name: str, content: str = "x", age: float = 0.0) -> Path:
    """Write a file that was last written to `age` seconds ago (ahead of us when negative)."""
    path = folder / name
    path.write_text(content)
    moment = time.time_ns() - int(age * 1e9)
    os.utime(path, ns=(moment, moment))
    return path


def names(found: list[Found]) -> list[str]:
    return [file.path.name for file in found]


# --- scan -----------------------------------------------------------------------------------------


def test_oldest_first_then_by_name(tmp_path: Path) -> None:
    for name in ("c.csv", "b.csv", "a.csv.gz"):
        os.utime(drop(tmp_path, name), (1_500_000_000, 1_500_000_000))
    os.utime(drop(tmp_path, "z.csv"), (1_400_000_000, 1_400_000_000))
    found, ignored = scan(tmp_path)
    assert names(found) == ["z.csv", "a.csv.gz", "b.csv", "c.csv"]
    assert ignored == []


def test_what_is_found_is_described(tmp_path: Path) -> None:
    path = drop(tmp_path, "a.csv", "12345")
    before = datetime.now(UTC)
    ((file,), _) = scan(tmp_path)
    assert file.path == path
    assert (file.size, file.mtime_ns) == (5, path.stat().st_mtime_ns)
    assert before <= file.detected_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    "name", ["A.CSV", "a.Csv.GZ", "данни.csv", "a b.csv", "a\nb.csv", "x.y.csv"]
)
def test_names_that_are_taken(name: str, tmp_path: Path) -> None:
    drop(tmp_path, name)
    assert names(scan(tmp_path)[0]) == [name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".a.csv", "hidden"),
        ("a.csv.part", "in the making"),
        ("a.csv.tmp", "in the making"),
        ("A.CSV.TMP", "in the making"),
        ("a.txt", "does not end in .csv or .csv.gz"),
        ("a.gz", "does not end in"),
        ("a.csv.zip", "does not end in"),
        ("a.csv~", "does not end in"),
        ("csv", "does not end in"),
    ],
)
def test_names_that_are_left_alone(name: str, words: str, tmp_path: Path) -> None:
    drop(tmp_path, name)
    found, (ignored,) = scan(tmp_path)
    assert found == []
    assert ignored.name == name
    assert words in ignored.reason


def test_kinds_that_are_left_alone_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "dir.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(drop(tmp_path, "real.csv"))
    os.mkfifo(tmp_path / "fifo.csv")
    found, ignored = scan(tmp_path)
    assert names(found) == ["real.csv"]
    assert {entry.name: entry.reason.split(":")[0].split(",")[0] for entry in ignored} == {
        "dir.csv": "a folder",
        "link.csv": "a symbolic link",
        "fifo.csv": "a FIFO",
    }


def test_our_own_folder_is_not_worth_a_word(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.csv").write_text("x")
    (tmp_path / ".gitkeep").touch()
    assert scan(tmp_path) == ([], [])


def test_a_folder_that_is_gone_is_trouble(tmp_path: Path) -> None:
    with pytest.raises(DiskTrouble, match="nowhere: cannot be listed"):
        scan(tmp_path / "nowhere")


def test_scanning_changes_nothing(tmp_path: Path) -> None:
    path = drop(tmp_path, "a.csv", age=50)
    before = path.stat()
    scan(tmp_path)
    after = path.stat()
    assert (after.st_atime_ns, after.st_mtime_ns) == (before.st_atime_ns, before.st_mtime_ns)
    assert stat.S_ISREG(after.st_mode)


# --- settling -------------------------------------------------------------------------------------


def ready(settling: Settling, folder: Path, closed: tuple[str, ...] = ()) -> list[str]:
    return names(settling.ready(scan(folder)[0], closed))


def test_a_file_is_ready_when_it_stood_still(
    tmp_path: Path, settling: Settling, clock: Clock
) -> None:
    drop(tmp_path, "a.csv", age=-10)  # by a clock that is ahead of ours
    assert ready(settling, tmp_path) == []
    clock.now += 1.9
    assert ready(settling, tmp_path) == []
    clock.now += 0.1
    assert ready(settling, tmp_path) == ["a.csv"]
    assert ready(settling, tmp_path) == ["a.csv"]


def test_growing_starts_the_wait_anew(tmp_path: Path, settling: Settling, clock: Clock) -> None:
    for second in range(5):
        drop(tmp_path, "a.csv", "x" * second, age=-10)
        assert ready(settling, tmp_path) == []
        clock.now += 1.5
    assert ready(settling, tmp_path) == []
    clock.now += 0.5
    assert ready(settling, tmp_path) == ["a.csv"]


def test_writing_without_growing_starts_the_wait_anew(
    tmp_path: Path, settling: Settling, clock: Clock
) -> None:
    path = drop(tmp_path, "a.csv", "one")
    ready(settling, tmp_path)
    clock.now += 1.5
    path.write_text("two")
    os.utime(path, ns=(path.stat().st_mtime_ns + 1, path.stat().st_mtime_ns + 1))
    assert ready(settling, tmp_path) == []
    clock.now += 1.5
    assert ready(settling, tmp_path) == []
    clock.now += 0.5
    assert ready(settling, tmp_path) == ["a.csv"]


def test_a_file_written_long_ago_need_not_wait(tmp_path: Path, settling: Settling) -> None:
    drop(tmp_path, "a.csv", age=2.1)
    drop(tmp_path, "b.csv", age=1.0)
    assert ready(settling, tmp_path) == ["a.csv"]


def test_part_of_the_wait_may_be_over_when_a_file_is_first_seen(
    tmp_path: Path, settling: Settling, clock: Clock
) -> None:
    drop(tmp_path, "a.csv", age=1.0)
    assert ready(settling, tmp_path) == []
    clock.now += 1.0
    assert ready(settling, tmp_path) == ["a.csv"]


def test_an_old_time_does_not_help_a_file_that_is_seen_to_change(
    tmp_path: Path, settling: Settling, clock: Clock
) -> None:
    """As `cp -p` and `rsync -t` do: they set the time back at the end."""
    drop(tmp_path, "a.csv", "half")
    assert ready(settling, tmp_path) == []
    clock.now += 0.5
    drop(tmp_path, "a.csv", "whole file", age=1e6)
    assert ready(settling, tmp_path) == []
    clock.now += 2.0
    assert ready(settling, tmp_path) == ["a.csv"]


def test_a_closed_file_is_ready_at_once(tmp_path: Path, settling: Settling) -> None:
    drop(tmp_path, "a.csv")
    drop(tmp_path, "b.csv")
    assert ready(settling, tmp_path, ("a.csv", "gone.csv")) == ["a.csv"]
    # The word of its close event counts once: it may have been opened again.
    assert ready(settling, tmp_path) == []


def test_a_file_that_went_and_came_back_is_new(
    tmp_path: Path, settling: Settling, clock: Clock
) -> None:
    path = drop(tmp_path, "a.csv", age=-10)
    ready(settling, tmp_path)
    content = path.read_text()
    path.unlink()
    clock.now += 5
    assert ready(settling, tmp_path) == []
    assert settling.waiting == 0
    drop(tmp_path, "a.csv", content, age=-10)
    assert ready(settling, tmp_path) == []
    assert settling.waiting == 1


def test_when_it_was_first_seen_is_kept(tmp_path: Path, settling: Settling, clock: Clock) -> None:
    drop(tmp_path, "a.csv", "x", age=-10)
    (first,) = scan(tmp_path)[0]
    settling.ready([first])
    drop(tmp_path, "a.csv", "xy", age=-10)
    settling.ready(scan(tmp_path)[0])
    clock.now += 2
    (file,) = settling.ready(scan(tmp_path)[0])
    assert file.detected_at == first.detected_at
    assert file.size == 2


def test_no_wait_when_none_is_wanted(tmp_path: Path) -> None:
    drop(tmp_path, "a.csv", age=-10)
    assert ready(Settling(0.0, Clock()), tmp_path) == ["a.csv"]


def test_the_order_given_is_kept(tmp_path: Path, settling: Settling) -> None:
    drop(tmp_path, "b.csv", age=20)
    drop(tmp_path, "a.csv", age=10)
    assert ready(settling, tmp_path) == ["b.csv", "a.csv"]
