"""`status` and `quarantine list/show`: look, change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.cli import tables
from pipeline.cli.session import Database, database, print_json, require_home
from pipeline.config import Settings, load_settings
from pipeline.contract import FILE_RULES, ROW_RULES
from pipeline.errors import ConfigurationError
from pipeline.steps.watch import Ignored, scan
from pipeline.store.queries import Queries


def status(home: Path | None, *, as_json: bool, limit: int) -> None:
    """Show the ledger's sums, the files taken last, what waits and what is ignored."""
    settings = load_settings(home)
    require_home(settings)
    waiting, ignored = scan(settings.data) if settings.data.is_dir() else ([], [])
    with database(settings) as opened:
        queries = Queries(opened.engine)
        totals, recent, server = queries.totals(), queries.recent_files(limit), queries.server()
        if as_json:
            print_json(
                {
                    "home": settings.home,
                    "database": {"url": opened.shown, "embedded": opened.embedded, **server},
                    "contract_version": settings.site_contract().version,
                    "totals": totals,
                    "waiting": {
                        "files": len(waiting),
                        "bytes": sum(file.size for file in waiting),
                    },
                    "ignored": [{"name": i.name, "reason": i.reason} for i in ignored],
                    "recent": recent,
                }
            )
            return
        console = Console()
        _heading(console, settings, opened, server)
        _books(console, totals)
    size = tables.size(sum(file.size for file in waiting))
    console.print(f"[bold]waiting[/]   {tables.files(len(waiting))}, {size}", highlight=False)
    _ignored(console, ignored)
    _recent(console, recent, settings.home)


def _heading(
    console: Console, settings: Settings, opened: Database, server: dict[str, Any]
) -> None:
    kind = "private PostgreSQL" if opened.embedded else "PostgreSQL"
    where = "" if opened.embedded else f" at {escape(opened.shown)}"
    console.print(f"[bold]home[/]      {escape(str(settings.home))}", highlight=False)
    console.print(
        f"[bold]database[/]  {kind} {server['version']}{where}, {tables.size(server['bytes'])}",
        highlight=False,
    )


def _books(console: Console, totals: dict[str, Any]) -> None:
    console.print(
        f"[bold]files[/]     {totals['files_loaded']:,} loaded, "
        f"{totals['files_refused']:,} refused, {totals['files_retracted']:,} retracted",
        highlight=False,
    )
    console.print(
        f"[bold]rows[/]      {totals['rows_read']:,} read = {totals['rows_loaded']:,} loaded + "
        f"{totals['rows_duplicate']:,} duplicate + {totals['rows_quarantined']:,} quarantined",
        highlight=False,
    )
    if totals["sensors"]:
        console.print(
            f"[bold]readings[/]  {totals['sensors']:,} sensors, "
            f"{tables.moment(totals['first_ts'])} … {tables.moment(totals['last_ts'])} UTC",
            highlight=False,
        )


def _ignored(console: Console, ignored: list[Ignored]) -> None:
    if not ignored:
        return
    shown = tables.table("left alone in data/", "because")
    for entry in ignored:
        shown.add_row(escape(repr(entry.name)[1:-1]), escape(entry.reason))
    console.print(shown)


def _recent(console: Console, recent: list[dict[str, Any]], home: Path) -> None:
    if not recent:
        once = tables.command("run --once", home)
        console.print(f"nothing loaded yet: drop files into data/ and type `{escape(once)}`")
        return
    roomy = console.width >= 100
    shown = tables.table(">id", "file", "", *tables.BOOKS, *(["taken (UTC)"] if roomy else []))
    for row in recent:
        books = [row[f"rows_{term}"] for term in ("read", "loaded", "duplicate", "quarantined")]
        shown.add_row(
            str(row["file_id"]),
            escape(row["name"]),
            tables.state(row["state"]),
            *map(tables.count, books),
            *([tables.moment(row["loaded_at"])] if roomy else []),
        )
    console.print(shown)


def quarantine_list(home: Path | None, *, rule: str | None, limit: int, as_json: bool) -> None:
    """Show the files with rejected rows, and those refused as a whole."""
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    with database(settings) as opened:
        queries = Queries(opened.engine)
        files = queries.quarantine_files(rule, limit)
        refused = queries.refused_files(rule, limit)
    if as_json:
        print_json({"files": files, "refused": refused})
        return
    console = Console()
    if not files and not refused:
        console.print("quarantine is empty" + (f" of {rule}" if rule else ""))
        return
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
    console.print(
        f"[dim]files to repair:[/] {escape(str(settings.quarantine))}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"[dim]look closer:[/]     "
        f"[bold]{escape(tables.command('quarantine show FILE', settings.home))}[/]",
        highlight=False,
        soft_wrap=True,
    )


def quarantine_show(
    home: Path | None, key: str, *, rule: str | None, limit: int, as_json: bool
) -> None:
    """Show the rejected rows of a file.

    Raises:
        ConfigurationError: the ledger has no such file, or several.
    """
    settings = load_settings(home)
    require_home(settings)
    _refuse_unknown_rule(rule)
    with database(settings) as opened:
        queries = Queries(opened.engine)
        entry = _one_entry(queries.file_entries(key), key)
        rows = queries.quarantine_rows(entry["file_id"], rule, limit)
    if as_json:
        print_json({"file": entry, "rows": rows})
        return
    console = Console()
    console.print(f"[bold]{escape(entry['name'])}[/] (file {entry['file_id']})", highlight=False)
    if entry["state"] == "refused":
        console.print(f"[red]✗[/] refused as a whole: {escape(entry['reason'])}", soft_wrap=True)
        return
    if not rows:
        console.print("no rejected rows" + (f" for {rule}" if rule else ""))
        return
    tables.rejected_rows(console, rows)
    rest = entry["rows_quarantined"] - len(rows)
    if rest > 0 and rule is None:
        console.print(f"[dim]… and {rest:,} more (--limit)[/]", highlight=False)


def _refuse_unknown_rule(rule: str | None) -> None:
    if rule is not None and rule not in {**ROW_RULES, **FILE_RULES}:
        known = ", ".join([*ROW_RULES, *FILE_RULES])
        message = f"--reason: '{rule}' is not a reason; known are {known}"
        raise ConfigurationError(message)


def _one_entry(entries: list[dict[str, Any]], key: str) -> dict[str, Any]:
    if not entries:
        message = f"'{key}': the ledger has no file of this name, number or hash"
        raise ConfigurationError(message)
    names = {entry["sha256"] for entry in entries}
    if len(names) > 1:
        numbers = ", ".join(str(entry["file_id"]) for entry in entries[:10])
        message = f"'{key}': several files are called so; give a number: {numbers}"
        raise ConfigurationError(message)
    return entries[0]
