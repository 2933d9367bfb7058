"""The charts: figures to PNG, once for a wide screen and paper, once for a narrow screen.

Drawn on matplotlib's Agg canvas, without its global state. What was not measured is a gap: nothing
is interpolated. Colour never tells anything alone: bands have numbers, and lines have dashes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from pipeline.contract.indices import BANDS, INDEX_VERSION, LIMITS
from pipeline.outputs.report.figures import Figures, Point, Sensor, title_of, unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PIXELS_PER_INCH = 100
# Twice the pixels of the page: sharp on good screens and on paper.
_SHARPNESS = 2

# The colours of the European Environment Agency, and on which of them a letter must be white.
BAND_COLOURS = ("#50f0e6", "#50ccaa", "#f0e641", "#ff5050", "#960032", "#7d2181")
BAND_INK = ("#000000", "#000000", "#000000", "#000000", "#ffffff", "#ffffff")
_HATCHES = ("", "....", "////", "xxxx", "", "\\\\\\\\")

_INK = "#1c2b36"
_FAINT = "#5b6b76"
_GRID = "#dde3e7"
_LINE = "#14608a"
_FILL = "#a9cbe0"
_LIMIT_LINES = (("#8a1c1c", (0, (6, 2))), ("#8a5a00", (0, (2, 2))), ("#5a2d82", (0, (6, 2, 1, 2))))

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready to be shown.

    Attributes:
        name: short, fit for a file.
        title: what it shows.
        alt: what there is to be seen, for those who do not see it.
        caption: what it is of, when (UTC), and of how many sensors.
        wide: PNG for wide screens and paper.
        narrow: PNG for narrow screens.
        size: width and height of `wide` on the page, in CSS pixels.
        narrow_size: the same of `narrow`.
    """

    name: str
    title: str
    alt: str
    caption: str
    wide: bytes
    narrow: bytes
    size: tuple[int, int]
    narrow_size: tuple[int, int]


def draw(figures: Figures) -> list[Chart]:
    """Return the charts for which there is something to show."""
    with mpl.rc_context(_STYLE):
        made = [_dust(figures, quantity) for quantity in ("pm25", "pm10")]
        made += [_bands(figures), _map(figures), _climate(figures), _reporting(figures)]
    return [chart for chart in made if chart is not None]


# --- What charts share ----------------------------------------------------------------------------


def _chart(  # a chart is made of this much
    name: str,
    title: str,
    alt: str,
    caption: str,
    paint: Callable[[Figure, bool], None],
    *,
    heights: tuple[int, int],
) -> Chart:
    sizes = ((640, heights[0]), (360, heights[1]))
    wide, narrow = (_png(paint, size, narrow=bool(i)) for i, size in enumerate(sizes))
    return Chart(name, title, alt, caption, wide, narrow, *sizes)


def _png(paint: Callable[[Figure, bool], None], size: tuple[int, int], *, narrow: bool) -> bytes:
    inches = (size[0] / _PIXELS_PER_INCH, size[1] / _PIXELS_PER_INCH)
    figure = Figure(figsize=inches, dpi=_PIXELS_PER_INCH * _SHARPNESS, layout="constrained")
    FigureCanvasAgg(figure)
    paint(figure, narrow)
    held = io.BytesIO()
    # Without the program's version: the same figures give the same bytes.
    figure.savefig(held, format="png", metadata={"Software": None})
    return held.getvalue()


def _time_axis(axes: Axes, figures: Figures, *, narrow: bool) -> None:
    """Put the whole period on the axis, whatever of it was measured."""
    period = figures.period
    axes.set_xlim(_number(period.since), _number(period.until))
    if period.kind == "day":
        hours = range(0, 25, 6 if narrow else 3)
        at = [period.since + timedelta(hours=hour) for hour in hours]
        labels = [f"{hour:02}:00" for hour in hours]
    elif period.kind == "week":
        at = [period.since + timedelta(days=day) for day in range(7)]
        names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        labels = [f"{name}\n{when.day}" for name, when in zip(names, at, strict=True)]
    else:
        every = 5 if narrow else 2
        at = [period.since + timedelta(days=day, hours=12) for day in range(0, period.days, every)]
        labels = [str(when.day) for when in at]
    axes.set_xticks([_number(when) for when in at], labels)
    if period.kind == "week":
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("left")
    axes.grid(visible=period.kind != "month", axis="x")


