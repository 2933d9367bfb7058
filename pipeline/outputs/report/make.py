"""A report from beginning to end: figures, charts and page, and where they are put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.files import atomic
from pipeline.files.disk import trouble
from pipeline.files.permissions import make_folder
from pipeline.outputs.report import charts as drawing
from pipeline.outputs.report import figures as numbers
from pipeline.outputs.report import mail, page

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pipeline.outputs.report.period import Period
    from pipeline.store.read.report import ReportQueries


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report.

    Attributes:
        figures: its numbers.
        charts: its charts; none when there is nothing to show.
        html: its page.
    """

    figures: numbers.Figures
    charts: list[drawing.Chart]
    html: str

    @property
    def file_name(self) -> str:
        """What the page is called where nobody says otherwise."""
        return f"sofia-air-{self.figures.period.name}.html"

    def save(self, path: Path) -> None:
        """Write the page; who reads it meanwhile sees the old one or the new one.

        Raises:
            DiskTrouble: it cannot be written.
        """
        _write(path, self.html.encode())

    def save_charts(self, folder: Path) -> list[Path]:
        """Write each chart as a PNG file; return where they are.

        Raises:
            DiskTrouble: one cannot be written.
        """
        paths = []
        for chart in self.charts:
            path = folder / f"sofia-air-{self.figures.period.name}-{chart.name}.png"
            _write(path, chart.wide)
            paths.append(path)
        return paths

    def send(self, to: mail.Post, now: datetime) -> None:
        """Mail the page, with the key figures in the mail itself.

        Raises:
            MailRefused: the server did not take it.
        """
        text, html = page.render_mail(self.figures, self.file_name)
        subject = f"Air in Sofia: {self.figures.period.title}"
        mail.send(
            to, mail.compose(to, subject, text, html, self.file_name, self.html.encode(), now)
        )


def make(queries: ReportQueries, period: Period, now: datetime) -> Report:
    """Make the report of a period.

    Raises:
        DatabaseUnavailable: the database cannot be asked now.
    """
    figures = numbers.collect(queries, period, now)
    charts = drawing.draw(figures)
    return Report(figures, charts, page.render(figures, charts))


def _write(path: Path, content: bytes) -> None:
    try:
        make_folder(path.parent)
    except OSError as error:
        raise trouble(error, path, "written") from error
    atomic.tidy([path.parent])
    atomic.write(path, content)
