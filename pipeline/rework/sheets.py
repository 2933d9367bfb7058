"""Sheets: rejected rows as CSV for people: the file in quarantine/, and exports for a spreadsheet.

The file in quarantine/ always holds what is still open, and what a person has already changed in
it. It is written anew after every decision: aside, synced, renamed. So a crash leaves the older
sheet, which is understood all the same, and the next command writes it again.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.config import Settings
from pipeline.contract import Contract, Reason
from pipeline.contract.header import MAX_COLUMNS, Header
from pipeline.contract.rules import ReasonRecord
from pipeline.core.records import Ints
from pipeline.core.rejected import Rejected
from pipeline.errors import Conflict, FileRefused
from pipeline.files import quarantine as quarantining
from pipeline.files.atomic import tidy, writing
from pipeline.files.disk import disk_trouble
from pipeline.files.permissions import make_folder
from pipeline.files.quarantine import LEADING, fields, own_names, written
from pipeline.records import Content
from pipeline.rework import sources
from pipeline.rework.changes import Changes
from pipeline.rework.edits import edits
from pipeline.rework.headers import Headers
from pipeline.rework.layout import Layout
from pipeline.rework.sheet import EXTRA, FILE, FILE_ID, Problem, Unreadable, decode, sha256_of
from pipeline.spreadsheet import plain
from pipeline.store.read.entries import Entry
from pipeline.store.rejected import RejectedRows
from pipeline.store.rework import Workbench

# One row of a million fields would give every other row of an export as many.
_MOST_SURPLUS = 200
# The rules that a line breaks before it is taken apart into fields, or because it cannot be.
_ANY_WIDTH = ("width", "quote", "nul_byte", "encoding", "repeated_header", "unknown_section")


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """Be the only one who works on the sheets of a home, until the end of the block.

    The database keeps replays apart; this keeps their sheets apart, and readers from half of one.

    Raises:
        DiskTrouble: quarantine/ cannot be opened.
    """
    folder = settings.quarantine
    with disk_trouble(folder, "opened"):
        make_folder(folder)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network filesystems know no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def path_of(settings: Settings, entry: Entry) -> Path | None:
    """Return where the CSV of a file's rejected rows is, if it is there."""
    # Where it was written; else a person has renamed it, and of that the digits are left.
    likely = Content(Path(entry.name), entry.bytes, entry.sha256, None, (0, 0, 0, 0, 0))
    path = settings.quarantine / f"{quarantining.base_name(likely)}.csv"
    if "/" not in entry.name and path.is_file():
        return path
    found = quarantining.outputs(settings.quarantine, entry.sha256)
    return next((path for path in found if path.suffix == ".csv"), None)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found in a sheet in quarantine/ when it was compared with the database.

    Attributes:
        sha256: the hash of its bytes.
        changed: what a person has changed in it.
        surplus: whether it holds something that is written down nowhere else.
    """

    sha256: str
    changed: Changes
    surplus: bool


def rewrite(
    settings: Settings,
    bench: Workbench,
    entry: Entry,
    headers: Headers,
    today: Iterable[Rejected] = (),
    seen: Seen | None = None,
) -> list[Problem]:
    """Write the CSV and the reason log of a file anew: what is still open, and nothing else.

    Args:
        settings: where quarantine/ is.
        bench: asks the database.
        entry: the file.
        headers: what names its columns.
        today: rows that were judged again and why they fail now, by line, some at a time.
        seen: what the sheet holds; None: it is still to be compared.

    Returns:
        What a person should know of the sheet that was there.

    Raises:
        DiskTrouble: quarantine/ cannot be written to; the sheet is as it was.
    """
    folder = settings.quarantine
    path = path_of(settings, entry)
    if path is None:
        seen = None
    elif seen is None:
        try:
            seen = _seen(bench, entry, headers, path)
        except Unreadable as unreadable:
            return [unreadable.problem]
    told = []
    if path and seen and seen.surplus:
        kept = _kept_aside(path, seen.sha256)
        message = f"what could not be taken is kept as it was in {kept.name}"
        told.append(Problem(path.name, None, None, message, harmless=True))
    content = Content(_named(path, entry), entry.bytes, entry.sha256, None, (0, 0, 0, 0, 0))
    any_left = False
    changed = seen.changed if seen else Changes()
    newer = _Newer(today)
    with quarantining.quarantine(folder, [content]) as output:
        for rows in bench.open_rows(entry.file_id):
            any_left = True
            for header, start, end in headers.runs(rows.line_no):
                some = rows.part(start, end)
                shown = _repaired(some, header, changed)
                output.add(header, _rejects(some, newer), shown)
        if path and seen and sha256_of(path) != seen.sha256:
            message = "was saved while the rows were replayed: it is left as it is"
            return [*told, Problem(path.name, None, None, message, harmless=True)]
        output.publish()
    if not any_left:
        quarantining.reset(folder, entry.sha256)
    return told


def _seen(bench: Workbench, entry: Entry, headers: Headers, path: Path) -> Seen:
    sheet = decode(path.name, path)
    found = edits(sheet, entry, headers, bench)
    return Seen(sheet.sha256, found.changed, found.surplus)


class _Newer:
    """Why rows fail that were judged again, asked for in the order of their lines."""

    def __init__(self, judged: Iterable[Rejected]) -> None:
        self._judged = iter(judged)
        self._at_hand = next(self._judged, None)

    def of(self, lines: Ints) -> tuple[list[tuple[Reason, ...]], Ints]:
        """Return reasons, and for each line the position of its own; −1: it has none."""
        told: list[tuple[Reason, ...]] = []
        code: Ints = np.full(len(lines), -1, np.int64)
        while (some := self._at_hand) is not None:
            where = np.searchsorted(some.line_no, lines)
            where[where == len(some)] = 0
            has = some.line_no[where] == lines
            used, own = np.unique(some.code[where[has]], return_inverse=True)
            code[has] = len(told) + own
            told += [some.told[each] for each in used.tolist()]
            if some.line_no[-1] > lines[-1]:
                break
            self._at_hand = next(self._judged, None)
        return told, code


def _repaired(rows: RejectedRows, header: Header, changed: Changes) -> dict[int, list[str]]:
    """Return line number → fields of rows that are not shown as they stood in their file."""
    shown = {}
    # A row that was repaired once, and whose replay was taken back, is shown repaired.
    if rows.present is not rows.exact:
        for at in np.flatnonzero(rows.repaired.to_numpy(zero_copy_only=False)).tolist():
            shown[int(rows.line_no[at])] = fields(header, rows.present[at].as_py())
    edited, where = changed.at(rows.line_no)
    texts = changed.texts.take(pa.array(where)).to_pylist()
    for line, text in zip(rows.line_no[edited].tolist(), texts, strict=True):
        shown[line] = fields(header, text)
    return shown


def _rejects(rows: RejectedRows, newer: _Newer) -> Rejected:
    """Return rows with what is wrong with them: what was found last."""
    told, code = newer.of(rows.line_no)
    older = np.flatnonzero(code < 0)
    stored = rows.told.take(pa.array(older)).dictionary_encode()
    code[older] = len(told) + stored.indices.to_numpy()
    for text in stored.dictionary.to_pylist():
        records: list[ReasonRecord] = json.loads(text)
        told.append(tuple(Reason(**record) for record in records))
    return Rejected(np.zeros(len(rows), np.int64), rows.line_no, rows.exact, told, code)


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
        Conflict: the file already exists: somebody may have repaired rows in it.
        DiskTrouble: it cannot be written.
    """
    headers: dict[int, Headers] = {}
    skipped: dict[str, str] = {}
    columns: dict[str, None] = {}
    for entry in entries:
        try:
            found = sources.headers_of(settings, entry, contract)
        except FileRefused as refusal:
            skipped[entry.name] = refusal.message
            continue
        # Every row has a cell for every column, whichever file that comes from.
        together = {*columns, *(name for header in found.every for name in own_names(header))}
        if headers and len(together) > MAX_COLUMNS:
            skipped[entry.name] = (
                f"it would make more than {MAX_COLUMNS} columns: export it on its own"
            )
            continue
        headers[entry.file_id] = found
        for header in found.every:
            columns.update(dict.fromkeys(own_names(header)))
    chosen = [entry for entry in entries if entry.file_id in headers]
    extra = _widest(bench, headers, rule)
    too_wide: Counter[str] = Counter()
    names = [*columns, *(f"{EXTRA}{number}" for number in range(1, extra + 1))]
    counts: dict[str, int] = {}
    taken = f"{path}: already exists, and may hold somebody's repairs; name another"
    if path.exists():
        raise Conflict(taken)
    tidy([path.parent])
    try:
        # The byte order mark tells spreadsheets that this is UTF-8.
        with writing(path, new=True) as file:
            head = written([FILE_ID, FILE, *LEADING, *map(plain, names)], delimiter)
            file.write(codecs.BOM_UTF8 + head.encode())
            for entry in chosen:
                for every in bench.open_rows(entry.file_id, rule=rule, told="messages"):
                    for header, start, end in headers[entry.file_id].runs(every.line_no):
                        rows = every.part(start, end)
                        layout = Layout.of_export(entry, header, delimiter, names)
                        fitting = layout.fitting(rows, extra)
                        too_wide[entry.name] += len(rows) - len(fitting)
                        if len(fitting):
                            file.write(layout.written(fitting))
                            counts[entry.name] = counts.get(entry.name, 0) + len(fitting)
    except Conflict:
        raise Conflict(taken) from None
    for name, wide in too_wide.items():
        if wide:
            skipped[name] = (
                f"{wide:,} of its rows have over {_MOST_SURPLUS} fields too many: repair them in "
                "the file's own CSV"
            )
    return Exported(path, sum(counts.values()), counts, skipped)


