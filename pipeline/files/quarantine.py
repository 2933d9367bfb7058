"""Quarantine: what could not be loaded, kept where a person can see, repair and replay it.

Per source file one CSV (line number and reasons first, then the file's own columns, untouched) and
one reason log (a JSON object per row). Where a file was joined of several, the CSV has a line of
names above the rows of each header. Names derive from the file's hash, and content from the
file, so writing again after a crash gives the same files. They are written aside, synced and
renamed, all before the transaction commits: a row is never in neither place.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from pipeline import spreadsheet
from pipeline.contract.header import Header
from pipeline.contract.rules import Reason
from pipeline.core.records import Bools, Ints
from pipeline.core.rejected import Rejected
from pipeline.errors import FileRefused
from pipeline.files.atomic import Draft, sync_folder, writing_text
from pipeline.files.disk import disk_trouble
from pipeline.files.permissions import make_folder
from pipeline.records import Content

if TYPE_CHECKING:
    import pyarrow as pa

LEADING = ("line_no", "reasons")
_HASH_DIGITS = 12
_NAME_BYTES = 255
# Written out, rows take several times the memory that they take as columns.
_ROWS_AT_A_TIME = 8192
# A line that does not go into a CSV for people as it is: there is more in it than printable ASCII,
# or a quotation mark, or what a spreadsheet would calculate. RE2's grammar, by the byte.
_NOT_AS_IT_IS = r"[^ !#-~]|" + spreadsheet.LIVE_LINE
_quoted = json.encoder.encode_basestring  # what `dumps` does to a string that may be Unicode

# A field may be as long as a line, whose length `read` limits.
csv.field_size_limit(2**30)


@dataclass(slots=True)
class _Output:
    parts: tuple[tuple[Draft, Path], ...]
    csv_file: TextIO
    log_file: TextIO
    delimiter: str
    header: Header


class Quarantine:
    """The quarantine outputs of one batch. Use as `with quarantine(…) as output`."""

    def __init__(self, folder: Path, files: Sequence[Content]) -> None:
        self._folder = folder
        self._files = files
        self._open: dict[int, _Output] = {}

    def add(
        self,
        header: Header,
        rejected: Rejected,
        repaired: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Write rejected rows of files with this header.

        Args:
            header: what names their columns.
            rejected: the rows, by file and line.
            repaired: line number → its fields as a person has left them so far, which the CSV
                then shows.

        Raises:
            DiskTrouble: the folder cannot be written to.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        words: dict[str, pa.Array] = {}
        with disk_trouble(self._folder):
            for file, start, end in _runs(rejected.file):
                output = self._output(file, header)
                delimiter = output.delimiter
                if delimiter not in words:
                    both = [
                        _words(told, delimiter, made_plain=made_plain)
                        for made_plain in (False, True)
                        for told in rejected.told
                    ]
                    words[delimiter] = pa.array(both, pa.string())
                code = rejected.code[start:end]
                number = pa.array(rejected.line_no[start:end]).cast(pa.string())
                lines = rejected.lines.slice(start, end - start)
                numbers = rejected.line_no[start:end]
                own, made_plain = shown(lines, numbers, header, repaired, delimiter)
                quoted = _as_strings(lines)
                why = words[delimiter].take(pa.array(code + made_plain * len(rejected.told)))
                row = pc.binary_join_element_wise(number, why, own, delimiter)
                output.csv_file.write(_text(row))
                leading = f'{{"file": {_quoted(display_name(self._files[file].path))}, "line_no": '
                reasons = rejected.json.take(pa.array(code))
                parts = (leading, number, ', "line": ', quoted, ', "reasons": ', reasons, "}")
                output.log_file.write(_text(pc.binary_join_element_wise(*parts, "")))

    def publish(self) -> None:
        """Put everything in place, durably.

        Raises:
            DiskTrouble: the folder cannot be written to; nothing was published that is not whole.
        """
        with disk_trouble(self._folder):
            for output in self._open.values():
                for draft, path in output.parts:
                    draft.publish(path)
            if self._open:
                sync_folder(self._folder)

    def close(self) -> None:
        """Give up what was not published."""
        for output in self._open.values():
            for draft, _ in output.parts:
                draft.close()

    def _output(self, file: int, header: Header) -> _Output:
        """Return where rows of a file go, below a header of theirs."""
        output = self._open.get(file)
        if output is None:
            content = self._files[file]
            csv_path, log_path = (self._folder / name for name in _names(base_name(content)))
            make_folder(self._folder)
            shown, log = self._drafts(2)
            # The byte order mark tells spreadsheets that this is UTF-8.
            files = shown.text("utf-8-sig"), log.text()
            parts = ((shown, csv_path), (log, log_path))
            output = _Output(parts, *files, header.delimiter, header)
            self._open[file] = output
        elif output.header.line == header.line:
            return output
        output.header = header
        names = fields(header, header.line.encode())
        output.csv_file.write(written([*LEADING, *map(spreadsheet.plain, names)], output.delimiter))
        return output

    def _drafts(self, number: int) -> list[Draft]:
        with ExitStack() as stack:
            drafts = [stack.enter_context(Draft(self._folder)) for _ in range(number)]
            stack.pop_all()
        return drafts


@contextmanager
def quarantine(folder: Path, files: Sequence[Content]) -> Iterator[Quarantine]:
    """Collect the rejected rows of a batch; what is not published at the end is given up."""
    output = Quarantine(folder, files)
    try:
        yield output
    finally:
        output.close()


def refuse(folder: Path, content: Content, refusal: FileRefused) -> None:
    """Write the reason file of a file that is unusable as a whole.

    Raises:
        DiskTrouble: the folder cannot be written to.
    """
    base = base_name(content)
    reason = folder / f"{base}.refused.json"
    told: dict[str, object] = {
        "file": display_name(content.path),
        "sha256": content.sha256,
        "bytes": content.size,
        "rule": refusal.rule,
        "message": refusal.message,
    }
    if refusal.sample:
        told["sample"] = list(refusal.sample)
    with disk_trouble(folder):
        make_folder(folder)
        # An attempt that failed late may have published rows of it: now the whole file is there.
        for name in _names(base):
            (folder / name).unlink(missing_ok=True)
        with writing_text(reason) as file:
            file.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")


def refused_name(content: Content) -> str:
    """Return the name that a refused file has in quarantine, beside its reason file."""
    return f"{base_name(content)}.refused{_endings(content.path)}"


def base_name(content: Content) -> str:
    """Return the name, without ending, that a file's quarantine output has.

    The file's own name, shortened in bytes if need be, then digits of its hash.
    """
    stem = content.path.name.removesuffix(_endings(content.path))
    suffix = f".{content.sha256[:_HASH_DIGITS]}"
    # Names that were given once stay, so this stays too: a draft's name was longer then.
    budget = _NAME_BYTES - len(suffix) - len(".refused.csv.gz") - len("..part")
    raw = os.fsencode(stem)
    if len(raw) > budget:
        # Not within a character: a broken one could not be written on some filesystems.
        stem = raw[:budget].decode(errors="ignore")
    return f"{stem}{suffix}"


def display_name(path: Path) -> str:
    """Return a file's name as text, whatever its bytes."""
    return os.fsencode(path.name).decode(errors="backslashreplace")