def _number(when: datetime) -> float:
    """Return a time as a place on the axis, in days."""
    return when.timestamp() / 86400


def _axis_name(figures: Figures) -> str:
    names = {"day": "hour (UTC)", "week": "day (UTC)", "month": "day of the month (UTC)"}
    return names[figures.period.kind]


def _spread(axes: Axes, figures: Figures, points: Sequence[Point], colour: str, fill: str) -> None:
    """Draw the median as a line and the quartiles as a band; what is missing stays empty."""
    known = {point.start: point for point in points}
    starts = figures.period.steps
    half = timedelta(hours=12) if figures.period.step == "day" else timedelta(minutes=30)
    x = [_number(start + half) for start in starts]
    empty = Point(starts[0], 0, math.nan, math.nan, math.nan)
    row = [known.get(start, empty) for start in starts]
    axes.fill_between(x, [p.low for p in row], [p.high for p in row], color=fill, linewidth=0)
    every = len(starts) <= 31
    median = [p.median for p in row]
    axes.plot(x, median, color=colour, linewidth=1.8, marker="o" if every else "", markersize=3.5)
    # A point between two gaps has no line and no band: it is marked, with its quartiles.
    for i, point in enumerate(row):
        alone = point.sensors and not any(
            row[j].sensors for j in (i - 1, i + 1) if 0 <= j < len(row)
        )
        if alone:
            axes.vlines(x[i], point.low, point.high, color=fill, linewidth=4)
            axes.plot(x[i], point.median, color=colour, marker="o", markersize=3.5)


def _keys(colour: str, fill: str, step: str) -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=colour, linewidth=1.8, label=f"median of the sensors' {step} means"),
        Patch(color=fill, label="the middle half of them"),
    ]


def _count(numbers: Iterable[int]) -> str:
    """Return `40 sensors`, or `35 to 40 sensors`."""
    low, high = min(found := list(numbers)), max(found)
    many = "sensor" if high == 1 else "sensors"
    return f"{high} {many}" if low == high else f"{low} to {high} {many}"


def _extremes(points: Sequence[Point], step: str) -> str:
    """Return in words where the median is lowest and highest."""

    def told(point: Point) -> str:
        when = f"{point.start:%Y-%m-%d}" if step == "day" else f"{point.start:%Y-%m-%d %H:%M}"
        return f"{point.median:.1f} ({when} UTC)"

    lowest = min(points, key=lambda point: point.median)
    highest = max(points, key=lambda point: point.median)
    if lowest is highest:
        return f"the median is {told(lowest)}"
    return f"the median lies between {told(lowest)} and {told(highest)}"


def _gaps(figures: Figures, points: Sequence[Point]) -> str:
    missing = len(figures.period.steps) - len(points)
    step = figures.period.step
    return f" {missing} {step}{'s' if missing != 1 else ''} without data." if missing else ""


# --- Dust -----------------------------------------------------------------------------------------


