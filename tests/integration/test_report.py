"""Reports: their numbers against plain Python, their charts, and the page that shows them."""

from __future__ import annotations

import base64
import json
import os
import re
import statistics
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.cli import reporting
from pipeline.cli.failing import exit_code
from pipeline.config import load_settings
from pipeline.contract import indices
from pipeline.errors import DiskTrouble, Terminal
from pipeline.outputs.report import charts as drawing
from pipeline.outputs.report import figures as numbers
from pipeline.outputs.report import page
from pipeline.outputs.report import period as periods
from pipeline.outputs.report.figures import Figures, Point
from pipeline.outputs.report.make import make
from pipeline.outputs.report.period import Period
from pipeline.rework import targets
from pipeline.rework.replay import Replay
from pipeline.store.load import Store
from pipeline.store.read.report import ReportQueries
from pipeline.store.rework import Workbench
from tests.conftest import Server
from tests.integration.conftest import ARCHIVE_BME, ARCHIVE_DS18B20, ARCHIVE_SDS, Site

FIRST, SECOND = datetime(2018, 1, 30, tzinfo=UTC), datetime(2018, 1, 31, tzinfo=UTC)
HOUR = timedelta(hours=1)
CADENCE = timedelta(seconds=148)
NOW = datetime(2018, 2, 10, 6, 0, tzinfo=UTC)
PLACES = {92: "42;42.689;23.341", 94: "43;42.700;23.321", 96: ";;"}

# Sensor, time, pm10 and pm25 of every reading of dust: 92 and 94 have complete days, but 92 nothing
# at 03:00, and of 96 there are five hours and one reading.
READINGS = [
    (sensor, day + hour * HOUR + i * CADENCE, level + hour + i / 10, level / 2 + hour / 4)
    for sensor, level, days, hours in (
        (92, 10.0, (FIRST, SECOND), (0, 1, 2, *range(4, 24))),
        (94, 60.0, (SECOND,), range(24)),
        (96, 200.0, (SECOND,), range(5)),
    )
    for day in days
    for hour in hours
    for i in range(20)
] + [(96, SECOND + 7 * HOUR, 900.0, 500.0)]
CLIMATE = [
    (93, SECOND + hour * HOUR + i * CADENCE, hour - 5.0, 60.0 + hour)
    for hour in range(24)
    for i in range(20)
]


def load(site: Site) -> None:
    """Load the readings above, with two bad rows and one that comes twice."""
    rows = [
        f"{sensor};SDS011;{PLACES[sensor]};{ts:%Y-%m-%dT%H:%M:%S};{pm10};;;{pm25};;\n"
        for sensor, ts, pm10, pm25 in READINGS
    ]
    bad = ["92;SDS011;42;42.689;23.341;2018-01-31T12:00:01;5000;;;;;\n"] * 2
    dust = site.load(ARCHIVE_SDS + "".join([*rows, rows[0], *bad]), "dust.csv")
    assert dust.state == "loaded"
    weather = "".join(
        f"{sensor};BME280;{PLACES[92]};{ts:%Y-%m-%dT%H:%M:%S};95000;;;{temperature};{humidity}\n"
        for sensor, ts, temperature, humidity in CLIMATE
    )
    assert site.load(ARCHIVE_BME + weather, "weather.csv").state == "loaded"


def collected(site: Site, period: Period) -> Figures:
    return numbers.collect(ReportQueries(site.reader), period, NOW)


# --- an oracle in plain Python --------------------------------------------------------------------


def hourly(quantity: int) -> dict[tuple[int, datetime], list[float]]:
    found: dict[tuple[int, datetime], list[float]] = {}
    for sensor, ts, pm10, pm25 in READINGS:
        start = ts.replace(minute=0, second=0)
        found.setdefault((sensor, start), []).append((pm10, pm25)[quantity])
    return found


def complete_days(quantity: int, first: datetime, days: int) -> dict[tuple[int, datetime], float]:
    """Return sensor and day → mean, of complete days within a period."""
    values: dict[tuple[int, datetime], list[float]] = {}
    hours: dict[tuple[int, datetime], int] = {}
    for (sensor, hour), found in hourly(quantity).items():
        key = (sensor, hour.replace(hour=0))
        values.setdefault(key, []).extend(found)
        hours[key] = hours.get(key, 0) + (len(found) >= 18)
    return {
        key: statistics.fmean(found)
        for key, found in values.items()
        if hours[key] >= 18 and first <= key[1] < first + timedelta(days=days)
    }


def spread(means: list[float]) -> tuple[float, float, float]:
    if len(means) == 1:
        return means[0], means[0], means[0]
    low, median, high = statistics.quantiles(means, n=4, method="inclusive")
    return low, median, high


