"""Changes: what a person has changed in a sheet, as columns: it may be a million rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.core.records import Bools, Ints
from pipeline.rework.sheet import Problem

NONE: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Changes:
    """Rows of a sheet that differ from what was written there, by their line numbers.

    Attributes:
        lines: the line numbers, ascending.
        rows: where each stands in the sheet; the header is row 1.
        texts: the lines that they make, as bytes.
    """

    lines: Ints = field(default_factory=lambda: NONE)
    rows: Ints = field(default_factory=lambda: NONE)
    texts: pa.Array = field(default_factory=lambda: pa.array([], pa.binary()))

    def __len__(self) -> int:
        return len(self.lines)

    @classmethod
    def of(cls, parts: Sequence[Changes]) -> Changes:
        """Return all of them together, by line."""
        if not parts:
            return cls()
        lines = np.concatenate([part.lines for part in parts])
        order = np.argsort(lines, kind="stable")
        return cls(
            lines[order],
            np.concatenate([part.rows for part in parts])[order],
            pa.concat_arrays([part.texts for part in parts]).take(pa.array(order)),
        )

    def without(self, lines: Ints) -> Changes:
        """Return those of other lines."""
        kept = ~np.isin(self.lines, lines)
        return Changes(self.lines[kept], self.rows[kept], self.texts.filter(pa.array(kept)))

    def at(self, lines: Ints) -> tuple[Bools, Ints]:
        """Return which of some lines were changed, and the position of each that was."""
        where = np.searchsorted(self.lines, lines)
        changed: Bools = np.zeros(len(lines), bool)
        inside = where < len(self.lines)
        changed[inside] = self.lines[where[inside]] == lines[inside]
        return changed, where[changed]

    def or_else(self, others: Changes) -> Changes:
        """Return these, and of the others those of other lines."""
        if not len(others):
            return self
        lines = np.concatenate([others.lines, self.lines])
        # The last of equal lines counts.
        _, last = np.unique(lines[::-1], return_index=True)
        at = len(lines) - 1 - last
        texts = pa.concat_arrays([others.texts, self.texts]).take(pa.array(at))
        return Changes(lines[at], np.concatenate([others.rows, self.rows])[at], texts)


@dataclass(slots=True)
class Edits:
    """What a sheet says about the rows of one file.

    Attributes:
        changed: its edits.
        present: the lines of open rows that the sheet has, edited or not, ascending.
        problems: what is wrong.
        surplus: whether it holds something that is written down nowhere else.
    """

    changed: Changes = field(default_factory=Changes)
    present: Ints = field(default_factory=lambda: NONE)
    problems: list[Problem] = field(default_factory=list)
    surplus: bool = False