def _dust(figures: Figures, quantity: str) -> Chart | None:
    points = figures.series.get(quantity, [])
    if not points:
        return None
    step, title = figures.period.step, title_of(quantity)
    word = {"hour": "hourly", "day": "daily"}[step]
    limits = [x for x in LIMITS if x.quantity == quantity and x.period == "day"]

    def paint(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        _spread(axes, figures, points, _LINE, _FILL)
        keys = _keys(_LINE, _FILL, word)
        if step == "hour" and (days := figures.days.get(quantity, [])):
            for day in days:
                ends = [_number(day.start), _number(day.start + timedelta(days=1))]
                axes.plot(ends, [day.median] * 2, color=_INK, linewidth=2.6, solid_capstyle="butt")
            keys.append(
                Line2D([], [], color=_INK, linewidth=2.6, label="median of their means of the day")
            )
        for limit, (colour, dashes) in zip(limits, _LIMIT_LINES, strict=False):
            axes.axhline(limit.value, color=colour, linestyle=dashes, linewidth=1.4)
            label = f"{limit.standard}: {limit.value:g} for the mean of a day"
            keys.append(Line2D([], [], color=colour, linestyle=dashes, label=label))
        top = max([p.high for p in points] + [limit.value for limit in limits])
        axes.set_ylim(0, top * 1.08)
        axes.set_ylabel(f"{title}, µg/m³")
        axes.set_xlabel(_axis_name(figures))
        _time_axis(axes, figures, narrow=narrow)
        figure.legend(handles=keys, loc="outside upper left", ncols=1 if narrow else 2)

    above = [
        f"{sum(p.median > limit.value for p in figures.days.get(quantity, []))} of "
        f"{len(figures.days.get(quantity, []))} days have a median above {limit.value:g} "
        f"({limit.standard})"
        for limit in limits
        if figures.days.get(quantity)
    ]
    alt = (
        f"Line chart of {title} in µg/m³, {figures.period.span}: {_extremes(points, step)}."
        + (f" {'; '.join(above)}." if above else "")
        + _gaps(figures, points)
    )
    caption = (
        f"{title}, {figures.period.span}. Means of complete {step}s of "
        f"{_count(p.sensors for p in points)}; {step}s without data are gaps. The lines of "
        "guidelines and limits are for the mean of a day."
    )
    return _chart(quantity, f"{title} over time", alt, caption, paint, heights=(380, 400))


# --- The index ------------------------------------------------------------------------------------


def _bands(figures: Figures) -> Chart | None:
    if not figures.bands:
        return None
    step = figures.period.step
    wide = timedelta(days=1) if step == "day" else timedelta(hours=1)
    totals: dict[datetime, int] = {}
    for row in figures.bands:
        totals[row["start"]] = totals.get(row["start"], 0) + row["sensor_hours"]

    def paint(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        below = dict.fromkeys(totals, 0.0)
        keys = []
        for number, name in enumerate(BANDS, start=1):
            rows = [row for row in figures.bands if row["band"] == number]
            shares = [100 * row["sensor_hours"] / totals[row["start"]] for row in rows]
            look: dict[str, Any] = {
                "facecolor": BAND_COLOURS[number - 1],
                "hatch": _HATCHES[number - 1],
                "edgecolor": "#00000080" if BAND_INK[number - 1] == "#000000" else "#ffffffb0",
                "linewidth": 0.0,
            }
            axes.bar(
                [_number(row["start"]) for row in rows],
                shares,
                bottom=[below[row["start"]] for row in rows],
                width=wide / timedelta(days=1),
                align="edge",
                **look,
            )
            for row, share in zip(rows, shares, strict=True):
                below[row["start"]] += share
            keys.append(Patch(label=f"{number} {name}", **look))
        axes.set_ylim(0, 100)
        axes.set_ylabel("% of the sensors' hours")
        axes.set_xlabel(_axis_name(figures))
        _time_axis(axes, figures, narrow=narrow)
        figure.legend(
            handles=keys, loc="outside upper left", ncols=2 if narrow else 3, handleheight=1.2
        )

    whole = sum(totals.values())
    parts = []
    for number, name in enumerate(BANDS, start=1):
        hours = sum(row["sensor_hours"] for row in figures.bands if row["band"] == number)
        if hours:
            parts.append(f"{name} {100 * hours / whole:.1f} %")
    alt = (
        f"Stacked bars of the European air quality index, {figures.period.span}: "
        f"of {whole:,} hours of sensors, {', '.join(parts)}."
    )
    sensors = sum(1 for sensor in figures.sensors)
    caption = (
        f"Share of the complete hours in each band of the index ({INDEX_VERSION}), "
        f"{figures.period.span}; {whole:,} hours of {_count([sensors])}."
    )
    return _chart("bands", "Hours in each band", alt, caption, paint, heights=(340, 380))


# --- The map --------------------------------------------------------------------------------------

# Places of a label beside its marker: to the right, left, above, below, and between.
_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))


