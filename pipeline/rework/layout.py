"""Layout: how rows of a file stand in a CSV for people, from a row to its text and back.

One layout is that of the CSV in quarantine/, with the file's own columns; another that of an
export, where rows of several files stand together, each under the columns of its file. Both are
written by it, and a row that still stands there as it was written is recognised by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.contract.header import Header
from pipeline.core.records import Bools, Ints
from pipeline.files.quarantine import (
    LEADING,
    fields,
    not_as_they_are,
    own_names,
    shown,
    with_reasons,
    written,
)
from pipeline.rework.headers import text_of_lines
from pipeline.rework.sheet import EXTRA, FILE, FILE_ID, Sheet
from pipeline.spreadsheet import plain, restored
from pipeline.store.read.entries import Entry
from pipeline.store.rejected import RejectedRows


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows of one file stand in a sheet.

    Attributes:
        header: what names the file's columns.
        delimiter: what separates the sheet's cells.
        lead: what stands before the line number in every row.
        names: the columns of an export after the reasons; None for the CSV in quarantine/.
    """

    header: Header
    delimiter: str
    lead: str = ""
    names: tuple[str, ...] | None = None

    @classmethod
    def of_export(
        cls, entry: Entry, header: Header, delimiter: str, names: Sequence[str]
    ) -> Layout:
        """Return that of a file's rows in an export with these columns."""
        lead = written([str(entry.file_id), plain(entry.name)], delimiter)[:-1] + delimiter
        return cls(header, delimiter, lead, tuple(names))

    @classmethod
    def of_sheet(cls, sheet: Sheet, entry: Entry, header: Header) -> Layout | None:
        """Return that of a sheet if its header is as it was written, else None."""
        own = tuple(plain(name).strip() for name in fields(header, header.line.encode()))
        if sheet.delimiter == header.delimiter and sheet.names == (*LEADING, *own):
            return cls(header, header.delimiter)
        leading = (FILE_ID, FILE, *LEADING)
        names = tuple(map(restored, sheet.names[len(leading) :]))
        if sheet.names[: len(leading)] == leading and {*own_names(header)} <= {*names}:
            return cls.of_export(entry, header, sheet.delimiter, names)
        return None

    def texts(self, rows: RejectedRows) -> tuple[pa.Array, Ints]:
        """Return each row's own columns as they are written, as it stands now.

        Returns:
            The texts, and for each 1 if something in it was made plain, else 0.
        """
        texts, made_plain = shown(rows.present, rows.line_no, self.header)
        own = own_names(self.header)
        if self.names is None or self._as_in_the_file(texts, own):
            return texts, made_plain
        nothing = len(own)
        places = {name: place for place, name in enumerate(own)}
        pick = itemgetter(*(places.get(name, nothing) for name in (*self.names, "")))
        careful = not_as_they_are(rows.present, self.header).tolist()
        found = [
            self._exported(line, own, pick, careful=care)
            for line, care in zip(rows.present.to_pylist(), careful, strict=True)
        ]
        each = pa.array([text for text, _ in found], pa.string())
        return each, np.array([changed for _, changed in found], np.int64)

    def fitting(self, rows: RejectedRows, most: int) -> RejectedRows:
        """Return the rows that have at most so many fields more than their header."""
        width = len(own_names(self.header)) + most
        mark = self.header.delimiter.encode()
        # Quotation marks only make fields fewer.
        many = pc.greater_equal(pc.count_substring(rows.present, mark), width)
        fits: Bools = np.ones(len(rows), bool)
        for at in np.flatnonzero(many.to_numpy(zero_copy_only=False)).tolist():
            fits[at] = len(fields(self.header, rows.present[at].as_py())) <= width
        return rows.where(fits)

    def _as_in_the_file(self, texts: pa.Array, own: tuple[str, ...]) -> bool:
        """Whether rows of the file are rows of the sheet as they are."""
        if self.names != own or self.delimiter != self.header.delimiter:
            return False
        uneven = pc.not_equal(pc.count_substring(texts, self.delimiter), len(own) - 1)
        strange = pc.or_(uneven, pc.match_substring(texts, '"'))
        return not pc.any(strange).as_py()

    def _exported(
        self,
        line: bytes,
        own: tuple[str, ...],
        pick: Callable[[list[str]], tuple[str, ...]],
        *,
        careful: bool,
    ) -> tuple[str, bool]:
        if not careful:
            parts = line.decode().split(self.header.delimiter)
            if len(parts) == len(own):
                chosen = pick([*parts, ""])[:-1]
                text = self.delimiter.join(chosen)
                if text and text.count(self.delimiter) == len(chosen) - 1:
                    return text, False
        found = fields(self.header, line)
        if len(found) == len(own):
            row = list(pick([*found, ""])[:-1])
        else:
            cells = dict(zip(own, found, strict=False))
            for number, surplus in enumerate(found[len(own) :], start=1):
                cells[f"{EXTRA}{number}"] = surplus
            row = [cells.get(name, "") for name in self.names or ()]
        shown = list(map(plain, row))
        return written(shown, self.delimiter)[:-1], shown != row

    def written(self, rows: RejectedRows) -> bytes:
        """Return rows as lines of the sheet; their reasons are given as sentences."""
        mark = self.delimiter
        texts, made_plain = self.texts(rows)
        told = rows.told.dictionary_encode()
        both = [
            _reasons(text, changed, mark)
            for changed in ((False, True) if made_plain.any() else (False,))
            for text in told.dictionary.to_pylist()
        ]
        code = told.indices.to_numpy() + made_plain * len(told.dictionary)
        reasons = pa.array(both, pa.string()).take(pa.array(code))
        number = rows.table["line_no"].combine_chunks().cast(pa.string())
        if self.lead:
            number = pc.binary_join_element_wise(self.lead, number, "")
        return text_of_lines(pc.binary_join_element_wise(number, reasons, texts, mark))

    def number_in(self, text: str) -> int | None:
        """Return the line number of a row of this file; None when it is not plain to see."""
        if not text.startswith(self.lead):
            return None
        start = len(self.lead)
        number = text[start : text.find(self.delimiter, start)]
        return (
            int(number) if number.isascii() and number.isdecimal() and len(number) <= 18 else None
        )

    def untouched(self, text: str, number: int, own: str) -> bool:
        """Return whether a row stands there as it was written, whatever its reasons were then.

        Args:
            text: the line that it stands on.
            number: its line number.
            own: as `texts` has it.
        """
        start = f"{self.lead}{number}{self.delimiter}"
        end = self.delimiter + own
        if not (text.startswith(start) and text.endswith(end)):
            return False
        reasons = text[len(start) : len(text) - len(end)]
        return _one_cell(self.delimiter).fullmatch(reasons) is not None


def _reasons(text: str, made_plain: bool, delimiter: str) -> str:
    text = with_reasons(text, made_plain=made_plain)
    if delimiter in text or '"' in text or "\r" in text or "\n" in text:
        doubled = text.replace('"', '""')
        return f'"{doubled}"'
    return text


@lru_cache
def _one_cell(delimiter: str) -> re.Pattern[str]:
    """Return what matches one cell that is not empty."""
    return re.compile(f'"(?:[^"]|"")+"|[^"{delimiter}]+')
