"""Archive: moves a file to where it belongs, without ever losing it or replacing another.

On one filesystem a file is linked into its new place and then taken out of the old one; across
two it is copied, synced and verified first. Whatever goes wrong, the source stays. A file that
changed since it was read is left alone: it is a new file, and the next scan finds it. Its times can
be set back, so what was moved is hashed again before the source goes (`asides`).
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from pipeline.errors import DiskTrouble, FileChanged
from pipeline.files.asides import give_back, identity, names, remove, replaced
from pipeline.files.atomic import sync_folder
from pipeline.files.hashes import CHUNK, READ_FLAGS, inflated_sha256, sha256_of
from pipeline.files.naming import NO_HARD_LINKS, give_name, rename_new
from pipeline.files.permissions import create, make_folder
from pipeline.records import Content

Alive = Callable[[], None]

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
# Our own unfinished files: archive's and drop's have digits of a hash, quarantine's the name of
# what they were to become.
_DRAFT = re.compile(
    r"\.[0-9a-f]{32}(\.\d+)?\.part"
    r"|\..*\.[0-9a-f]{12}(\.csv|\.reasons\.jsonl|\.refused\.json)\.part"
)
_DRAFT_SECONDS = 3600.0


def move(
    content: Content, folder: Path, name: str | None = None, alive: Alive = lambda: None
) -> Path:
    """Move a file into a folder.

    Args:
        content: the file, as it was read.
        folder: where it belongs; made if need be.
        name: its name there; its own by default. When that is taken by other bytes, digits of
            the file's hash are put in.
        alive: called for each MiB; what it raises ends the move, and the source has its name.

    Returns:
        Where the file is now. When the same bytes were there already, the source was removed.

    Raises:
        FileChanged: it is gone, or no longer what was read; nothing was moved.
        DiskTrouble: it could not be moved and is still where it was.
    """
    source = content.path
    with _told(content, folder):
        make_folder(folder)
        for target in names(folder / (name or source.name), content.sha256):
            _refuse_changed(content, alive)
            if _put(content, target, alive):
                return target
    message = f"{source}: no free name in {folder}; it stays where it is"
    raise DiskTrouble(message)


def put_away(
    content: Content, folder: Path, policy: str, alive: Alive = lambda: None
) -> Path | None:
    """Do with a loaded file what the site wants: keep it, compress it, or delete it.

    Args:
        content: the file, as it was read.
        folder: where it is kept.
        policy: `keep`, `gzip` or `delete`.
        alive: called for each MiB; what it raises ends it, and the source has its name.

    Returns:
        Where it is now; None when it was deleted.

    Raises:
        FileChanged: it is gone, or no longer what was read; nothing was done.
        DiskTrouble: it could not be done, and the file is still where it was.
    """
    if policy == "delete":
        with _told(content, folder):
            _refuse_changed(content, alive)
            remove(content, alive)
        return None
    if policy == "gzip" and not content.path.name.lower().endswith(".gz"):
        return _compress(content, folder, alive)
    return move(content, folder, alive=alive)


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


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _compress(content: Content, folder: Path, alive: Alive) -> Path:
    source = content.path
    part = _part(content, folder)
    with _told(content, folder):
        make_folder(folder)
        try:
            with _Source(source, alive) as original, create(part) as raw:
                # No name and no time inside: the same bytes give the same archive.
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    shutil.copyfileobj(original, packed, CHUNK)
                raw.flush()
                os.fsync(raw.fileno())
            if inflated_sha256(part, alive) != content.sha256:
                message = f"{source.name}: changed while it was being compressed"
                raise FileChanged(message)
            for target in names(folder / f"{source.name}.gz", content.sha256):
                if os.path.lexists(target):
                    if not target.is_file() or inflated_sha256(target, alive) != content.sha256:
                        continue
                else:
                    try:
                        give_name(part, target)
                    except FileExistsError:
                        continue
                sync_folder(folder)
                _refuse_changed(content, alive)
                remove(content, alive)
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


def _refuse_changed(content: Content, alive: Alive) -> None:
    now = identity(os.lstat(content.path))
    # A change of owner or mode, or another link, changes the last of the times too: look closer.
    if now != content.identity and (
        now[:-1] != content.identity[:-1]
        or sha256_of(content.path, alive, content.size) != content.sha256
    ):
        message = f"{content.path.name}: changed since it was read; it will be looked at again"
        raise FileChanged(message)


def _put(content: Content, target: Path, alive: Alive) -> bool:
    """Put the file at `target` unless something else is there; say whether it is there now."""
    source = content.path
    if os.path.lexists(target):
        kept = target.is_file() and not target.is_symlink()
        if not kept or sha256_of(target, alive, content.size) != content.sha256:
            return False
        # A copy across filesystems that was cut short after its link has left its draft.
        _part(content, target.parent).unlink(missing_ok=True)
        remove(content, alive)
        return True
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno == errno.EXDEV:
            if not _copy(content, target, alive):
                return False
            remove(content, alive)
        elif error.errno in NO_HARD_LINKS:
            try:
                remove(content, alive, lambda aside: rename_new(aside, target))
            except FileExistsError:
                return False
        else:
            raise
        return True
    try:
        # Between the look and the link another file may have taken the name.
        if identity(os.lstat(source))[:-1] != content.identity[:-1]:
            give_back(target, source)
            raise FileChanged(replaced(source))
        remove(content, alive)
    except FileChanged:
        # What was read may stay there: another process that moves it too relies on it.
        with suppress(FileNotFoundError):
            if sha256_of(target, alive, content.size) != content.sha256:
                give_back(target, source)
        raise
    return True


def _copy(content: Content, target: Path, alive: Alive) -> bool:
    """Copy the file to `target` in another filesystem; say whether the name was free."""
    part = _part(content, target.parent)
    try:
        with _Source(content.path, alive) as original, create(part) as copy:
            shutil.copyfileobj(original, copy, CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        if sha256_of(part, alive) != content.sha256:
            message = f"{content.path.name}: changed while it was being copied"
            raise FileChanged(message)
        shutil.copystat(content.path, part, follow_symlinks=False)
        try:
            give_name(part, target)
        except FileExistsError:
            return False
    finally:
        part.unlink(missing_ok=True)
    sync_folder(target.parent)
    return True


class _Source:
    """A file to be copied, that can be given up at each piece."""

    def __init__(self, path: Path, alive: Alive) -> None:
        self._file = os.fdopen(os.open(path, READ_FLAGS), "rb")
        self._alive = alive

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        self._alive()
        return self._file.read(size)


def _part(content: Content, folder: Path) -> Path:
    return folder / f".{content.sha256[:32]}.part"
