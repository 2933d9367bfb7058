"""`doctor`: checks everything that has to be right, and says how to mend what is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.cli import tables
from pipeline.cli.session import Database, clock_of, database, print_json
from pipeline.cli.settings import settings_of, start_log
from pipeline.cli.terminal import Console, escape
from pipeline.clock import Present
from pipeline.config import Settings
from pipeline.contract.models import NOT_STORED_TYPES
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.files.watch import scan
from pipeline.store.read import books
from pipeline.store.read.doubtful import doubtful_files
from pipeline.store.read.reader import Reader
from pipeline.store.read.references import Dangling, dangling

_LEAST_FREE = 2**30
_MOST_FILES = 1_000
# Why a file is doubtful → what is wrong with it, and what to do once it is taken back.
_DOUBTS = {
    "type": ("hold counts of particles, stored as µg/m³ by an earlier version", ""),
    "header": (
        (
            "were joined of several with different headers, and an earlier version read all rows "
            "by the first header: their values may be in the wrong columns"
        ),
        ", then drop the file from data/archive/ into data/ again",
    ),
}
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_watches")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        ok: whether it is as it should be.
        found: what was found.
        remedy: what to do about it; empty when all is well.
    """

    check: str
    ok: bool
    found: str
    remedy: str = ""


def doctor(home: Path | None, *, mend: bool, as_json: bool) -> int:
    """Run every check; return 0 when all is well, 1 otherwise."""
    settings = settings_of(home)
    findings = list(_examine(settings, mend=mend))
    well = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": well, "checks": [asdict(finding) for finding in findings]})
        return 0 if well else 1
    console = Console()
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        tables.say(console, f"{mark} [bold]{finding.check:<12}[/] {escape(finding.found)}")
        if finding.remedy:
            tables.say(console, f"  → {escape(finding.remedy)}")
    console.print("all is well" if well else "[red]some things need your attention[/]")
    return 0 if well else 1


def _examine(settings: Settings, *, mend: bool) -> Iterator[Finding]:
    yield Finding("settings", ok=True, found=f"home is {settings.home}")
    for check in (_python, _folders, _one_filesystem, _space, _waiting, _watches):
        yield check(settings)
    yield from _in_database(settings, mend=mend)


def _python(_settings: Settings) -> Finding:
    return Finding("python", ok=True, found=sys.version.split()[0])


