"""Page: `docs/benchmarks.md` and its charts, from the figures kept."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.comparisons import COMPARISONS
from benchmarks.figures import Figure
from pipeline import __version__

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
_INK, _OURS, _THEIRS = "#334155", "#0f766e", "#94a3b8"


def machine(postgresql: str) -> dict[str, str]:
    """Return what everything ran on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; a virtual machine that "
        "others share",
        "system": f"{platform.system()} {platform.release()}",
        "PostgreSQL": f"{postgresql}, the private one's settings (fsync on, shared_buffers 256 MB, "
        "wal_buffers 64 MB, max_wal_size 4 GB), on the same machine",
        "Python": f"{platform.python_version()}, pandas {pd.__version__}, NumPy {np.__version__}, "
        f"Arrow {pa.__version__}",
        "version": __version__,
    }


def write(figures: dict[str, Figure], about: dict[str, str]) -> None:
    """Write the page and its charts."""
    _draw_seconds(figures)
    _draw_stages(figures)
    rows = [_row(figure) for figure in figures.values()]
    runs = [_runs(figure) for figure in figures.values() if figure.ours]
    missed = [figure.what for figure in figures.values() if figure.reached is False]
    verdict = "Every target that was measured is reached."
    if missed:
        verdict = "Missed: " + "; ".join(missed) + ". [What was learned](#what-was-learned)."
    if unmeasured := [name for name in COMPARISONS if name not in figures]:
        verdict += " Not measured yet: " + ", ".join(f"`{name}`" for name in unmeasured) + "."
    text = _TEXT.format(
        verdict=verdict,
        table="\n".join(rows),
        runs="\n".join(runs),
        machine="\n".join(f"| {name} | {told} |" for name, told in about.items()),
    )
    learned = PAGE.read_text(encoding="utf-8").partition(_LEARNED)[2] if PAGE.exists() else "\n"
    PAGE.write_text(text + _LEARNED + learned, encoding="utf-8")


def shown(figure: Figure) -> str:
    """Return a figure with its unit."""
    match figure.unit:
        case "×":
            return f"{figure.value:.1f}×" if figure.value >= 10 else f"{figure.value:.2f}×"
        case "MiB":
            return f"{figure.value:.0f} MiB"
        case _:
            return f"{figure.value:.0f} s" if figure.value >= 10 else f"{figure.value:.2f} s"


def _row(figure: Figure) -> str:
    target = "–"
    if figure.target is not None:
        unit = "×" if figure.unit == "×" else f" {figure.unit}"
        target = f"{'≥' if figure.at_least else '≤'} {figure.target:g}{unit}"
    verdict = {True: "reached", False: "**missed**", None: ""}[figure.reached]
    return f"| {figure.what} | {target} | **{shown(figure)}** | {verdict} | {figure.note} |"


def _runs(figure: Figure) -> str:
    def told(seconds: list[float]) -> str:
        if not seconds:
            return "–"
        low, high = min(seconds), max(seconds)
        return f"{statistics.median(seconds):.2f} ({low:.2f} to {high:.2f}), {len(seconds)} runs"

    return (
        f"| `{figure.name}` | {told(figure.ours)} | {told(figure.theirs)} | {figure.when} "
        f"| {figure.load:.1f} |"
    )


