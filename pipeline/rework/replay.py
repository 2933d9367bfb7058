"""Replay: judge rows of quarantine again and load those that pass now, all of it or nothing.

A replay takes the open rows of one file: as a person has repaired them in a sheet, else as they
stood. What passes is loaded in one transaction with the replay's own ledger row, the statistics
and the rows' new state, under the lock of all writers. So two replays at once, or one that is
killed, leave each row either open or brought back once. What still fails stays with its file.

A dry run is the same transaction, rolled back: what it says is what would happen.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from pipeline import __version__, logs
from pipeline.config import Settings
from pipeline.contract import Contract, Reason
from pipeline.contract.explain import conflict
from pipeline.contract.header import Header
from pipeline.errors import FileRefused
from pipeline.judge import judge
from pipeline.records import Block, Ints, Readings, Rows
from pipeline.rework import sheets, sources
from pipeline.rework.edits import Edit, Edits, Problem, Sheet, Unreadable, decode, edits, read_bytes
from pipeline.rework.patience import patiently
from pipeline.steps import aggregate
from pipeline.steps.normalise import settle
from pipeline.store.ledger import FileRow
from pipeline.store.load import Load, Store, Stored
from pipeline.store.rework import Entry, QuarantinedRow, Repair, Workbench

Became = Literal["loaded", "duplicate", "failing"]
_CHUNK = 20_000
_FEW = 1_000

log = logs.get("rework")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a row, or would.

    Attributes:
        line_no: its line in its file.
        became: `loaded`; `duplicate` (stored already, with equal values); `failing` (stays open).
        edited: whether a person has changed it.
        row: where it stands in the sheet, if edited.
        line: the line as it was judged, readable.
        reasons: why it fails.
    """

    line_no: int
    became: Became
    edited: bool
    row: int | None
    line: str
    reasons: tuple[Reason, ...] = ()


@dataclass(slots=True)
class Replayed:
    """What a replay of one file's rows did, or would do.

    Attributes:
        entry: the file.
        file_id: the replay's own number; None when nothing came back, or in a dry run.
        verdicts: what became of each row that was judged, in the file's order.
        problems: what is wrong with the sheet.
    """

    entry: Entry
    file_id: int | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def lines(self, became: Became) -> list[int]:
        """Return the line numbers of the rows that became this."""
        return [verdict.line_no for verdict in self.verdicts if verdict.became == became]

    @property
    def wrong(self) -> bool:
        """Whether something that a person has edited was not taken."""
        failing = any(v.edited and v.became == "failing" for v in self.verdicts)
        return failing or any(not problem.harmless for problem in self.problems)


class _RolledBack(Exception):  # the way out of a transaction that must not commit
    """Nothing is to be committed."""


