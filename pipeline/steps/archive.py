"""Archive: moves a file to where it belongs, without ever losing it or replacing another.

On one filesystem a file is linked into its new place and then taken out of the old one; across
two it is copied, synced and verified first. Whatever goes wrong, the source stays. A file that
changed since it was read is left alone: it is a new file, and the next scan finds it.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import BinaryIO

from pipeline.durable import sync_folder
from pipeline.errors import DiskTrouble, FileChanged
from pipeline.records import Content

_FOLDER_MODE = 0o750
_NAME_BYTES = 255
_ENDINGS = (".csv.gz", ".csv")
_HASH_CHUNK = 1 << 20
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# Our own unfinished files: archive's and drop's have digits of a hash, quarantine's the name of
# what they were to become.
_DRAFT = re.compile(
    r"\.[0-9a-f]{32}(\.\d+)?\.part"
    r"|\..*\.[0-9a-f]{12}(\.csv|\.reasons\.jsonl|\.refused\.json)\.part"
)
_DRAFT_SECONDS = 3600.0
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def move(content: Content, folder: Path, name: str | None = None) -> Path:
    """Move a file into a folder.

    Args:
        content: the file, as it was read.
        folder: where it belongs; made if need be.
        name: its name there; its own by default. When that is taken by other bytes, digits of
            the file's hash are put in.

    Returns:
        Where the file is now. When the same bytes were there already, the source was removed.

    Raises:
        FileChanged: it is gone, or no longer what was read; nothing was moved.
        DiskTrouble: it could not be moved and is still where it was.
    """
    source = content.path
    with _told(content, folder):
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        for target in _names(folder / (name or source.name), content.sha256):
            _refuse_changed(content)
            if _put(content, target):
                return target
    message = f"{source}: no free name in {folder}; it stays where it is"
    raise DiskTrouble(message)


def put_away(content: Content, folder: Path, policy: str) -> Path | None:
    """Do with a loaded file what the site wants: keep it, compress it, or delete it.

    Args:
        content: the file, as it was read.
        folder: where it is kept.
        policy: `keep`, `gzip` or `delete`.

    Returns:
        Where it is now; None when it was deleted.

    Raises:
        FileChanged: it is gone, or no longer what was read; nothing was done.
        DiskTrouble: it could not be done, and the file is still where it was.
    """
    if policy == "delete":
        with _told(content, folder):
            _refuse_changed(content)
            content.path.unlink()
        return None
    if policy == "gzip" and not content.path.name.lower().endswith(".gz"):
        return _compress(content, folder)
    return move(content, folder)


def sweep(folder: Path, keep_days: int, today: date) -> list[str]:
    """Delete the days' folders that are older than `keep_days`; return their names.

    Raises:
        DiskTrouble: one could not be deleted.
    """
    swept = []
    oldest = today - timedelta(days=keep_days)
    for day in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            made = date.fromisoformat(day.name)
        except ValueError:
            continue  # not ours
        # Python reads 20200101 and 2020-W01-1 too: such a folder is somebody else's.
        ours = day.name == made.isoformat()
        if ours and made < oldest and day.is_dir() and not day.is_symlink():
            try:
                shutil.rmtree(day)
            except OSError as error:
                message = f"{error.filename or day}: cannot be deleted: {error.strerror}"
                raise DiskTrouble(message) from error
            swept.append(day.name)
    return swept


def tidy(folders: Sequence[Path], now: Callable[[], float] = time.time) -> list[Path]:
    """Remove what a crash left half-written in our own folders; return what was removed.

    Args:
        folders: where to look; in each also one level deeper, where the name is a date.
        now: a clock, in Unix time.
    """
    removed = []
    for folder in folders:
        days = [day for day in _listed(folder) if _DAY.fullmatch(day.name) and not day.is_symlink()]
        for path in [*_listed(folder), *(path for day in days for path in _listed(day))]:
            if not _DRAFT.fullmatch(path.name):
                continue
            with suppress(OSError):
                found = os.lstat(path)
                # By the time of its last change, which nobody can set: somebody may be writing it.
                if stat.S_ISREG(found.st_mode) and now() - found.st_ctime >= _DRAFT_SECONDS:
                    path.unlink()
                    removed.append(path)
    return removed


def inflated_sha256(path: Path) -> str | None:
    """Return the hash of what a gzip file holds; None when it is damaged, or is none.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") as file:
            while chunk := file.read(_HASH_CHUNK):
                digest.update(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return None
    return digest.hexdigest()


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _compress(content: Content, folder: Path) -> Path:
    source = content.path
    part = _part(content, folder)
    with _told(content, folder):
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        try:
            with _reading(source) as original, part.open("wb") as raw:
                # No name and no time inside: the same bytes give the same archive.
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    shutil.copyfileobj(original, packed, _HASH_CHUNK)
                raw.flush()
                os.fsync(raw.fileno())
            if inflated_sha256(part) != content.sha256:
                message = f"{source.name}: changed while it was being compressed"
                raise FileChanged(message)
            for target in _names(folder / f"{source.name}.gz", content.sha256):
                if os.path.lexists(target):
                    if not target.is_file() or inflated_sha256(target) != content.sha256:
                        continue
                else:
                    os.link(part, target)
                sync_folder(folder)
                _refuse_changed(content)
                source.unlink()
                return target
        finally:
            part.unlink(missing_ok=True)
    message = f"{source}: no free name in {folder}; it stays where it is"
    raise DiskTrouble(message)


@contextmanager
def _told(content: Content, folder: Path) -> Iterator[None]:
    """Turn the system's errors into ours; the source is still where it was."""
    source = content.path
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.lexists(source):
            message = f"{source.name}: is gone"
            raise FileChanged(message) from error
        where = error.filename2 or error.filename or folder
        message = f"{source}: cannot be moved to {where}: {error.strerror}; it stays where it is"
        raise DiskTrouble(message) from error


def _names(wanted: Path, sha256: str) -> Iterator[Path]:
    name = wanted.name
    if len(os.fsencode(name)) <= _NAME_BYTES:
        yield wanted
    endings = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    stem, endings = name[: len(name) - len(endings)], name[len(name) - len(endings) :]
    mark = f".{sha256[:12]}"
    # Cut by characters, counted in bytes: half a letter could not be written on some filesystems.
    while len(os.fsencode(stem + mark + endings)) > _NAME_BYTES - len(".4"):
        stem = stem[:-1]
    for number in ("", ".2", ".3", ".4"):
        yield wanted.with_name(f"{stem}{mark}{number}{endings}")


def _refuse_changed(content: Content) -> None:
    now = os.lstat(content.path)
    if _identity(now) != content.identity:
        message = f"{content.path.name}: changed since it was read; it will be looked at again"
        raise FileChanged(message)


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _put(content: Content, target: Path) -> bool:
    """Put the file at `target` unless something else is there; say whether it is there now."""
    source = content.path
    if os.path.lexists(target):
        if not target.is_file() or target.is_symlink() or _sha256(target) != content.sha256:
            return False
        # A copy across filesystems that was cut short after its link has left its draft.
        _part(content, target.parent).unlink(missing_ok=True)
        source.unlink()
        return True
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno == errno.EXDEV:
            _copy(content, target)
        elif error.errno in _NO_HARD_LINKS:
            source.replace(target)
            return True
        else:
            raise
    # Between the look and the link another file may have taken the name.
    if _identity(os.lstat(source)) != content.identity:
        target.unlink()
        message = f"{source.name}: was replaced while it was being moved"
        raise FileChanged(message)
    source.unlink()
    return True


def _copy(content: Content, target: Path) -> None:
    part = _part(content, target.parent)
    try:
        with _reading(content.path) as original, part.open("wb") as copy:
            shutil.copyfileobj(original, copy, _HASH_CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        if _sha256(part) != content.sha256:
            message = f"{content.path.name}: changed while it was being copied"
            raise FileChanged(message)
        shutil.copystat(content.path, part, follow_symlinks=False)
        try:
            os.link(part, target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(target.parent)


def _reading(path: Path) -> BinaryIO:
    # Neither through a link nor into a FIFO that took the file's name.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def _part(content: Content, folder: Path) -> Path:
    return folder / f".{content.sha256[:32]}.part"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
