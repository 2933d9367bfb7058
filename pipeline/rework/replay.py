"""Replay: judge rows of quarantine again and load those that pass now, all of it or nothing.

A replay takes the open rows of one file: as a person has repaired them in a sheet, else as they
stood. What passes is loaded in one transaction with the replay's own ledger row, the statistics
and the rows' new state, under the lock of all writers. So two replays at once, or one that is
killed, leave each row either open or brought back once. What still fails stays with its file.

A dry run is the same transaction, rolled back: what it says is what would happen.

Rows come from the database some thousands at a time, in the order of their lines, and are judged
and loaded as a block, as a file's are. So memory does not grow with their number. The database is
at work all the time, in a thread of its own: while it loads some, the next are being judged.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute

from pipeline import __version__, logs
from pipeline.clock import Clock
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.explain import conflict
from pipeline.core import aggregate
from pipeline.core.normalise import settle
from pipeline.core.process import Group, Processed, process
from pipeline.core.records import Columns, Ints, RejectedRow
from pipeline.core.rejected import Rejected, joined
from pipeline.errors import FileRefused
from pipeline.rework import sheets, sources
from pipeline.rework.changes import Changes, Edits
from pipeline.rework.edits import edits
from pipeline.rework.headers import Headers, as_blocks, text_of_lines
from pipeline.rework.outcomes import (
    DUPLICATE,
    FAILING,
    LOADED,
    Became,
    Judgement,
    Outcomes,
    Verdict,
)
from pipeline.rework.patience import patiently
from pipeline.rework.sheet import Problem, Sheet, Unreadable, decode
from pipeline.store.ledger import FileRow
from pipeline.store.load import Landed, Load, Store, Stored
from pipeline.store.parts import Copy
from pipeline.store.read.entries import Entry
from pipeline.store.rejected import RejectedRows
from pipeline.store.rework import Repair, Workbench

_FEW = 1_000
_DETAILED = 10_000  # rows: of more, only those that fail are told one by one
_TAB = pa.scalar(b"\t", pa.binary())

log = logs.get("rework")


@dataclass(slots=True)
class Replayed:
    """What a replay of one file's rows did, or would do.

    Attributes:
        entry: the file.
        file_id: the replay's own number; None when nothing came back, or in a dry run.
        outcomes: what became of each row that was judged, in the file's order.
        problems: what is wrong with the sheet.
    """

    entry: Entry
    file_id: int | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    problems: list[Problem] = field(default_factory=list)

    @property
    def verdicts(self) -> list[Verdict]:
        """What is known of each row; of more than a few thousand, of those that fail."""
        return list(self.outcomes.verdicts())

    def lines(self, became: Became) -> list[int]:
        """Return the line numbers of the rows that became this."""
        numbers: list[int] = self.outcomes.lines(became).tolist()
        return numbers

    @property
    def wrong(self) -> bool:
        """Whether something that a person has edited was not taken."""
        failing = self.outcomes.edited_failing > 0
        return failing or any(not problem.harmless for problem in self.problems)


@dataclass(frozen=True, slots=True)
class _Page:
    """Rows that were judged, on their way to the database.

    Attributes:
        lines: their line numbers, ascending.
        texts: the lines as they were judged, as bytes.
        same: whether each is as it stood in its file.
        sheet_rows: where each stands in the sheet; 0 for those that nobody edited.
        judged: what is known of them, a block for each header.
        copies: what the database is to be given.
    """

    lines: Ints
    texts: pa.Array
    same: pa.Array
    sheet_rows: Ints
    judged: Sequence[Processed]
    copies: Sequence[Copy]

    @property
    def groups(self) -> Iterator[tuple[Processed, Group]]:
        """The groups of all blocks, in the order in which they are loaded."""
        return ((block, group) for block in self.judged for group in block.groups)


@dataclass(frozen=True, slots=True)
class _Done:
    """Rows that the database has.

    Attributes:
        page: the rows.
        landed: what became of the readings of each group.
        judgement: what became of the rows.
    """

    page: _Page
    landed: Sequence[Landed]
    judgement: Judgement


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
        self._bench = Workbench(store.reader)

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
                headers = sources.headers_of(self._settings, entry, self._contract)
                found, whole, own = self._edits(entry, headers, sheet)
            except FileRefused as refusal:
                message = f"its rows cannot be judged: {refusal.message}"
                done.problems.append(Problem(entry.name, None, None, message))
                return done
            except Unreadable as unreadable:
                done.problems.append(unreadable.problem)
                return done
            done.problems += found.problems
            attempt = _Attempt(self, entry, headers, found, whole, rule, dry=dry)
            done.outcomes, done.file_id = patiently(self._settings, attempt.run)
            if dry:
                return done
            if done.file_id is not None:
                log.info(
                    "rows.replayed",
                    file=entry.name,
                    file_id=done.file_id,
                    parent_file_id=entry.file_id,
                    rows_loaded=done.outcomes.count("loaded"),
                    rows_duplicate=done.outcomes.count("duplicate"),
                    rows_failing=done.outcomes.count("failing"),
                    by=self._by,
                )
            failing = done.outcomes.failing()
            done.problems += sheets.rewrite(
                self._settings, self._bench, entry, headers, failing, own
            )
            return done

    def _edits(
        self, entry: Entry, headers: Headers, sheet: Sheet | None
    ) -> tuple[Edits, bool, sheets.Seen | None]:
        """Return what a person has changed.

        Returns:
            The edits; whether rows that the sheet lacks are meant too; what the sheet in
            quarantine/ holds, if it was looked at.
        """
        if sheet is not None:
            return edits(sheet, entry, headers, self._bench), False, None
        dropped = self._dropped(entry, headers)
        path = sheets.path_of(self._settings, entry)
        if path is None:
            return Edits(dropped), True, None
        own = decode(path.name, path)
        found = edits(own, entry, headers, self._bench)
        seen = sheets.Seen(own.sha256, found.changed, found.surplus)
        found.changed = found.changed.or_else(dropped)
        if gone := self._gone(entry, found, dropped):
            shown = ", ".join(f"{number:,}" for number in gone[:10])
            message = (
                f"{len(gone):,} open rows of {entry.name} are not in it any more (lines {shown}"
                f"{', …' if len(gone) > 10 else ''}): they stay open, and are put back; "
                "`quarantine discard` gives rows up"
            )
            found.problems.append(Problem(path.name, None, None, message, harmless=True))
        if len(dropped):
            return found, False, None
        return found, False, seen

    def _gone(self, entry: Entry, found: Edits, dropped: Changes) -> list[int]:
        found.present = np.union1d(found.present, dropped.lines)
        lines = self._bench.open_lines(entry.file_id)
        gone: list[int] = lines[~np.isin(lines, found.present)].tolist()
        return gone

    def _dropped(self, entry: Entry, headers: Headers) -> Changes:
        """Return what was repaired in copies of the CSV that somebody dropped into data/."""
        every = Changes()
        for copy in self._bench.dropped_sheets(entry.sha256):
            content = sources.archived(self._settings, copy)
            if isinstance(content, sources.Missing):
                continue
            try:
                found = edits(decode(copy.name, content.path), entry, headers, self._bench)
            except Unreadable:
                continue
            every = found.changed.or_else(every)
        return every


class _Attempt:
    """The transaction of one replay. Every `run` starts anew."""

    def __init__(
        self,
        replay: Replay,
        entry: Entry,
        headers: Headers,
        found: Edits,
        whole: bool,
        rule: str | None,
        *,
        dry: bool,
    ) -> None:
        self._replay = replay
        self._entry = entry
        self._headers = headers
        self._edits = found.changed
        self._lines = None if whole else np.union1d(found.present, found.changed.lines)
        self._rule = rule
        self._dry = dry
        self._sent: tuple[Outcomes, int] | None = None
        self._now = Clock(replay._settings.home, replay._store.server_time).present().now

    def run(self) -> tuple[Outcomes, int | None]:
        """Do it; return what became of the rows, and the replay's number."""
        replay, entry = self._replay, self._entry
        self._outcomes = Outcomes()
        self._digest = hashlib.sha256(f"replay of {entry.sha256}\n".encode())
        self._row = FileRow(
            name=f"{entry.name} (replay)",
            sha256="",
            bytes=0,
            detected_at=datetime.now(UTC),
            contract_version=replay._contract.version,
            app_version=__version__,
            dialect=self._headers.first.dialect,
            header=self._headers.first.line,
            sections=dict(entry.sections or []),
            parent_file_id=entry.file_id,
        )
        self._by_file = aggregate.Running(aggregate.BY_FILE)
        self._hourly = aggregate.Running(aggregate.HOURLY)
        try:
            with replay._store.loading("replay") as load:
                repair = Repair(load)
                if self._sent and repair.state(self._sent[1]) == "loaded":
                    return self._sent  # the answer to our COMMIT was lost, the COMMIT was not
                if repair.state(entry.file_id) == "loaded":
                    self._all(load, repair)
                if self._dry or not self._row.rows_read:
                    raise _RolledBack
                self._sent = self._outcomes, self._row.file_id
        except _RolledBack:
            return self._outcomes, None
        return self._sent

    def _all(self, load: Load, repair: Repair) -> None:
        """Judge and load all that is meant, some rows at a time.

        While the database has some, and looks for more, the next are judged.
        """
        # A number that is never committed would only leave a gap.
        self._row.file_id = 0 if self._dry else load.file_ids(1)[0]
        self._ids: Ints = np.array([self._row.file_id], np.int64)
        at_work: deque[Future[_Done]] = deque()
        for rows in self._pages(load, repair):
            page = self._judged(load, rows)
            at_work.append(load.later(partial(self._store_page, load, repair, page)))
            if len(at_work) > 1:
                self._note(load, at_work.popleft().result())
        for last in at_work:
            self._note(load, last.result())
        if not self._row.rows_read:
            return
        self._row.sha256 = self._digest.hexdigest()
        self._store_hours(load, self._hourly.take())
        load.later(partial(load.finish, [self._row], self._by_file.take(), self._ids)).result()

    def _pages(self, load: Load, repair: Repair) -> Iterator[RejectedRows]:
        """Yield the open rows that are meant; the next are asked for before some are yielded."""
        file_id, wanted = self._entry.file_id, self._lines
        if wanted is not None and len(wanted) < _FEW:
            # Many are sooner picked from all that is open than named one by one.
            named = partial(repair.open_rows_at, file_id, wanted.tolist(), self._rule)
            if len(rows := load.later(named).result()):
                yield rows
            return
        after_line = partial(repair.open_rows, file_id, self._rule)
        page = load.later(partial(after_line, 0))
        while len(rows := page.result()):
            page = load.later(partial(after_line, int(rows.line_no[-1])))
            meant = rows if wanted is None else rows.where(np.isin(rows.line_no, wanted))
            if len(meant):
                yield meant

    def _judged(self, load: Load, rows: RejectedRows) -> _Page:
        """Do what needs no database."""
        lines = rows.line_no
        edited, at = self._edits.at(lines)
        texts = rows.present
        if edited.any():
            which = np.full(len(lines), -1, np.int64)
            which[edited] = at
            changed = self._edits.texts.take(pa.array(which, mask=~edited))
            texts = pa.compute.coalesce(changed, texts)
        sheet_rows = np.zeros(len(lines), np.int64)
        sheet_rows[edited] = self._edits.rows[at]
        judged = [
            process(block, self._replay._contract, self._now)
            for block in as_blocks(self._headers, lines, texts)
        ]
        readings = [group.readings for block in judged for group in block.groups]
        same = pa.compute.equal(texts, rows.exact)
        return _Page(lines, texts, same, sheet_rows, judged, load.copies(readings, self._ids))

    def _store_page(self, load: Load, repair: Repair, page: _Page) -> _Done:
        """Load what passes, and note with the rows what became of them."""
        landed = load.together(page.copies)
        became = np.zeros(len(page.lines), np.int8)
        rejected = [block.rejected_rows for block in page.judged]
        for (block, group), each in zip(page.groups, landed, strict=True):
            number = block.lines.line_no
            load.repeated(group.repeats, self._ids)
            for frame, what in (
                (group.readings.frame, DUPLICATE),
                (group.repeats.frame, DUPLICATE),
                (each.readings.frame, LOADED),
            ):
                became[np.searchsorted(page.lines, number[frame["row"].to_numpy()])] = what
            rejected.append(Rejected.of(self._conflicts(block, group, each)))
        every = joined(rejected)
        at = np.searchsorted(page.lines, every.line_no)
        became[at] = FAILING
        code = np.full(len(became), -1)
        code[at] = every.code
        back = became != FAILING
        if back.any():
            repair.repaired(
                self._entry.file_id,
                page.lines[back],
                pa.compute.if_else(page.same, None, page.texts)
                .filter(pa.array(back))
                .cast(pa.string()),
                self._row.file_id,
                self._replay._by,
            )
        some = Judgement(page.lines, became, page.sheet_rows, page.texts, every.told, code)
        return _Done(page, landed, some)

    def _note(self, load: Load, done: _Done) -> None:
        """Count what became of rows."""
        page, some = done.page, done.judgement
        back = some.became != FAILING
        if back.any():
            self._count(page.lines[back], page.texts.filter(pa.array(back)))
            self._row.rows_duplicate += int(np.count_nonzero(some.became == DUPLICATE))
        for (_, group), landed in zip(page.groups, done.landed, strict=True):
            summary = group.summary_of(landed.readings)
            self._by_file.add(summary.by_file)
            self._hourly.add(summary.hourly)
            if self._hourly.full:
                until = aggregate.day_reached(summary.hourly)
                self._store_hours(load, self._hourly.take_before(until))
            for span in summary.spans:
                self._row.add(span)
        detailed = len(self._outcomes) + len(some.lines) <= _DETAILED
        self._outcomes.add(some, detailed=detailed)

    def _count(self, lines: Ints, texts: pa.Array) -> None:
        """Count rows that come back."""
        number = pa.array(lines).cast(pa.string()).cast(pa.binary())
        whole = text_of_lines(pa.compute.binary_join_element_wise(number, texts, _TAB))
        self._digest.update(whole)
        self._row.bytes += int(pa.compute.sum(pa.compute.binary_length(texts)).as_py()) + len(lines)
        self._row.rows_read += len(lines)

    def _store_hours(self, load: Load, hourly: Columns | None) -> None:
        if hourly:
            load.later(partial(load.hourly, hourly))

    def _conflicts(self, judged: Processed, group: Group, landed: Landed) -> list[RejectedRow]:
        """Return the rows that contradict what is stored, or an earlier one of them."""
        rows = judged.lines
        beaten = {stored.row: (stored.theirs, _where(stored)) for stored in landed.conflicts}
        _, conflicts = settle(group.readings, group.repeats, rows, [self._entry.name], beaten)
        conflicts += [
            RejectedRow(
                stored.file,
                int(rows.line_no[stored.row]),
                b"",
                (conflict(stored.ours, *beaten[stored.row]),),
            )
            for stored in landed.conflicts
        ]
        return conflicts


def _where(stored: Stored) -> str:
    return "another of the rows" if stored.name is None else f"the database, from {stored.name}"
