"""The commands' names, options and help texts. What they do is in the modules beside this one."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many.")]
Rule = Annotated[
    str | None,
    typer.Option("--reason", help="Only this reason, for example null, range or conflict."),
]


class Dialect(StrEnum):
    """The two kinds of CSV file."""

    SOFIA = "sofia"
    ARCHIVE = "archive"


db = typer.Typer(help="The database: bring it up to date, open it, find it.", no_args_is_help=True)
quarantine = typer.Typer(help="What was rejected, and why.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add every command to the application."""
    app.command(rich_help_panel="Load")(run)
    app.command(rich_help_panel="Load")(ingest)
    app.command(rich_help_panel="Look")(status)
    app.add_typer(quarantine, name="quarantine", rich_help_panel="Look")
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


@quarantine.command("list")
def quarantine_list(
    context: typer.Context, reason: Rule = None, limit: Limit = 50, json: Json = False
) -> None:
    """List the files with rejected rows, and those refused as a whole."""
    from pipeline.cli import look

    look.quarantine_list(context.obj, rule=reason, limit=limit, as_json=json)


@quarantine.command("show")
def quarantine_show(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="Name, number or hash of the file.")],
    reason: Rule = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """Show the rejected rows of a file: line, reason, and the line as it stood."""
    from pipeline.cli import look

    look.quarantine_show(context.obj, file, rule=reason, limit=limit, as_json=json)


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


def doctor(context: typer.Context, json: Json = False) -> None:
    """Check everything that has to be right, and say how to mend what is not."""
    from pipeline.cli import doctor as examining

    raise typer.Exit(examining.doctor(context.obj, as_json=json))
