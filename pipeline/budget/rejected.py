"""What one file may leave in quarantine, in proportion to its size.

The absolute limits are for files of a usual size. A large one may have more rejected rows as long
as they are a small share of it: bad rows do not cost the good ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from pipeline.budget.bounds import ALWAYS_ALLOWED, Bounds
from pipeline.contract import Reason
from pipeline.core.rejected import Rejected
from pipeline.errors import FileRefused

# A share says little of a few rows: below so many a file is never refused on its account.
FEWEST_ROWS = 10_000
# A rejected row takes up to about so many times its own bytes, in a CSV and a log with reasons.
_GROWTH = 10
_SAMPLE_LINES = 5
_SAMPLE_BYTES = 200
# What is written around each rejected row and each of its reasons, roughly, in bytes.
_ROW_OVERHEAD = 100
_REASON_OVERHEAD = 90
_UNSPLIT = {"width", "quote", "nul_byte", "encoding", "repeated_header"}
_UNREADABLE = {"null", "type", "timestamp", "spreadsheet_date", "not_finite", "decimal_comma"}


class Tally:
    """What a file leaves in quarantine, counted while it is read.

    Args:
        bounds: what a file may cost.
        size: the file's own bytes, as it lies on the disk.
    """

    def __init__(self, bounds: Bounds, size: int) -> None:
        self._bounds = bounds
        self._size = size
        self._text = 0
        self._read = 0
        self._malformed = 0
        self._rows = 0
        self._lines = 0
        self._bytes = 0
        self._sample: list[tuple[int, str, str]] = []

    def add(self, read: int, rejected: Rejected, text: int = 0) -> None:
        """Count rows of the file.

        Args:
            read: how many were read.
            rejected: those of them, or of earlier ones, that are rejected.
            text: bytes of text that they were read from, as far as known; of a compressed file
                there may be far more than `size`.

        Raises:
            FileRefused: rule `mostly_malformed` or `too_many_rejected`: the file is of no use, or
                would fill the disk.
        """
        import pyarrow.compute as pc

        self._read += read
        self._text += text
        if not len(rejected):
            return
        times = np.bincount(rejected.code, minlength=len(rejected.told))
        malformed = np.fromiter(map(_is_malformed, rejected.told), bool, len(rejected.told))
        size = np.fromiter(map(_written_bytes, rejected.told), np.int64, len(rejected.told))
        self._malformed += int(times[malformed].sum())
        self._rows += len(rejected)
        lines = pc.sum(pc.binary_length(rejected.lines)).as_py() or 0
        self._lines += lines + len(rejected)
        self._bytes += 2 * lines + _ROW_OVERHEAD * len(rejected) + int((times * size).sum())
        if len(self._sample) < _SAMPLE_LINES:
            self._sample += _first(rejected, _SAMPLE_LINES - len(self._sample))
        self._refuse()

    def _refuse(self) -> None:
        bounds = self._bounds
        if (
            self._read >= FEWEST_ROWS
            and self._malformed > bounds.max_malformed_share * self._read
            and self._malformed
        ):
            message = (
                f"{self._malformed:,} of its first {self._read:,} rows cannot be split into "
                "fields, or have neither a sensor nor a time (setting limits.max_malformed_share); "
                f"for example line {self._sample[0][0]:,}: {self._sample[0][2]}"
            )
            raise FileRefused("mostly_malformed", message, self._samples())
        share = bounds.max_quarantined_share
        # Bad rows may all stand at the start of a file: of a plain one it is known what follows.
        text = max(self._size, self._text)
        many = self._rows > share * self._read and self._lines > share * text
        in_proportion = max(bounds.max_quarantined_bytes, int(_GROWTH * share * text))
        amplified = ALWAYS_ALLOWED + bounds.max_amplification * self._size
        if self._rows > bounds.max_quarantined_rows and many:
            limit = (
                f"{bounds.max_quarantined_rows:,} rows (setting limits.max_quarantined_rows), or "
                f"{share:.0%} of all (setting limits.max_quarantined_share)"
            )
        elif self._bytes > min(in_proportion, amplified):
            name = "max_quarantined_bytes"
            if amplified < in_proportion:
                name = "max_amplification"
            elif in_proportion > bounds.max_quarantined_bytes:
                name = "max_quarantined_share"
            limit = f"{min(in_proportion, amplified):,} bytes (setting limits.{name})"
        else:
            return
        message = (
            f"{self._rows:,} of its first {self._read:,} rows are rejected, which would take about "
            f"{self._bytes:,} bytes in quarantine/; at most {limit} may be; for example "
            f"line {self._sample[0][0]:,}: {self._sample[0][2]}"
        )
        raise FileRefused("too_many_rejected", message, self._samples())

    def _samples(self) -> tuple[dict[str, object], ...]:
        return tuple(
            {"line_no": number, "line": line, "reason": reason}
            for number, line, reason in self._sample
        )


def rejected_of(rejected: Rejected, files: Iterable[int]) -> Iterator[tuple[int, Rejected]]:
    """Yield each of these files with its part of rejected rows, which are ordered by file."""
    for file in files:
        if not len(rejected):
            yield file, rejected
            continue
        start, end = np.searchsorted(rejected.file, [file, file + 1])
        if end - start == len(rejected):
            yield file, rejected
            continue
        used, code = np.unique(rejected.code[start:end], return_inverse=True)
        yield (
            file,
            Rejected(
                rejected.file[start:end],
                rejected.line_no[start:end],
                rejected.lines.slice(start, end - start),
                [rejected.told[each] for each in used.tolist()],
                code,
            ),
        )


def refused_files(
    bounds: Bounds, sizes: Mapping[int, int], read: Mapping[int, int], rejected: Rejected, text: int
) -> dict[int, FileRefused]:
    """Return which of the files that share a block are to be refused, and why.

    Args:
        bounds: what a file may cost.
        sizes: file → its own bytes.
        read: file → how many rows it has.
        rejected: those of them that are rejected.
        text: bytes of the block.
    """
    refused = {}
    own_text = text if len(read) == 1 else 0
    for file, own in rejected_of(rejected, read):
        try:
            Tally(bounds, sizes[file]).add(read[file], own, own_text)
        except FileRefused as refusal:
            refused[file] = refusal
    return refused


def _first(rejected: Rejected, count: int) -> list[tuple[int, str, str]]:
    """Return number, text and reason of the first rejected lines, not too much of each."""
    sample = []
    for row in range(min(count, len(rejected))):
        whole = rejected.lines[row].as_py()
        line = whole[:_SAMPLE_BYTES].decode(errors="replace").replace("\0", "\ufffd")
        shown = line if len(whole) <= _SAMPLE_BYTES else f"{line}…"
        reason = rejected.told[int(rejected.code[row])][0].message
        sample.append((int(rejected.line_no[row]), shown, reason))
    return sample


def _is_malformed(reasons: tuple[Reason, ...]) -> bool:
    """Whether a row with these reasons is no reading of anything at any time."""
    if reasons[0].column is None:
        return reasons[0].rule in _UNSPLIT
    unreadable = {reason.column for reason in reasons if reason.rule in _UNREADABLE}
    return {"sensor_id", "timestamp"} <= unreadable


def _written_bytes(reasons: tuple[Reason, ...]) -> int:
    return sum(
        _REASON_OVERHEAD
        + 2 * len(reason.message)
        + len(reason.value or "")
        + len(reason.expected or "")
        for reason in reasons
    )
