"""The commands' names, options and help texts. What they do is in the modules beside this one."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from pipeline.cli.sections import Sections

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many.")]
Rule = Annotated[
    str | None,
    typer.Option("--reason", help="Only this reason, for example null, range or conflict."),
]
Every = Annotated[bool, typer.Option("--all", help="Of all files.")]
File = Annotated[str, typer.Argument(help="Name, number or hash of the file.")]


class Dialect(StrEnum):
    """The two kinds of CSV file."""

    SOFIA = "sofia"
    ARCHIVE = "archive"


class Group(StrEnum):
    """By what rejected rows are put together."""

    FILE = "file"
    REASON = "reason"
    SENSOR = "sensor"
    AGE = "age"


class RowState(StrEnum):
    """What became of a rejected row."""

    OPEN = "open"
    REPAIRED = "repaired"
    DISCARDED = "discarded"


class Span(StrEnum):
    """What a report can be about."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Delimiter(StrEnum):
    """What separates the cells of an exported CSV."""

    COMMA = "comma"
    SEMICOLON = "semicolon"
    TAB = "tab"


db = typer.Typer(
    cls=Sections, help="The database: bring it up to date, open it, find it.", no_args_is_help=True
)
quarantine = typer.Typer(
    cls=Sections, help="What was rejected, why, and how it comes back.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add every command to the application."""
    app.command(rich_help_panel="Load")(run)
    app.command(rich_help_panel="Load")(ingest)
    app.command(rich_help_panel="Look")(status)
    app.command(rich_help_panel="Look")(why)
    app.command(rich_help_panel="Look")(report)
    app.command(rich_help_panel="Look")(changes)
    app.add_typer(quarantine, name="quarantine", rich_help_panel="Repair")
    app.command(rich_help_panel="Repair")(retract)
    app.add_typer(db, name="db", rich_help_panel="Look")
    app.command(rich_help_panel="Try")(demo)
    app.command(rich_help_panel="Try")(simulate)
    app.command(rich_help_panel="Try")(doctor)


def run(
    context: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Take what is in data/ now, then exit.")
    ] = False,
    json: Json = False,
) -> None:
    """Watch data/ and load every file that is dropped there, until stopped.

    With --once, exits when data/ is empty: 3 when some file was refused as a whole.
    """
    from pipeline.cli import load

    raise typer.Exit(load.run(context.obj, once=once, as_json=json))


def ingest(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders or glob patterns.")
    ],
    json: Json = False,
) -> None:
    """Load files from anywhere; the originals stay where they are.

    Copies go through data/ like any other file. Safe beside a running daemon.
    """
    from pipeline.cli import load

    raise typer.Exit(load.ingest(context.obj, paths, as_json=json))


def status(context: typer.Context, json: Json = False, limit: Limit = 10) -> None:
    """Show the books: what was loaded, what waits, what is ignored and why."""
    from pipeline.cli import look

    look.status(context.obj, as_json=json, limit=limit)


def why(
    context: typer.Context,
    sensor: Annotated[int, typer.Argument(help="Number of the sensor.")],
    time: Annotated[
        str, typer.Argument(help="Time of the reading in UTC, as 2018-03-06T00:46:02.")
    ],
    json: Json = False,
) -> None:
    """Tell where a reading came from, line for line, or why there is none.

    Shows the file, the line as it stood, when it was loaded and under which contract, and what
    else arrived for that sensor and time: duplicates, conflicts, rejected and repaired rows.
    """
    from pipeline.cli import history

    history.tell(context.obj, sensor, time, as_json=json)


def report(
    context: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Of this day.")] = None,
    week: Annotated[
        str | None, typer.Option(metavar="YYYY-Www", help="Of this ISO week, or that of a date.")
    ] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="Of this month.")] = None,
    last: Annotated[
        Span | None, typer.Option(help="Of the last one that is over, by today's date.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file to write (default: in reports/ of the home folder)."),
    ] = None,
    charts: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the charts here too, as PNG files.")
    ] = None,
    email: Annotated[bool, typer.Option("--email", help="Send it by mail, too.")] = False,
    json: Json = False,
) -> None:
    """Make a page about a day, a week or a month: charts, map, best and worst, quarantine.

    Without a period: of the newest day that is over and has data. The page is one file that needs
    no network. Needs the extra `report`; --email needs the settings in `[smtp]`.
    """
    from pipeline.cli import reporting

    reporting.report(
        context.obj,
        day=day,
        week=week,
        month=month,
        last=last.value if last else None,
        out=out,
        charts=charts,
        email=email,
        as_json=json,
    )


