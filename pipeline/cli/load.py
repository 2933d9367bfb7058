"""`run` and `ingest`: files into the database."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import logs, memory
from pipeline.cli import tables
from pipeline.cli.session import database, make_folders, prepare_tables, print_json
from pipeline.cli.settings import settings_of, start_log
from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings
from pipeline.daemon import Daemon
from pipeline.descriptors import raise_limit
from pipeline.endpoint import Endpoint
from pipeline.errors import ConfigurationError, DatabaseTrouble, FileChanged, NotFound
from pipeline.files.atomic import tidy
from pipeline.files.drop import drop
from pipeline.files.owner import owning
from pipeline.files.read import content, opened
from pipeline.files.watch import ENDINGS, Found
from pipeline.flow import Flow, Outcome, State, batches, known_outcome
from pipeline.records import Content
from pipeline.store.load import Store

DONE, SOME_LEFT, SOME_REFUSED = 0, 1, 3
_NAMED = 5  # files that are named of those that were left

log = logs.get("run")


def run(home: Path | None, *, once: bool, as_json: bool) -> int:
    """Load what is in data/, and go on doing so unless `once`; return the exit code."""
    raise_limit()
    memory.choose_allocators()
    settings = settings_of(home, quiet=not once)
    make_folders(settings)
    if not once:
        return _serve(settings)
    start_log(settings)
    with _naming_the_setting(), database(settings) as opened_database:
        store = Store(opened_database.engine)
        flow = Flow(settings, store, settings.site_contract(), settings.database.retry_seconds)
        started = datetime.now(UTC)
        outcomes = list(_shown(Daemon(flow, settings).drain(), None, "draining", quiet=as_json))
        # What is gone was taken by another process, or by a person: it does not wait here.
        left = [outcome for outcome in _left(outcomes) if os.path.lexists(outcome.path)]
        return _report(outcomes, left, started, settings, as_json=as_json)


def _serve(settings: Settings) -> int:
    """Run the daemon until it is stopped."""
    start_log(settings, console=True)
    with (
        owning(settings.home),
        _naming_the_setting(),
        database(settings, migrated=False, patient=True) as opened_database,
    ):
        engine = opened_database.engine
        flow = Flow(settings, Store(engine), settings.site_contract(), retry_seconds=None)
        daemon = Daemon(flow, settings, revive=opened_database.revive)
        log.info(
            "daemon.starting",
            home=str(settings.home),
            database=opened_database.shown,
            contract_version=flow.contract.version,
        )
        with _endpoint(settings, daemon):
            daemon.run(lambda: prepare_tables(opened_database))
    return DONE


@contextmanager
def _naming_the_setting() -> Iterator[None]:
    """Name the key when the server does not let us in as we are set up."""
    try:
        yield
    except ConfigurationError as error:
        told = str(error)
        if not told.startswith("database: "):
            raise
        message = f"[database] url: {told.removeprefix('database: ')}"
        raise ConfigurationError(message) from error


@contextmanager
def _endpoint(settings: Settings, daemon: Daemon) -> Iterator[None]:
    if settings.metrics.port is None:
        yield
        return
    endpoint = Endpoint(
        settings.metrics.host,
        settings.metrics.port,
        looped_at=lambda: daemon.looped_at,
        ready=lambda: daemon.database_up,
        stuck_seconds=daemon.stuck_seconds,
    )
    try:
        yield
    finally:
        endpoint.close()


def ingest(home: Path | None, patterns: Sequence[str], *, as_json: bool) -> int:
    """Load files from anywhere, originals untouched; return the exit code."""
    raise_limit()
    memory.choose_allocators()
    settings = settings_of(home)
    sources = _sources(patterns)
    make_folders(settings)
    tidy([settings.data, settings.quarantine, settings.archive_folder])
    start_log(settings)
    with _naming_the_setting(), database(settings) as opened_database:
        flow = Flow(
            settings,
            Store(opened_database.engine),
            settings.site_contract(),
            settings.database.retry_seconds,
        )
        started = datetime.now(UTC)
        outcomes = list(
            _shown(_ingested(flow, settings, sources), len(sources), "loading", quiet=as_json)
        )
        return _report(outcomes, _left(outcomes), started, settings, as_json=as_json)


def _sources(patterns: Sequence[str]) -> list[Path]:
    """Expand files, folders (their CSV files) and globs, each file once, in the order given."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.lower().endswith(ENDINGS))
            if not inside:
                message = f"{pattern}: the folder holds no {' or '.join(ENDINGS)} file"
                raise NotFound(message)
            found.update(dict.fromkeys(p.resolve() for p in inside if p.is_file()))
        elif path.is_file():
            found[path.resolve()] = None
        elif matches := sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207  # absolute too
            found.update(dict.fromkeys(Path(m).resolve() for m in matches if Path(m).is_file()))
        else:
            message = f"{pattern}: there is no such file or folder, and nothing matches it"
            raise NotFound(message)
    return list(found)


