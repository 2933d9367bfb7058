"""`quarantine list/show/export/reprocess/discard`: what was rejected, and how it comes back."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline import logs
from pipeline.cli import tables
from pipeline.cli.session import database, make_folders, print_json, require_home
from pipeline.config import Settings, load_settings
from pipeline.contract import FILE_RULES, ROW_RULES, Contract
from pipeline.errors import ConfigurationError, FileRefused
from pipeline.rework import discard as discarding
from pipeline.rework import refused as refusals
from pipeline.rework import sheets, sources, targets
from pipeline.rework.edits import Problem
from pipeline.rework.refused import Retried
from pipeline.rework.replay import Replay, Replayed
from pipeline.rework.targets import Target
from pipeline.steps.quarantine import fields, own_names
from pipeline.store.load import Store
from pipeline.store.rework import Entry, Workbench

DONE, SOME_LEFT = 0, 3
_SAY = {True: ("would be loaded", "would be duplicates"), False: ("loaded", "duplicates")}


# --- list ----------------------------------------------------------------------------------------


def listed(home: Path | None, *, by: str, rule: str | None, limit: int, as_json: bool) -> None:
    """Show what is in quarantine, by file, reason, sensor or age."""
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    with database(settings) as opened:
        bench = Workbench(opened.engine)
        states = bench.states()
        files = bench.quarantine_files(rule, limit)
        refused = bench.refused_files(rule, limit)
        groups = _groups(settings, bench, by, rule)[:limit] if by != "file" else []
    if as_json:
        answer: dict[str, Any] = {"rows": states, "files": files, "refused": refused}
        print_json({**answer, f"by_{by}": groups} if by != "file" else answer)
        return
    console = Console()
    if not files and not refused:
        console.print("quarantine is empty" + (f" of {rule}" if rule else ""))
    elif by == "file":
        _show_files(console, files, refused)
    else:
        _show_groups(console, by, groups)
    _show_states(console, states)
    if files or refused:
        _show_next(console, settings)


def _groups(
    settings: Settings, bench: Workbench, by: str, rule: str | None
) -> list[dict[str, Any]]:
    if by == "reason":
        return bench.by_rule(rule)
    if by == "age":
        return bench.by_age(rule)
    return _by_sensor(settings, bench, rule)


def _by_sensor(settings: Settings, bench: Workbench, rule: str | None) -> list[dict[str, Any]]:
    """Count open rows by what stands in their sensor's column."""
    rows: Counter[str] = Counter()
    files: dict[str, set[int]] = {}
    contract = settings.site_contract()
    for entry in bench.with_open_rows(rule):
        for sensor, count in _sensors(settings, bench, contract, entry, rule).items():
            rows[sensor] += count
            files.setdefault(sensor, set()).add(entry.file_id)
    return [
        {"sensor": sensor or None, "rows": count, "files": len(files[sensor])}
        for sensor, count in rows.most_common()
    ]


def _sensors(
    settings: Settings, bench: Workbench, contract: Contract, entry: Entry, rule: str | None
) -> Counter[str]:
    found: Counter[str] = Counter()
    try:
        header = sources.header_of(settings, entry, contract)
    except FileRefused:
        at = None
    else:
        at = own_names(header).index("sensor_id")
    for chunk in bench.chunks(entry.file_id, rule=rule):
        for row in chunk:
            cells = fields(header, row.exact) if at is not None else []
            found[cells[at].strip()[:20] if at is not None and at < len(cells) else ""] += 1
    return found


def _show_files(
    console: Console, files: Sequence[dict[str, Any]], refused: Sequence[dict[str, Any]]
) -> None:
    if files:
        shown = tables.table(">id", "file", ">rows", "reasons")
        for row in files:
            shown.add_row(
                str(row["file_id"]),
                escape(row["name"]),
                tables.count(row["rows"]),
                escape(tables.rules(row["rules"])),
            )
        console.print(shown)
    if refused:
        shown = tables.table(">id", "refused as a whole", "because")
        for row in refused:
            shown.add_row(str(row["file_id"]), escape(row["name"]), escape(row["reason"] or ""))
        console.print(shown)


def _show_groups(console: Console, by: str, groups: Sequence[dict[str, Any]]) -> None:
    key, last = {
        "reason": ("rule", "for example"),
        "sensor": ("sensor", ""),
        "age": ("age", "oldest (UTC)"),
    }[by]
    shown = tables.table(by, ">rows", ">files", last)
    for group in groups:
        more = escape(group.get("example") or "")
        if by == "age":
            more = tables.moment(group["oldest"])
        name = escape(group[key]) if group[key] else "[dim]cannot be told[/]"
        shown.add_row(name, tables.count(group["rows"]), tables.count(group["files"]), more)
    console.print(shown)


