"""`status`: look, change nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.cli import tables
from pipeline.cli.session import Database, clock_of, database, print_json, require_home
from pipeline.cli.settings import settings_of
from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings
from pipeline.files.watch import Ignored, scan
from pipeline.store.read import books
from pipeline.store.read.books import RecentFile, Server, Totals


def status(home: Path | None, *, as_json: bool, limit: int) -> None:
    """Show the ledger's sums, the files taken last, what waits and what is ignored."""
    settings = settings_of(home)
    require_home(settings)
    waiting, ignored = scan(settings.data) if settings.data.is_dir() else ([], [])
    with database(settings) as opened:
        with opened.reader.snapshot() as connection:
            totals, server = books.totals(connection), books.server(connection)
            recent = books.recent_files(connection, limit)
        doubt = clock_of(settings, opened.reader).look().doubt
        if as_json:
            print_json(
                {
                    "home": settings.home,
                    "database": {
                        "url": opened.shown,
                        "embedded": opened.embedded,
                        **asdict(server),
                    },
                    "contract_version": settings.site_contract().version,
                    "totals": totals,
                    "waiting": {
                        "files": len(waiting),
                        "bytes": sum(file.size for file in waiting),
                    },
                    "clock": doubt,
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
    if doubt:
        tables.say(console, f"[bold red]clock[/]     {escape(doubt)}")
    _ignored(console, ignored)
    _recent(console, recent, settings.home)


def _heading(console: Console, settings: Settings, opened: Database, server: Server) -> None:
    kind = "private PostgreSQL" if opened.embedded else "PostgreSQL"
    where = "" if opened.embedded else f" at {escape(opened.shown)}"
    console.print(f"[bold]home[/]      {escape(str(settings.home))}", highlight=False)
    console.print(
        f"[bold]database[/]  {kind} {escape(str(server.version))}{where}, "
        f"{tables.size(server.bytes)}",
        highlight=False,
    )


def _books(console: Console, totals: Totals) -> None:
    console.print(
        f"[bold]files[/]     {totals.files_loaded:,} loaded, "
        f"{totals.files_refused:,} refused, {totals.files_retracted:,} retracted",
        highlight=False,
    )
    console.print(
        f"[bold]rows[/]      {totals.rows_read:,} read = {totals.rows_loaded:,} loaded + "
        f"{totals.rows_duplicate:,} duplicate + {totals.rows_quarantined:,} quarantined"
        + (f", {totals.rows_open:,} of them open" if totals.rows_quarantined else ""),
        highlight=False,
    )
    if totals.sensors:
        console.print(
            f"[bold]readings[/]  {totals.sensors:,} sensors, "
            f"{tables.moment(totals.first_ts)} … {tables.moment(totals.last_ts)} UTC",
            highlight=False,
        )


def _ignored(console: Console, ignored: list[Ignored]) -> None:
    if not ignored:
        return
    shown = tables.table("left alone in data/", "because")
    for entry in ignored:
        shown.add_row(escape(entry.name), escape(entry.reason))
    console.print(shown)


def _recent(console: Console, recent: list[RecentFile], home: Path) -> None:
    if not recent:
        once = tables.command("run --once", home)
        console.print(f"nothing loaded yet: drop files into data/ and type `{escape(once)}`")
        return
    roomy = console.width >= 100
    shown = tables.table(">id", "file", "", *tables.BOOKS, *(["taken (UTC)"] if roomy else []))
    for row in recent:
        terms = (row.rows_read, row.rows_loaded, row.rows_duplicate, row.rows_quarantined)
        shown.add_row(
            str(row.file_id),
            escape(row.name),
            tables.state(row.state),
            *map(tables.count, terms),
            *([tables.moment(row.loaded_at)] if roomy else []),
        )
    console.print(shown)