def _ingested(flow: Flow, settings: Settings, sources: Sequence[Path]) -> Iterator[Outcome]:
    """Copy a batch into data/ at a time, so that the copies in waiting stay few."""
    waiting = [_found(path) for path in sources]
    settled: set[str] = set()
    for batch in batches(waiting, settings):
        originals = [_hashed(file.path) for file in batch]
        known = flow.known([original.sha256 for original in originals])
        copies: dict[Path, str] = {}
        found = []
        for original in originals:
            # What the ledger has already is not copied only to be archived once more.
            if entry := known.get(original.sha256):
                yield known_outcome(original.path, entry)
            else:
                copy = _copied(original, settings)
                found.append(copy)
                copies[copy.path] = original.sha256
        for outcome in flow.process(found):
            sha256 = copies[outcome.path]
            yield outcome if sha256 in settled else _settled(flow, outcome, sha256)
            if outcome.state != "left":
                settled.add(sha256)


def _settled(flow: Flow, outcome: Outcome, sha256: str) -> Outcome:
    """Return what became of a copy that somebody else took before we could."""
    # Nobody had it when it was copied, and a file is moved only after its commit: what is gone
    # from data/, or known by now, is in the ledger.
    if outcome.state not in ("left", "known") or not (entry := flow.known([sha256]).get(sha256)):
        return outcome
    message = f"the daemon or another command took it meanwhile (file {entry.file_id})"
    state: State = "refused" if entry.state == "refused" else "known"
    return Outcome(outcome.path, outcome.name, state, message=message)


def _found(path: Path) -> Found:
    status = path.stat()
    moment = datetime.now(UTC)
    return Found(path, status.st_size, status.st_mtime_ns, moment, status.st_ctime_ns)


def _hashed(path: Path) -> Content:
    try:
        return content(path, hold_bytes=0)
    except FileChanged as error:
        message = f"{path}: changed or vanished while it was being read; try again"
        raise FileChanged(message) from error


def _copied(source: Content, settings: Settings) -> Found:
    with opened(source.path) as file:
        return _found(drop(file, settings.data, source.path.name, source.sha256))


def _shown(
    outcomes: Iterator[Outcome], total: int | None, verb: str, *, quiet: bool
) -> Iterator[Outcome]:
    """Pass outcomes on while a progress bar moves; none where nobody looks."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(f"[bold]{verb}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with nullcontext() if quiet or not sys.stderr.isatty() else bar:
        task = bar.add_task(verb, total=total, rows=0)
        rows = 0
        for outcome in outcomes:
            rows += outcome.row.rows_read if outcome.row else 0
            bar.update(task, advance=1, rows=rows)
            yield outcome


def _report(
    outcomes: Sequence[Outcome],
    left: Sequence[Outcome],
    started: datetime,
    settings: Settings,
    *,
    as_json: bool,
) -> int:
    seconds = (datetime.now(UTC) - started).total_seconds()
    if as_json:
        print_json({"files": [as_record(outcome) for outcome in outcomes], "seconds": seconds})
    else:
        tables.outcomes(Console(), outcomes, seconds, settings)
    if waiting := [o for o in left if not isinstance(o.error, DatabaseTrouble)]:
        tables.say(Console(stderr=True), _said_of(waiting))
    for outcome in left:
        if isinstance(outcome.error, DatabaseTrouble):
            raise outcome.error  # its files wait in data/; the others are taken
    if left:
        return SOME_LEFT
    if any(outcome.state == "refused" for outcome in outcomes):
        return SOME_REFUSED
    return DONE


def _left(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the last outcome of each file that was left."""
    last = {outcome.path: outcome for outcome in outcomes}
    return [outcome for outcome in last.values() if outcome.state == "left"]


def _said_of(left: Sequence[Outcome]) -> str:
    lines = [f"[bold red]{tables.files(len(left))} left in data/[/], to be tried again"]
    lines += [f"  {escape(o.name)}: {escape(o.message or '')}" for o in left[:_NAMED]]
    if len(left) > _NAMED:
        lines.append(f"  … and {len(left) - _NAMED} more")
    return "\n".join(lines)


def as_record(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for machines."""
    record: dict[str, Any] = {
        "file": outcome.name,
        "state": outcome.state,
        "message": outcome.message,
        "quarantine": outcome.quarantine,
        "rules": dict(outcome.rules),
    }
    if row := outcome.row:
        record |= {
            "file_id": row.file_id,
            "sha256": row.sha256,
            "sensor_model": row.columns()["sensor_model"],
            "rows_read": row.rows_read,
            "rows_loaded": row.rows_loaded,
            "rows_duplicate": row.rows_duplicate,
            "rows_quarantined": row.rows_quarantined,
            "first_ts": row.first_ts,
            "last_ts": row.last_ts,
            "rule": row.rule,
        }
    return record
