"""The page: one HTML document that needs nothing but itself.

Charts and styles are inside, and a policy in its head forbids the browser to fetch anything.
Everything that is not the template's own is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline import __version__
from pipeline.contract.indices import (
    BANDS,
    BOUNDS,
    COMPLETE_DAY,
    COMPLETE_HOUR,
    INDEX_SOURCE,
    INDEX_VERSION,
)
from pipeline.contract.rules import ROW_RULES
from pipeline.outputs.report.charts import BAND_COLOURS, BAND_INK, Chart
from pipeline.outputs.report.figures import (
    Figures,
    decimal,
    key_figures,
    percent,
    title_of,
    unit_of,
)

ATTRIBUTION = (
    "Contains information from Sensor.Community, which is made available here under the "
    "Open Database License (ODbL)."
)

_templates = Environment(
    loader=PackageLoader("pipeline.outputs.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters["inline"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
_templates.filters["grouped"] = lambda number: f"{number:,}"
_templates.filters["decimal"] = decimal
_templates.filters["bound"] = lambda number: f"{number:g}"
_templates.globals.update(title_of=title_of, unit_of=unit_of, percent=percent)

# Number, name, colour, colour of letters on it, and quantity → beyond what and up to what it goes.
_BANDS = [
    (
        *(number, name, BAND_COLOURS[number - 1], BAND_INK[number - 1]),
        {quantity: (0.0, *bounds)[number - 1] for quantity, bounds in BOUNDS.items()},
        {quantity: (*bounds, None)[number - 1] for quantity, bounds in BOUNDS.items()},
    )
    for number, name in enumerate(BANDS, start=1)
]


def render(figures: Figures, charts: Sequence[Chart]) -> str:
    """Return the page, as HTML."""
    return _templates.get_template("page.html").render(
        figures=figures,
        period=figures.period,
        charts={chart.name: chart for chart in charts},
        keys=key_figures(figures),
        meanings=ROW_RULES,
        bands=_BANDS,
        complete_hour=COMPLETE_HOUR,
        complete_day=COMPLETE_DAY,
        index=INDEX_VERSION,
        index_source=INDEX_SOURCE,
        attribution=ATTRIBUTION,
        version=__version__,
    )


def render_mail(figures: Figures, name: str) -> tuple[str, str]:
    """Return the text and the short HTML of a mail that the page called `name` is attached to."""
    values = {
        "figures": figures,
        "period": figures.period,
        "keys": key_figures(figures),
        "name": name,
        "attribution": ATTRIBUTION,
        "version": __version__,
    }
    # Plain text has nothing to escape.
    plain = _templates.overlay(autoescape=False)
    return (
        plain.get_template("mail.txt").render(values),
        _templates.get_template("mail.html").render(values),
    )
