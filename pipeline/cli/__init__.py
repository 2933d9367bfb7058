"""The command line: parsing and printing, nothing else.

Importing this must be quick, so that `--help` is: every command imports what it needs when it
runs. Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, but some whole file was
refused.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import IO, Annotated, cast

import typer

from pipeline import __version__
from pipeline.cli.failing import complaint, exit_code
from pipeline.cli.sections import Sections
from pipeline.cli.start import hurry
from pipeline.errors import PipelineError
from pipeline.files.permissions import restrict_umask
from pipeline.visible import Styled, escape_standard_streams, visible

app = typer.Typer(
    name="sofia-air",
    cls=Sections,
    help="CSV files of air-quality readings in, trusted rows in PostgreSQL out.\n\n"
    "Drop files into data/; every row is validated, normalised, deduplicated and loaded. Rows that "
    "fail wait in quarantine/ with their reasons.",
    epilog="First time here? Type: sofia-air demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:  # typer hands it over so
    if wanted:
        typer.echo(f"sofia-air {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            envvar="SOFIA_AIR_HOME",
            help="Folder that holds data/, quarantine/ and logs/ (default: the current folder).",
            show_default=False,
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001  # its callback does the work
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Remember the home folder for the command that follows."""
    restrict_umask()
    context.obj = home


def main() -> None:
    """Run the command line; errors that we know become one clear sentence."""
    hurry()
    escape_standard_streams()
    # Registered here, not on import: `import pipeline.cli` alone must stay side-effect free.
    from pipeline.cli import commands

    commands.register(app)
    try:
        app()
    except PipelineError as error:
        _complain(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # `sofia-air … | head` has seen enough.
        sys.stderr.close()
        sys.exit(0)


def _complain(error: PipelineError) -> None:
    # A message may have several lines. What comes from outside must not look like another message.
    text = re.sub(r"\n(?! )", "\n  ", visible(complaint(error), keep="\n"))
    shown = typer.style("error: ", fg=typer.colors.RED, bold=True)
    typer.echo(shown + text, file=cast("IO[str]", Styled(sys.stderr)))
