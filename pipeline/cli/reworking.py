"""`quarantine reprocess/discard`: how what was rejected comes back, or is given up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import memory
from pipeline.cli import tables
from pipeline.cli.quarantine import require_choice, settings_for
from pipeline.cli.session import database, make_folders, print_json
from pipeline.cli.settings import start_log
from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings
from pipeline.errors import Conflict, InvalidArgument
from pipeline.rework import discard as discarding
from pipeline.rework import refused as refusals
from pipeline.rework import targets
from pipeline.rework.refused import Retried
from pipeline.rework.replay import Replay, Replayed
from pipeline.rework.sheet import Problem
from pipeline.rework.targets import Target
from pipeline.store.load import Store
from pipeline.store.read.entries import Entry
from pipeline.store.read.quarantine import states_of
from pipeline.store.rework import Workbench

DONE, SOME_LEFT = 0, 3
_SAY = {True: ("would be loaded", "would be duplicates"), False: ("loaded", "duplicates")}


# --- reprocess -----------------------------------------------------------------------------------


def reprocess(
    home: Path | None,
    names: Sequence[str],
    *,
    every: bool,
    rule: str | None,
    dry: bool,
    limit: int,
    as_json: bool,
) -> int:
    """Bring rows and refused files back; return the exit code."""
    settings = settings_for(home, rule)
    require_choice(names, every=every, rule=rule)
    make_folders(settings)
    start_log(settings)
    contract, by = settings.site_contract(), targets.whoever()
    memory.choose_allocators()
    with database(settings) as opened:
        store = Store(opened.engine)
        bench = Workbench(opened.reader)
        wanted, problems = _wanted(settings, bench, names, rule)
        replay = Replay(settings, store, contract, by)
        replayed: list[Replayed] = []
        retried: list[Retried] = []
        for target in wanted:
            if target.entry.state == "refused":
                if rule in {None, target.entry.rule}:
                    retried.append(
                        refusals.retry(settings, store, contract, target.entry, by=by, dry=dry)
                    )
            else:
                replayed.append(replay.run(target.entry, rule=rule, sheet=target.sheet, dry=dry))
    if as_json:
        print_json(
            {
                "dry_run": dry,
                "contract_version": contract.version,
                "files": [_replayed_record(one) for one in replayed],
                "refused": [_retried_record(one) for one in retried],
                "problems": [_problem_record(one) for one in problems],
            }
        )
    else:
        _show_reprocessed(Console(), replayed, retried, problems, dry=dry, limit=limit)
    still = any(one.state in {"still refused", "gone", "left"} for one in retried)
    wrong = any(one.wrong for one in replayed) or any(not one.harmless for one in problems)
    return SOME_LEFT if wrong or (still and bool(names)) else DONE


def _wanted(
    settings: Settings, bench: Workbench, names: Sequence[str], rule: str | None
) -> tuple[list[Target], list[Problem]]:
    if not names:
        return targets.every(settings, bench, rule), []
    found: list[Target] = []
    problems: list[Problem] = []
    for name in dict.fromkeys(names):
        meant, wrong = targets.named(settings, bench, name)
        found += meant
        problems += wrong
    return found, problems


def _show_reprocessed(
    console: Console,
    replayed: Sequence[Replayed],
    retried: Sequence[Retried],
    problems: Sequence[Problem],
    *,
    dry: bool,
    limit: int,
) -> None:
    if not replayed and not retried and not problems:
        console.print("nothing is open")
    for one in replayed:
        _show_replayed(console, one, dry=dry, limit=limit)
    for each in retried:
        _show_retried(console, each)
    _show_problems(console, problems)
    if len(replayed) + len(retried) > 1:
        loaded = sum(one.outcomes.count("loaded") for one in replayed)
        double = sum(one.outcomes.count("duplicate") for one in replayed)
        failing = sum(one.outcomes.count("failing") for one in replayed)
        say, twice = _SAY[dry]
        tables.say(
            console,
            f"{tables.files(len(replayed) + len(retried))}: {loaded:,} rows {say}, "
            f"{double:,} {twice}, {failing:,} still fail",
        )
    if dry:
        console.print("[dim]a dry run: nothing was changed[/]")


def _show_replayed(console: Console, one: Replayed, *, dry: bool, limit: int) -> None:
    entry = one.entry
    console.print(f"[bold]{escape(entry.name)}[/] (file {entry.file_id})", highlight=False)
    say, twice = _SAY[dry]
    loaded, double = one.outcomes.lines("loaded"), one.outcomes.lines("duplicate")
    where = f" as file {one.file_id}" if one.file_id is not None else ""
    if len(loaded):
        told = f"{len(loaded):,} {say}{where}: {_span(loaded)}"
        tables.say(console, f"  [green]✓[/] {told}")
    if len(double):
        told = f"{len(double):,} {twice} of what is stored, so repaired too: {_span(double)}"
        tables.say(console, f"  [green]✓[/] {told}")
    failing = one.outcomes.lines("failing")
    if len(failing):
        told = f"{len(failing):,} still fail: {_span(failing)}"
        tables.say(console, f"  [red]✗[/] {told}")
    # Those that somebody has worked on come first.
    worked_on = one.outcomes.verdicts() if one.outcomes.edited_failing else iter(())
    edited = (v for v in worked_on if v.became == "failing" and v.edited)
    others = (v for v in one.outcomes.verdicts() if v.became == "failing" and not v.edited)
    for verdict in islice(chain(edited, others), limit):
        at = f" (row {verdict.row:,} of the sheet)" if verdict.row else ""
        console.print(f"    line {verdict.line_no:,}{at}", highlight=False)
        for reason in verdict.reasons:
            tables.say(console, f"      [bold]{escape(reason.rule)}[/]: {escape(reason.message)}")
    if len(failing) > limit:
        console.print(f"    [dim]… and {len(failing) - limit:,} more (--limit)[/]")
    if not len(one.outcomes) and not one.problems:
        console.print("  no row is open")
    _show_problems(console, one.problems)


def _show_retried(console: Console, one: Retried) -> None:
    console.print(f"[bold]{escape(one.entry.name)}[/] (file {one.entry.file_id})", highlight=False)
    if one.state in {"loaded", "would load"}:
        books = (
            f"{one.rows_read:,} rows = {one.rows_loaded:,} loaded + "
            f"{one.rows_duplicate:,} duplicate + {one.rows_quarantined:,} quarantined"
        )
        told = one.message or (
            f"as file {one.file_id}: {books}"
            if one.state == "loaded"
            else f"{one.rows_read:,} rows, of which {one.rows_loaded:,} pass the rules"
        )
        tables.say(console, f"  [green]✓[/] {one.state}: {escape(told)}")
        return
    tables.say(console, f"  [red]✗[/] {one.state}: {escape(one.message)}")


def _show_problems(console: Console, problems: Iterable[Problem]) -> None:
    for problem in problems:
        mark = "[dim]·[/]" if problem.harmless else "[red]✗[/]"
        tables.say(console, f"  {mark} {escape(str(problem))}")


def _span(lines: Sequence[int] | npt.NDArray[np.int64]) -> str:
    """Return for example `lines 4, 7–9 and 20 more`."""
    numbers = np.asarray(lines, np.int64)
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
    ends = np.append(starts[1:], len(numbers)) - 1
    runs = list(zip(numbers[starts[:12]].tolist(), numbers[ends[:12]].tolist(), strict=True))
    told = ", ".join(f"{a:,}" if a == b else f"{a:,}–{b:,}" for a, b in runs)
    rest = len(numbers) - sum(b - a + 1 for a, b in runs)
    return f"line{'s' if len(lines) > 1 else ''} {told}" + (f" and {rest:,} more" if rest else "")


def _replayed_record(one: Replayed) -> dict[str, Any]:
    return {
        "file_id": one.entry.file_id,
        "file": one.entry.name,
        "replay_file_id": one.file_id,
        "loaded": one.lines("loaded"),
        "duplicate": one.lines("duplicate"),
        "failing": [
            {
                "line_no": verdict.line_no,
                "row": verdict.row,
                "edited": verdict.edited,
                "line": verdict.line,
                "reasons": [reason.record() for reason in verdict.reasons],
            }
            for verdict in one.outcomes.verdicts()
            if verdict.became == "failing"
        ],
        "problems": [_problem_record(problem) for problem in one.problems],
    }


def _retried_record(one: Retried) -> dict[str, Any]:
    return {
        "file_id": one.entry.file_id,
        "file": one.entry.name,
        "state": one.state,
        "message": one.message,
        "became_file_id": one.file_id,
        "rows_read": one.rows_read,
        "rows_loaded": one.rows_loaded,
        "rows_duplicate": one.rows_duplicate,
        "rows_quarantined": one.rows_quarantined,
    }


def _problem_record(one: Problem) -> dict[str, Any]:
    return {
        "sheet": one.sheet,
        "row": one.row,
        "column": one.column,
        "message": one.message,
        "harmless": one.harmless,
    }


# --- discard -------------------------------------------------------------------------------------


def discard(
    home: Path | None,
    key: str,
    *,
    lines: Sequence[int],
    rule: str | None,
    note: str,
    as_json: bool,
) -> None:
    """Discard open rows of a file, or a refused file.

    Raises:
        Conflict: nothing of it is open.
        InvalidArgument: the note is empty.
    """
    settings = settings_for(home, rule)
    if not note.strip():
        message = "--note: say why, for whoever wonders later"
        raise InvalidArgument(message)
    start_log(settings)
    by = targets.whoever()
    with database(settings) as opened:
        store = Store(opened.engine)
        entry = targets.one(Workbench(opened.reader), key)
        if entry.state == "refused":
            _discard_refused(settings, store, entry, by=by, note=note, as_json=as_json)
            return
        numbers, problems = discarding.rows(
            settings,
            store,
            settings.site_contract(),
            entry,
            rule=rule,
            lines=lines or None,
            by=by,
            note=note,
        )
        with opened.reader.snapshot() as connection:
            left = states_of(connection, entry.file_id)
    if not numbers:
        message = f"{entry.name} (file {entry.file_id}): no such row is open; nothing was discarded"
        raise Conflict(message)
    if as_json:
        record = {"file_id": entry.file_id, "file": entry.name, "discarded": numbers}
        told = [_problem_record(problem) for problem in problems]
        print_json({**record, "states": left, "by": by, "note": note, "problems": told})
        return
    console = Console()
    tables.say(
        console,
        f"{escape(entry.name)} (file {entry.file_id}): {len(numbers):,} discarded, "
        f"{_span(numbers)}; {left.open:,} left open",
    )
    _show_problems(console, problems)


def _discard_refused(
    settings: Settings, store: Store, entry: Entry, *, by: str, note: str, as_json: bool
) -> None:
    if not discarding.refused(settings, store, entry, by=by, note=note):
        message = (
            f"{entry.name} (file {entry.file_id}) was settled already, by {entry.decided_by}: "
            f"{entry.note}"
        )
        raise Conflict(message)
    if as_json:
        print_json({"file_id": entry.file_id, "file": entry.name, "by": by, "note": note})
        return
    tables.say(
        Console(),
        f"{escape(entry.name)} (file {entry.file_id}): discarded as a whole; its bytes stay in "
        f"{escape(str(settings.quarantine))} until you delete them",
    )