class Replay:
    """Replays files' rows.

    Args:
        settings: the settings in force.
        store: where readings go.
        contract: what is accepted now.
        by: who does it.
    """

    def __init__(self, settings: Settings, store: Store, contract: Contract, by: str) -> None:
        self._settings = settings
        self._store = store
        self._contract = contract
        self._by = by
        self._bench = Workbench(store.engine)

    def run(
        self, entry: Entry, *, rule: str | None = None, sheet: Sheet | None = None, dry: bool
    ) -> Replayed:
        """Replay the open rows of a file.

        Args:
            entry: the file.
            rule: only rows that broke this rule.
            sheet: what a person has repaired; None for the CSV in quarantine/, if it is there.
            dry: only say what would happen.

        Raises:
            DatabaseUnavailable: the database stayed away; nothing was committed.
            DiskTrouble: quarantine/ cannot be read or written to. What was committed stays so.
        """
        with sheets.at_work(self._settings):
            done = Replayed(entry)
            try:
                header = sources.header_of(self._settings, entry, self._contract)
                found, whole = self._edits(entry, header, sheet)
            except FileRefused as refusal:
                message = f"its rows cannot be judged: {refusal.message}"
                done.problems.append(Problem(entry.name, None, None, message))
                return done
            except Unreadable as unreadable:
                done.problems.append(unreadable.problem)
                return done
            done.problems += found.problems
            attempt = _Attempt(self, entry, header, found, whole, rule, dry=dry)
            done.verdicts, done.file_id = patiently(self._settings, attempt.run)
            if dry:
                return done
            if done.file_id is not None:
                log.info(
                    "rows.replayed",
                    file=entry.name,
                    file_id=done.file_id,
                    parent_file_id=entry.file_id,
                    rows_loaded=len(done.lines("loaded")),
                    rows_duplicate=len(done.lines("duplicate")),
                    rows_failing=len(done.lines("failing")),
                    by=self._by,
                )
            today = {v.line_no: v.reasons for v in done.verdicts if v.became == "failing"}
            done.problems += sheets.rewrite(self._settings, self._bench, entry, header, today)
            return done

    def _edits(self, entry: Entry, header: Header, sheet: Sheet | None) -> tuple[Edits, bool]:
        """Return what a person has changed, and whether rows that the sheet lacks are meant too."""

        def stored(lines: Sequence[int]) -> list[QuarantinedRow]:
            return self._bench.rows(entry.file_id, states=None, lines=lines)

        if sheet is not None:
            return edits(sheet, entry, header, stored), False
        dropped = self._dropped(entry, header, stored)
        path = sheets.path_of(self._settings, entry)
        if path is None:
            return dropped, True
        found = edits(decode(path.name, read_bytes(path)), entry, header, stored)
        found.changed = {**dropped.changed, **found.changed}
        found.present |= dropped.changed.keys()
        if gone := self._gone(entry, found):
            shown = ", ".join(f"{number:,}" for number in gone[:10])
            message = (
                f"{len(gone):,} open rows of {entry.name} are not in it any more (lines {shown}"
                f"{', …' if len(gone) > 10 else ''}): they stay open, and are put back; "
                "`quarantine discard` gives rows up"
            )
            found.problems.append(Problem(path.name, None, None, message, harmless=True))
        return found, False

    def _gone(self, entry: Entry, found: Edits) -> list[int]:
        told = {problem.row for problem in found.problems}
        if told - {None}:
            # Rows whose number cannot be read are there, if only nobody knew which they are.
            found.surplus = True
        return [
            row.line_no
            for chunk in self._bench.chunks(entry.file_id)
            for row in chunk
            if row.line_no not in found.present
        ]

    def _dropped(
        self,
        entry: Entry,
        header: Header,
        stored: Callable[[Sequence[int]], Sequence[QuarantinedRow]],
    ) -> Edits:
        """Return what was repaired in copies of the CSV that somebody dropped into data/."""
        every = Edits()
        for copy in self._bench.dropped_sheets(entry.sha256):
            content = sources.archived(self._settings, copy)
            if isinstance(content, sources.Missing):
                continue
            raw = read_bytes(content.path)
            if raw.startswith(b"\x1f\x8b"):
                raw = gzip.decompress(raw)
            try:
                found = edits(decode(copy.name, raw), entry, header, stored)
            except Unreadable:
                continue
            every.changed.update(found.changed)
        return every


