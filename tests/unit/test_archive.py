"""A file is moved without ever being lost, and without ever taking another's place."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from pipeline.errors import DiskTrouble, FileChanged
from pipeline.records import Content
from pipeline.steps import archive

Link = Callable[..., None]
PACKED = gzip.compress(b"some bytes\n", mtime=0)


def content(path: Path, data: bytes = b"some bytes\n") -> Content:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    found = path.stat()
    return Content(
        path,
        len(data),
        hashlib.sha256(data).hexdigest(),
        data,
        (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns),
    )


@pytest.fixture
def source(tmp_path: Path) -> Content:
    return content(tmp_path / "data" / "some.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive" / "2020-01-01"


def across(monkeypatch: pytest.MonkeyPatch, folder: Path, code: int = errno.EXDEV) -> None:
    """Let the folder be on another filesystem: links from elsewhere into it fail."""
    real = os.link

    def link(source: Path, target: Path, **how: bool) -> None:
        if Path(source).parent != folder:
            raise OSError(code, os.strerror(code), str(source), None, str(target))
        real(source, target, **how)

    monkeypatch.setattr(os, "link", link)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ELSEWHERE = pytest.mark.parametrize("elsewhere", [False, True], ids=["same disk", "other disk"])


@ELSEWHERE
def test_moved(
    elsewhere: bool, source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elsewhere:
        across(monkeypatch, folder)
    before = source.path.stat()
    target = archive.move(source, folder)
    assert target == folder / "some.csv"
    assert target.read_bytes() == b"some bytes\n"
    assert target.stat().st_mtime_ns == before.st_mtime_ns
    assert not source.path.exists()
    assert names_in(folder) == ["some.csv"]
    assert folder.stat().st_mode & 0o777 == 0o750


@ELSEWHERE
def test_another_file_of_that_name_stays(
    elsewhere: bool, source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if elsewhere:
        across(monkeypatch, folder)
    folder.mkdir(parents=True)
    (folder / "some.csv").write_bytes(b"other bytes")
    target = archive.move(source, folder)
    assert target.name == f"some.{source.sha256[:12]}.csv"
    assert target.read_bytes() == b"some bytes\n"
    assert (folder / "some.csv").read_bytes() == b"other bytes"
    assert not source.path.exists()


def test_several_others_stay(source: Content, folder: Path) -> None:
    folder.mkdir(parents=True)
    mark = source.sha256[:12]
    taken = ["some.csv", f"some.{mark}.csv", f"some.{mark}.2.csv"]
    for name in taken:
        (folder / name).write_bytes(name.encode())
    target = archive.move(source, folder)
    assert target.name == f"some.{mark}.3.csv"
    assert [(folder / name).read_bytes() for name in taken] == [name.encode() for name in taken]


def test_when_every_name_is_taken_the_source_stays(source: Content, folder: Path) -> None:
    folder.mkdir(parents=True)
    mark = source.sha256[:12]
    for number in ("", *(f".{mark}{n}" for n in ("", ".2", ".3", ".4"))):
        (folder / f"some{number}.csv").write_bytes(b"other")
    with pytest.raises(DiskTrouble, match="no free name"):
        archive.move(source, folder)
    assert source.path.read_bytes() == b"some bytes\n"


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "fifo"])
def test_whatever_has_the_name_stays(
    kind: str, source: Content, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir(parents=True)
    other = folder / "some.csv"
    # A link to the very same bytes is not the file itself: they could vanish with its target.
    match kind:
        case "folder":
            other.mkdir()
        case "link":
            (tmp_path / "same.csv").write_bytes(b"some bytes\n")
            other.symlink_to(tmp_path / "same.csv")
        case "dangling link":
            other.symlink_to(tmp_path / "nowhere")
        case _:
            os.mkfifo(other)
    before = other.lstat()
    target = archive.move(source, folder)
    assert target.name == f"some.{source.sha256[:12]}.csv"
    assert not target.is_symlink()
    assert (other.lstat().st_ino, other.lstat().st_mode) == (before.st_ino, before.st_mode)


@ELSEWHERE
def test_a_move_that_was_cut_off_is_finished(
    elsewhere: bool, source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two halves: the file is in both places."""
    folder.mkdir(parents=True)
    if elsewhere:
        across(monkeypatch, folder)
        (folder / "some.csv").write_bytes(b"some bytes\n")
        (folder / f".{source.sha256[:32]}.part").write_bytes(b"some b")
    else:
        os.link(source.path, folder / "some.csv")
    target = archive.move(source, folder)
    assert target == folder / "some.csv"
    assert not source.path.exists()
    assert target.read_bytes() == b"some bytes\n"


