"""Read: from a file's bytes to blocks of whole lines, hashed on the way.

A file is opened read-only and never through a link. Small files are held in memory and those with
the same header share a block, so that many files cost one parse; large ones are streamed, so that
memory does not grow with their size. What is unusable as a whole is refused here, with what was
found.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from pipeline.budget import ALWAYS_ALLOWED
from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.header import MAX_HEADER_BYTES, recognise
from pipeline.core.records import Block, Ints
from pipeline.core.sections import Sections
from pipeline.errors import FileChanged, FileRefused
from pipeline.files.asides import identity
from pipeline.files.disk import trouble
from pipeline.inflate import decoded
from pipeline.records import Content
from pipeline.unstored import first_type, refuse

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_HASH_CHUNK = 1 << 20
_CONTROL = re.compile(r"[\0-\x08\x0a-\x1f]")
_SHORT_LINE = 48  # bytes; shorter ones are no readings, and what is told of each takes room

# What people drop by mistake, by its first bytes.
_KINDS_BY_MAGIC = {
    b"PK\x03\x04": "a ZIP archive or Excel workbook",
    b"PAR1": "a Parquet file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a Zstandard file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF document",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x7fELF": "a program",
    # What is compressed once was inflated by now.
    b"\x1f\x8b": "compressed with gzip twice: decompress it once",
}
_OLD_MAC = bytes.maketrans(b"\r", b"\n")
_TAR_MAGIC, _TAR_AT = b"ustar", 257


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file may be in memory, and what is too much.

    Attributes:
        block_bytes: text that is handled at a time.
        max_line_bytes: a longer line refuses the file.
        max_inflated_bytes: a compressed file that inflates to more is refused.
        max_amplification: and so is one that inflates to so many times its size.
    """

    block_bytes: int
    max_line_bytes: int
    max_inflated_bytes: int
    max_amplification: int = 200

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return those of a site."""
        limits = settings.limits
        return cls(
            settings.load.block_bytes,
            limits.max_line_bytes,
            limits.max_inflated_bytes,
            limits.max_amplification,
        )


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, never through a link.

    Raises:
        FileChanged: it is gone, or no longer a regular file.
        DiskTrouble: it may not be read.
    """
    try:
        # O_NONBLOCK: a FIFO that took the file's name must not hang us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENOTDIR}:
            message = f"{path.name}: is gone, or no longer a regular file"
            raise FileChanged(message) from error
        raise trouble(error, path, "read") from error
    # Before the descriptor becomes a file: Python refuses to make one of a folder.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        message = f"{path.name}: is no longer a regular file"
        raise FileChanged(message)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            yield file
        except OSError as error:
            raise trouble(error, path, "read") from error


def content(path: Path, hold_bytes: int, alive: Callable[[], None] = lambda: None) -> Content:
    """Hash a file, and hold its bytes when they are at most `hold_bytes`.

    Args:
        path: the file.
        hold_bytes: the most bytes to hold.
        alive: called now and then; what it raises ends the reading.

    Raises:
        FileChanged: it vanished or grew meanwhile.
        DiskTrouble: it may not be read.
    """
    with opened(path) as file:
        found = os.fstat(file.fileno())
        size = found.st_size
        known_by = identity(found)
        if size <= hold_bytes:
            held = _read_exactly(file, size, path)
            _refuse_changed(file, known_by, path)
            return Content(path, size, hashlib.sha256(held).hexdigest(), held, known_by)
        digest = hashlib.sha256()
        total = 0
        while chunk := file.read(_HASH_CHUNK):
            alive()
            digest.update(chunk)
            total += len(chunk)
        if total != size:
            raise FileChanged(_changed(path))
        _refuse_changed(file, known_by, path)
        return Content(path, size, digest.hexdigest(), None, known_by)


def _refuse_changed(file: BinaryIO, before: tuple[int, ...], path: Path) -> None:
    # Rewritten in place, it may be of the same size.
    if identity(os.fstat(file.fileno())) != before:
        raise FileChanged(_changed(path))


def _read_exactly(file: BinaryIO, size: int, path: Path) -> bytes:
    parts = bytearray()
    while chunk := file.read(max(1, size + 1 - len(parts))):
        parts += chunk
    if len(parts) != size:
        raise FileChanged(_changed(path))
    return bytes(parts)


def _changed(path: Path) -> str:
    return f"{path.name}: was written to while it was being read; it will be looked at again"


