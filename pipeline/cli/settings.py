"""A command's settings and its log, and the one warning about settings with old names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, cast

import typer

from pipeline import logs
from pipeline.config import Settings, load_settings
from pipeline.visible import Styled, visible

log = logs.get("settings")


def settings_of(home: Path | None, *, quiet: bool = False) -> Settings:
    """Return the settings of a home.

    Args:
        home: from `--home`.
        quiet: say nothing about old names: the log will, and is on the terminal, too.

    Raises:
        ConfigurationError: a setting is wrong.
    """
    settings = load_settings(home)
    if settings.renamed and not quiet:
        label = typer.style("warning: ", fg=typer.colors.YELLOW, bold=True)
        typer.echo(label + visible(settings.renamed), file=cast("IO[str]", Styled(sys.stderr)))
    return settings


def start_log(settings: Settings, *, console: bool = False) -> None:
    """Begin to log as the settings say.

    Args:
        settings: the settings in force.
        console: show events on standard error, too.
    """
    logs.configure(settings.log.level, settings.logs, console=console)
    if settings.renamed:
        log.warning("settings.renamed", keys=settings.renamed)