def points(found: dict[tuple[int, datetime], float]) -> list[tuple[Any, ...]]:
    starts = sorted({start for _, start in found})
    return [
        (start, len(means), *(pytest.approx(value, rel=1e-6) for value in spread(means)))
        for start in starts
        if (means := [mean for (_, at), mean in found.items() if at == start])
    ]


def told(found: list[Point]) -> list[tuple[Any, ...]]:
    return [(p.start, p.sensors, p.low, p.median, p.high) for p in found]


# --- figures --------------------------------------------------------------------------------------


def test_the_figures_of_a_day(site: Site) -> None:
    load(site)
    found = collected(site, periods.day_of("2018-01-31"))
    for i, quantity in enumerate(("pm10", "pm25")):
        means = {
            key: statistics.fmean(values)
            for key, values in hourly(i).items()
            if len(values) >= 18 and key[1] >= SECOND
        }
        assert told(found.series[quantity]) == points(means)
        days = complete_days(i, SECOND, 1)
        assert told(found.days[quantity]) == points(days)
        row = found.quantities[quantity]
        assert (row["sensors"], row["sensor_days"]) == (2, 2)
        assert (row["low"], row["median"], row["high"]) == pytest.approx(spread([*days.values()]))
    # 92 gave nothing at three, so the hour has one sensor, and 96 counts in its whole hours.
    assert [p.sensors for p in found.series["pm10"]] == [3, 3, 3, 2, 3, *[2] * 19]
    assert [p.sensors for p in found.series["temperature"]] == [1] * 24
    assert found.quantities["temperature"]["median"] == pytest.approx(6.5)

    assert [(s.sensor_id, s.complete_days, s.band, s.lat) for s in found.sensors] == [
        (92, 1, 2, 42.689),
        (94, 1, 3, 42.7),
        (96, 0, None, None),
    ]
    day_means = complete_days(0, SECOND, 1)
    assert found.sensors[0].pm10 == pytest.approx(day_means[92, SECOND], rel=1e-6)
    assert ([s.sensor_id for s in found.best], [s.sensor_id for s in found.worst]) == ([92], [94])

    # 23 + 24 + 5 hours of dust and 24 of climate, of four sensors with 24 each.
    assert found.coverage == {
        "sensors": 4,
        "dust_sensors": 3,
        "climate_sensors": 1,
        "readings": 23 * 20 + 24 * 20 + 5 * 20 + 1 + 24 * 20,
        "sensor_days": 4,
        "complete_days": 3,
        "complete_hours": 23 + 24 + 5 + 24,
    }
    assert found.completeness == pytest.approx(76 / 96)
    reporting = {row["start"].hour: (row["reporting"], row["complete"]) for row in found.reporting}
    assert reporting == {
        hour: {3: (3, 3), 7: (4, 3)}.get(hour, (4, 4) if hour < 5 else (3, 3)) for hour in range(24)
    }


def test_limits_and_bands_are_those_that_are_declared(site: Site) -> None:
    load(site)
    found = collected(site, periods.day_of("2018-01-31"))
    expected = []
    for limit in indices.LIMITS:
        if limit.period == "day":
            means = complete_days(["pm10", "pm25"].index(limit.quantity), SECOND, 1).values()
            above = sum(mean > limit.value for mean in means)
            expected.append((limit.standard, limit.quantity, limit.value, len(means), above))
    keys = ("standard", "quantity", "limit_value", "sensor_days", "sensor_days_above")
    assert sorted(tuple(row[key] for key in keys) for row in found.exceedances) == sorted(expected)
    assert {above for *_, above in expected} == {1}  # that of 94; the test is worth something

    bands: dict[tuple[datetime, int], int] = {}
    fine = hourly(1)
    for (sensor, hour), coarse in hourly(0).items():
        if hour >= SECOND and len(coarse) >= 18:
            band = max(
                indices.band("pm10", statistics.fmean(coarse)),
                indices.band("pm25", statistics.fmean(fine[sensor, hour])),
            )
            bands[hour, band] = bands.get((hour, band), 0) + 1
    assert {(row["start"], row["band"]): row["sensor_hours"] for row in found.bands} == bands


