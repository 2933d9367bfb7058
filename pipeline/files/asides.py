"""Asides: files on their way out of `data/`, under a name that nobody else knows.

A file is looked at a last time before it is deleted, because its bytes are kept elsewhere. So that
nobody replaces it between the look and the end, it is renamed first. Killed in between, it has
nothing but that name, and may be a newer file than the one that was kept: an aside is never
deleted for its age, it is given its name back and taken like any other file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.errors import DiskTrouble, FileChanged
from pipeline.files.hashes import sha256_of
from pipeline.files.naming import give_name
from pipeline.records import Content

_NAME_BYTES = 255
_ENDINGS = (".csv.gz", ".csv")
_ASIDE = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.aside", re.DOTALL)


def remove(
    content: Content,
    alive: Callable[[], None] = lambda: None,
    finish: Callable[[Path], object] = lambda aside: aside.unlink(),
) -> None:
    """Delete a file whose bytes are kept elsewhere or are not wanted any more.

    Args:
        content: the file, as it was read.
        alive: called for each MiB; what it raises ends the removal, and the file has its name.
        finish: what to do with it instead of deleting it; given its name aside.

    Raises:
        FileChanged: it is no longer what was read, and still there.
        DiskTrouble: its name could not be given back; the message says where it is.
        OSError: it cannot be done, and the file is still there.
    """
    source = content.path
    # Unique: an aside that a crash left is never replaced by another.
    mark = f".{os.urandom(8).hex()}.aside"
    aside = source.with_name("." + shortened(source.name, "." + mark) + mark)
    source.rename(aside)
    try:
        # A link and a rename set the time of the last change: only the bytes tell of any other.
        same = identity(os.lstat(aside))[:-1] == content.identity[:-1]
        if not same or sha256_of(aside, alive, content.size) != content.sha256:
            raise FileChanged(replaced(source))
        finish(aside)
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(aside):
            # Another process that started meanwhile has given it back.
            raise FileChanged(replaced(source)) from error
        try:
            give_back(aside, source)
        except OSError as trouble:
            message = (
                f"{source}: could not be deleted ({error}), nor be given its name back "
                f"({trouble.strerror}); it is {aside.name} now, until the daemon gives it back"
            )
            raise DiskTrouble(message) from error
        raise


def give_back(path: Path, source: Path) -> Path:
    """Give a file its name back, or another if that is taken meanwhile; return the name.

    Raises:
        OSError: it cannot be done; the file is still there.
    """
    for target in (source, *names(source, hashlib.sha256(os.urandom(8)).hexdigest())):
        try:
            give_name(path, target)
        except FileExistsError:
            # Killed when it had both names.
            if not os.path.samestat(os.lstat(path), os.lstat(target)):
                continue
        path.unlink(missing_ok=True)
        return target
    raise FileExistsError(None, "no free name", str(source))


def return_asides(folder: Path) -> list[Path]:
    """Give the files back that a crash has left aside; return their names.

    What another process has aside just now may be among them: it then finds its file changed, and
    the next scan takes it again.
    """
    returned = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if match := _ASIDE.fullmatch(path.name):
                with suppress(OSError):  # at the next time
                    returned.append(give_back(path, path.with_name(match["name"])))
    return returned


def names(wanted: Path, sha256: str) -> Iterator[Path]:
    """Yield the names that a file may get when others are taken, each with digits of a hash."""
    name = wanted.name
    if len(os.fsencode(name)) <= _NAME_BYTES:
        yield wanted
    mark = f".{sha256[:12]}"
    for number in ("", ".2", ".3", ".4"):
        stem, endings = _parted(shortened(name, f"{mark}.4"))
        yield wanted.with_name(f"{stem}{mark}{number}{endings}")


def shortened(name: str, room: str) -> str:
    """Shorten a name before its ending, so that it fits with so much more in it."""
    stem, endings = _parted(name)
    # Cut by characters, counted in bytes: half a letter could not be written on some filesystems.
    while stem and len(os.fsencode(stem + room + endings)) > _NAME_BYTES:
        stem = stem[:-1]
    return stem + endings


def _parted(name: str) -> tuple[str, str]:
    endings = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    return name[: len(name) - len(endings)], name[len(name) - len(endings) :]


def identity(found: os.stat_result) -> tuple[int, int, int, int, int]:
    """Return what tells a file from others: as in `Content.identity`."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def replaced(source: Path) -> str:
    """Say that a file is not the one that was read."""
    return f"{source.name}: was replaced while it was being moved; it will be looked at again"