def _map(figures: Figures) -> Chart | None:
    placed = {
        sensor: (sensor.lon, sensor.lat)
        for sensor in figures.sensors
        if sensor.lon is not None and sensor.lat is not None
    }
    if not placed:
        return None
    judged = [sensor for sensor in placed if sensor.band is not None]
    mute = [sensor for sensor in placed if sensor.band is None]

    def paint(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        lons, lats = zip(*placed.values(), strict=True)
        middle = (min(lats) + max(lats)) / 2
        # A degree of longitude is shorter than one of latitude: kilometres are alike both ways.
        squeeze = math.cos(math.radians(middle))
        axes.set_aspect(1 / squeeze, adjustable="datalim")
        # At least two kilometres, also around a single sensor.
        margin = max(0.01, 0.07 * max(max(lats) - min(lats), (max(lons) - min(lons)) * squeeze))
        axes.margins(0)
        axes.update_datalim(
            [
                (min(lons) - margin / squeeze, min(lats) - margin),
                (max(lons) + margin / squeeze, max(lats) + margin),
            ]
        )
        size = 8.0 if narrow else 10.0
        # The worst on top, where sensors are close.
        for sensor in [*mute, *sorted(judged, key=lambda s: (s.band or 0, s.sensor_id))]:
            _marker(axes, sensor, placed[sensor], size)
        axes.set_xlabel("longitude, °E")
        axes.set_ylabel("latitude, °N")
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 6))
        axes.ticklabel_format(useOffset=False)
        keys = [
            Line2D(
                *([], []),
                linestyle="",
                marker="o",
                markersize=9,
                markerfacecolor=BAND_COLOURS[number - 1],
                markeredgecolor=_INK,
                label=f"{number} {name}: {sum(s.band == number for s in judged)}",
            )
            for number, name in enumerate(BANDS, start=1)
        ]
        if mute:
            keys.append(
                Line2D(
                    *([], []),
                    linestyle="",
                    marker="x",
                    color=_FAINT,
                    label=f"no complete day: {len(mute)}",
                )
            )
        figure.legend(handles=keys, loc="outside upper left", ncols=2 if narrow else 3)
        # Where things are is known only once the layout is.
        figure.draw_without_rendering()
        ordered = {sensor: placed[sensor] for sensor in [*judged, *mute]}
        _labels(axes, ordered, size, 6.0 if narrow else 7.0)

    counts = ", ".join(
        f"{sum(s.band == number for s in judged)} {name}"
        for number, name in enumerate(BANDS, start=1)
        if any(s.band == number for s in judged)
    )
    homeless = len(figures.sensors) - len(placed)
    alt = (
        f"Map of {_count([len(placed)])} of dust by longitude and latitude, "
        f"{figures.period.span}, each with the number of its band: {counts or 'none has one'}."
        + (f" {len(mute)} without a complete day." if mute else "")
    )
    caption = (
        f"{_count([len(placed)])} of dust, {figures.period.span}. Numbers in the markers are bands "
        f"of the European air quality index ({INDEX_VERSION}), which is made for hours; here its "
        "bounds are applied to the mean of each sensor's complete days. Small numbers are those of "
        "the sensors, where there is room."
        + (f" {_count([homeless])} without a known place." if homeless else "")
    )
    return _chart("map", "Sensors on the map", alt, caption, paint, heights=(720, 480))


def _marker(axes: Axes, sensor: Sensor, place: tuple[float, float], size: float) -> None:
    if sensor.band is None:
        axes.plot(*place, marker="x", color=_FAINT, markersize=size * 0.7)
        return
    axes.plot(
        *place,
        marker="o",
        markersize=size * 1.3,
        markerfacecolor=BAND_COLOURS[sensor.band - 1],
        markeredgecolor=_INK,
        markeredgewidth=0.8,
    )
    axes.annotate(
        str(sensor.band),
        place,
        ha="center",
        va="center_baseline",
        fontsize=size * 0.8,
        fontweight="bold",
        color=BAND_INK[sensor.band - 1],
    )


def _labels(
    axes: Axes, placed: Mapping[Sensor, tuple[float, float]], marker: float, size: float
) -> None:
    """Write each sensor's number beside its marker, where it covers nothing else."""
    points = [tuple(axes.transData.transform(place)) for place in placed.values()]
    dot = axes.figure.dpi / 72
    radius = marker * 0.75 * dot
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    frame = axes.get_window_extent()
    for sensor, (x, y) in zip(placed, points, strict=True):
        text = str(sensor.sensor_id)
        half_width, half_height = 0.33 * size * dot * len(text), 0.5 * size * dot
        for right, up in _AROUND:
            across = x + right * (radius + half_width + dot)
            along = y + up * (radius + half_height)
            box = (
                *(across - half_width, along - half_height),
                *(across + half_width, along + half_height),
            )
            inside = (
                box[0] > frame.x0 and box[1] > frame.y0 and box[2] < frame.x1 and box[3] < frame.y1
            )
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                where = axes.transData.inverted().transform((across, along))
                axes.text(
                    where[0], where[1], text, fontsize=size, ha="center", va="center", color=_INK
                )
                break


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- Climate --------------------------------------------------------------------------------------

