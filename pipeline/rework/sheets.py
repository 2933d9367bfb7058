"""Sheets: rejected rows as CSV for people: the file in quarantine/, and exports for a spreadsheet.

The file in quarantine/ always holds what is still open, and what a person has already changed in
it. It is written anew after every decision: aside, synced, renamed. So a crash leaves the older
sheet, which is understood all the same, and the next command writes it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Settings
from pipeline.contract import Contract, Reason
from pipeline.contract.header import Header
from pipeline.errors import ConfigurationError, DiskTrouble, FileRefused
from pipeline.records import Content, Rejected
from pipeline.rejects import Rejects
from pipeline.rework import sources
from pipeline.rework.edits import (
    EXTRA,
    FILE,
    FILE_ID,
    Edits,
    Problem,
    Unreadable,
    decode,
    edits,
    read_bytes,
    rows_of,
)
from pipeline.steps import quarantine as quarantining
from pipeline.steps.quarantine import LEADING, fields, own_names, written
from pipeline.store.rework import Entry, QuarantinedRow, Workbench

_FILE_MODE = 0o640


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """Be the only one who works on the sheets of a home, until the end of the block.

    The database keeps replays apart; this keeps their sheets apart, and readers from half of one.

    Raises:
        DiskTrouble: quarantine/ cannot be opened.
    """
    folder = settings.quarantine
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        message = f"{folder}: cannot be opened: {error.strerror}"
        raise DiskTrouble(message) from error
    try:
        with suppress(OSError):  # some network filesystems know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def path_of(settings: Settings, entry: Entry) -> Path | None:
    """Return where the CSV of a file's rejected rows is, if it is there."""
    found = quarantining.outputs(settings.quarantine, entry.sha256)
    return next((path for path in found if path.suffix == ".csv"), None)