def test_the_figures_of_a_month(site: Site) -> None:
    load(site)
    found = collected(site, periods.month_of("2018-01"))
    days = complete_days(0, FIRST, 2)
    assert told(found.series["pm10"]) == points(days)
    assert [p.start for p in found.series["pm10"]] == [FIRST, SECOND]
    assert found.sensors[0].pm10 == pytest.approx(
        statistics.fmean([days[92, FIRST], days[92, SECOND]]), rel=1e-6
    )
    # Two days have data, so two are needed, and 94 has one: it tells of another time.
    assert found.days_needed == 2
    assert [s.sensor_id for s in found.ranking] == [92]
    assert (len(found.best), len(found.worst)) == (1, 0)
    assert [row["start"] for row in found.reporting] == [FIRST, SECOND]
    assert sum(row["sensor_hours"] for row in found.bands) == 23 + 23 + 24 + 5


def test_books_and_reasons_are_those_of_the_periods_files(site: Site) -> None:
    load(site)
    elsewhere = "92;SDS011;42;42.689;23.341;2018-03-01T00:00:00;-7;;;1;;\n"
    fine = "92;SDS011;42;42.689;23.341;2018-03-01T00:05:00;7;;;1;;\n"
    site.load(ARCHIVE_SDS + elsewhere + fine, "march.csv")
    found = collected(site, periods.month_of("2018-01"))
    read = len(READINGS) + 3 + len(CLIMATE)
    assert found.books == {
        "files": 2,
        "files_refused": 0,
        "rows_read": read,
        "rows_loaded": len(READINGS) + len(CLIMATE),
        "rows_duplicate": 1,
        "rows_quarantined": 2,
    }
    rejected = site.rejected("dust.csv").values()
    rules = sorted({reason["rule"] for row in rejected for reason in row.reasons})
    assert sorted(row["rule"] for row in found.reasons) == rules
    assert all(row["rows"] == row["open"] == 2 for row in found.reasons)
    site.sql(
        "UPDATE air.quarantined_row SET state = 'discarded', note = 'x', decided_at = now(),"
        " decided_by = 'me' WHERE line_no = (SELECT max(line_no) FROM air.quarantined_row)"
    )
    found = collected(site, periods.month_of("2018-01"))
    assert all((row["open"], row["discarded"]) == (1, 1) for row in found.reasons)
    site.sql(
        "UPDATE air.quarantined_row SET state = 'open', note = NULL, decided_at = NULL,"
        " decided_by = NULL"
    )


def test_rows_that_came_back_are_counted_once(site: Site) -> None:
    row = "7;DS18B20;1;42.7;23.3;2018-01-31T00:00:{:02};{}\n"
    rows = "".join(row.format(i, value) for i, value in enumerate((20, 55, 61)))
    site.load(ARCHIVE_DS18B20 + rows, "some.csv")
    wider = "[contract.ranges.temperature]\naccept = [-50, 60]\n"
    (site.settings.home / "sofia-air.toml").write_text(wider)
    settings = load_settings(site.settings.home)
    worker = Replay(settings, Store(site.engine), settings.site_contract(), "somebody")
    done = worker.run(targets.one(Workbench(site.reader), "some.csv"), dry=False)
    assert done.lines("loaded") == [3]
    found = collected(site, periods.day_of("2018-01-31"))
    assert (found.books["files"], found.books["rows_read"]) == (1, 3)
    assert (found.books["rows_loaded"], found.books["rows_quarantined"]) == (1, 2)
    assert found.coverage["readings"] == 2
    assert [(r["rule"], r["rows"], r["open"], r["repaired"]) for r in found.reasons] == [
        ("range", 2, 1, 1)
    ]


def test_the_default_is_the_newest_day_that_is_over_and_counts(site: Site) -> None:
    queries = ReportQueries(site.reader)
    assert numbers.newest(queries, date(2018, 2, 10)).name == "2018-02-09"
    load(site)
    later = "92;SDS011;42;42.689;23.341;2018-02-03T00:00:00;7;;;1;;\n"
    site.load(ARCHIVE_SDS + later, "later.csv")
    # That of February is no complete day of any sensor.
    assert numbers.newest(queries, date(2018, 2, 10)).name == "2018-01-31"
    assert numbers.newest(queries, date(2018, 1, 31)).name == "2018-01-30"
    assert numbers.newest(queries, date(2018, 1, 30)).name == "2018-01-29"


# --- charts and page ------------------------------------------------------------------------------


def test_what_was_not_measured_is_a_gap(site: Site) -> None:
    load(site)
    figures = collected(site, periods.month_of("2018-01"))
    axes = Figure().add_subplot()
    drawing._spread(axes, figures, figures.series["pm10"], "black", "gray")
    line: Any = axes.lines[0].get_ydata()
    assert [value == value for value in line] == [False] * 29 + [
        True
    ] * 2  # NaN differs from itself
    # One hour between two without data has no line: it is marked.
    alone = replace(figures, period=periods.day_of("2018-01-31"))
    axes = Figure().add_subplot()
    drawing._spread(axes, alone, [Point(SECOND + 5 * HOUR, 1, 2.0, 3.0, 4.0)], "black", "gray")
    (marked,) = axes.lines[1:]
    place: Any = marked.get_ydata()
    assert list(place) == [3.0]


