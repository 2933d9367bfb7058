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
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from pipeline.errors import DiskTrouble, FileChanged
from pipeline.files.asides import give_back, identity, names, remove, replaced
from pipeline.files.atomic import Draft, sync_folder
from pipeline.files.disk import known, trouble
from pipeline.files.hashes import CHUNK, READ_FLAGS, inflated_sha256, sha256_of
from pipeline.files.naming import NO_HARD_LINKS, rename_new
from pipeline.files.permissions import make_folder
from pipeline.records import Content

Alive = Callable[[], None]


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
    raise DiskTrouble(message, source)


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


def _compress(content: Content, folder: Path, alive: Alive) -> Path:
    source = content.path
    with _told(content, folder):
        make_folder(folder)
        with Draft(folder) as draft:
            # No name and no time inside: the same bytes give the same archive.
            packing = gzip.GzipFile("", "wb", 6, draft.file, mtime=0)
            with _Source(source, alive) as original, packing as packed:
                shutil.copyfileobj(original, packed, CHUNK)
            draft.sync()
            if inflated_sha256(draft.path, alive) != content.sha256:
                message = f"{source.name}: changed while it was being compressed"
                raise FileChanged(message)
            for target in names(folder / f"{source.name}.gz", content.sha256):
                if os.path.lexists(target):
                    if not target.is_file() or inflated_sha256(target, alive) != content.sha256:
                        continue
                else:
                    try:
                        draft.publish(target, new=True)
                    except FileExistsError:
                        continue
                sync_folder(folder)
                _refuse_changed(content, alive)
                remove(content, alive)
                return target
    message = f"{source}: no free name in {folder}; it stays where it is"
    raise DiskTrouble(message, source)


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
        where = error.filename2 or known(error) or folder
        raise trouble(error, source, f"moved to {where}", "it stays where it is") from error


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
    with Draft(target.parent) as draft:
        with _Source(content.path, alive) as original:
            shutil.copyfileobj(original, draft.file, CHUNK)
        draft.sync()
        if sha256_of(draft.path, alive) != content.sha256:
            message = f"{content.path.name}: changed while it was being copied"
            raise FileChanged(message)
        shutil.copystat(content.path, draft.path, follow_symlinks=False)
        try:
            draft.publish(target, new=True)
        except FileExistsError:
            return False
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