def rewrite(
    settings: Settings,
    bench: Workbench,
    entry: Entry,
    header: Header,
    today: Mapping[int, tuple[Reason, ...]] | None = None,
) -> list[Problem]:
    """Write the CSV and the reason log of a file anew: what is still open, and nothing else.

    Args:
        settings: where quarantine/ is.
        bench: asks the database.
        entry: the file.
        header: what names its columns.
        today: line number → why the row fails now, where it was judged again.

    Returns:
        What a person should know of the sheet that was there.

    Raises:
        DiskTrouble: quarantine/ cannot be written to; the sheet is as it was.
    """
    folder = settings.quarantine
    path = path_of(settings, entry)
    before = read_bytes(path) if path else None
    found = Edits()
    if path and before is not None:
        try:
            found = edits(
                decode(path.name, before),
                entry,
                header,
                lambda lines: bench.rows(entry.file_id, states=None, lines=lines),
            )
        except Unreadable as unreadable:
            return [unreadable.problem]
    told = []
    if path and before is not None and found.surplus:
        kept = _kept_aside(path, before)
        message = f"what could not be taken is kept as it was in {kept.name}"
        told.append(Problem(path.name, None, None, message, harmless=True))
    content = Content(_named(path, entry), entry.bytes, entry.sha256, None, (0, 0, 0, 0))
    any_left = False
    with quarantining.quarantine(folder, [content]) as output:
        for chunk in bench.chunks(entry.file_id):
            any_left = True
            # A row that was repaired once, and whose replay was taken back, is shown repaired.
            shown = {
                row.line_no: tuple(fields(header, row.present))
                for row in chunk
                if row.replay_line is not None
            }
            shown.update(rows_of(found.changed))
            output.add(header, Rejects.of(_rejected(row, today or {}) for row in chunk), shown)
        if path and before is not None and read_bytes(path) != before:
            message = "was saved while the rows were replayed: it is left as it is"
            return [*told, Problem(path.name, None, None, message, harmless=True)]
        output.publish()
    if not any_left:
        quarantining.reset(folder, entry.sha256)
    return told


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported.

    Attributes:
        path: where it is.
        rows: how many rows.
        files: name of each file → how many rows it has there.
        skipped: files whose rows could not be told apart, and why.
    """

    path: Path
    rows: int
    files: dict[str, int]
    skipped: dict[str, str]


def export(
    settings: Settings,
    bench: Workbench,
    contract: Contract,
    entries: Sequence[Entry],
    *,
    rule: str | None,
    path: Path,
    delimiter: str,
) -> Exported:
    """Write the open rows of files into one CSV: file, line number, reasons, their own columns.

    Raises:
        ConfigurationError: the file is there already: somebody may have repaired rows in it.
        DiskTrouble: it cannot be written.
    """
    headers: dict[int, Header] = {}
    skipped: dict[str, str] = {}
    columns: dict[str, None] = {}
    for entry in entries:
        try:
            header = sources.header_of(settings, entry, contract)
        except FileRefused as refusal:
            skipped[entry.name] = refusal.message
            continue
        headers[entry.file_id] = header
        columns.update(dict.fromkeys(own_names(header)))
    chosen = [entry for entry in entries if entry.file_id in headers]
    extra = max((_widest(bench, e, headers[e.file_id], rule) for e in chosen), default=0)
    names = [*columns, *(f"{EXTRA}{number}" for number in range(1, extra + 1))]
    counts: dict[str, int] = {}
    part = path.with_name(f".{path.name}.part")
    try:
        if path.exists():
            message = f"{path}: is there already, and may hold somebody's repairs; name another"
            raise ConfigurationError(message)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
        # The byte order mark tells spreadsheets that this is UTF-8.
        with os.fdopen(descriptor, "w", encoding="utf-8-sig", newline="") as file:
            file.write(written([FILE_ID, FILE, *LEADING, *names], delimiter))
            for entry in chosen:
                header = headers[entry.file_id]
                for chunk in bench.chunks(entry.file_id, rule=rule):
                    for row in chunk:
                        cells = _exported(row, header, names)
                        leading = [str(entry.file_id), entry.name, str(row.line_no), _words(row)]
                        file.write(written([*leading, *cells], delimiter))
                    counts[entry.name] = counts.get(entry.name, 0) + len(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except FileExistsError:
        message = f"{path}: is there already, and may hold somebody's repairs; name another"
        raise ConfigurationError(message) from None
    except OSError as error:
        message = f"{error.filename or path}: cannot be written: {error.strerror}"
        raise DiskTrouble(message) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return Exported(path, sum(counts.values()), counts, skipped)


def _widest(bench: Workbench, entry: Entry, header: Header, rule: str | None) -> int:
    """Return by how many fields the widest row is too wide."""
    width = len(own_names(header))
    return max(
        (
            len(fields(header, row.present)) - width
            for chunk in bench.chunks(entry.file_id, rule=rule)
            for row in chunk
        ),
        default=0,
    )


def _exported(row: QuarantinedRow, header: Header, names: Sequence[str]) -> list[str]:
    own = own_names(header)
    found = fields(header, row.present)
    cells = dict(zip(own, found, strict=False))
    for number, surplus in enumerate(found[len(own) :], start=1):
        cells[f"{EXTRA}{number}"] = surplus
    return [cells.get(name, "") for name in names]


def _words(row: QuarantinedRow) -> str:
    return " | ".join(reason["message"] for reason in row.reasons)


def _rejected(row: QuarantinedRow, today: Mapping[int, tuple[Reason, ...]]) -> Rejected:
    reasons = today.get(row.line_no) or tuple(
        Reason(
            reason["rule"], reason["message"], reason["column"], reason["value"], reason["expected"]
        )
        for reason in row.reasons
    )
    return Rejected(0, row.line_no, row.exact, reasons)


def _named(path: Path | None, entry: Entry) -> Path:
    """Return a path from which the quarantine output gets the name that it has, or had."""
    if path is None:
        return Path(entry.name.replace("/", "_"))
    return Path(path.name.removesuffix(f".{entry.sha256[:12]}.csv") + ".csv")


def _kept_aside(path: Path, raw: bytes) -> Path:
    """Keep what a person has written and what nobody could take; the same bytes once."""
    aside = path.with_name(f"{path.stem}.edited-{hashlib.sha256(raw).hexdigest()[:8]}.csv.kept")
    part = path.with_name(f".{path.name}.part")  # a name that is swept when a crash leaves it
    try:
        with part.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        part.replace(aside)
    except OSError as error:
        message = f"{error.filename or aside}: cannot be written: {error.strerror}"
        raise DiskTrouble(message) from error
    return aside
