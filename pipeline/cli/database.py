"""`db upgrade`, `db url`, `db psql`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import typer

from pipeline.cli.session import database, print_json, require_home
from pipeline.cli.settings import settings_of
from pipeline.store import migrate
from pipeline.store.address import for_command_line, masked


def upgrade(home: Path | None, *, as_json: bool) -> None:
    """Create or migrate the tables."""
    with database(settings_of(home), migrated=False) as opened:
        applied = migrate.upgrade(opened.engine)
        if as_json:
            print_json({"database": opened.shown, "applied": applied, "revision": migrate.head()})
        elif applied:
            typer.echo(f"migrated {opened.shown} to {migrate.head()}")
        else:
            typer.echo(f"{opened.shown} is up to date ({migrate.head()})")


def url(home: Path | None, *, show_password: bool, as_json: bool) -> None:
    """Print the address of the database."""
    settings = settings_of(home)
    if settings.database.url is None:
        from pipeline.embedded import running_url

        address = running_url(settings.home)
        if address is None:
            # Its address is where its socket will be; starting it makes that certain.
            with database(settings) as opened:
                address = opened.url
            typer.echo(
                "The private PostgreSQL runs only while a command uses it "
                "(`sofia-air run` is such a command).",
                err=True,
            )
    else:
        address = settings.database.url.get_secret_value()
        if not show_password:
            address = masked(address)
    if as_json:
        print_json({"url": address, "embedded": settings.database.url is None})
    else:
        typer.echo(address)


def psql(home: Path | None, arguments: list[str]) -> int:
    """Open psql and return its exit code."""
    from pipeline.embedded import bin_dir

    settings = settings_of(home)
    require_home(settings)
    with database(settings) as opened:
        address, secrets = for_command_line(opened.url)
        # Ctrl-C belongs to psql: it cancels a query there, and must not end us.
        if (
            opened.embedded and os.geteuid() == 0
        ):  # another user's server gets no password of root's
            secrets["PGREQUIREAUTH"] = "none"
        command = [str(bin_dir() / "psql"), "-d", address, *arguments]
        with subprocess.Popen(command, env={**os.environ, **secrets}) as process:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue
