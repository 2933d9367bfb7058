"""Sources: where the bytes of a file are that the ledger names, if they are still anywhere.

The ledger's hash decides, never the name: a copy is only used when its bytes are those that were
loaded. A site may have its archive compressed, swept, or not kept at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.header import Header, recognise
from pipeline.errors import FileChanged, FileRefused, Transient
from pipeline.records import Block, Content, Segment
from pipeline.steps.archive import inflated_sha256
from pipeline.steps.read import Limits, blocks, content
from pipeline.store.rework import Entry


@dataclass(frozen=True, slots=True)
class Missing:
    """Why the bytes of a file are not to be had, as a sentence."""

    reason: str


def archived(settings: Settings, entry: Entry) -> Content | Missing:
    """Return the archived copy of a file, its hash verified."""
    for path in _candidates(settings, entry):
        with suppress(Transient, OSError):
            if found := _verified(path, entry.sha256):
                return found
    if settings.archive_policy == "delete":
        return Missing("the archive does not keep files (archive_policy = delete)")
    kept = settings.archive_keep_days
    swept = f", perhaps since they are kept for {kept} days only (archive_keep_days)"
    return Missing(
        f"no file in {settings.archive} has the bytes that were loaded as {entry.name}"
        + (swept if kept else "")
    )


def text_of(settings: Settings, entry: Entry, contract: Contract) -> Iterator[Block] | Missing:
    """Return the blocks of a file's text, read from its archived copy.

    Whoever takes the blocks may meet `FileRefused`, `FileChanged` or `DiskTrouble`.
    """
    found = archived(settings, entry)
    if isinstance(found, Missing):
        return found
    return blocks(found, 0, contract, Limits.of(settings))


def header_of(settings: Settings, entry: Entry, contract: Contract) -> Header:
    """Return the header by which a file's rows are read.

    Raises:
        FileRefused: it is not known, or no sensor model of today's contract has it.
    """
    if entry.header is not None:
        return recognise(entry.header, contract)
    # Files that were loaded by a version that did not keep it.
    found = text_of(settings, entry, contract)
    if isinstance(found, Missing):
        message = f"its header line is not known: {found.reason}"
        raise FileRefused("unknown_header", message)
    try:
        return next(found).header
    except FileChanged as error:
        raise FileRefused("unknown_header", str(error)) from error


def as_block(header: Header, numbered: list[tuple[int, bytes]]) -> Block:
    """Return lines, each with its number, as a block of file 0."""
    text = b"".join(line + b"\n" for _, line in numbered)
    numbers = np.array([number for number, _ in numbered], np.int64)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1) != 1)
    lengths = np.diff(np.append(starts, len(numbers)))
    segments = tuple(
        Segment(0, int(numbers[start]), int(length))
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    )
    return Block(header, text, segments)


def _candidates(settings: Settings, entry: Entry) -> Iterator[Path]:
    """Yield the likely places first: the days around the load, then whatever has the size."""
    stem, dot, endings = entry.name.partition(".csv")
    digits = entry.sha256[:12]
    names = [entry.name, f"{entry.name}.gz"]
    for mark in (f".{digits}", f".{digits}.2"):
        names += [f"{stem}{mark}{dot}{endings}", f"{stem}{mark}{dot}{endings}.gz"]
    seen = set()
    for late in (0, 1, -1):
        day = settings.archive / f"{entry.loaded_at + timedelta(days=late):%Y-%m-%d}"
        for name in names:
            path = day / name
            with suppress(OSError, ValueError):
                if path.is_file():
                    seen.add(path)
                    yield path
    with suppress(OSError):
        for path in sorted(settings.archive.glob("*/*")):
            if path not in seen and path.is_file():
                compressed = path.name == f"{entry.name}.gz" or digits in path.name
                if compressed or path.stat().st_size == entry.bytes:
                    yield path


def _verified(path: Path, sha256: str) -> Content | None:
    found = content(path, hold_bytes=0)
    if found.sha256 == sha256 or (path.suffix == ".gz" and inflated_sha256(path) == sha256):
        return found
    return None