def _show_states(console: Console, states: dict[str, Any]) -> None:
    tables.say(
        console,
        f"{states['quarantined']:,} rows quarantined = {states['open']:,} open + "
        f"{states['repaired']:,} repaired + {states['discarded']:,} discarded",
    )


def _show_next(console: Console, settings: Settings) -> None:
    told = {
        "files to repair:": escape(str(settings.quarantine)),
        "look closer:": f"[bold]{escape(tables.command('quarantine show FILE', settings.home))}[/]",
        "bring back:": "[bold]"
        + escape(tables.command("quarantine reprocess FILE --dry-run", settings.home))
        + "[/]",
    }
    for title, text in told.items():
        tables.say(console, f"[dim]{title:<16}[/] {text}")


# --- show ----------------------------------------------------------------------------------------


def shown(
    home: Path | None,
    key: str,
    *,
    rule: str | None,
    state: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show the rejected rows of a file.

    Raises:
        ConfigurationError: the ledger has no such file, or several.
    """
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    with database(settings) as opened:
        bench = Workbench(opened.engine)
        entry = targets.one(bench, key)
        states = bench.states_of(entry.file_id)
        wanted = None if state is None else (state,)
        rows = bench.rows(entry.file_id, states=wanted, rule=rule, limit=limit)
    if as_json:
        records = [_row_record(row) for row in rows]
        print_json({"file": _entry_record(entry), "states": states, "rows": records})
        return
    console = Console()
    console.print(f"[bold]{escape(entry.name)}[/] (file {entry.file_id})", highlight=False)
    if entry.state == "refused":
        told = f" ({escape(entry.note)}, {escape(entry.decided_by or '')})" if entry.note else ""
        console.print(f"[red]✗[/] refused as a whole: {escape(entry.reason or '')}{told}")
        return
    if not rows:
        told = f" for {rule}" if rule else ""
        console.print(f"no {state or 'rejected'} rows{told}")
        return
    tables.rejected_rows(console, [_row_record(row) for row in rows])
    rest = (states[state] if state else states["quarantined"]) - len(rows)
    if rest > 0 and rule is None:
        console.print(f"[dim]… and {rest:,} more (--limit)[/]", highlight=False)


def _row_record(row: Any) -> dict[str, Any]:
    return {
        "line_no": row.line_no,
        "line": row.line,
        "reasons": row.reasons,
        "state": row.state,
        "replay_file_id": row.replay_file_id,
        "replay_line": row.replay_line,
        "decided_at": row.decided_at,
        "decided_by": row.decided_by,
        "note": row.note,
    }


def _entry_record(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Entry.__dataclass_fields__}


# --- export --------------------------------------------------------------------------------------


def export(
    home: Path | None,
    keys: Sequence[str],
    *,
    every: bool,
    rule: str | None,
    output: Path,
    delimiter: str,
    as_json: bool,
) -> int:
    """Write open rows into one CSV; return the exit code."""
    os.umask(0o027)
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    _require_choice(keys, every=every, rule=rule)
    with database(settings) as opened:
        bench = Workbench(opened.engine)
        if keys:
            entries = [targets.one(bench, key) for key in dict.fromkeys(keys)]
        else:
            entries = bench.with_open_rows(rule)
        path = output.expanduser().absolute()
        done = sheets.export(
            settings,
            bench,
            settings.site_contract(),
            entries,
            rule=rule,
            path=path,
            delimiter=delimiter,
        )
    if as_json:
        print_json(
            {
                "path": done.path,
                "rows": done.rows,
                "files": done.files,
                "skipped": done.skipped,
            }
        )
    else:
        console = Console()
        files = tables.files(len(done.files))
        tables.say(
            console, f"{done.rows:,} rows of {files} → {escape(str(tables.short(done.path)))}"
        )
        for name, why in done.skipped.items():
            console.print(f"  [red]✗[/] {escape(name)}: {escape(why)}", soft_wrap=True)
        if done.rows:
            named = shlex.quote(str(tables.short(done.path)))
            again = tables.command(f"quarantine reprocess {named} --dry-run", settings.home)
            tables.say(console, f"[dim]repair it, then:[/] [bold]{escape(again)}[/]")
    return SOME_LEFT if done.skipped else DONE


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
    os.umask(0o027)
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    _require_choice(names, every=every, rule=rule)
    make_folders(settings)
    logs.configure(settings.log_level, settings.logs, console=False)
    contract, by = settings.site_contract(), targets.whoever()
    with database(settings) as opened:
        store = Store(opened.engine)
        bench = Workbench(opened.engine)
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
        loaded = sum(len(one.lines("loaded")) for one in replayed)
        double = sum(len(one.lines("duplicate")) for one in replayed)
        failing = sum(len(one.lines("failing")) for one in replayed)
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
    loaded, double = one.lines("loaded"), one.lines("duplicate")
    where = f" as file {one.file_id}" if one.file_id is not None else ""
    if loaded:
        told = f"{len(loaded):,} {say}{where}: {_span(loaded)}"
        tables.say(console, f"  [green]✓[/] {told}")
    if double:
        told = f"{len(double):,} {twice} of what is stored, so repaired too: {_span(double)}"
        tables.say(console, f"  [green]✓[/] {told}")
    failing = [verdict for verdict in one.verdicts if verdict.became == "failing"]
    if failing:
        told = f"{len(failing):,} still fail: {_span([v.line_no for v in failing])}"
        tables.say(console, f"  [red]✗[/] {told}")
    # Those that somebody has worked on come first.
    for verdict in sorted(failing, key=lambda v: not v.edited)[:limit]:
        at = f" (row {verdict.row:,} of the sheet)" if verdict.row else ""
        console.print(f"    line {verdict.line_no:,}{at}", highlight=False)
        for reason in verdict.reasons:
            tables.say(console, f"      [bold]{reason.rule}[/]: {escape(reason.message)}")
    if len(failing) > limit:
        console.print(f"    [dim]… and {len(failing) - limit:,} more (--limit)[/]")
    if not one.verdicts and not one.problems:
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


def _span(lines: Sequence[int]) -> str:
    """Return for example `lines 4, 7–9 and 20 more`."""
    runs: list[tuple[int, int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], line
        else:
            runs.append((line, line))
    told = ", ".join(f"{a:,}" if a == b else f"{a:,}–{b:,}" for a, b in runs[:12])
    rest = sum(b - a + 1 for a, b in runs[12:])
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
            for verdict in one.verdicts
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
        ConfigurationError: nothing of it is open.
    """
    os.umask(0o027)
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    if not note.strip():
        message = "--note: say why, for whoever wonders later"
        raise ConfigurationError(message)
    logs.configure(settings.log_level, settings.logs, console=False)
    by = targets.whoever()
    with database(settings) as opened:
        store = Store(opened.engine)
        entry = targets.one(Workbench(opened.engine), key)
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
        left = Workbench(opened.engine).states_of(entry.file_id)
    if not numbers:
        message = f"{entry.name} (file {entry.file_id}): no such row is open; nothing was discarded"
        raise ConfigurationError(message)
    if as_json:
        record = {"file_id": entry.file_id, "file": entry.name, "discarded": numbers}
        told = [_problem_record(problem) for problem in problems]
        print_json({**record, "states": left, "by": by, "note": note, "problems": told})
        return
    console = Console()
    tables.say(
        console,
        f"{escape(entry.name)} (file {entry.file_id}): {len(numbers):,} discarded, "
        f"{_span(numbers)}; {left['open']:,} left open",
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
        raise ConfigurationError(message)
    if as_json:
        print_json({"file_id": entry.file_id, "file": entry.name, "by": by, "note": note})
        return
    tables.say(
        Console(),
        f"{escape(entry.name)} (file {entry.file_id}): discarded as a whole; its bytes stay in "
        f"{escape(str(settings.quarantine))} until you delete them",
    )


# --- what they share -----------------------------------------------------------------------------


def _require_choice(names: Sequence[str], *, every: bool, rule: str | None) -> None:
    if names and every:
        message = "name files, or say --all, not both"
        raise ConfigurationError(message)
    if not names and not every and rule is None:
        message = "which rows? name FILE..., or say --all or --reason"
        raise ConfigurationError(message)


def _refuse_unknown_rule(rule: str | None) -> None:
    if rule is not None and rule not in {**ROW_RULES, **FILE_RULES}:
        known = ", ".join([*ROW_RULES, *FILE_RULES])
        message = f"--reason: '{rule}' is not a reason; known are {known}"
        raise ConfigurationError(message)
