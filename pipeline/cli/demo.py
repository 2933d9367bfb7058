"""`demo`: sample files through the whole pipeline, and what a newcomer wants to see of it."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

from rich.panel import Panel

import pipeline
from pipeline.cli import tables
from pipeline.cli.load import SOME_REFUSED, as_record
from pipeline.cli.session import database, make_folders, print_json
from pipeline.cli.settings import settings_of, start_log
from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings
from pipeline.daemon import Daemon
from pipeline.errors import ConfigurationError, Conflict
from pipeline.files.permissions import FILE_MODE, create, make_folder
from pipeline.files.watch import ENDINGS
from pipeline.flow import Flow, Outcome
from pipeline.foreign import refuse_others_home
from pipeline.store.load import Store
from pipeline.store.read.sensors import SensorStatistics, sensor_statistics
from pipeline.store.rework import Workbench

_MARKER = ".sofia-air-demo"
_STATISTICS_SHOWN = 8
_RULES_SHOWN = 6
_SAMPLES_TIME = 1_600_000_000


def demo(_home: Path | None, folder: Path, *, as_json: bool) -> int:
    """Make a fresh home, load the sample files into a private PostgreSQL, show the result."""
    home = folder.expanduser().absolute()
    console = Console(quiet=as_json)
    refuse_others_home(home, "name a folder of root's", None)
    _make_fresh(home)
    # Whatever database is configured for real work: a demo never touches it.
    settings = settings_of(home).changed(database_url=None)
    make_folders(settings)
    samples = _copy_samples(settings.data)
    console.print(
        Panel.fit(
            f"[bold]Sofia Air Pipeline {pipeline.__version__}[/]\n"
            f"{samples} sample files were dropped into {escape(str(tables.short(settings.data)))}\n"
            "[dim]data/ → validate → normalise → PostgreSQL → archive; bad rows → quarantine/[/]"
        )
    )
    start_log(settings)
    started = time.monotonic()
    with console.status("starting a private PostgreSQL …"), database(settings) as opened:
        ready = time.monotonic() - started
        flow = Flow(settings, Store(opened.engine), settings.site_contract(), 10.0)
        started = time.monotonic()
        outcomes = list(Daemon(flow, settings).drain())
        seconds = time.monotonic() - started
        bench = Workbench(opened.reader)
        with opened.reader.snapshot() as connection:
            statistics = sensor_statistics(connection, _STATISTICS_SHOWN + 1)
        examples = _examples(bench, outcomes)
    if as_json:
        print_json(
            {
                "home": home,
                "files": [as_record(outcome) for outcome in outcomes],
                "sensor_statistics": statistics,
            }
        )
        return 0
    console.print(f"[dim]PostgreSQL was ready after {ready:.1f} s[/]", highlight=False)
    tables.outcomes(console, outcomes, seconds, settings)
    every = {rule for outcome in outcomes for rule in outcome.rules}
    _show_rejections(console, examples, len(every) - len(examples))
    _show_statistics(console, statistics)
    _show_next(console, settings)
    return 0 if any(outcome.state == "loaded" for outcome in outcomes) else SOME_REFUSED


def samples_dir() -> Path:
    """Return the folder of the sample files: in the checkout, or inside an installed package.

    Raises:
        ConfigurationError: it is in neither place; the installation is damaged.
    """
    package = Path(pipeline.__file__).parent
    for folder in (package / "_bundled" / "sample_data", package.parent / "sample_data"):
        if folder.is_dir():
            return folder
    message = f"{package}: the sample files are missing from this installation; install it again"
    raise ConfigurationError(message)


def _make_fresh(home: Path) -> None:
    """Make the demo's home anew; only a folder that a demo made is ever removed."""
    if home.exists():
        if not home.is_dir() or (any(home.iterdir()) and not (home / _MARKER).exists()):
            message = f"{home}: already exists and is not a demo's; name another folder"
            raise Conflict(message)
        from pipeline.embedded import running_url

        if running_url(home):
            message = f"{home}: another command is using this demo; end it, or name another folder"
            raise Conflict(message)
        shutil.rmtree(home)
    make_folder(home)
    (home / _MARKER).touch(FILE_MODE)


def _copy_samples(data: Path) -> int:
    files = sorted(p for p in samples_dir().iterdir() if p.name.lower().endswith(ENDINGS))
    for minute, file in enumerate(files):
        copy = data / file.name
        with file.open("rb") as original, create(copy) as target:
            shutil.copyfileobj(original, target)
        # Files are taken in the order of their times: here that of their names, everywhere.
        os.utime(copy, (_SAMPLES_TIME + 60 * minute,) * 2)
    return len(files)


def _examples(bench: Workbench, outcomes: list[Outcome]) -> list[tuple[str, int, str]]:
    """Return the rules that were broken most: rule, how often, what one row was told."""
    every: Counter[str] = Counter()
    for outcome in outcomes:
        every.update(outcome.rules)
    examples = []
    ranked = sorted(every.items(), key=lambda entry: (-entry[1], entry[0]))
    for rule, number in ranked[:_RULES_SHOWN]:
        file = next(o for o in outcomes if o.rules[rule] and o.row)
        file_id = file.row.file_id if file.row else 0
        row = bench.rows(file_id, states=None, rule=rule, limit=1)[0]
        told = next(reason for reason in row.reasons if reason["rule"] == rule)
        examples.append((rule, number, told["message"]))
    return examples


def _show_rejections(console: Console, examples: list[tuple[str, int, str]], more: int) -> None:
    if not examples:
        return
    shown = tables.table("rejected for", ">times", "for example")
    for rule, number, message in examples:
        shown.add_row(escape(rule), tables.count(number), escape(message))
    if more > 0:
        shown.add_row(f"[dim]… and {more} more[/]")
    console.print(shown)


def _show_statistics(console: Console, statistics: list[SensorStatistics]) -> None:
    shown = tables.table(">sensor", "model", "quantity", ">n", ">min", ">mean", ">max", ">std")
    for row in statistics[:_STATISTICS_SHOWN]:
        shown.add_row(
            str(row.sensor_id),
            escape(row.model.upper()),
            row.quantity,
            f"{row.n:,}",
            *(
                "–" if value is None else f"{value:,.1f}"
                for value in (row.min, row.mean, row.max, row.std)
            ),
        )
    if len(statistics) > _STATISTICS_SHOWN:
        shown.add_row("[dim]…[/]")
    console.print(shown)


def _show_next(console: Console, settings: Settings) -> None:
    ask = 'db psql -c "SELECT name, rows_read, rows_loaded, rows_quarantined FROM air.source_file"'
    lines = [
        ("the books", tables.command("status", settings.home)),
        ("what was rejected", tables.command("quarantine list", settings.home)),
        ("ask in SQL", tables.command(ask, settings.home)),
        ("your own files", "sofia-air ingest FILE…      (or drop them into data/: sofia-air run)"),
    ]
    console.print("[bold]what to type next[/]")
    for what, command in lines:
        tables.say(console, f"  [dim]{what:<18}[/] {escape(command)}")
