"""A file is moved without ever being lost, and without ever taking another's place."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import DiskTrouble, FileChanged, Stopped
from pipeline.files import archive
from pipeline.files.asides import remove, return_asides
from pipeline.files.atomic import tidy
from pipeline.files.drop import drop
from pipeline.records import Content

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
        (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns),
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
        if Path(source).parent not in {folder, Path(target).parent}:
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
    else:
        os.link(source.path, folder / "some.csv")
    target = archive.move(source, folder)
    assert target == folder / "some.csv"
    assert not source.path.exists()
    assert target.read_bytes() == b"some bytes\n"


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


def forged(path: Path) -> None:
    """Rewrite a file in place with as many bytes, and set its time back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"SOME BYTES\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [appended, rewritten, replaced, forged])
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


@pytest.mark.parametrize("change", [appended, rewritten, forged])
@pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])
@pytest.mark.parametrize("step", ["link", "rename", "unlink"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_bytes_are_lost_that_were_never_read(
    when: str,
    step: str,
    policy: str,
    change: Callable[[Path], None],
    source: Content,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file changes at any step of its way: the new bytes stay in data/, to be loaded."""
    changed: list[bytes] = []

    def change_once() -> None:
        if not changed and source.path.exists():
            change(source.path)
            changed.append(source.path.read_bytes())

    def changing(real: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **how: object) -> object:
            if when == "before":
                change_once()
            done = real(*args, **how)
            if when == "after":
                change_once()
            return done

        return wrapped

    if step == "link":
        monkeypatch.setattr(os, "link", changing(os.link))
    else:
        monkeypatch.setattr(Path, step, changing(getattr(Path, step)))
    try:
        archive.put_away(source, folder, policy)
    except FileChanged:
        assert source.path.read_bytes() == changed[0]
        kept = list(folder.iterdir()) if folder.exists() else []
        assert all(gzip.decompress(path.read_bytes()) == b"some bytes\n" for path in kept)
    else:
        # Taken out of data/ before it could change; or what is there now is another file.
        assert not changed or source.path.exists()
        kept = list(folder.iterdir()) if folder.exists() else []
        held = [
            gzip.decompress(p.read_bytes()) if policy == "gzip" else p.read_bytes() for p in kept
        ]
        assert held == ([] if policy == "delete" else [b"some bytes\n"])


def test_a_changed_mode_is_no_changed_file(source: Content, folder: Path) -> None:
    source.path.chmod(0o600)
    assert archive.move(source, folder).read_bytes() == b"some bytes\n"
    assert not source.path.exists()


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


# --- aside ----------------------------------------------------------------------------------------

POLICIES = pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])


@POLICIES
@ELSEWHERE
@pytest.mark.parametrize("hard_links", [True, False])
def test_asked_to_stop_the_source_has_its_name(
    hard_links: bool,
    elsewhere: bool,
    policy: str,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At each MiB that is read again, copied or compressed."""
    data = os.urandom(1 << 10) * 3072
    source = content(tmp_path / "data" / "some.csv", data)
    if elsewhere:
        across(monkeypatch, folder)
    if not hard_links:

        def link(path: Path, target: Path, **how: bool) -> None:
            code = errno.EPERM
            if Path(path).parent != Path(target).parent and elsewhere:
                code = errno.EXDEV
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "link", link)
    for number in range(100):
        left = [number]

        def alive(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Stopped("asked to stop")

        try:
            archive.put_away(source, folder, policy, alive)
            break
        except Stopped:
            assert names_in(source.path.parent) == ["some.csv"]
            assert source.path.read_bytes() == data
            assert not folder.exists() or not [n for n in names_in(folder) if n.startswith(".")]
    assert number > 2
    assert names_in(source.path.parent) == []


@POLICIES
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_whatever_goes_wrong_aside_the_name_is_given_back(
    error: BaseException,
    policy: str,
    source: Content,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.open

    def opened(path: Path, *args: int, **how: int) -> int:
        if str(path).endswith(".aside"):
            raise error
        return real(path, *args, **how)

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises((DiskTrouble, KeyboardInterrupt)):
        archive.put_away(source, folder, policy)
    assert names_in(source.path.parent) == ["some.csv"]
    monkeypatch.setattr(os, "open", real)
    archive.put_away(source, folder, policy)
    assert names_in(source.path.parent) == []


def test_when_the_name_cannot_be_given_back_it_is_said_where_the_file_is(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def read_only(path: Path, _target: Path) -> Path:
        moved = really_rename(path, _target)
        monkeypatch.setattr(os, "link", failing)
        monkeypatch.setattr(Path, "unlink", failing)
        return moved

    really_rename = Path.rename
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", read_only)
        with pytest.raises(DiskTrouble) as trouble:
            archive.put_away(source, folder, "delete")
    monkeypatch.undo()
    (aside,) = names_in(source.path.parent)
    assert aside in str(trouble.value)
    assert "stays where it is" not in str(trouble.value)
    assert return_asides(source.path.parent) == [source.path]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("name", ["some.csv", "A.CSV.gz", "x" * 251 + ".csv", "щ" * 120 + ".csv"])
@pytest.mark.parametrize("data", [b"some bytes\n", b"newer bytes\n"])
@pytest.mark.parametrize("taken", [False, True])
def test_an_aside_that_a_crash_left_is_given_back(
    taken: bool, data: bytes, name: str, tmp_path: Path
) -> None:
    source = content(tmp_path / "data" / name)
    left = {data}
    source.path.write_bytes(data)
    cut_off(source)
    assert all(p.name.startswith(".") for p in source.path.parent.iterdir())
    if taken:
        source.path.write_bytes(b"the newest\n")
        left.add(b"the newest\n")
        cut_off(source)  # nor does one aside replace another
        source.path.write_bytes(b"even newer\n")
        left.add(b"even newer\n")
    later = time.time() + 10**7
    assert tidy([source.path.parent], lambda: later) == []
    returned = return_asides(source.path.parent)
    assert len(returned) == len(left) - taken
    found = list(source.path.parent.iterdir())
    assert {path.read_bytes() for path in found} == left
    assert not any(path.name.startswith(".") for path in found)
    assert {path.name.lower()[-4:] for path in found} == {name.lower()[-4:]}
    if not taken and len(os.fsencode(name)) < 200:
        assert [path.name for path in found] == [name]


def cut_off(source: Content) -> None:
    """Begin to delete a file, and die when it is aside."""
    with pytest.MonkeyPatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise Killed

        patch.setattr("pipeline.files.asides.identity", die)
        patch.setattr("pipeline.files.asides.give_back", die)
        with pytest.raises(Killed):
            remove(source)


def test_an_aside_with_both_names_is_one_file(source: Content) -> None:
    os.link(source.path, source.path.with_name(f".some.csv.{'0' * 16}.aside"))
    assert return_asides(source.path.parent) == [source.path]
    assert names_in(source.path.parent) == ["some.csv"]


def test_other_hidden_files_are_no_asides(source: Content) -> None:
    others = [".some.csv.aside", ".aside", f".{'0' * 16}.aside", f"some.csv.{'0' * 16}.aside"]
    for name in others:
        (source.path.parent / name).touch()
    assert return_asides(source.path.parent) == []
    assert return_asides(source.path.parent / "nowhere") == []


def test_a_file_that_another_process_gives_back_meanwhile(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        moved = real(path, target)
        assert return_asides(path.parent) == [path]
        return moved

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(FileChanged):
            archive.move(source, folder)
    # The other process may have relied on the copy already.
    assert (folder / "some.csv").read_bytes() == b"some bytes\n"
    assert source.path.exists()
    archive.move(source, folder)
    assert names_in(folder) == ["some.csv"]


@pytest.mark.parametrize("moved", [False, True])
def test_without_hard_links_what_was_never_read_is_not_archived(
    moved: bool, source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer file takes the name just before the rename, and the process is killed."""
    real = Path.rename

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def rename(path: Path, target: Path) -> Path:
        if path == source.path:
            path.write_bytes(b"newer bytes\n")
        elif moved:
            raise Killed
        renamed = real(path, target)
        if not moved:
            raise Killed
        return renamed

    monkeypatch.setattr(os, "link", link)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr("pipeline.files.asides.give_back", rename)
        with pytest.raises(Killed):
            archive.move(source, folder)
    return_asides(source.path.parent)
    assert source.path.read_bytes() == b"newer bytes\n"
    assert names_in(folder) == []


# --- no hard links at all -------------------------------------------------------------------------


@POLICIES
@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_any_hard_links(
    code: int,
    taken: bool,
    policy: str,
    source: Content,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    ending = ".gz" if policy == "gzip" else ""
    folder.mkdir(parents=True)
    if taken:
        (folder / f"some.csv{ending}").write_bytes(b"other")
    target = archive.put_away(source, folder, policy)
    assert names_in(source.path.parent) == []
    if taken:
        assert (folder / f"some.csv{ending}").read_bytes() == b"other"
    if target is not None:
        raw = target.read_bytes()
        assert (gzip.decompress(raw) if ending else raw) == b"some bytes\n"
        assert (target.stat().st_mode & 0o037) == 0 or policy == "keep"


def test_a_name_taken_at_the_last_moment_is_not_replaced(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(_path: Path, target: Path, **_: bool) -> None:
        if target.parent == folder and not target.exists():
            target.write_bytes(b"somebody's")
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    for policy in ("gzip", "keep"):
        with pytest.raises(DiskTrouble, match="no free name"):
            archive.put_away(source, folder, policy)
        assert source.path.read_bytes() == b"some bytes\n"
        assert {path.read_bytes() for path in folder.iterdir()} == {b"somebody's"}


@pytest.mark.parametrize("taken", [False, True])
def test_dropped_without_hard_links(
    taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    if taken:
        (tmp_path / "a.csv").write_bytes(b"other")
    path = drop(io.BytesIO(b"some bytes\n"), tmp_path, "a.csv", "0123456789abcdef")
    assert path.read_bytes() == b"some bytes\n"
    assert len(names_in(tmp_path)) == 1 + taken


def test_a_rename_that_fails_leaves_no_empty_file(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DiskTrouble, match="it stays where it is"):
        archive.move(source, folder)
    assert names_in(folder) == []


def test_a_folder_that_took_the_name_is_given_back(
    source: Content, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == source.path:
            path.unlink()
            path.mkdir()
            (path / "inside").touch()
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(FileChanged):
        archive.move(source, folder)
    assert (source.path / "inside").exists()
