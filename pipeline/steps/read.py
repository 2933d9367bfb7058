"""Read: from a file's bytes to blocks of whole lines, hashed on the way.

A file is opened read-only and never through a link. Small files are held in memory and those with
the same header share a block, so that many files cost one parse; large ones are streamed, so that
memory does not grow with their size. What is unusable as a whole is refused here, with what was
found.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import itertools
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.errors import DiskTrouble, FileChanged, FileRefused
from pipeline.records import Block, Content, Segment

_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_HASH_CHUNK = 1 << 20
_SHORT_LINE = 16  # bytes; shorter ones are no readings, and what is told of each takes room

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
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file may be in memory, and what is too much.

    Attributes:
        block_bytes: text that is handled at a time.
        max_line_bytes: a longer line refuses the file.
        max_inflated_bytes: a compressed file that inflates to more is refused.
    """

    block_bytes: int
    max_line_bytes: int
    max_inflated_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return those of a site."""
        return cls(settings.block_bytes, settings.max_line_bytes, settings.max_inflated_bytes)


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
        message = f"{path}: cannot be read: {error.strerror}"
        raise DiskTrouble(message) from error
    # Before the descriptor becomes a file: Python refuses to make one of a folder.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        message = f"{path.name}: is no longer a regular file"
        raise FileChanged(message)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        try:
            yield file
        except OSError as error:
            message = f"{path}: cannot be read: {error.strerror or error}"
            raise DiskTrouble(message) from error


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
        identity = (found.st_dev, found.st_ino, size, found.st_mtime_ns)
        if size <= hold_bytes:
            held = _read_exactly(file, size, path)
            return Content(path, size, hashlib.sha256(held).hexdigest(), held, identity)
        digest = hashlib.sha256()
        total = 0
        while chunk := file.read(_HASH_CHUNK):
            alive()
            digest.update(chunk)
            total += len(chunk)
        if total != size:
            raise FileChanged(_changed(path))
        return Content(path, size, digest.hexdigest(), None, identity)


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
    while True:
        _refuse_long_line(text, at_line, limits)
        for some, count in _of_few_lines(text, limits.block_bytes // _SHORT_LINE):
            yield Block(header, some, (Segment(file, at_line, count),))
            at_line += count
        following = next(pieces, None)
        if following is None:
            return
        text = following


def _of_few_lines(text: bytes, most: int) -> Iterator[tuple[bytes, int]]:
    """Cut text at every so many lines, and count them; readings have longer lines than that."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
    if len(ends) <= most:
        yield text, len(ends)
        return
    start = 0
    for at in range(0, len(ends), most):
        some = ends[at : at + most]
        yield text[start : some[-1]], len(some)
        start = int(some[-1])


def merged(parts: list[Block], block_bytes: int) -> Iterator[Block]:
    """Put blocks with the same header together, up to `block_bytes` of text each.

    Files with the same kinds of readings keep their order, also where their headers differ: the
    first of two readings of the same sensor and time is the one that stays.
    """
    by_columns: dict[frozenset[str], list[_Run]] = {}
    for part in parts:
        runs = by_columns.setdefault(part.header.readings, [])
        if not runs or not runs[-1].add(part, block_bytes):
            runs.append(_Run([part], len(part.text)))
    for runs in by_columns.values():
        for run in runs:
            yield _joined(run.parts)


@dataclass(slots=True)
class _Run:
    parts: list[Block]
    size: int

    def add(self, part: Block, limit: int) -> bool:
        """Add a block if it has the same header and there is room; say whether."""
        first = self.parts[0].header
        same = (first.delimiter, first.line) == (part.header.delimiter, part.header.line)
        if not same or self.size + len(part.text) > limit:
            return False
        self.parts.append(part)
        self.size += len(part.text)
        return True


def _joined(run: list[Block]) -> Block:
    if len(run) == 1:
        return run[0]
    text = b"".join(part.text for part in run)
    return Block(run[0].header, text, tuple(s for part in run for s in part.segments))