def _folders(settings: Settings) -> Finding:
    folders = (settings.data, settings.quarantine, settings.logs)
    missing = [folder for folder in folders if not folder.exists()]
    if missing and not os.access(settings.home, os.W_OK | os.X_OK):
        return Finding(
            "folders",
            ok=False,
            found=f"{settings.home} cannot be written to",
            remedy=f"make it, or give it to the user that runs sofia-air (uid {os.geteuid()})",
        )
    existing = [folder for folder in folders if folder not in missing]
    closed = [f for f in existing if not os.access(f, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        names = ", ".join(str(folder) for folder in closed)
        return Finding(
            "folders",
            ok=False,
            found=f"not readable and writable: {names}",
            remedy=f"chown them to the user that runs sofia-air (uid {os.geteuid()})",
        )
    if missing:
        names = ", ".join(f"{folder.name}/" for folder in missing)
        return Finding("folders", ok=True, found=f"{names} will be made when they are needed")
    return Finding("folders", ok=True, found="data/, quarantine/ and logs/ can be written to")


def _one_filesystem(settings: Settings) -> Finding:
    devices = {
        folder.stat().st_dev for folder in (settings.data, settings.quarantine) if folder.exists()
    }
    if len(devices) > 1:
        return Finding(
            "filesystem",
            ok=True,
            found="data/ and quarantine/ are on two filesystems: refused files are copied, "
            "checked and then removed, instead of renamed",
        )
    return Finding("filesystem", ok=True, found="files are moved by renaming")


def _space(settings: Settings) -> Finding:
    free = shutil.disk_usage(_existing(settings.home)).free
    return Finding(
        "disk",
        ok=free >= _LEAST_FREE,
        found=f"{tables.size(free)} free",
        remedy="" if free >= _LEAST_FREE else "make room: a full disk stops the pipeline",
    )


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _waiting(settings: Settings) -> Finding:
    if not settings.data.exists():
        return Finding("data/", ok=True, found="is not there yet")
    try:
        found, ignored = scan(settings.data)
    except PipelineError as error:
        return Finding("data/", ok=False, found=str(error), remedy="make the folder readable")
    unreadable = [file.path.name for file in found if not os.access(file.path, os.R_OK)]
    if unreadable:
        return Finding(
            "data/",
            ok=False,
            found=f"not readable: {', '.join(unreadable[:5])}",
            remedy=f"let uid {os.geteuid()} read them",
        )
    left_alone = f", {len(ignored)} left alone (see status)" if ignored else ""
    return Finding("data/", ok=True, found=f"{tables.files(len(found))} waiting{left_alone}")


def _watches(settings: Settings) -> Finding:
    if settings.watch.events != "native" or not _INOTIFY.exists():
        return Finding("events", ok=True, found=f"watcher is {settings.watch.events}")
    return Finding(
        "events", ok=True, found=f"inotify allows {_INOTIFY.read_text().strip()} watches"
    )


def _in_database(settings: Settings, *, mend: bool) -> Iterator[Finding]:
    """Check what only the database can tell; it is opened once."""
    if settings.database.url is None and not (settings.home / ".postgres").exists():
        made = "none is configured: a private PostgreSQL is made when something is loaded"
        yield Finding("database", ok=True, found=made)
        yield _clock(Present(datetime.now(UTC)))
        return
    try:
        with database(settings) as opened:
            yield _server(opened)
            yield _clock_beside(settings, opened.reader)
            yield _mended(settings, opened) if mend else _references(opened.reader)
            yield from _readings(settings, opened.reader)
    except ConfigurationError as error:
        yield Finding("database", ok=False, found=str(error), remedy="mend this, and look again")
    except PipelineError as error:
        remedy = (
            "check SOFIA_AIR_DATABASE_URL, and that the server runs"
            if settings.database.url
            else "see the message; or set SOFIA_AIR_DATABASE_URL to a PostgreSQL of your own"
        )
        yield Finding("database", ok=False, found=str(error), remedy=remedy)


def _server(opened: Database) -> Finding:
    with opened.reader.snapshot() as connection:
        server = books.server(connection)
    kind = "private PostgreSQL" if opened.embedded else f"PostgreSQL at {opened.shown}"
    return Finding(
        "database",
        ok=True,
        found=f"{kind}, version {server.version}, {tables.size(server.bytes)}, "
        "tables are up to date",
    )


def _clock_beside(settings: Settings, reader: Reader) -> Finding:
    try:
        return _clock(clock_of(settings, reader).look())
    except PipelineError as error:
        return Finding("clock", ok=False, found=f"cannot be compared: {error}")


def _clock(present: Present) -> Finding:
    if present.doubt is None:
        return Finding("clock", ok=True, found=f"{present.now:%Y-%m-%d %H:%M} UTC")
    return Finding(
        "clock",
        ok=False,
        found=f"{present.doubt}; nothing is deleted for its age meanwhile"
        + ("" if present.certain else ", and files with later rows wait in data/"),
        remedy="set the clock; if it is right, see 'A clock that is wrong' in docs/operation.md",
    )


def _references(reader: Reader) -> Finding:
    """Look for readings whose sensor or place is missing."""
    if found := dangling(reader):
        return Finding(
            "references",
            ok=False,
            found=f"readings refer to what is missing: {_listed(found)}",
            remedy="`sofia-air doctor --mend` gives it back from the archived files",
        )
    how = "" if found.thorough else " (by air.sensor_place; there are too many to look at each)"
    return Finding("references", ok=True, found=f"every reading has its sensor and place{how}")


def _mended(settings: Settings, opened: Database) -> Finding:
    # It reads files, which takes what commands that only look do without.
    from pipeline.rework.mend import mend
    from pipeline.store.load import Store

    start_log(settings)
    done = mend(settings, Store(opened.engine), settings.site_contract())
    if not done.found:
        return Finding("references", ok=True, found="every reading has its sensor and place")
    told = f"{tables.files(done.files)} read again, {done.readings:,} readings got their place back"
    if not done.left:
        return Finding("references", ok=True, found=f"mended: {_listed(done.found)}; {told}")
    unread = "; ".join(f"{name}: {why}" for name, why in list(done.unread.items())[:5])
    return Finding(
        "references",
        ok=False,
        found=f"still missing: {_listed(done.left)}; {told}",
        remedy=f"put the files back into {settings.archive_folder}, and try again ({unread})",
    )


def _listed(found: Dangling) -> str:
    parts = []
    for kind, numbers in (("sensor", found.sensors), ("location_key", found.places)):
        if numbers:
            shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
            parts.append(f"{len(numbers):,} × {kind} ({shown})")
    return ", ".join(parts)


def _readings(settings: Settings, reader: Reader) -> list[Finding]:
    """Look for files whose values an earlier version stored and should not have."""
    known = settings.site_contract().models
    types = [name for name in NOT_STORED_TYPES if name not in known]
    with reader.snapshot() as connection:
        doubtful = doubtful_files(connection, types, _MOST_FILES)
    findings = []
    for why, (what, again) in _DOUBTS.items():
        if files := [row for row in doubtful if row.why == why]:
            named = ", ".join(f"{row.name} (file {row.file_id})" for row in files[:5])
            more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
            count = (
                f"{_MOST_FILES:,} or more" if len(doubtful) == _MOST_FILES else f"{len(files):,}"
            )
            findings.append(
                Finding(
                    "readings",
                    ok=False,
                    found=f"{count} files {what}: {named}{more}",
                    remedy=f"take each one back: sofia-air retract FILE_ID{again}",
                )
            )
    return findings or [Finding("readings", ok=True, found="none that an earlier version misread")]