def _names(base: str) -> tuple[str, str]:
    return f"{base}.csv", f"{base}.reasons.jsonl"


def _endings(path: Path) -> str:
    name = path.name.lower()
    for ending in (".csv.gz", ".csv", ".gz"):
        if name.endswith(ending):
            return path.name[-len(ending) :]
    return path.suffix


def not_as_they_are(lines: pa.Array, header: Header) -> Bools:
    """Return which lines a CSV for people cannot show just as they are, field by field."""
    import pyarrow.compute as pc

    if _leading(header):
        return np.ones(len(lines), bool)
    found: Bools = pc.match_substring_regex(lines, _NOT_AS_IT_IS).to_numpy(zero_copy_only=False)
    return found


def written(row: Sequence[str], delimiter: str) -> str:
    """Return a row as CSV, its line end included."""
    # A stray carriage return would end the row for some readers. Quoting keeps it in, and Python
    # quotes it only where it is part of the line end.
    plain = delimiter.join(row)
    if plain.count(delimiter) == len(row) - 1 and plain and not _special(plain):
        return plain + "\n"
    text = StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(row)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _runs(file: Ints) -> Iterator[tuple[int, int, int]]:
    """Yield each file with where its rows start and end, not too many at a time."""
    starts = np.flatnonzero(np.diff(file, prepend=-1))
    for first, last in pairwise([*starts.tolist(), len(file)]):
        for start in range(first, last, _ROWS_AT_A_TIME):
            yield int(file[start]), start, min(start + _ROWS_AT_A_TIME, last)


def _words(told: tuple[Reason, ...], delimiter: str, *, made_plain: bool) -> str:
    text = " | ".join(reason.message for reason in told)
    return written([with_reasons(text, made_plain=made_plain)], delimiter)[:-1]


def with_reasons(text: str, *, made_plain: bool) -> str:
    """Return the cell that says why a row was rejected.

    Args:
        text: the sentences.
        made_plain: whether another cell of the row does not stand there as it was.
    """
    if made_plain:
        text = f"{text} | {spreadsheet.MARK}" if text else spreadsheet.MARK
    return spreadsheet.plain(text)