def _draw_seconds(figures: dict[str, Figure]) -> None:
    """Draw ours beside the others', in seconds a million rows."""
    bars: list[tuple[str, float, str]] = []
    if one := figures.get("one_file"):
        bars.append(
            ("sofia-air: validated, deduplicated,\nsummed up", statistics.median(one.ours), _OURS)
        )
        bars.append((r"psql \copy", statistics.median(one.theirs), _THEIRS))
    for name, label in (("pgloader", "pgloader"), ("to_sql", "DataFrame.to_sql")):
        if figure := figures.get(name):
            bars.append((label, statistics.median(figure.theirs), _THEIRS))
    drawing, axes = _axes(len(bars))
    for position, (label, seconds, colour) in enumerate(reversed(bars)):
        axes.barh(position, seconds, color=colour, height=0.62)
        axes.text(seconds * 1.06, position, f"{seconds:.1f} s", va="center", color=_INK)
        axes.text(
            -0.02,
            position,
            label,
            va="center",
            ha="right",
            color=_INK,
            transform=axes.get_yaxis_transform(),
        )
    axes.set_xscale("log")
    axes.set_xlim(1, max(seconds for _, seconds, _ in bars) * 3)
    axes.set_title("Seconds for 1,000,000 rows (logarithmic)", loc="left", color=_INK)
    _save(drawing, "benchmarks-seconds.svg")


def _draw_stages(figures: dict[str, Figure]) -> None:
    """Draw where the time of the one file and of the many goes."""
    drawing, axes = _axes(8)
    names = [
        *("read", "split", "validate", "normalise", "aggregate"),
        *("prepare", "load", "quarantine", "move"),
    ]
    for shift, name, colour in ((0.2, "one_file", _OURS), (-0.2, "many_files", "#d97706")):
        if figure := figures.get(name):
            seconds = [figure.stages.get(stage, 0.0) for stage in names]
            places = [len(names) - 1 - at + shift for at in range(len(names))]
            label = "one file" if name == "one_file" else "2,000 files"
            axes.barh(places, seconds, height=0.38, color=colour, label=label)
            for place, value in zip(places, seconds, strict=True):
                axes.text(value + 0.02, place, f"{value:.2f}", va="center", fontsize=8, color=_INK)
    for at, stage in enumerate(names):
        axes.text(
            -0.02,
            len(names) - 1 - at,
            stage,
            va="center",
            ha="right",
            color=_INK,
            transform=axes.get_yaxis_transform(),
        )
    axes.set_title("Seconds a stage; stages overlap", loc="left", color=_INK)
    axes.legend(frameon=False, loc="lower right")
    _save(drawing, "benchmarks-stages.svg")


def _axes(bars: int) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(8, 0.7 + 0.45 * bars), facecolor="white")
    axes = drawing.subplots()
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=_INK)
    return drawing, axes


def _save(drawing: Drawing, name: str) -> None:
    # No date and fixed ids: the same figures give the same file.
    drawing.savefig(
        DOCS / name, bbox_inches="tight", metadata={"Date": None, "Creator": "benchmarks"}
    )


_LEARNED = "## What was learned\n"
_TEXT = """\
# Benchmarks

How fast it is, beside what people use today. One command measures everything and writes this page:

```sh
pip install -e '.[test]'
python -m benchmarks
```

{verdict}

![Seconds for a million rows](benchmarks-seconds.svg)

| what | target | measured | | |
| --- | --- | --- | --- | --- |
{table}

A ratio is of two medians, measured by turns (A B A B) in one run. Ours is timed from the first file
found to the last one committed and moved to the archive. That includes hashing, validation,
quarantine, duplicates, the ledger, statistics of files, hours and days, and the commit. The others
are timed from their start to their end, and only copy. Both use the same server and settings, into
tables with the same primary key and monthly partitions. Before each run comes a checkpoint, and
what the run before it left is dropped: the server would tidy that up meanwhile.

## Where the time goes

![Seconds a stage](benchmarks-stages.svg)

The first five stages run in threads, ahead of the database. `load` is the database's own work, in a
thread of its own: most of it is the insertion into the index that keeps readings unique. `prepare`
(what the next COPY is given) and `quarantine` (the CSV of rejected rows) go on meanwhile.

## Run by run

Seconds: median, lowest and highest. The load is the machine's average before the comparison: other
programs ran beside it.

| comparison | ours | the other | day | load |
| --- | --- | --- | --- | --- |
{runs}

## The machine

| | |
| --- | --- |
{machine}

"""
