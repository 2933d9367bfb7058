"""The numbers of a report: asked of the store at one moment, and nothing else is on the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pipeline.contract.indices import INDEX_VERSION
from pipeline.contract.quantities import QUANTITIES
from pipeline.outputs.report.period import Period

if TYPE_CHECKING:
    from pipeline.store.read.report import ReportQueries, Row

# Sensors are compared when each has this share of the days on which any of them has one.
_SHARE_OF_DAYS = 0.75
_MOST_RANKED = 5


@dataclass(frozen=True, slots=True)
class Point:
    """The city at one hour or day: how its sensors' means are spread.

    Attributes:
        start: the hour or day, UTC.
        sensors: how many sensors have a complete one.
        low: first quartile of their means.
        median: median of their means.
        high: third quartile of their means.
    """

    start: datetime
    sensors: int
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor of dust over the period.

    Attributes:
        sensor_id: its number.
        model: what kind it is.
        days: days with a reading.
        complete_days: days that count; the means are theirs.
        pm10: mean of the means of its complete days, µg/m³; None where there is none.
        pm25: the same of PM2.5.
        band: band of the index for these means, 1 to 6; None without a complete day.
        band_name: its name.
        location_id: number of its location; None when not known.
        lat: degrees north; None when not known.
        lon: degrees east; None when not known.
    """

    sensor_id: int
    model: str | None
    days: int
    complete_days: int
    pm10: float | None
    pm25: float | None
    band: int | None
    band_name: str | None
    location_id: int | None
    lat: float | None
    lon: float | None

    def mean(self, quantity: str) -> float | None:
        """Return its mean of pm10 or pm25."""
        return self.pm10 if quantity == "pm10" else self.pm25


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that a report says, in numbers.

    Attributes:
        period: what it is about.
        made_at: when the numbers were asked for.
        series: quantity → the city at every hour or day that has complete ones; others are absent.
        days: quantity → the same for days.
        quantities: quantity → sensors, sensor_days, low, median, high (of the sensors' means over
            their complete days), lowest and highest reading.
        coverage: sensors, dust_sensors, climate_sensors, readings, sensor_days, complete_days,
            complete_hours.
        reporting: start, reporting and complete: sensors per hour or day.
        sensors: every sensor of dust, by number.
        bands: start, band, band_name and sensor_hours.
        exceedances: standard, quantity, limit_value, allowed_days (in a year), sensor_days,
            sensor_days_above, sensors, sensors_above.
        books: files, files_refused, rows_read, rows_loaded, rows_duplicate, rows_quarantined.
        reasons: rule, rows, open, repaired and discarded, the most frequent first.
    """

    period: Period
    made_at: datetime
    series: dict[str, list[Point]]
    days: dict[str, list[Point]]
    quantities: dict[str, Row]
    coverage: Row
    reporting: list[Row]
    sensors: list[Sensor]
    bands: list[Row]
    exceedances: list[Row]
    books: Row
    reasons: list[Row]

    @property
    def empty(self) -> bool:
        """Whether no sensor reported at all."""
        return not self.coverage["sensors"]

    @property
    def hours_due(self) -> int:
        """Hours that a sensor could have been complete in: those of the period that are over."""
        over = min(self.period.until, self.made_at) - self.period.since
        return max(0, over // timedelta(hours=1))

    @property
    def completeness(self) -> float | None:
        """Complete hours of the sensors that reported, over all of theirs, 0 to 1."""
        due = self.coverage["sensors"] * self.hours_due
        # A clock that runs ahead may have brought hours that are not over yet.
        return min(1.0, self.coverage["complete_hours"] / due) if due else None

    @property
    def ranked_by(self) -> str | None:
        """The quantity by which sensors are ranked; None when no sensor can be."""
        for quantity in ("pm25", "pm10"):
            if any(sensor.mean(quantity) is not None for sensor in self.sensors):
                return quantity
        return None

    @property
    def days_needed(self) -> int:
        """Complete days that a sensor needs to be ranked, so that all tell of the same time."""
        days: set[datetime] = set()
        for quantity in ("pm25", "pm10"):
            days |= {point.start for point in self.days.get(quantity, [])}
        return math.ceil(_SHARE_OF_DAYS * len(days))

    @property
    def ranking(self) -> list[Sensor]:
        """The sensors that can be compared, the cleanest air first."""
        by = self.ranked_by
        if by is None:
            return []
        means = [
            (mean, sensor.sensor_id, sensor)
            for sensor in self.sensors
            if (mean := sensor.mean(by)) is not None and sensor.complete_days >= self.days_needed
        ]
        return [sensor for *_, sensor in sorted(means, key=lambda found: found[:2])]

    @property
    def best(self) -> list[Sensor]:
        """Those with the lowest mean, the lowest first; none is in `worst` too."""
        return self.ranking[: min(_MOST_RANKED, (len(self.ranking) + 1) // 2)]

    @property
    def worst(self) -> list[Sensor]:
        """Those with the highest mean, the highest first."""
        return self.ranking[::-1][: min(_MOST_RANKED, len(self.ranking) // 2)]

    def as_json(self) -> dict[str, Any]:
        """Return all of it for machines."""
        ranked = [
            {name: getattr(sensor, name) for name in Sensor.__slots__} for sensor in self.sensors
        ]
        return {
            "period": {
                "kind": self.period.kind,
                "name": self.period.name,
                "since": self.period.since,
                "until": self.period.until,
            },
            "made_at": self.made_at,
            "index_version": INDEX_VERSION,
            "empty": self.empty,
            "coverage": {**self.coverage, "completeness": self.completeness},
            "quantities": self.quantities,
            self.period.step + "s": {
                quantity: [
                    {name: getattr(point, name) for name in Point.__slots__} for point in points
                ]
                for quantity, points in self.series.items()
            },
            "bands": self.bands,
            "exceedances": self.exceedances,
            "ranked_by": self.ranked_by,
            "best": [sensor.sensor_id for sensor in self.best],
            "worst": [sensor.sensor_id for sensor in self.worst],
            "sensors": ranked,
            "books": self.books,
            "reasons": self.reasons,
        }


def newest(queries: ReportQueries, today: date) -> Period:
    """Return the newest day that is over and has data; yesterday when there is none."""
    found = queries.newest_day(today)
    return Period("day", found or today - timedelta(days=1), 1)


def collect(queries: ReportQueries, period: Period, now: datetime) -> Figures:
    """Ask the store for everything about a period.

    Raises:
        DatabaseUnavailable: it cannot be asked now.
    """
    found = queries.read(period.first, period.after, period.step)
    return Figures(
        period=period,
        made_at=now,
        series=_by_quantity(found["series"]),
        days=_by_quantity(found["days"]),
        quantities={row.pop("quantity"): row for row in found["quantities"]},
        coverage=found["coverage"][0],
        reporting=found["reporting"],
        sensors=[Sensor(**row) for row in found["sensors"]],
        bands=found["bands"],
        exceedances=found["exceedances"],
        books=found["books"][0],
        reasons=found["reasons"],
    )


def _by_quantity(rows: list[Row]) -> dict[str, list[Point]]:
    points: dict[str, list[Point]] = {}
    for row in rows:
        points.setdefault(row.pop("quantity"), []).append(Point(**row))
    return points


def title_of(quantity: str) -> str:
    """Return what people call a quantity."""
    dust = {"pm10": "PM10", "pm25": "PM2.5", "pm1": "PM1"}
    return dust.get(quantity) or quantity.capitalize()


def unit_of(quantity: str) -> str:
    """Return the unit of a quantity, as it is stored."""
    return next(known.unit for known in QUANTITIES if known.name == quantity)


def percent(share: float) -> str:
    """Return a share as for example `99.9 %`; what is not all is never shown as 100."""
    rounded = round(100 * share, 1)
    return f"{rounded if share >= 1 else min(rounded, 99.9):.1f} %"


def decimal(number: float | None) -> str:
    """Return a number with one digit after the point, or a dash for none."""
    return "–" if number is None else f"{number:,.1f}".replace("-", "−")


def key_figures(figures: Figures) -> list[tuple[str, str]]:
    """Return the figures that a reader in a hurry wants: what it is, and how much."""
    told = []
    for quantity in ("pm25", "pm10", "temperature"):
        if row := figures.quantities.get(quantity):
            value = f"{decimal(row['median'])} {unit_of(quantity)}"
            told.append((f"{title_of(quantity)}, median of the sensors", value))
    told.append(("Sensors that reported", f"{figures.coverage['sensors']:,}"))
    if figures.completeness is not None:
        told.append(("Hours that are complete", percent(figures.completeness)))
    for row in figures.exceedances:
        if row["standard"].startswith("WHO") and row["sensor_days"]:
            above = f"{row['sensor_days_above']:,} of {row['sensor_days']:,}"
            told.append(
                (f"Days of sensors above {row['standard']}, {title_of(row['quantity'])}", above)
            )
    if figures.books["rows_read"]:
        told.append(("Rows in quarantine", f"{figures.books['rows_quarantined']:,}"))
    return told