class _Attempt:
    """The transaction of one replay. Every `run` starts anew."""

    def __init__(
        self,
        replay: Replay,
        entry: Entry,
        header: Header,
        found: Edits,
        whole: bool,
        rule: str | None,
        *,
        dry: bool,
    ) -> None:
        self._replay = replay
        self._entry = entry
        self._header = header
        self._edits: dict[int, Edit] = found.changed
        self._lines = None if whole else found.present | found.changed.keys()
        self._rule = rule
        self._dry = dry
        self._sent: tuple[list[Verdict], int] | None = None

    def run(self) -> tuple[list[Verdict], int | None]:
        """Do it; return what became of the rows, and the replay's number."""
        replay, entry = self._replay, self._entry
        self._verdicts: list[Verdict] = []
        self._digest = hashlib.sha256(f"replay of {entry.sha256}\n".encode())
        self._row = FileRow(
            name=f"{entry.name} (replay)",
            sha256="",
            bytes=0,
            detected_at=datetime.now(UTC),
            contract_version=replay._contract.version,
            app_version=__version__,
            dialect=self._header.dialect,
            header=self._header.line,
            parent_file_id=entry.file_id,
        )
        self._by_file = aggregate.Running(aggregate.BY_FILE)
        self._hourly = aggregate.Running(aggregate.HOURLY)
        try:
            with replay._store.loading() as load:
                repair = Repair(load)
                if self._sent and repair.state(self._sent[1]) == "loaded":
                    return self._sent  # the answer to our COMMIT was lost, the COMMIT was not
                if repair.state(entry.file_id) == "loaded":
                    self._all(load, repair)
                if self._dry or not self._row.rows_read:
                    raise _RolledBack
                self._sent = self._verdicts, self._row.file_id
        except _RolledBack:
            return self._verdicts, None
        return self._sent

    def _all(self, load: Load, repair: Repair) -> None:
        # A number that is never committed would only leave a gap.
        self._row.file_id = 0 if self._dry else load.file_ids(1)[0]
        self._ids: Ints = np.array([self._row.file_id], np.int64)
        wanted, after = self._lines, 0
        # Many are sooner picked from all that is open than named one by one.
        lines = sorted(wanted) if wanted is not None and len(wanted) < _FEW else None
        while rows := repair.open_rows(
            self._entry.file_id, rule=self._rule, lines=lines, after=after, limit=_CHUNK
        ):
            after = rows[-1].line_no
            meant = [row for row in rows if wanted is None or row.line_no in wanted]
            if meant:
                self._chunk(load, repair, meant)
        if not self._row.rows_read:
            return
        self._row.sha256 = self._digest.hexdigest()
        if hourly := self._hourly.take():
            load.hourly(hourly)
        load.finish([self._row], self._by_file.take(), self._ids)

    def _chunk(self, load: Load, repair: Repair, rows: Sequence[QuarantinedRow]) -> None:
        numbered = [
            (row.line_no, edit.text if (edit := self._edits.get(row.line_no)) else row.present)
            for row in rows
        ]
        texts = dict(numbered)
        became, reasons = self._judged(load, sources.as_block(self._header, numbered))
        back = [row for row in rows if became.get(row.line_no, "failing") != "failing"]
        for row in back:
            text = texts[row.line_no]
            self._digest.update(b"%d\t%b\n" % (row.line_no, text))
            self._row.bytes += len(text) + 1
            self._row.rows_read += 1
            self._row.rows_duplicate += became[row.line_no] == "duplicate"
        repair.repaired(
            self._entry.file_id,
            [row.line_no for row in back],
            [
                None if texts[row.line_no] == row.exact else texts[row.line_no].decode()
                for row in back
            ],
            self._row.file_id,
            self._replay._by,
        )
        for row in rows:
            edit = self._edits.get(row.line_no)
            self._verdicts.append(
                Verdict(
                    row.line_no,
                    became.get(row.line_no, "failing"),
                    edit is not None,
                    edit.row if edit else None,
                    texts[row.line_no].decode(errors="replace"),
                    reasons.get(row.line_no, ()),
                )
            )

    def _judged(
        self, load: Load, block: Block
    ) -> tuple[dict[int, Became], dict[int, tuple[Reason, ...]]]:
        """Load what passes; return line → what became of it, and line → why it fails."""
        judged = judge(block, self._replay._contract)
        rows = judged.rows
        reasons = {row.line_no: row.reasons for row in judged.rejected}
        became: dict[int, Became] = {}
        for group in judged.groups:
            landed = load.readings(group.readings, self._ids)
            summary = group.summary_of(landed.readings)
            self._by_file.add(summary.by_file)
            self._hourly.add(summary.hourly)
            for span in summary.spans:
                self._row.add(span)
            beaten = {stored.row: (stored.theirs, _where(stored)) for stored in landed.conflicts}
            _, conflicts = settle(group.readings, group.repeats, rows, [self._entry.name], beaten)
            reasons |= {row.line_no: row.reasons for row in conflicts}
            for stored in landed.conflicts:
                told = conflict(stored.ours, *beaten[stored.row])
                reasons[int(rows.line_no[stored.row])] = (told,)
            new = set(_lines(rows, landed.readings))
            repeated = rows.line_no[group.repeats.frame["row"]].tolist()
            for line in [*_lines(rows, group.readings), *repeated]:
                if line not in reasons:
                    became[line] = "loaded" if line in new else "duplicate"
        return became, reasons


def _lines(rows: Rows, readings: Readings) -> list[int]:
    lines: list[int] = rows.line_no[readings.frame["row"].to_numpy()].tolist()
    return lines


def _where(stored: Stored) -> str:
    return "another of the rows" if stored.name is None else f"the database, from {stored.name}"
