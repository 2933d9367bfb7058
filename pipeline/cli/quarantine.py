"""`quarantine list/show/export`: what was rejected, and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cli import tables
from pipeline.cli.session import database, print_json, require_home
from pipeline.cli.settings import settings_of
from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings
from pipeline.contract import FILE_RULES, ROW_RULES
from pipeline.errors import InvalidArgument
from pipeline.rework.keys import chosen, one
from pipeline.store.read import quarantine as questions
from pipeline.store.read.entries import Entry, entries
from pipeline.store.read.quarantine import (
    ByAge,
    ByReason,
    BySensor,
    QuarantineFile,
    RefusedFile,
    States,
)
from pipeline.store.read.reader import Connection
from pipeline.store.read.rejected_rows import QuarantinedRow, rejected_rows
from pipeline.store.rework import Workbench

DONE, SOME_LEFT = 0, 3

# --- list ----------------------------------------------------------------------------------------


def listed(home: Path | None, *, by: str, rule: str | None, limit: int, as_json: bool) -> None:
    """Show what is in quarantine, by file, reason, sensor or age."""
    settings = settings_for(home, rule)
    with database(settings) as opened, opened.reader.snapshot() as connection:
        states = questions.states(connection)
        files = questions.quarantine_files(connection, rule, limit)
        refused = questions.refused_files(connection, rule, limit)
        groups = _groups(connection, by, rule, limit)[:limit] if by != "file" else []
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
    connection: Connection, by: str, rule: str | None, limit: int
) -> Sequence[ByReason | BySensor | ByAge]:
    if by == "reason":
        return questions.by_reason(connection, rule)
    if by == "age":
        return questions.by_age(connection, rule)
    return questions.by_sensor(connection, rule, limit)


def _show_files(
    console: Console, files: Sequence[QuarantineFile], refused: Sequence[RefusedFile]
) -> None:
    if files:
        shown = tables.table(">id", "file", ">rows", "reasons")
        for row in files:
            shown.add_row(
                str(row.file_id),
                escape(row.name),
                tables.count(row.rows),
                escape(tables.rules(row.rules)),
            )
        console.print(shown)
    if refused:
        shown = tables.table(">id", "refused as a whole", "because")
        for file in refused:
            shown.add_row(str(file.file_id), escape(file.name), escape(file.reason or ""))
        console.print(shown)


def _show_groups(console: Console, by: str, groups: Sequence[ByReason | BySensor | ByAge]) -> None:
    last = {"reason": "for example", "sensor": "", "age": "oldest (UTC)"}[by]
    shown = tables.table(by, ">rows", ">files", last)
    for group in groups:
        match group:
            case ByReason():
                name, more = group.rule, escape(group.example or "")
            case BySensor():
                name, more = group.sensor or "", ""
            case ByAge():
                name, more = group.age, tables.moment(group.oldest)
        shown.add_row(
            escape(name) or "[dim]unknown[/]",
            tables.count(group.rows),
            tables.count(group.files),
            more,
        )
    console.print(shown)


def _show_states(console: Console, states: States) -> None:
    tables.say(
        console,
        f"{states.quarantined:,} rows quarantined = {states.open:,} open + "
        f"{states.repaired:,} repaired + {states.discarded:,} discarded",
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
        NotFound: the ledger has no such file.
        InvalidArgument: it has several; or the reason is unknown.
    """
    settings = settings_for(home, rule)
    with database(settings) as opened, opened.reader.snapshot() as connection:
        entry = chosen(entries(connection, key), key)
        states = questions.states_of(connection, entry.file_id)
        wanted = None if state is None else (state,)
        rows = rejected_rows(connection, entry.file_id, states=wanted, rule=rule, limit=limit)
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
    rest = getattr(states, state or "quarantined") - len(rows)
    if rest > 0 and rule is None:
        console.print(f"[dim]… and {rest:,} more (--limit)[/]", highlight=False)


def _row_record(row: QuarantinedRow) -> dict[str, Any]:
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
    from pipeline.rework import sheets

    settings = settings_for(home, rule)
    require_choice(keys, every=every, rule=rule)
    with database(settings) as opened:
        bench = Workbench(opened.reader)
        if keys:
            wanted = [one(bench, key) for key in dict.fromkeys(keys)]
        else:
            wanted = bench.with_open_rows(rule)
        path = output.expanduser().absolute()
        done = sheets.export(
            settings,
            bench,
            settings.site_contract(),
            wanted,
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


# --- what they share -----------------------------------------------------------------------------


def require_choice(names: Sequence[str], *, every: bool, rule: str | None) -> None:
    """Refuse, with an InvalidArgument, what does not say which rows are meant."""
    if names and every:
        message = "specify FILE... or --all, not both"
        raise InvalidArgument(message)
    if not names and not every and rule is None:
        message = "specify FILE..., --all or --reason"
        raise InvalidArgument(message)


def settings_for(home: Path | None, rule: str | None) -> Settings:
    """Return the settings of a home; refuse, with an InvalidArgument, an unknown reason."""
    settings = settings_of(home)
    require_home(settings)
    if rule is not None and rule not in {**ROW_RULES, **FILE_RULES}:
        known = ", ".join([*ROW_RULES, *FILE_RULES])
        message = f"--reason: '{rule}' is not a reason; known are {known}"
        raise InvalidArgument(message)
    return settings