def shown(
    lines: pa.Array,
    line_no: Ints,
    header: Header,
    repaired: Mapping[int, Sequence[str]] | None = None,
    delimiter: str | None = None,
) -> tuple[pa.Array, Ints]:
    """Return lines as the CSV shows them, without our two columns.

    Args:
        lines: the lines, as bytes.
        line_no: their numbers.
        header: what names their columns.
        repaired: line number → its fields as a person has left them so far.
        delimiter: what separates them there; None: what does in the file.

    Returns:
        The lines, and for each 1 if something in it was made plain, else 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    changed = repaired or {}
    made_plain = np.zeros(len(lines), np.int64)
    delimiter = delimiter or header.delimiter
    if delimiter != header.delimiter:
        slow = np.ones(len(lines), bool)
    else:
        slow = not_as_they_are(lines, header)
        if changed:
            slow = slow | np.isin(line_no, np.fromiter(changed, np.int64, len(changed)))
    if not slow.any():
        return lines.cast(pa.string()), made_plain
    own = []
    given = lines.filter(pa.array(slow)).to_pylist()
    for at, line in zip(np.flatnonzero(slow).tolist(), given, strict=True):
        found = changed.get(int(line_no[at])) or fields(header, line)
        cells = list(map(spreadsheet.plain, found))
        made_plain[at] = cells != list(found)
        own.append(written(cells, delimiter)[:-1])
    mask = pa.array(slow)
    # What is not UTF-8 is among the masked ones.
    rest = pc.if_else(mask, pa.scalar(None, pa.binary()), lines).cast(pa.string())
    return pc.replace_with_mask(rest, mask, pa.array(own, pa.string())), made_plain


def _as_strings(lines: pa.Array) -> pa.Array:
    """Return lines as JSON strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _needs_quoting(lines):
        return pc.binary_join_element_wise('"', lines.cast(pa.string()), '"', "")
    quoted = [_quoted(line.decode(errors="replace")) for line in lines.to_pylist()]
    return pa.array(quoted, pa.string())


def _needs_quoting(lines: pa.Array) -> bool:
    """Whether some line is more than printable ASCII, or holds what CSV or JSON would quote."""
    offsets = np.frombuffer(lines.buffers()[1], np.int32)[lines.offset :]
    letters = np.frombuffer(lines.buffers()[2] or b"", np.uint8)
    letters = letters[offsets[0] : offsets[len(lines)]]
    special = (letters < 0x20) | (letters > 0x7E) | (letters == ord('"')) | (letters == ord("\\"))
    return bool(special.any())


def _text(rows: pa.Array) -> str:
    """Return rows as lines."""
    import pyarrow.compute as pc

    ended = pc.binary_join_element_wise(rows, "", "\n")
    return "".join(ended.to_pylist())


def _special(text: str) -> bool:
    """Whether a text holds what makes CSV more than text between delimiters."""
    return '"' in text or "\r" in text or "\n" in text


def _fields(line: str, delimiter: str) -> list[str]:
    if line and not _special(line):
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return line.split(delimiter)


def fields(header: Header, line: bytes) -> list[str]:
    """Return the fields of a line as the CSV shows them.

    A quarantine file that is dropped as it is carries our two columns already: they are left out.
    """
    return _fields(line.decode(errors="replace"), header.delimiter)[_leading(header) :]


def own_names(header: Header) -> tuple[str, ...]:
    """Return the names of the columns of which `fields` returns the fields."""
    return header.names[_leading(header) :]


def _leading(header: Header) -> int:
    """Return how many columns in front are ours."""
    return len(LEADING) if header.names[: len(LEADING)] == LEADING else 0


def reset(folder: Path, sha256: str) -> None:
    """Remove the CSV and the reason log of a file none of whose rows waits any longer.

    Raises:
        DiskTrouble: they cannot be removed.
    """
    with disk_trouble(folder):
        for path in outputs(folder, sha256):
            path.unlink(missing_ok=True)
        if folder.is_dir():
            sync_folder(folder)


def outputs(folder: Path, sha256: str) -> list[Path]:
    """Return the CSV and the reason log of a file, those that are there, in this order."""
    endings = tuple(f".{sha256[:_HASH_DIGITS]}{ending}" for ending in (".csv", ".reasons.jsonl"))
    found: tuple[list[str], list[str]] = ([], [])
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(endings) and not entry.name.startswith("."):
                found[not entry.name.endswith(endings[0])].append(entry.name)
    return [folder / name for names in found for name in sorted(names)]


def digits_in(name: str) -> list[str]:
    """Return what may be the digits of a hash in the name of a quarantine file, the last first."""
    return re.findall(rf"(?<![0-9a-f])[0-9a-f]{{{_HASH_DIGITS}}}(?![0-9a-f])", name)[::-1]


def refused_copies(folder: Path, sha256: str) -> tuple[list[Path], list[Path]]:
    """Return where a refused file lies, and its reason file."""
    found = sorted(folder.glob(f"*.{sha256[:_HASH_DIGITS]}.refused*"))
    reasons = [path for path in found if path.name.endswith(".refused.json")]
    return [path for path in found if path not in reasons], reasons