def _widest(bench: Workbench, headers: Mapping[int, Headers], rule: str | None) -> int:
    """Return by how many fields the widest open row is too wide, of those that can be exported."""
    # All other rows were taken apart into as many fields as their header has.
    rules = [each for each in _ANY_WIDTH if rule in {None, each}]
    return max(
        (
            surplus
            for file_id, broken in bench.files_and_rules(rules)
            if file_id in headers
            for rows in bench.open_rows(file_id, rule=broken, told="nothing")
            for number, line in zip(rows.line_no.tolist(), rows.present.to_pylist(), strict=True)
            if (surplus := _surplus(line, headers[file_id].at(number))) <= _MOST_SURPLUS
        ),
        default=0,
    )


def _surplus(line: bytes, header: Header) -> int:
    return len(fields(header, line)) - len(own_names(header))


def _named(path: Path | None, entry: Entry) -> Path:
    """Return a path from which the quarantine output gets the name that it has, or had."""
    if path is None:
        return Path(entry.name.replace("/", "_"))
    return Path(path.name.removesuffix(f".{entry.sha256[:12]}.csv") + ".csv")


def _kept_aside(path: Path, sha256: str) -> Path:
    """Keep what a person has written and what nobody could take; the same bytes once."""
    aside = path.with_name(f"{path.stem}.edited-{sha256[:8]}.csv.kept")
    with disk_trouble(path, "read"), path.open("rb") as sheet, writing(aside) as file:
        shutil.copyfileobj(sheet, file)
    return aside