_CLIMATE = {
    "temperature": ("#a63d14", "#f0c3ae"),
    "humidity": ("#14608a", "#a9cbe0"),
    "pressure": ("#4a4a4a", "#cfcfcf"),
}


def _climate(figures: Figures) -> Chart | None:
    shown = [name for name in _CLIMATE if figures.series.get(name)]
    if not shown:
        return None
    step = figures.period.step
    word = {"hour": "hourly", "day": "daily"}[step]

    def paint(figure: Figure, narrow: bool) -> None:
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        for name, axes in zip(shown, panels[:, 0], strict=True):
            _spread(axes, figures, figures.series[name], *_CLIMATE[name])
            axes.set_ylabel(f"{title_of(name)},\n{unit_of(name)}")
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.ticklabel_format(axis="y", useOffset=False)
            _time_axis(axes, figures, narrow=narrow)
        figure.align_ylabels(list(panels[:, 0]))
        panels[-1, 0].set_xlabel(_axis_name(figures))
        keys = _keys(_INK, "#cfcfcf", word)
        figure.legend(handles=keys, loc="outside upper left", ncols=1 if narrow else 2)

    told = "; ".join(
        f"{title_of(name)} in {unit_of(name)}: {_extremes(figures.series[name], step)}"
        for name in shown
    )
    alt = f"Line charts of the climate, {figures.period.span}. {told}."
    sensors = (point.sensors for name in shown for point in figures.series[name])
    caption = (
        f"{', '.join(title_of(name) for name in shown)}, {figures.period.span}. Means of "
        f"complete {step}s of {_count(sensors)}; {step}s without data are gaps."
    )
    height = 110 + 150 * len(shown)
    return _chart("climate", "Climate over time", alt, caption, paint, heights=(height, height))


# --- Completeness ---------------------------------------------------------------------------------


def _reporting(figures: Figures) -> Chart | None:
    if not figures.reporting:
        return None
    step = figures.period.step
    width = 1.0 if step == "day" else 1 / 24

    def paint(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        at = [_number(row["start"]) for row in figures.reporting]
        whole = [row["complete"] for row in figures.reporting]
        rest = [row["reporting"] - row["complete"] for row in figures.reporting]
        looks: tuple[dict[str, Any], dict[str, Any]] = (
            {"facecolor": _LINE, "edgecolor": _LINE},
            {"facecolor": "#f3d9a4", "edgecolor": "#6b4b00", "hatch": "////"},
        )
        axes.bar(at, whole, width=width, align="edge", linewidth=0, **looks[0])
        axes.bar(at, rest, bottom=whole, width=width, align="edge", linewidth=0, **looks[1])
        axes.set_ylim(0, max(row["reporting"] for row in figures.reporting) * 1.1)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylabel("sensors")
        axes.set_xlabel(_axis_name(figures))
        _time_axis(axes, figures, narrow=narrow)
        keys = [
            Patch(label=f"gave a complete {step}", **looks[0]),
            Patch(label="reported, but too little", **looks[1]),
        ]
        figure.legend(handles=keys, loc="outside upper left", ncols=1 if narrow else 2)

    numbers = [row["reporting"] for row in figures.reporting]
    complete = [row["complete"] for row in figures.reporting]
    gaps = len(figures.period.steps) - len(numbers)
    alt = (
        f"Bars of how many sensors reported, {figures.period.span}: {_count(numbers)} in each "
        f"{step} with data, of which {_count(complete)} gave a complete one."
        + (f" {gaps} {step}{'s' if gaps != 1 else ''} without any." if gaps else "")
    )
    caption = (
        f"Sensors of all kinds that reported in each {step}, {figures.period.span}; "
        f"{_count([figures.coverage['sensors']])} in all."
    )
    return _chart("reporting", "Sensors that reported", alt, caption, paint, heights=(300, 300))
