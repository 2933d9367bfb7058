"""Outcomes: what became of each row of a replay, kept small: a replay may be of a million rows.

Line numbers are held as columns. Why rows still fail is written to a temporary file, block by
block, and read from there: for the sheet in quarantine/, and for whoever wants to know.
"""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.contract import Reason
from pipeline.core.records import Ints
from pipeline.core.rejected import Rejected
from pipeline.files.disk import disk_trouble

Became = Literal["loaded", "duplicate", "failing"]
BECAME: tuple[Became, ...] = ("failing", "loaded", "duplicate")  # by their codes
FAILING, LOADED, DUPLICATE = range(3)
_IN_MEMORY = 16 << 20


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


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of some rows, by their lines.

    Attributes:
        lines: their line numbers, ascending.
        became: for each its position in `BECAME`.
        rows: where each stands in the sheet; 0 for those that nobody edited.
        texts: the lines as they were judged, as bytes.
        told: what is wrong with rows, each a tuple of reasons.
        code: for each row that fails, its position in `told`; −1 for the others.
    """

    lines: Ints
    became: npt.NDArray[np.int8]
    rows: Ints
    texts: pa.Array
    told: Sequence[tuple[Reason, ...]]
    code: Ints


@dataclass
class Outcomes:
    """What became of the rows of one replay.

    Attributes:
        edited_failing: how many rows fail that a person has changed.
    """

    edited_failing: int = 0
    _lines: list[Ints] = field(default_factory=list)
    _became: list[npt.NDArray[np.int8]] = field(default_factory=list)
    _details: Any = None

    def add(self, some: Judgement, *, detailed: bool) -> None:
        """Note what became of rows that follow those before.

        Args:
            some: the rows.
            detailed: whether rows that pass are to be told one by one, too.

        Raises:
            DiskTrouble: there is no room for them.
        """
        self._lines.append(some.lines)
        self._became.append(some.became)
        failing = some.became == FAILING
        self.edited_failing += int(np.count_nonzero(failing & (some.rows > 0)))
        at = np.arange(len(failing)) if detailed else np.flatnonzero(failing)
        if not len(at):
            return
        if self._details is None:
            self._details = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
            weakref.finalize(self, self._details.close)
        # As plain tuples: an object of ours takes many times as long.
        told = [
            [(r.rule, r.message, r.column, r.value, r.expected) for r in reasons]
            for reasons in some.told
        ]
        columns = (some.lines[at], some.became[at], some.rows[at], some.code[at])
        block = (*columns, some.texts.take(pa.array(at)), told)
        with disk_trouble(Path(tempfile.gettempdir())):
            pickle.dump(block, self._details, pickle.HIGHEST_PROTOCOL)

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    def lines(self, became: Became) -> Ints:
        """Return the line numbers of the rows that became this, ascending."""
        code = BECAME.index(became)
        some = [lines[each == code] for lines, each in zip(self._lines, self._became, strict=True)]
        return np.concatenate(some) if some else np.zeros(0, np.int64)

    def count(self, became: Became) -> int:
        """Return how many rows became this."""
        code = BECAME.index(became)
        return sum(int(np.count_nonzero(each == code)) for each in self._became)

    def verdicts(self) -> Iterator[Verdict]:
        """Yield what is known of each row that fails, and of the others if they are detailed."""
        for some in self._each():
            columns = (some.lines, some.became, some.rows, some.code)
            for at, (line, became, row, code) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            ):
                yield Verdict(
                    line,
                    BECAME[became],
                    row > 0,
                    row or None,
                    some.texts[at].as_py().decode(errors="replace"),
                    some.told[code] if code >= 0 else (),
                )

    def failing(self) -> Iterator[Rejected]:
        """Yield the rows that fail, by line, many at a time."""
        for some in self._each():
            at = np.flatnonzero(some.became == FAILING)
            if len(at):
                texts = some.texts.take(pa.array(at))
                file = np.zeros(len(at), np.int64)
                yield Rejected(file, some.lines[at], texts, some.told, some.code[at])

    def _each(self) -> Iterator[Judgement]:
        if self._details is None:
            return
        at = 0
        while True:
            # Two may read by turns: each finds its own place again.
            self._details.seek(at)
            try:
                lines, became, rows, code, texts, told = pickle.load(  # noqa: S301  # our own
                    self._details
                )
            except EOFError:
                return
            at = self._details.tell()
            reasons = [tuple(Reason(*reason) for reason in each) for each in told]
            yield Judgement(lines, became, rows, texts, reasons, code)
