"""`doctor`: checks everything that has to be right, and says how to mend what is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pipeline.cli import tables
from pipeline.cli.session import database, print_json
from pipeline.config import Settings, load_settings
from pipeline.errors import ConfigurationError, PipelineError
from pipeline.steps.watch import scan
from pipeline.store.queries import Queries

_LEAST_FREE = 2**30
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


def doctor(home: Path | None, *, as_json: bool) -> int:
    """Run every check; return 0 when all is well, 1 otherwise."""
    settings = load_settings(home)
    findings = list(_examine(settings))
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


def _examine(settings: Settings) -> Iterator[Finding]:
    checks: list[Callable[[Settings], Finding]] = [
        _python,
        _folders,
        _one_filesystem,
        _space,
        _waiting,
        _watches,
        _database,
    ]
    yield Finding("settings", ok=True, found=f"home is {settings.home}")
    for check in checks:
        yield check(settings)


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
    if settings.watcher != "native" or not _INOTIFY.exists():
        return Finding("events", ok=True, found=f"watcher is {settings.watcher}")
    return Finding(
        "events", ok=True, found=f"inotify allows {_INOTIFY.read_text().strip()} watches"
    )


def _database(settings: Settings) -> Finding:
    if settings.database_url is None and not (settings.home / ".postgres").exists():
        return Finding(
            "database",
            ok=True,
            found="none is configured: a private PostgreSQL is made when something is loaded",
        )
    try:
        with database(settings) as opened:
            server = Queries(opened.engine).server()
            kind = "private PostgreSQL" if opened.embedded else f"PostgreSQL at {opened.shown}"
            return Finding(
                "database",
                ok=True,
                found=f"{kind}, version {server['version']}, {tables.size(server['bytes'])}, "
                "tables are up to date",
            )
    except ConfigurationError as error:
        return Finding("database", ok=False, found=str(error), remedy="mend this, and look again")
    except PipelineError as error:
        remedy = (
            "check SOFIA_AIR_DATABASE_URL, and that the server runs"
            if settings.database_url
            else "see the message; or set SOFIA_AIR_DATABASE_URL to a PostgreSQL of your own"
        )
        return Finding("database", ok=False, found=str(error), remedy=remedy)