def changes(
    context: typer.Context,
    after: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="SEQ", help="Those after this one (0: all; default: the newest)."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", min=1, help="At most this many (default: 100; with --follow: no end)."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and print each as it comes.")
    ] = False,
    generation: Annotated[
        UUID | None,
        typer.Option(help="The generation of the database in which SEQ was seen."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the change feed: what was done to readings and quarantine, in order.

    With --json --follow, a JSON object on each line. A database that was restored is of another
    generation: that is said, and the feed begins again with its first change.
    """
    from pipeline.cli import changes as printing

    printing.show(
        context.obj,
        after=after,
        limit=limit,
        following=follow,
        generation=generation,
        as_json=json,
    )


def retract(
    context: typer.Context,
    file: File,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    note: Annotated[str | None, typer.Option(help="Why, for the ledger.")] = None,
    json: Json = False,
) -> None:
    """Take a loaded file back: its readings, its replays and all statistics, at once.

    Readings that other files delivered too come back as theirs. The ledger keeps the file as
    retracted, and its archived copy can be dropped into data/ again.
    """
    from pipeline.cli import history

    raise typer.Exit(history.retract(context.obj, file, yes=yes, note=note, as_json=json))


@quarantine.command("list")
def quarantine_list(
    context: typer.Context,
    by: Annotated[Group, typer.Option(help="Put rows together by this.")] = Group.FILE,
    reason: Rule = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List what is open, by file, reason, sensor or age, and files refused as a whole."""
    from pipeline.cli import quarantine as looking

    looking.listed(context.obj, by=by.value, rule=reason, limit=limit, as_json=json)


@quarantine.command("show")
def quarantine_show(
    context: typer.Context,
    file: File,
    reason: Rule = None,
    state: Annotated[RowState | None, typer.Option(help="Only rows of which this became.")] = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Show the rejected rows of a file: the line as it stood, and what would be accepted."""
    from pipeline.cli import quarantine as looking

    looking.shown(
        context.obj,
        file,
        rule=reason,
        state=state.value if state else None,
        limit=limit,
        as_json=json,
    )


@quarantine.command("export")
def quarantine_export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The CSV file to write.")],
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Names, numbers or hashes of files."),
    ] = None,
    every: Every = False,
    reason: Rule = None,
    delimiter: Annotated[
        Delimiter, typer.Option(help="What separates the cells.")
    ] = Delimiter.COMMA,
    json: Json = False,
) -> None:
    """Write open rows into one CSV for a spreadsheet, to be repaired there and reprocessed."""
    from pipeline.cli import quarantine as looking

    mark = {"comma": ",", "semicolon": ";", "tab": "\t"}[delimiter.value]
    raise typer.Exit(
        looking.export(
            context.obj,
            files or [],
            every=every,
            rule=reason,
            output=output,
            delimiter=mark,
            as_json=json,
        )
    )


@quarantine.command("reprocess")
def quarantine_reprocess(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE", help="Names, numbers or hashes of files, or paths of repaired CSVs."
        ),
    ] = None,
    every: Every = False,
    reason: Rule = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Bring back what passes now: rows that were repaired, or that the contract now accepts.

    Takes the CSV in quarantine/ as a person has left it, or an exported one, and refused files
    too. What still fails stays open. Exits with 3 when something repaired was not taken.
    """
    from pipeline.cli import reworking

    raise typer.Exit(
        reworking.reprocess(
            context.obj,
            files or [],
            every=every,
            rule=reason,
            dry=dry_run,
            limit=limit,
            as_json=json,
        )
    )


@quarantine.command("discard")
def quarantine_discard(
    context: typer.Context,
    file: File,
    note: Annotated[str, typer.Option(help="Why, for whoever wonders later.")],
    line: Annotated[
        list[int] | None, typer.Option(help="Only this line; give it again for more.")
    ] = None,
    reason: Rule = None,
    json: Json = False,
) -> None:
    """Give up open rows of a file, or a refused file: kept, but waiting for nobody."""
    from pipeline.cli import reworking

    reworking.discard(context.obj, file, lines=line or [], rule=reason, note=note, as_json=json)


@db.command("upgrade")
def db_upgrade(context: typer.Context, json: Json = False) -> None:
    """Create or migrate the tables; does nothing when they are up to date."""
    from pipeline.cli import database

    database.upgrade(context.obj, as_json=json)


@db.command("url")
def db_url(
    context: typer.Context,
    show_password: Annotated[
        bool, typer.Option("--show-password", help="Print the password too.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the address of the database, for other programs."""
    from pipeline.cli import database

    database.url(context.obj, show_password=show_password, as_json=json)


@db.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def db_psql(context: typer.Context) -> None:
    """Open psql on the database. Options after `psql` are psql's own."""
    from pipeline.cli import database

    raise typer.Exit(database.psql(context.obj, context.args))


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where to make the demo's home.")] = Path(
        "sofia-air-demo"
    ),
    json: Json = False,
) -> None:
    """See it work: sample files through the whole pipeline, into a private PostgreSQL."""
    from pipeline.cli import demo as showing

    raise typer.Exit(showing.demo(context.obj, folder, as_json=json))


def simulate(
    folder: Annotated[Path, typer.Argument(help="Where to write the files.")],
    sensors: Annotated[int, typer.Option(min=1, help="How many sensors of each model.")] = 20,
    start: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day (default: 2018-01-01)."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How many days.")] = 1,
    dialect: Annotated[
        Dialect, typer.Option(help="Sofia's monthly or the archive's daily files.")
    ] = Dialect.SOFIA,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Sensor model; give it again for more (default: sds011, bme280)."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, help="About how many rows of each model; the days follow from it."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 1,
    fault_rate: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of lines to damage, for example 0.02.")
    ] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Kind of damage; give it again for more (default: all)."),
    ] = None,
    gzip: Annotated[bool, typer.Option("--gzip", help="Compress the files.")] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Where to list every damaged line and its reasons.")
    ] = None,
    json: Json = False,
) -> None:
    """Write realistic files of readings, clean or with known faults."""
    from pipeline.cli import simulating

    simulating.simulate(
        folder,
        {
            "sensors": sensors,
            "start": start.date() if start else None,
            "days": days,
            "dialect": dialect.value,
            "models": tuple(model) if model else None,
            "rows": rows,
            "seed": seed,
            "fault_rate": fault_rate,
            "faults": tuple(fault) if fault else None,
            "gzip": gzip,
        },
        manifest,
        as_json=json,
    )


def doctor(
    context: typer.Context,
    mend: Annotated[
        bool,
        typer.Option(
            "--mend",
            help="Give readings whose sensor or place is missing what their archived file says.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check everything that has to be right, and say how to mend what is not."""
    from pipeline.cli import doctor as examining

    raise typer.Exit(examining.doctor(context.obj, mend=mend, as_json=json))