def _pieces(item: Content, limits: Limits, alive: Callable[[], None]) -> Iterator[bytes]:
    """Yield the file's text in pieces of whole lines, each ended by a newline."""
    carry = b""
    for chunk in _inflated(item, limits):
        alive()
        # Only the last chunk is short. A last line without its end gets one here: as a piece of its
        # own it would keep a small file from sharing a block.
        last = item.held is not None and len(chunk) < limits.block_bytes
        if last and not chunk.endswith(b"\n"):
            chunk += b"\n"
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            carry += chunk
            if len(carry) > limits.max_line_bytes:
                # The rest is of no use: the line that it belongs to refuses the file.
                break
            continue
        yield carry + chunk[:cut]
        carry = chunk[cut:]
    if carry:
        yield carry + b"\n"


def _inflated(item: Content, limits: Limits) -> Iterator[bytes]:
    if item.held is not None:
        yield from _decoded(io.BytesIO(item.held), itertools.repeat(limits.block_bytes), limits)
        return
    with opened(item.path) as file:
        hashed = _Hashed(file)
        # The first blocks are shorter, so that whoever loads them need not wait for a long one; and
        # they grow slowly, so that the next is ready when one is loaded.
        sizes = itertools.chain(
            (limits.block_bytes * eighths // 8 for eighths in (4, 5, 6)),
            itertools.repeat(limits.block_bytes),
        )
        yield from _decoded(io.BufferedReader(hashed, _HASH_CHUNK), sizes, limits)
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


def _decoded(file: io.BufferedIOBase, sizes: Iterator[int], limits: Limits) -> Iterator[bytes]:
    """Yield the text in chunks of these sizes; only the last is shorter."""
    magic = file.read(2)
    start = _Prefixed(magic, file)
    if magic != _GZIP_MAGIC:
        while chunk := start.read(next(sizes)):
            yield chunk
        return
    total = 0
    try:
        with gzip.GzipFile(fileobj=start, mode="rb") as inflating:
            while chunk := inflating.read(next(sizes)):
                total += len(chunk)
                if total > limits.max_inflated_bytes:
                    message = (
                        f"inflates to more than {limits.max_inflated_bytes:,} bytes "
                        "(setting max_inflated_bytes)"
                    )
                    raise FileRefused("too_large", message)
                yield chunk
    except EOFError:
        message = "the gzip stream is cut short: the file was not copied to its end"
        raise FileRefused("corrupt_gzip", message) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        message = f"the gzip stream is damaged: {error}"
        raise FileRefused("corrupt_gzip", message) from None
    # gzip stops at its end; what may follow still belongs to the file's hash.
    while start.read(_HASH_CHUNK):
        pass


class _Prefixed(io.BufferedIOBase):
    """A file whose first bytes were read already."""

    def __init__(self, prefix: bytes, rest: io.BufferedIOBase) -> None:
        self._prefix = prefix
        self._rest = rest

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        if not self._prefix:
            return self._rest.read(size)
        if size < 0:
            taken, self._prefix = self._prefix, b""
            return taken + self._rest.read()
        taken, self._prefix = self._prefix[:size], self._prefix[size:]
        return taken + self._rest.read(size - len(taken))


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
    raw = text[:end].rstrip(b"\r\n")
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        message = (
            f"the first line is not UTF-8 text: byte 0x{raw[error.start]:02X} "
            f"at position {error.start + 1}"
        )
        raise FileRefused("binary", message) from None
    for position, character in enumerate(line, start=1):
        if ord(character) < 32 and character != "\t":
            message = (
                f"the first line is not text: it holds control character "
                f"0x{ord(character):02X} at position {position}"
            )
            raise FileRefused("binary", message)
    return line, end


def _refuse_binary(text: bytes) -> None:
    head = text[:4096]
    pairs = head[: len(head) // 2 * 2]
    # ASCII text in UTF-16 has a NUL in every other byte, also without a byte order mark.
    nul_every_other = len(pairs) >= 8 and (not any(pairs[:64:2]) or not any(pairs[1:64:2]))
    if head.startswith(_UTF16_BOMS) or nul_every_other:
        message = "the file is UTF-16 text; save it as UTF-8 (in Excel: 'CSV UTF-8')"
        raise FileRefused("utf16", message)
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
                "(setting max_line_bytes)"
            )
            raise FileRefused("line_too_long", message)
        number += text.count(b"\n", start, reach + 1)
        start = reach + 1