class Parsed(HTMLParser):
    """A page's elements and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta", "img", "br", "link", "source"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.words += " "

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words.split())


def check_page(html: str) -> Parsed:
    """A page needs nothing but itself, and can be read in other ways than by looking."""
    found = Parsed(html)
    for tag, attributes in found.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "srcset", "href", "action", "data", "poster", "background"}:
                assert value.startswith("data:image/png;base64,"), (tag, name)
    assert not re.search(r"url\(|@import|https?://", html)
    (policy,) = (m["content"] for m in found.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert found.all("html") == [{"lang": "en"}]
    assert len(found.all("title")) == len(found.all("h1")) == 1
    assert all(len(image["alt"]) > 40 for image in found.all("img"))
    assert all(head.get("scope") in {"col", "row"} for head in found.all("th"))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(section["aria-labelledby"] in ids for section in found.all("section"))
    assert (
        "Contains information from Sensor.Community, which is made available here under the "
        "Open Database License (ODbL)." in found.text
    )
    assert "@media print" in html
    return found


def test_the_page_of_a_day(site: Site, tmp_path: Path) -> None:
    load(site)
    report = make(ReportQueries(site.reader), periods.day_of("2018-01-31"), NOW)
    found = check_page(report.html)
    names = ["pm25", "pm10", "bands", "map", "climate", "reporting"]
    assert [chart.name for chart in report.charts] == names
    images = found.all("img")
    assert [image["class"] for image in images] == ["wide", "narrow"] * 6
    for image in images:
        png = base64.b64decode(image["src"].partition(",")[2])
        assert png.startswith(b"\x89PNG")
        shown = int(image["width"]), int(image["height"])
        assert struct.unpack(">II", png[16:24]) == (2 * shown[0], 2 * shown[1])
    for chart in report.charts:
        assert "31 January 2018, 00:00 to 24:00 UTC" in chart.caption
        assert re.search(r"\d sensors?\b", chart.caption)
        assert chart.caption in found.text
    key = numbers.key_figures(report.figures)
    assert ("Days of sensors above WHO 2021, PM10", "1 of 2") in key
    assert all(what in found.text and value in found.text for what, value in key)
    assert "Hours of sensors that are complete 76 of 96" in found.text
    assert "Wednesday, 31 January 2018" in found.text

    report.save(tmp_path / "new" / "a.html")
    assert (tmp_path / "new" / "a.html").read_text(encoding="utf-8") == report.html
    paths = report.save_charts(tmp_path / "charts")
    assert [path.name for path in paths] == [f"sofia-air-2018-01-31-{name}.png" for name in names]
    assert [path.read_bytes() for path in paths] == [chart.wide for chart in report.charts]
    assert sorted(path.name for path in (tmp_path / "charts").iterdir()) == sorted(
        path.name for path in paths
    )

    # What comes from files is never taken for the page's own.
    nasty = [{"rule": "<img src=//evil>", "rows": 1, "open": 1, "repaired": 0, "discarded": 0}]
    html = page.render(replace(report.figures, reasons=nasty), [])
    assert "<img src=//evil>" in check_page(html).text


@pytest.mark.slow
def test_one_sensor_only(site: Site) -> None:
    rows = "".join(
        f"92;SDS011;42;42.689;23.341;{SECOND + i * CADENCE:%Y-%m-%dT%H:%M:%S};20;;;10;;\n"
        for i in range(583)
    )
    site.load(ARCHIVE_SDS + rows)
    report = make(ReportQueries(site.reader), periods.month_of("2018-01"), NOW)
    found = check_page(report.html)
    assert "There is only one sensor to tell of." in found.text
    assert "No sensor has a complete day of temperature, humidity or pressure." in found.text
    dust = report.charts[0]
    assert "the median is 10.0 (2018-01-31 UTC)" in dust.alt
    assert "30 days without data" in dust.alt
    assert "of 1 sensor;" in dust.caption


def test_nothing_but_single_readings(site: Site) -> None:
    site.load(ARCHIVE_SDS + "92;SDS011;;;;2018-01-31T00:00:00;20;;;10;;\n")
    report = make(ReportQueries(site.reader), periods.day_of("2018-01-31"), NOW)
    assert [chart.name for chart in report.charts] == ["reporting"]
    found = check_page(report.html)
    assert "No sensor has a complete hour of PM2.5." in found.text
    assert "No sensor of dust has a known place." in found.text
    assert "No sensor has a complete day." in found.text


@pytest.mark.parametrize("name", ["2018-01-29", "2017-W05", "2019-01"])
def test_an_empty_period_says_so(site: Site, name: str) -> None:
    read = periods.week_of if "W" in name else periods.day_of
    period = periods.month_of(name) if len(name) == 7 else read(name)
    report = make(ReportQueries(site.reader), period, NOW)
    assert (report.figures.empty, report.charts) == (True, [])
    found = check_page(report.html)
    assert "There are no readings of this period" in found.text
    assert f"from {period.first} 00:00 to before {period.after} 00:00 UTC" in found.text


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_letters_stand_out_from_what_is_behind_them() -> None:
    style = (Path(page.__file__).parent / "templates" / "page.html").read_text(encoding="utf-8")
    pairs = list(zip(drawing.BAND_INK, drawing.BAND_COLOURS, strict=True))
    for ink in ("#1c2b36", "#465661", "#35444e"):
        assert ink in style
        pairs += [(ink, "#ffffff"), (ink, "#eef2f4")]
    for one, other in pairs:
        dark, light = sorted((_luminance(one), _luminance(other)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (one, other)


# --- the command ----------------------------------------------------------------------------------

_WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["sofia-air", *{arguments!r}]
from pipeline.cli import main
try:
    main()
finally:
    heavy = {{"matplotlib", "jinja2", "pandas", "smtplib"}} & set(sys.modules)
    print("loaded:", *sorted(heavy))
"""


