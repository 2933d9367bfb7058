"""Inflate: a file's bytes as text, whether they are compressed or not, within bounds.

A gzip file may consist of many members, with zeros behind them; nothing else may follow. How much
it inflates to is bounded, so that a file of a few kilobytes cannot become many gigabytes. No call
takes long without a sign of life, also where nothing comes of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from pipeline.errors import FileRefused

_GZIP_MAGIC = b"\x1f\x8b"
_WITH_GZIP_HEADER = 16 + zlib.MAX_WBITS  # zlib reads header and trailer, and checks the CRC
# Short, since what follows a member is copied once for each member.
_CHUNK = 1 << 14
_EMPTY_MEMBERS = 1000  # in a row; some programs write one


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes; none at the end."""


def decoded(
    file: Source,
    sizes: Iterator[int],
    most: int,
    setting: str,
    alive: Callable[[], None] = lambda: None,
) -> Iterator[bytes]:
    """Yield the text of a file in chunks of these sizes; only the last is shorter.

    Args:
        file: the file's bytes, from the first on.
        sizes: how long each chunk is to be, in bytes.
        most: a compressed file may inflate to so many bytes.
        setting: the setting that says so.
        alive: called now and then; what it raises ends the reading.

    Raises:
        FileRefused: the gzip stream is damaged, cut short, or inflates to too much.
    """
    start = file.read(len(_GZIP_MAGIC))
    if start != _GZIP_MAGIC:
        yield from _in_chunks(_Plain(start, file), sizes)
        return
    total = 0
    for chunk in _in_chunks(_Inflating(start, file, alive), sizes):
        total += len(chunk)
        if total > most:
            message = f"inflates to more than {most:,} bytes (setting limits.{setting})"
            raise FileRefused("too_large", message)
        yield chunk


def _in_chunks(source: Source, sizes: Iterator[int]) -> Iterator[bytes]:
    missing = next(sizes)
    parts: list[bytes] = []
    while piece := source.read(missing):
        parts.append(piece)
        missing -= len(piece)
        if not missing:
            yield b"".join(parts)
            parts = []
            missing = next(sizes)
    if parts:
        yield b"".join(parts)


class _Plain:
    """A file of which the first bytes were read already."""

    def __init__(self, start: bytes, file: Source) -> None:
        self._start = start
        self._file = file

    def read(self, size: int, /) -> bytes:
        if self._start:
            start, self._start = self._start[:size], self._start[size:]
            return start
        return self._file.read(size)


class _Inflating:
    """The text of a gzip file of which the first bytes were read already."""

    def __init__(self, start: bytes, file: Source, alive: Callable[[], None]) -> None:
        self._pending = start
        self._file = file
        self._alive = alive
        self._member: zlib._Decompress | None = zlib.decompressobj(_WITH_GZIP_HEADER)
        self._empty = 0
        self._yielded = False

    def read(self, size: int, /) -> bytes:
        try:
            while (member := self._member or self._next_member()) is not None:
                if text := self._inflated(member, size):
                    return text
        except zlib.error as error:
            what = str(error).rpartition(": ")[2]
            what = {"incorrect data check": "its checksum (CRC) is wrong"}.get(what, what)
            message = f"the gzip stream is damaged: {what}"
            raise FileRefused("corrupt_gzip", message) from None
        return b""

    def _inflated(self, member: zlib._Decompress, size: int) -> bytes:
        """Return some text of a member, perhaps none."""
        given = self._pending or self._more()
        text = member.decompress(given, size)
        self._yielded = self._yielded or bool(text)
        self._pending = member.unconsumed_tail
        if member.eof:
            self._pending = member.unused_data
            self._member = None
            self._empty = 0 if self._yielded else self._empty + 1
            self._yielded = False
            if self._empty > _EMPTY_MEMBERS:
                message = f"the gzip stream holds {self._empty:,} empty members in a row"
                raise FileRefused("corrupt_gzip", message)
        elif not given and not text:
            message = "the gzip stream is cut short: the file was not copied to its end"
            raise FileRefused("corrupt_gzip", message)
        return text

    def _next_member(self) -> zlib._Decompress | None:
        """Begin the next member, if there is one."""
        while not (pending := self._pending.lstrip(b"\0")):
            self._pending = self._more()
            if not self._pending:
                return None
        self._pending = pending
        self._member = zlib.decompressobj(_WITH_GZIP_HEADER)
        return self._member

    def _more(self) -> bytes:
        self._alive()
        return self._file.read(_CHUNK)
