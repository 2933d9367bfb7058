"""Columns: where the columns of a file are in a sheet, and what a row of it says in them.

Whoever saved the sheet may have moved columns, or added some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.contract.header import Header
from pipeline.core.parse import wanted_columns
from pipeline.files.quarantine import LEADING, fields
from pipeline.rework.sheet import EXTRA, FILE, FILE_ID, Problem, Sheet, Unreadable
from pipeline.spreadsheet import MARK, plain, restored
from pipeline.store.read.entries import Entry


@dataclass(frozen=True, slots=True)
class Said:
    """What a row of a sheet says.

    Attributes:
        own: its cells in the file's own columns.
        extra: its further fields, as far as there are any.
        foreign: whether something stands in a column that is not the file's.
        same: whether it says what was there before.
        cleared: whether somebody has taken its reasons away: it is right as it stands here.
    """

    own: list[str]
    extra: list[str]
    foreign: bool
    same: bool
    cleared: bool


class Columns:
    """Where the columns of a file are in a sheet.

    Args:
        sheet: the sheet.
        entry: the file.
        header: what names its columns.

    Attributes:
        names: the file's own columns.
        foreign: positions of columns that are neither the file's nor ours.

    Raises:
        Unreadable: columns that decide are missing.
    """

    def __init__(self, sheet: Sheet, entry: Entry, header: Header) -> None:
        self._width = len(sheet.names)
        self._reasons_at = sheet.at(LEADING[1])
        own = fields(header, header.line.encode())
        self.names = list(header.names[len(header.names) - len(own) :])
        self._at = self._found(sheet, entry, header, [name.strip() for name in own])
        ours = {*LEADING, FILE_ID, FILE}
        first = self._at[0] if self._at else None
        straight = [] if first is None else [*range(first, first + len(self._at))]
        # Where the file's own columns are, if they stand side by side as in the file.
        self._span = (straight[0], straight[-1] + 1) if straight == self._at else None
        self._mapped = {at for at in self._at if at is not None}
        self._extras = []
        self.foreign = []
        self._sheet_names = sheet.names
        exported = sheet.at(FILE_ID) is not None
        for at, name in enumerate(sheet.names):
            if at in self._mapped or name.casefold() in ours:
                continue
            if not name or name.casefold().startswith(EXTRA):
                self._extras.append(at)
            elif not exported:  # there, other files' columns stand beside
                self.foreign.append(at)

    def _found(
        self, sheet: Sheet, entry: Entry, header: Header, own_names: Sequence[str]
    ) -> list[int | None]:
        """Return for each of the file's columns where it is in the sheet."""
        free = [at for at, name in enumerate(sheet.names) if not name]
        found: list[int | None] = []
        for own, name in zip(own_names, self.names, strict=True):
            at = sheet.at(own) if own else None
            at = sheet.at(name) if at is None else at
            at = sheet.at_restored(own) if at is None and own else at
            if at is None and not own and free and free[0] < len(own_names) + len(LEADING):
                at = free.pop(0)
            found.append(at)
        wanted = set(wanted_columns(header))
        gone = [n for n, at in zip(self.names, found, strict=True) if at is None and n in wanted]
        if gone:
            columns = ", ".join(f"'{name}'" for name in gone)
            message = (
                f"the {'column' if len(gone) == 1 else 'columns'} {columns} of {entry.name} "
                f"{'is' if len(gone) == 1 else 'are'} missing: put back what was there, or export "
                "the rows again. Nothing was taken"
            )
            raise Unreadable(Problem(sheet.name, 1, gone[0], message))
        return found

    @property
    def foreign_names(self) -> list[str]:
        """The names of columns that are neither the file's nor ours."""
        return [self._sheet_names[at] for at in self.foreign]

    def row(self, cells: list[str], before: Sequence[str]) -> Said:
        """Return what a row says.

        Args:
            cells: its cells.
            before: the fields that were there before.
        """
        width = len(self.names)
        shown = [*before[:width], *[""] * (width - len(before))]
        if self._made_plain(cells, shown):
            cells = list(map(restored, cells))
        if self._span and len(cells) >= self._span[1]:
            own = cells[self._span[0] : self._span[1]]
        else:
            own = [
                shown[i] if place is None else cell(cells, place)
                for i, place in enumerate(self._at)
            ]
        extra: list[str] = []
        if self._extras or len(cells) > self._width:
            beyond = range(self._width, len(cells))
            places = [i for i in [*self._extras, *beyond] if i not in self._mapped]
            extra = trimmed([cell(cells, i) for i in places])
        if extra or len(before) > width:
            same = trimmed(own + extra) == trimmed([*shown, *before[width:]])
        else:
            same = own == shown
        foreign = any(cell(cells, place) for place in self.foreign)
        reasons = self._reasons_at
        cleared = reasons is not None and not cell(cells, reasons).strip()
        return Said(own, extra, foreign, same, cleared)

    def _made_plain(self, cells: list[str], shown: list[str]) -> bool:
        """Whether apostrophes in front of a row's cells are ours, and no part of them."""
        if MARK in cell(cells, self._reasons_at):
            return True
        # Somebody has cleared the reasons, or taken the column away.
        return any(
            (text := cell(cells, place)) != before and text == plain(before)
            for place, before in zip(self._at, shown, strict=True)
            if place is not None
        )


def cell(cells: Sequence[str], at: int | None) -> str:
    """Return a cell of a row; empty where there is none."""
    return cells[at] if at is not None and at < len(cells) else ""


def trimmed(cells: Sequence[str]) -> list[str]:
    """Return cells without the empty ones at their end."""
    end = len(cells)
    while end and not cells[end - 1]:
        end -= 1
    return list(cells[:end])