def test_a_copy_that_was_cut_off_does_not_stand_in_the_way(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    across(monkeypatch, folder)
    folder.mkdir(parents=True)
    (folder / f".{source.sha256[:32]}.part").write_bytes(b"much longer than the bytes themselves")
    archive.move(source, folder)
    assert names_in(folder) == ["some.csv"]
    assert (folder / "some.csv").read_bytes() == b"some bytes\n"


# --- files that change ----------------------------------------------------------------------------


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more\n")


def rewritten(path: Path) -> None:
    path.write_bytes(b"SOME BYTES\n")
    os.utime(path, ns=(0, 10**18))


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(b"some bytes\n")
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [appended, rewritten, replaced])
@pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])
@ELSEWHERE
def test_a_file_that_changed_is_left_where_it_is(
    elsewhere: bool,
    policy: str,
    change: Callable[[Path], None],
    source: Content,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if elsewhere:
        across(monkeypatch, folder)
    change(source.path)
    now = source.path.read_bytes()
    with pytest.raises(FileChanged, match="changed"):
        archive.put_away(source, folder, policy)
    assert source.path.read_bytes() == now
    kept = sorted(folder.iterdir()) if folder.exists() else []
    # A compressed copy of exactly what was loaded may be there already; nothing else.
    assert all(gzip.decompress(path.read_bytes()) == b"some bytes\n" for path in kept)


@pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])
def test_a_file_that_is_gone(policy: str, source: Content, folder: Path) -> None:
    source.path.unlink()
    with pytest.raises(FileChanged, match="is gone"):
        archive.put_away(source, folder, policy)


def test_a_file_replaced_between_the_look_and_the_link_is_left(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(path: Path, target: Path, **how: bool) -> None:
        replaced(source.path)
        real(path, target, **how)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileChanged, match="was replaced"):
        archive.move(source, folder)
    assert source.path.exists()
    assert names_in(folder) == []


def test_a_file_that_changes_while_it_is_copied_is_left(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(path: Path, target: Path, **how: bool) -> None:
        appended(source.path)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path), None, str(target))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(FileChanged, match="changed while it was being copied"):
        archive.move(source, folder)
    assert source.path.read_bytes() == b"some bytes\nmore\n"
    assert names_in(folder) == []


# --- disks that do not play along -----------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_failed_copy_keeps_the_source(
    code: int, source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    across(monkeypatch, folder)

    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskTrouble, match="it stays where it is") as trouble:
        archive.move(source, folder)
    assert str(source.path) in str(trouble.value)
    assert os.strerror(code) in str(trouble.value)
    assert source.path.read_bytes() == b"some bytes\n"
    assert names_in(folder) == []


