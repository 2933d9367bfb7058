"""Targets: which files and rows a person means, by name, number, hash, or a path to a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Settings
from pipeline.errors import Conflict, DiskTrouble, InvalidArgument, NotFound
from pipeline.files import quarantine as quarantining
from pipeline.files.quarantine import LEADING
from pipeline.rework import sheets
from pipeline.rework.keys import one, whoever
from pipeline.rework.sheet import FILE_ID, Problem, Sheet, Unreadable, decode
from pipeline.store.read.entries import Entry, parent_of_replay
from pipeline.store.rework import Workbench

__all__ = ["Target", "every", "named", "one", "whoever"]


@dataclass(frozen=True, slots=True)
class Target:
    """A file of which rows are to come back, or a refused one that is to be tried again.

    Attributes:
        entry: the file.
        sheet: what a person has repaired; None for the CSV in quarantine/, if it is there.
    """

    entry: Entry
    sheet: Sheet | None = None


def every(settings: Settings, bench: Workbench, rule: str | None) -> list[Target]:
    """Return all files with open rows (of a reason) and all refused ones."""
    entries = bench.with_open_rows(rule)
    found = [Target(entry) for entry in [*entries, *bench.refused(rule)]]
    if rule is None:
        known = {entry.sha256 for entry in entries}
        digits = {sha256[:12] for sha256 in known}
        # Sheets that a crash kept from being written anew.
        for path in sorted(settings.quarantine.glob("*.csv")):
            if digits.issuperset(quarantining.digits_in(path.name)[:1]):
                continue
            entry = _of_sheet(bench, path.name, ("loaded", "retracted"))
            if entry and entry.sha256 not in known and sheets.path_of(settings, entry) == path:
                found.append(Target(entry))
    return found


def named(settings: Settings, bench: Workbench, name: str) -> tuple[list[Target], list[Problem]]:
    """Return what a person means by a name: a file of the ledger's, or the path of a sheet.

    Raises:
        NotFound: nothing is called so.
        Conflict: it has nothing that could come back.
        InvalidArgument: several are called so, or another file is meant.
    """
    path = Path(name).expanduser()
    # The file itself may lie here, too: a bare name that the ledger knows means the ledger's.
    if path.is_file() and (path.name != name or not bench.entries(name)):
        return _of_path(settings, bench, path)
    entry = one(bench, name)
    if entry.state == "retracted":
        message = f"{entry.name} (file {entry.file_id}) was retracted: none of its rows is open"
        raise Conflict(message)
    if parent := parent_of_replay(entry, bench.entry):
        message = (
            f"{entry.name} (file {entry.file_id}) is a replay itself: "
            f"name file {parent.file_id} to bring back more of its rows"
        )
        raise InvalidArgument(message)
    if entry.header and entry.header.casefold().startswith(LEADING[0]):
        # A copy of a quarantine file that was dropped: the rows that it repairs are another's.
        original = _of_sheet(bench, entry.name)
        if original is not None and original.file_id != entry.file_id:
            return [Target(original), Target(entry)], []
    return [Target(entry)], []


def _of_path(
    settings: Settings, bench: Workbench, path: Path
) -> tuple[list[Target], list[Problem]]:
    for digits in quarantining.digits_in(path.name):
        for entry in bench.entries(digits):
            if entry.state == "refused" and ".refused" in path.name:
                copies, _ = quarantining.refused_copies(settings.quarantine, entry.sha256)
                if any(copy.samefile(path) for copy in copies):
                    return [Target(entry)], []
                message = f"{path}: repair the copy in {settings.quarantine}, or drop this one"
                raise InvalidArgument(message)
    try:
        sheet = decode(path.name, path)
    except Unreadable as unreadable:
        return [], [unreadable.problem]
    except DiskTrouble as error:
        raise InvalidArgument(str(error)) from error
    if sheet.at(FILE_ID) is not None:
        return _of_export(bench, sheet)
    owner = _of_sheet(bench, path.name)
    if owner is None:
        message = (
            f"{path}: it is unknown which file these rows are of: keep the digits of the "
            f"quarantine file in its name, or the column '{FILE_ID}' of an exported one"
        )
        raise NotFound(message)
    own = sheets.path_of(settings, owner)
    return [Target(owner, None if own and own.samefile(path) else sheet)], []


def _of_export(bench: Workbench, sheet: Sheet) -> tuple[list[Target], list[Problem]]:
    found, problems = [], []
    for file_id in sheet.files():
        entry = bench.entry(file_id)
        if entry is not None and entry.state == "loaded":
            found.append(Target(entry, sheet))
            continue
        state = "was " + entry.state if entry else "is not in the ledger"
        message = f"file {file_id} {state}: its rows were not taken"
        problems.append(Problem(sheet.name, None, FILE_ID, message))
    for row, text in sheet.unowned:
        message = (
            f"'{text[:40]}' is not a number of a file: put back the one that stood there; the "
            "row was not taken"
        )
        problems.append(Problem(sheet.name, row, FILE_ID, message))
    return found, problems


def _of_sheet(bench: Workbench, name: str, states: Sequence[str] = ("loaded",)) -> Entry | None:
    """Return the file that a sheet belongs to, by the digits in the sheet's name."""
    for digits in quarantining.digits_in(name):
        entries = bench.entries(digits)
        for state in states:
            if found := next((entry for entry in entries if entry.state == state), None):
                return found
    return None
