"""Sources: where the bytes of a file are that the ledger names, if they are still anywhere.

The ledger's hash decides, never the name: a copy is only used when its bytes are those that were
loaded. A site may have its archive compressed, swept, or not kept at all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.config import Settings
from pipeline.contract import Contract
from pipeline.contract.header import Header, recognise, section_header, unreadable_header
from pipeline.core.records import Block, Ints
from pipeline.errors import FileChanged, FileRefused, Transient
from pipeline.files.hashes import inflated_sha256
from pipeline.files.quarantine import digits_in
from pipeline.files.read import Limits, blocks, content
from pipeline.records import Content
from pipeline.rework.headers import Headers, as_blocks
from pipeline.store.read.entries import Entry, parent_of_replay
from pipeline.store.read.rejected_rows import QuarantinedRow

_TICK = 2_000_000_000  # ns


class Books(Protocol):
    """Who knows the ledger: a `Workbench`, or an open `Retraction`."""

    def entry(self, file_id: int) -> Entry | None:
        """Return the ledger row of this number."""

    def replayed_rows(self, replay_file_id: int) -> list[QuarantinedRow]:
        """Return the rows that a replay brought back."""


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
    if settings.archive.policy == "delete":
        return Missing("the archive does not keep files ([archive] policy = delete)")
    kept = settings.archive.keep_days
    swept = f", perhaps since they are kept for {kept} days only ([archive] keep_days)"
    return Missing(
        f"no file in {settings.archive_folder} has the bytes that were loaded as {entry.name}"
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


def headers_of(settings: Settings, entry: Entry, contract: Contract) -> Headers:
    """Return the headers by which a file's rows are read.

    Raises:
        FileRefused: the first is not known, or no sensor model of today's contract has it.
    """
    first = _first_header(settings, entry, contract)
    sections = entry.sections or []
    # Those that were not understood may be by now.
    found = (
        section_header(line, contract) or unreadable_header(line, contract) for _, line in sections
    )
    return Headers(first, tuple(start for start, _ in sections), tuple(found))


def _first_header(settings: Settings, entry: Entry, contract: Contract) -> Header:
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


def text_of_entry(
    settings: Settings, entry: Entry, contract: Contract, books: Books
) -> Iterator[Block] | Missing:
    """Return the text of an entry: a file's from the archive, a replay's from the database.

    Whoever takes the blocks may meet what `text_of` says.

    Args:
        settings: where the archive is.
        entry: the entry.
        contract: what is accepted now.
        books: who knows its parent and its rows.
    """
    import pyarrow as pa

    if not parent_of_replay(entry, books.entry):
        return text_of(settings, entry, contract)
    try:
        headers = headers_of(settings, entry, contract)
    except FileRefused as refusal:
        return Missing(refusal.message)
    rows = books.replayed_rows(entry.file_id)
    numbers: Ints = np.array([row.line_no for row in rows], np.int64)
    return iter(as_blocks(headers, numbers, pa.array([row.present for row in rows], pa.binary())))


def _candidates(settings: Settings, entry: Entry) -> Iterator[Path]:
    """Yield the likely places first: the days around the load, then whatever has the size."""
    stem, dot, endings = entry.name.partition(".csv")
    digits = entry.sha256[:12]
    names = [entry.name, f"{entry.name}.gz"]
    for mark in (f".{digits}", f".{digits}.2"):
        names += [f"{stem}{mark}{dot}{endings}", f"{stem}{mark}{dot}{endings}.gz"]
    seen = set()
    for late in (0, 1, -1):
        day = settings.archive_folder / f"{entry.loaded_at + timedelta(days=late):%Y-%m-%d}"
        for name in names:
            path = day / name
            with suppress(OSError, ValueError):
                if path.is_file():
                    seen.add(path)
                    yield path
    for path in _listing(settings.archive_folder).like(entry):
        if path not in seen:
            yield path


@dataclass(slots=True)
class _Listing:
    """What is in an archive, by what tells a file that was loaded from others.

    Attributes:
        days: folder → when it was changed last, as it was when it was listed.
        sizes, names, digits: size, name, and digits of a hash in a name → the files' paths.
    """

    days: dict[str, int] = field(default_factory=dict)
    sizes: dict[int, list[str]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    digits: dict[str, list[str]] = field(default_factory=dict)

    def add(self, day: str) -> None:
        """List a folder."""
        with suppress(OSError), os.scandir(day) as entries:
            for entry in entries:
                if entry.is_file():
                    self.sizes.setdefault(entry.stat().st_size, []).append(entry.path)
                    if entry.name.endswith(".gz"):
                        self.names.setdefault(entry.name, []).append(entry.path)
                    for digits in digits_in(entry.name):
                        self.digits.setdefault(digits, []).append(entry.path)

    def like(self, entry: Entry) -> list[Path]:
        """Return the files that may be one of the ledger's, by path."""
        found = {
            *self.names.get(f"{entry.name}.gz", ()),
            *self.digits.get(entry.sha256[:12], ()),
            *self.sizes.get(entry.bytes, ()),
        }
        return [Path(path) for path in sorted(found)]


_listings: dict[Path, _Listing] = {}


def _listing(archive: Path) -> _Listing:
    """List an archive, unless it was listed before and no folder in it has changed since.

    It may hold hundreds of thousands of files, and many may be looked for one after the other.
    """
    days: dict[str, int] = {}
    with suppress(OSError), os.scandir(archive) as entries:
        days = {entry.path: entry.stat().st_mtime_ns for entry in entries if entry.is_dir()}
    known = _listings.get(archive)
    # What was changed just now may be changed again within the same tick of the disk's clock.
    settled = max(days.values(), default=0) < time.time_ns() - _TICK
    if known is None or known.days != days or not settled:
        known = _listings[archive] = _Listing(days)
        for day in sorted(days):
            known.add(day)
    return known


def _verified(path: Path, sha256: str) -> Content | None:
    found = content(path, hold_bytes=0)
    if found.sha256 == sha256 or (path.suffix == ".gz" and inflated_sha256(path) == sha256):
        return found
    return None