def test_a_copy_that_came_out_wrong_is_no_copy(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that says yes and writes something else."""
    across(monkeypatch, folder)

    def fsync(descriptor: int) -> None:
        os.pwrite(descriptor, b"S", 0)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FileChanged):
        archive.move(source, folder)
    assert source.path.read_bytes() == b"some bytes\n"
    assert names_in(folder) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_filesystems_without_hard_links(
    code: int, source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    across(monkeypatch, folder, code)
    assert archive.move(source, folder).read_bytes() == b"some bytes\n"
    assert not source.path.exists()


def test_another_disk_without_hard_links(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(path: Path, target: Path, **how: bool) -> None:
        code = errno.EPERM if Path(path).parent == folder else errno.EXDEV
        raise OSError(code, os.strerror(code), str(path), None, str(target))

    monkeypatch.setattr(os, "link", link)
    assert archive.move(source, folder).read_bytes() == b"some bytes\n"
    assert not source.path.exists()
    assert names_in(folder) == ["some.csv"]


def test_a_folder_that_cannot_be_made(source: Content, tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file where the folder should be")
    with pytest.raises(DiskTrouble, match="it stays where it is"):
        archive.move(source, tmp_path / "archive" / "2020-01-01")
    assert source.path.exists()


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        b"x" * 251 + b".csv",
        b"x" * 248 + b".CSV.gz",
        b"a." + b"x" * 249 + b".csv",
        "щ".encode() * 125 + b"x.csv",
        b"\xff" * 251 + b".csv",
        b"a" * 255,
        b"a." + b"b" * 253,
    ],
    ids=["long", "gz", "dot early", "Cyrillic", "not UTF-8", "no ending", "odd ending"],
)
@pytest.mark.parametrize("policy", ["keep", "gzip"])
def test_long_names_that_are_taken(name: bytes, policy: str, tmp_path: Path, folder: Path) -> None:
    text = os.fsdecode(name)
    archived = []
    for data in (b"one", b"two", b"three"):
        source = content(tmp_path / "data" / text, data)
        target = archive.put_away(source, folder, policy)
        assert target is not None
        assert not source.path.exists()
        archived.append(target)
    assert len(set(archived)) == 3
    for target, data in zip(archived, (b"one", b"two", b"three"), strict=True):
        raw = target.read_bytes()
        assert (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw) == data
        kept = os.fsencode(target.name)
        ending = name[-7:] if name.endswith(b".gz") else name[-4:]
        if ending.lower() in {b".csv", b".csv.gz"}:
            assert kept.removesuffix(b".gz").endswith(ending.removesuffix(b".gz"))
        kept.decode(errors="surrogateescape").encode(errors="surrogateescape")


def test_a_name_of_ones_own(source: Content, folder: Path) -> None:
    assert archive.move(source, folder, "other.refused.csv").name == "other.refused.csv"


# --- what a site may want instead -----------------------------------------------------------------


def test_compressed(source: Content, folder: Path) -> None:
    target = archive.put_away(source, folder, "gzip")
    assert target == folder / "some.csv.gz"
    assert gzip.decompress(target.read_bytes()) == b"some bytes\n"
    assert not source.path.exists()
    assert names_in(folder) == ["some.csv.gz"]


def test_what_is_compressed_already_is_moved(tmp_path: Path, folder: Path) -> None:
    data = gzip.compress(b"some bytes\n")
    target = archive.put_away(content(tmp_path / "data" / "some.csv.gz", data), folder, "gzip")
    assert target is not None
    assert target.read_bytes() == data


def test_compressed_beside_another_of_that_name(source: Content, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "some.csv.gz").write_bytes(gzip.compress(b"other"))
    target = archive.put_away(source, folder, "gzip")
    assert target == folder / f"some.{source.sha256[:12]}.csv.gz"
    assert gzip.decompress((folder / "some.csv.gz").read_bytes()) == b"other"


@pytest.mark.parametrize(
    "damaged",
    [PACKED[:10] + b"\xff" + PACKED[11:], PACKED[:-9], b"\x1f\x8c" + PACKED[2:]],
    ids=["its data", "its end", "its header"],
)
def test_compressed_beside_a_damaged_one(damaged: bytes, source: Content, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "some.csv.gz").write_bytes(damaged)
    target = archive.put_away(source, folder, "gzip")
    assert target == folder / f"some.{source.sha256[:12]}.csv.gz"
    assert gzip.decompress(target.read_bytes()) == b"some bytes\n"
    assert (folder / "some.csv.gz").read_bytes() == damaged


def test_a_compression_that_was_cut_off_is_finished(source: Content, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "some.csv.gz").write_bytes(gzip.compress(b"some bytes\n"))
    assert archive.put_away(source, folder, "gzip") == folder / "some.csv.gz"
    assert not source.path.exists()


def test_deleted(source: Content, folder: Path) -> None:
    assert archive.put_away(source, folder, "delete") is None
    assert not source.path.exists()
    assert not folder.exists()


def test_swept_by_age(tmp_path: Path) -> None:
    ours = {"2020-01-01", "2020-01-30", "2020-01-31", "2020-02-01"}
    others = {"notes", "20200101", "2020-W01-1", "2020-01-01 mine"}
    for name in ours | others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").touch()
    (tmp_path / "2020-01-02").write_text("a file")
    (tmp_path / "2020-01-03").symlink_to(tmp_path / "notes")
    assert archive.sweep(tmp_path, 1, date(2020, 2, 1)) == ["2020-01-01", "2020-01-30"]
    left = {"2020-01-31", "2020-02-01", "2020-01-02", "2020-01-03"} | others
    assert set(names_in(tmp_path)) == left
    assert (tmp_path / "notes" / "a.csv").exists()
    assert archive.sweep(tmp_path / "nowhere", 1, date(2020, 2, 1)) == []
