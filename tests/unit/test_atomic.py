"""A file is there as it was or as it is to be, and what a crash has left of it goes away."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import Conflict, DiskTrouble
from pipeline.files.atomic import Draft, tidy, write, writing, writing_text
from pipeline.files.drop import drop

_HALFWAY = """
import sys
from pathlib import Path
from pipeline.files.atomic import writing
with writing(Path(sys.argv[1]), new=sys.argv[2] == "new") as file:
    file.write(b"newer " * 100_000)
    file.flush()
    print("half", flush=True)
    sys.stdin.read()
"""
_FOR_EVER = """
import sys
from pathlib import Path
from pipeline.files.atomic import write
path, size = Path(sys.argv[1]), int(sys.argv[2])
print("begun", flush=True)
while True:
    for letter in (b"a", b"b"):
        write(path, letter * size)
"""


@contextmanager
def running(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python in a process of its own, which has printed a line; killed in the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"older", None])
def test_killed_halfway_the_old_file_is_there_and_the_draft_goes(
    before: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    with running(_HALFWAY, path, "new" if before is None else "replaced") as process:
        (draft,) = hidden(tmp_path)
        assert draft.stat().st_size > 100_000
        # Somebody writes it, however long ago that began.
        assert tidy([tmp_path], lambda: time.time() + 10**7) == []
        kill(process)
    assert draft.exists()
    assert (path.read_bytes() if path.exists() else None) == before
    assert tidy([tmp_path]) == [draft]
    assert [found.name for found in tmp_path.iterdir()] == ["file"] * (before is not None)


def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 300_000
    write(path, b"a" * size)
    chance = random.Random(8)
    seen = set()
    for _ in range(12):
        with running(_FOR_EVER, path, size) as process:
            time.sleep(chance.uniform(0, 0.05))  # whenever this ends, the law holds
            kill(process)
        content = path.read_bytes()
        assert content in (b"a" * size, b"b" * size)
        seen.add(content[:1])
        tidy([tmp_path])
        assert list(tmp_path.iterdir()) == [path]
    assert seen == {b"a", b"b"}


def test_drafts_are_looked_for_one_level_deeper_only_by_day(tmp_path: Path) -> None:
    names = ["data", "archive", "archive/2024-01-01", "archive/other"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "2024-01-02").symlink_to(tmp_path / "archive" / "other")
    draft = f".sofia-air.{'0' * 16}.part"
    for name in names:
        (tmp_path / name / draft).touch()
        for other in (".upload.part", "upload.csv.part", ".sofia-air.lock", ".sofia-air.clock"):
            (tmp_path / name / other).touch()
    (tmp_path / "data" / f".sofia-air.{'1' * 16}.part").mkdir()
    os.mkfifo(tmp_path / "data" / f".sofia-air.{'2' * 16}.part")
    removed = tidy([tmp_path / "data", tmp_path / "archive", tmp_path / "nowhere"])
    assert {path.parent for path in removed} == {tmp_path / name for name in names[:3]}
    assert {path.name for path in removed} == {draft}
    assert len(hidden(tmp_path / "data")) == 5
    assert len(hidden(tmp_path / "archive" / "other")) == 4


def test_who_tidies_up_never_takes_a_draft_from_who_writes(tmp_path: Path) -> None:
    done = threading.Event()
    removed: list[Path] = []

    def tidying() -> None:
        while not done.is_set():
            removed.extend(tidy([tmp_path], lambda: time.time() + 10**7))

    threads = [threading.Thread(target=tidying) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(300):
            with writing(tmp_path / f"{number % 7}", durable=False) as file:
                file.write(f"{number}".encode())
            assert (tmp_path / f"{number % 7}").read_text() == f"{number}"
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert hidden(tmp_path) == []


def test_without_locks_only_an_old_draft_is_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Draft(tmp_path) as draft:
        assert tidy([tmp_path]) == []
        assert tidy([tmp_path], time.time) == []
        assert tidy([tmp_path], lambda: time.time() + 4000) == [draft.path]


# --- written --------------------------------------------------------------------------------------


def test_nobody_reads_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"older")
    with writing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"older"
        file.write(b"er")
    assert path.read_bytes() == b"newer"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"older")

    def interrupted() -> None:
        with writing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_text_keeps_its_line_ends(tmp_path: Path) -> None:
    with writing_text(tmp_path / "file", "utf-8-sig") as file:
        file.write("щ\r\n\n")
    assert (tmp_path / "file").read_bytes() == b"\xef\xbb\xbf" + "щ\r\n\n".encode()


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_another(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "file"
    with writing(path, new=True) as file:
        file.write(b"first")
    for target in (path, tmp_path / "link"):
        if target != path:
            target.symlink_to(tmp_path / "nowhere")
        with pytest.raises(Conflict, match="already exists"), writing(target, new=True) as file:
            file.write(b"second")
    assert path.read_bytes() == b"first"
    assert not (tmp_path / "nowhere").exists()
    assert hidden(tmp_path) == []


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "file").symlink_to(tmp_path / "theirs")
    write(tmp_path / "file", b"ours")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o640), (0o077, 0o600)])
def test_nobody_else_can_write_to_it(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"")
        drop(io.BytesIO(b""), tmp_path, "a.csv", "0123")
    finally:
        os.umask(before)
    for name in ("file", "a.csv"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


def test_file_and_folder_are_synced_unless_it_need_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "file", b"")
    assert synced == [False, True]
    drop(io.BytesIO(b""), tmp_path, "a.csv", "0123")
    assert synced == [False, True] * 2
    with writing(tmp_path / "other", durable=False) as file:
        file.write(b"")
    assert len(synced) == 4


# --- refused by the disk --------------------------------------------------------------------------


def test_trouble_names_the_file_and_not_the_draft(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "nowhere" / "file"):
        with pytest.raises(DiskTrouble, match=f"^{path}: cannot be written: ") as caught:
            write(path, b"")
        assert caught.value.path == path
        assert ".part" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_too_many_open_files_are_neither_the_files_nor_the_disks_fault(tmp_path: Path) -> None:
    code = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from pipeline.errors import DiskTrouble\n"
        "from pipeline.files.atomic import write\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\n"
        "taken = []\n"
        "try:\n"
        "    while True: taken.append(os.open('/', os.O_RDONLY))\n"
        "except OSError: pass\n"
        "try: write(Path(sys.argv[1]), b'')\n"
        "except DiskTrouble as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("too many open files: this process may have 16")
