"""`report`: a page about a day, a week or a month, as a file and by mail."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli import tables
from pipeline.cli.session import database, print_json, require_home
from pipeline.cli.settings import settings_of
from pipeline.errors import ConfigurationError, InvalidArgument
from pipeline.outputs.report import figures, mail
from pipeline.outputs.report import period as periods
from pipeline.store.read.report import ReportQueries

if TYPE_CHECKING:
    from datetime import date

    from pipeline.outputs.report.period import Kind, Period

# What the extra `report` brings.
_EXTRA = ("matplotlib", "jinja2")


def report(
    home: Path | None,
    *,
    day: str | None,
    week: str | None,
    month: str | None,
    last: Kind | None,
    out: Path | None,
    charts: Path | None,
    email: bool,
    as_json: bool,
) -> None:
    """Make the report, write it, and send it where that is asked for.

    Raises:
        InvalidArgument: a wrong option.
        ConfigurationError: a wrong setting, or the extra is missing.
        MailRefused: the report is written, but was not sent.
    """
    now = datetime.now(UTC)
    chosen = _chosen(day, week, month, last, now.date())
    settings = settings_of(home)
    require_home(settings)
    # What cannot work is said before anything is made.
    _require_extra()
    to = mail.post(settings.smtp) if email else None
    from pipeline.outputs.report.make import make

    with database(settings) as opened:
        queries = ReportQueries(opened.reader)
        period = chosen or figures.newest(queries, now.date())
        made = make(queries, period, now)
    path = (out or settings.home / "reports" / made.file_name).expanduser().absolute()
    made.save(path)
    drawn = made.save_charts(charts.expanduser().absolute()) if charts else []
    if to is not None:
        made.send(to, now)
    if as_json:
        told: dict[str, Any] = {
            "file": path,
            "charts": drawn,
            "sent_to": list(to.recipients) if to else [],
        }
        print_json({**told, **made.figures.as_json()})
        return
    typer.echo(f"{period.title}: {tables.short(path)}")
    if made.figures.empty:
        typer.echo("there are no readings of this period")
    else:
        typer.echo(
            "; ".join(f"{what}: {value}" for what, value in figures.key_figures(made.figures))
        )
    if charts:
        many = f"{len(drawn)} chart" + ("" if len(drawn) == 1 else "s")
        typer.echo(f"{many}: {tables.short(charts.expanduser().absolute())}")
    if to is not None:
        typer.echo(f"sent to {', '.join(to.recipients)}")


def _chosen(
    day: str | None, week: str | None, month: str | None, last: Kind | None, today: date
) -> Period | None:
    """Return the period that was asked for; None for the newest day with data."""
    given = {"--day": day, "--week": week, "--month": month, "--last": last}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        message = f"{' and '.join(named)} cannot go together: a report is about one of them"
        raise InvalidArgument(message)
    if day is not None:
        return periods.day_of(day)
    if week is not None:
        return periods.week_of(week)
    if month is not None:
        return periods.month_of(month)
    return periods.last(last, today) if last is not None else None


def _require_extra() -> None:
    """See to it that what draws and writes the page is installed.

    Raises:
        ConfigurationError: it is not; says what brings it.
    """
    for name in _EXTRA:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            message = (
                f"reports need {name}, which is not installed: "
                "pip install 'sofia-air-pipeline[report]' brings it"
            )
            raise ConfigurationError(message) from None