def blocks(
    item: Content,
    file: int,
    contract: Contract,
    limits: Limits,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[Block]:
    """Read one file as blocks of at most about `limits.block_bytes` of text.

    A file with a header and nothing else gives one block without lines.

    Args:
        item: the file.
        file: its position in the batch, for the segments.
        contract: the models in force.
        limits: bounds on memory.
        alive: called now and then, also while nothing comes of it; what it raises ends the reading.

    Raises:
        FileRefused: it is unusable as a whole. May come after some blocks.
        FileChanged: its bytes are no longer those that were hashed. May come after some blocks.
        DiskTrouble: it can no longer be read. May come after some blocks.
    """
    try:
        yield from _blocks(item, file, contract, limits, alive)
    except FileRefused:
        # The verdict stands in the ledger under the hash, so the hash must be of these bytes.
        if item.held is None and content(item.path, 0, alive).sha256 != item.sha256:
            raise FileChanged(_changed(item.path)) from None
        raise


def _blocks(
    item: Content, file: int, contract: Contract, limits: Limits, alive: Callable[[], None]
) -> Iterator[Block]:
    pieces = _pieces(item, limits, alive)
    first, skipped = _first_text(pieces, limits)
    line, end = _header_line(first)
    header = recognise(line, contract)
    at_line = skipped + 2  # the header itself is line `skipped + 1`
    text = first[end:]
    if name := first_type(text, header, contract):
        refuse(name, header, _rows_again(item, text, limits, alive))
    sections = Sections(file, header, contract, item.sha256)
    while True:
        _refuse_long_line(text, at_line, limits)
        for some, ends in _of_few_lines(text, limits.block_bytes // _SHORT_LINE):
            several = list(merged(sections.cut(some, ends, at_line), limits.block_bytes))
            sections.count(len(several))
            yield from several
            at_line += len(ends)
        following = next(pieces, None)
        if following is None:
            return
        text = following


def _rows_again(
    item: Content, text: bytes, limits: Limits, alive: Callable[[], None]
) -> Iterator[bytes]:
    """Yield the rows of a file of which the first are at hand, apart from the reading proper."""
    yield text
    pieces = _pieces(item, limits, alive)
    _first_text(pieces, limits)
    yield from pieces


def _of_few_lines(text: bytes, most: int) -> Iterator[tuple[bytes, Ints]]:
    """Cut text at every so many lines, with where each ends; readings have longer lines."""
    start = 0
    left = text.count(b"\n")
    while left > most:
        # No further than so many bytes at a time: where each of millions of lines ends takes room.
        found: list[Ints] = []
        end = count = 0
        while count < most:
            some = np.frombuffer(text, np.uint8, min(most, len(text) - start - end), start + end)
            ends = np.flatnonzero(some == ord("\n"))[: most - count] + 1
            count += len(ends)
            found.append(ends + end)
            end += int(ends[-1]) if count == most else len(some)
        yield text[start : start + end], np.concatenate(found)
        start += end
        left -= most
    rest = text[start:]
    yield rest, np.flatnonzero(np.frombuffer(rest, np.uint8) == ord("\n")) + 1


def merged(parts: list[Block], block_bytes: int) -> Iterator[Block]:
    """Put blocks with the same header together, up to `block_bytes` of text each.

    They get no more lines than blocks of a large file, however short these are.

    Files with the same kinds of readings keep their order, also where their headers differ: the
    first of two readings of the same sensor and time is the one that stays.
    """
    by_columns: dict[frozenset[str], list[_Run]] = {}
    for part in parts:
        runs = by_columns.setdefault(part.header.readings, [])
        if not runs or not runs[-1].add(part, block_bytes):
            runs.append(_Run([part], len(part.text), _lines(part)))
    for runs in by_columns.values():
        for run in runs:
            yield _joined(run.parts)


@dataclass(slots=True)
class _Run:
    parts: list[Block]
    size: int
    lines: int

    def add(self, part: Block, limit: int) -> bool:
        """Add a block if it has the same header and there is room; say whether."""
        first = self.parts[0].header
        same = (first.delimiter, first.line) == (part.header.delimiter, part.header.line)
        size, lines = self.size + len(part.text), self.lines + _lines(part)
        if not same or size > limit or lines > limit // _SHORT_LINE:
            return False
        self.parts.append(part)
        self.size, self.lines = size, lines
        return True


def _lines(block: Block) -> int:
    return sum(segment.lines for segment in block.segments)


def _joined(run: list[Block]) -> Block:
    if len(run) == 1:
        return run[0]
    text = b"".join(part.text for part in run)
    return Block(run[0].header, text, tuple(s for part in run for s in part.segments))


def _pieces(item: Content, limits: Limits, alive: Callable[[], None]) -> Iterator[bytes]:
    """Yield the file's text in pieces of whole lines, each ended by a newline."""
    carried: list[bytes] = []
    length = 0
    old_mac: bool | None = None
    for chunk in _inflated(item, limits, alive):
        alive()
        if old_mac is None:
            old_mac = b"\r" in chunk and b"\n" not in chunk
        if old_mac:
            # Carriage returns alone end the lines: Excel's format 'CSV (Macintosh)'.
            chunk = chunk.translate(_OLD_MAC)
        # Only the last chunk is short. A last line without its end gets one here: as a piece of its
        # own it would keep a small file from sharing a block.
        last = item.held is not None and len(chunk) < limits.block_bytes
        if last and not chunk.endswith(b"\n"):
            chunk += b"\n"
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            carried.append(chunk)
            length += len(chunk)
            if length > limits.max_line_bytes:
                # The rest is of no use: the line that it belongs to refuses the file.
                break
            continue
        yield b"".join((*carried, chunk[:cut]))
        carried = [chunk[cut:]]
        length = len(carried[0])
    if length:
        yield b"".join((*carried, b"\n"))


def _inflated(item: Content, limits: Limits, alive: Callable[[], None]) -> Iterator[bytes]:
    most = ALWAYS_ALLOWED + limits.max_amplification * item.size
    setting = "max_amplification"
    if most >= limits.max_inflated_bytes:
        most, setting = limits.max_inflated_bytes, "max_inflated_bytes"
    if item.held is not None:
        sizes = itertools.repeat(limits.block_bytes)
        yield from decoded(io.BytesIO(item.held), sizes, most, setting, alive)
        return
    with opened(item.path) as file:
        hashed = _Hashed(file)
        # The first blocks are shorter, so that whoever loads them need not wait for a long one; and
        # they grow slowly, so that the next is ready when one is loaded.
        growing = itertools.chain(
            (limits.block_bytes * eighths // 8 for eighths in (4, 5, 6)),
            itertools.repeat(limits.block_bytes),
        )
        buffered = io.BufferedReader(hashed, _HASH_CHUNK)
        yield from decoded(buffered, growing, most, setting, alive)
        if hashed.digest.hexdigest() != item.sha256:
            raise FileChanged(_changed(item.path))


class _Hashed(io.RawIOBase):
    """Passes a file through and hashes it: what is loaded is what the ledger names."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: Buffer
        chunk = self._file.read(len(buffer))
        self.digest.update(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _first_text(pieces: Iterator[bytes], limits: Limits) -> tuple[bytes, int]:
    """Return the text from the header on, and how many lines stood before it (blank ones)."""
    skipped = 0
    for number, piece in enumerate(pieces):
        text = piece
        if number == 0:
            _refuse_binary(text)
            text = text.removeprefix(_UTF8_BOM)
        stripped = text.lstrip(b"\r\n")
        skipped += text.count(b"\n", 0, len(text) - len(stripped))
        if stripped:
            _refuse_long_line(stripped[: limits.max_line_bytes + 2], skipped + 1, limits)
            return stripped, skipped
    found = "has 0 bytes" if not skipped else "holds blank lines only"
    raise FileRefused("empty", f"{found}: there is no header")


def _header_line(text: bytes) -> tuple[str, int]:
    end = text.index(b"\n") + 1
    raw = text[: min(end, MAX_HEADER_BYTES + 1)].rstrip(b"\r\n")
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        # A letter may have been cut in two.
        if len(raw) <= MAX_HEADER_BYTES or error.start < MAX_HEADER_BYTES - 3:
            message = (
                f"the first line is not UTF-8 text: byte 0x{raw[error.start]:02X} "
                f"at position {error.start + 1}"
            )
            raise FileRefused("binary", message) from None
        line = raw.decode(errors="ignore")
    if found := _CONTROL.search(line):
        message = (
            f"the first line is not text: it holds control character "
            f"0x{ord(found[0]):02X} at position {found.start() + 1}"
        )
        raise FileRefused("binary", message)
    if len(raw) > MAX_HEADER_BYTES:
        message = (
            f"the first line has more than {MAX_HEADER_BYTES:,} bytes: it is not a header of "
            f"air-quality readings; found: {line[:200] + '…'!r}"
        )
        raise FileRefused("unknown_header", message)
    return line, end


def _refuse_binary(text: bytes) -> None:
    head = text[:4096]
    pairs = head[: len(head) // 2 * 2]
    # ASCII text in UTF-16 has a NUL in every other byte, also without a byte order mark.
    nul_every_other = len(pairs) >= 8 and (not any(pairs[:64:2]) or not any(pairs[1:64:2]))
    if head.startswith(_UTF16_BOMS) or nul_every_other:
        message = "the file is UTF-16 text; save it as UTF-8 (in Excel: 'CSV UTF-8')"
        raise FileRefused("utf16", message)
    if head[_TAR_AT : _TAR_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        message = "this is a tar archive, not a CSV file (whatever its name says): unpack it first"
        raise FileRefused("binary", message)
    for magic, kind in _KINDS_BY_MAGIC.items():
        if head.startswith(magic):
            message = f"this is {kind}, not a CSV file (whatever its name says)"
            raise FileRefused("binary", message)


def _refuse_long_line(text: bytes, first_line: int, limits: Limits) -> None:
    if len(text) <= limits.max_line_bytes:
        return
    start = 0
    number = first_line
    # A jump of at most the limit lands beyond the next newline, so long texts cost few steps.
    while start < len(text):
        reach = text.rfind(b"\n", start, start + limits.max_line_bytes + 1)
        if reach < 0:
            if len(text) - start <= limits.max_line_bytes:
                return
            message = (
                f"line {number:,} is longer than {limits.max_line_bytes:,} bytes "
                "(setting limits.max_line_bytes)"
            )
            raise FileRefused("line_too_long", message)
        number += text.count(b"\n", start, reach + 1)
        start = reach + 1