def _run(home: Path, url: str, missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(missing=missing, arguments=list(arguments))],
        env={**os.environ, "SOFIA_AIR_HOME": str(home), "SOFIA_AIR_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_a_missing_extra_is_named(tmp_path: Path, server: Server) -> None:
    done = _run(tmp_path, server.url("postgres"), "matplotlib", "report")
    assert done.returncode == 2
    assert done.stderr == (
        "error: reports need matplotlib, which is not installed: "
        "pip install 'sofia-air-pipeline[report]' brings it\n"
    )


def test_help_is_quick(tmp_path: Path, server: Server) -> None:
    done = _run(tmp_path, server.url("postgres"), "none", "report", "--help")
    assert done.returncode == 0
    assert done.stdout.endswith("loaded:\n")


def _asked(home: Path, **options: Any) -> None:
    """Ask for a report without a process of its own."""
    given = dict.fromkeys(("day", "week", "month", "last", "out", "charts"))
    reporting.report(home, **{**given, "email": False, "as_json": False, **options})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"day": "yesterday"}, "day: 'yesterday' is not a day as 2018-01-31"),
        ({"day": "2018-01-31", "last": "day"}, "--day and --last cannot go together"),
        (
            {"day": "2018-01-31", "email": True},
            "[smtp] host: is not set, and a report cannot be mailed without it",
        ),
    ],
)
def test_wrong_usage(
    options: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Terminal, match=re.escape(complaint)) as refused:
        _asked(tmp_path, **options)
    assert exit_code(refused.value) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_empty_day_is_no_failure(
    site: Site, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.url(str(site.one("SELECT current_database()")))
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", url)
    _asked(site.settings.home, day="2017-01-01")
    assert "there are no readings of this period" in capsys.readouterr().out
    assert (site.settings.home / "reports" / "sofia-air-2017-01-01.html").is_file()


def test_a_place_that_cannot_be_written_to(site: Site, tmp_path: Path) -> None:
    report = make(ReportQueries(site.reader), periods.day_of("2017-01-01"), NOW)
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.html", tmp_path / "folder"):
        with pytest.raises(DiskTrouble, match=re.escape(f"{path}: cannot be written: ")):
            report.save(path)
    assert sorted(found.name for found in tmp_path.iterdir() if found.name.endswith(".part")) == []


@pytest.mark.slow
def test_the_command(
    site: Site,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load(site)
    url = server.url(str(site.one("SELECT current_database()")))
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", url)
    out, charts = tmp_path / "out" / "a.html", tmp_path / "charts"
    capsys.readouterr()
    _asked(site.settings.home, out=out, charts=charts, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(out)
    assert found["period"]["name"] == "2018-01-31"
    assert [Path(path).parent for path in found["charts"]] == [charts] * 6
    expected = collected(site, periods.day_of("2018-01-31")).as_json()
    for part in ("coverage", "quantities", "best", "worst", "exceedances", "books", "empty"):
        assert found[part] == expected[part], part
    assert len(found["hours"]["pm10"]) == 24
    check_page(out.read_text(encoding="utf-8"))
