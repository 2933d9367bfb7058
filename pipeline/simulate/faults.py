"""Faults: which lines are damaged, and where each of them ends up.

Lines are chosen at random and kinds in turn. The text is cut only where something is damaged, so
that the cost is that of the faults and not of the file.
"""

from __future__ import annotations

import random

import numpy as np

from pipeline.contract import Contract
from pipeline.simulate.damage import ENCODING, KINDS, NO_ROW, Bench
from pipeline.simulate.layout import Layout
from pipeline.simulate.noise import Ints
from pipeline.simulate.spec import Fault, Outcome, Reasons


class Injector:
    """Damages the lines of files of one layout.

    Args:
        layout: the files' columns.
        contract: what is accepted.
        kinds: keys of `KINDS` to choose from; those that do not fit the layout are left out.
        rate: which fraction of all lines is faulty afterwards.
        seed: what decides.
    """

    def __init__(
        self, layout: Layout, contract: Contract, kinds: tuple[str, ...], rate: float, seed: str
    ) -> None:
        self._random = random.Random(seed)
        self._bench = Bench(layout, contract, self._random)
        self._kinds = [name for name in kinds if KINDS[name].fits(layout, contract)]
        self._deck: list[str] = []
        self._owed = 0.0
        extra = sum(KINDS[name].extra for name in self._kinds) / max(1, len(self._kinds))
        # Lines that are put in make the file longer, and count among its lines.
        self._per_line = rate / (1 - rate * extra) if self._kinds else 0.0

    @property
    def kinds(self) -> list[str]:
        """The kinds that fit."""
        return list(self._kinds)

    def inject(self, text: bytes, first_line: int) -> tuple[bytes, list[Fault]]:
        """Damage some lines of a text.

        Args:
            text: clean lines, each with its line end.
            first_line: the number of the first of them in its file.

        Returns:
            The text with its faults, and the list of them in the order of their lines.
        """
        if not self._per_line:
            return text, []
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        # What is not due yet is owed: many small files get their share, too.
        self._owed += self._per_line * len(ends)
        count = min(int(self._owed), len(ends))
        self._owed -= count
        starts = np.concatenate([[0], ends[:-1]])
        # No line is chosen twice, so a clean line that something refers to stays clean, and no
        # two faults refer to the same one.
        changes = sorted(
            self._change(text[starts[i] : ends[i]], i, len(ends))
            for i in self._random.sample(range(len(ends)), count)
        )
        return self._spliced(text, starts, ends, changes, first_line)

    def _change(self, line: bytes, at: int, total: int) -> _Change:
        name = self._next_kind()
        kind = KINDS[name]
        fields = line.decode(ENCODING).rstrip("\n").split(self._bench.layout.delimiter)
        reasons = kind.apply(self._bench, fields)
        damaged = (self._bench.layout.delimiter.join(fields) + "\n").encode(ENCODING)
        if kind.extra and self._random.random() < 0.5:
            # Some stand right after the line that they repeat, others anywhere further down.
            at = self._random.randrange(at, total)
        return (at, kind.extra, damaged, name, reasons)

    def _next_kind(self) -> str:
        if not self._deck:
            self._deck = self._random.sample(self._kinds, len(self._kinds))
        return self._deck.pop()

    @staticmethod
    def _spliced(
        text: bytes,
        starts: Ints,
        ends: Ints,
        changes: list[_Change],
        first_line: int,
    ) -> tuple[bytes, list[Fault]]:
        parts: list[bytes] = []
        faults: list[Fault] = []
        copied = 0
        added = 0
        # Sorted: a line's own damage comes before what is put in after it.
        for at, extra, damaged, name, reasons in changes:
            parts.append(text[copied : ends[at] if extra else starts[at]])
            parts.append(damaged)
            copied = max(copied, int(ends[at]))
            added += extra
            outcome: Outcome = "quarantined" if reasons else "duplicate"
            if name == NO_ROW:
                outcome = "no row"
            faults.append(Fault(first_line + at + added, name, outcome, reasons))
        parts.append(text[copied:])
        return b"".join(parts), faults


# Which clean line, whether something is put in after it (rather than in its place), what, and why.
_Change = tuple[int, bool, bytes, str, Reasons]
