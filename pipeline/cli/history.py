"""`retract` and `why`: take a file back; tell where a reading came from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pipeline.cli import tables
from pipeline.cli.session import database, print_json, require_home
from pipeline.cli.settings import settings_of, start_log
from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings
from pipeline.contract import MAX_ID
from pipeline.contract.quantities import QUANTITIES
from pipeline.errors import InvalidArgument
from pipeline.rework.keys import chosen, whoever
from pipeline.rework.retracted import Retracted, plan
from pipeline.store.read.entries import Entry, entries

if TYPE_CHECKING:
    from pipeline.rework.why import Line, Reading, Told

_UNITS = {quantity.name: quantity.unit for quantity in QUANTITIES}
DONE, FAILED = 0, 1


# --- retract -------------------------------------------------------------------------------------


def retract(home: Path | None, key: str, *, yes: bool, note: str | None, as_json: bool) -> int:
    """Take a file back, after a person has confirmed it; return the exit code."""
    settings = settings_of(home)
    require_home(settings)
    by = whoever()
    with database(settings) as opened:
        with opened.reader.snapshot() as connection:
            entry = chosen(entries(connection, key), key)
            planned = plan(connection, entry)
        if not yes and not _confirmed(planned):
            typer.echo("nothing was changed", err=True)
            return FAILED
        # What it takes to change something is loaded when that is certain.
        from pipeline import memory
        from pipeline.rework import retract as retracting
        from pipeline.store.load import Store

        memory.choose_allocators()
        start_log(settings)
        done = retracting.retract(
            settings,
            Store(opened.engine),
            settings.site_contract(),
            entry,
            by=by,
            note=note,
        )
    if as_json:
        print_json(_retracted_record(done, by, note))
    else:
        _show_retracted(Console(), settings, done)
    return DONE


def _confirmed(planned: Retracted) -> bool:
    """Ask a person.

    Raises:
        InvalidArgument: there is nobody to ask.
    """
    entry = planned.entry
    if not sys.stdin.isatty():
        message = f"retract {entry.name}: stdin is not a terminal; pass --yes to confirm"
        raise InvalidArgument(message)
    typer.echo(f"{entry.name} (file {entry.file_id}), loaded {entry.loaded_at:%F %T} UTC", err=True)
    typer.echo(f"  {entry.rows_loaded:,} readings are taken out of the database", err=True)
    for each in planned.replays:
        typer.echo(
            f"  and its replay, file {each.file_id}, with {each.rows_loaded:,} readings", err=True
        )
    typer.echo("  readings that other files delivered too come back as theirs", err=True)
    return typer.confirm("Take it back?", default=False, err=True)


def _show_retracted(console: Console, settings: Settings, done: Retracted) -> None:
    entry = done.entry
    tables.say(
        console,
        f"{escape(entry.name)} (file {entry.file_id}): {done.rows:,} readings taken back"
        + "".join(f", with replay {each.file_id}" for each in done.replays),
    )
    for (file_id, name), rows in done.back.items():
        tables.say(
            console, f"  [green]✓[/] {rows:,} came back from {escape(name)} (file {file_id})"
        )
    for (file_id, name), because in done.unknown.items():
        tables.say(
            console,
            f"  [red]✗[/] {escape(name)} (file {file_id}) has duplicates, and whether some are "
            f"among these is unknown: {escape(because)}",
        )
    if done.reopened:
        console.print(f"  {done.reopened:,} rows are open again in quarantine", highlight=False)
    tables.say(console, f"[dim]its bytes:[/] {escape(done.archived)}")
    if Path(done.archived).is_file():
        again = f"cp '{done.archived}' '{settings.data}'"
        tables.say(console, f"[dim]load it again:[/] [bold]{escape(again)}[/]")
    for problem in done.problems:
        tables.say(console, f"  [dim]·[/] {escape(str(problem))}")


def _retracted_record(done: Retracted, by: str, note: str | None) -> dict[str, Any]:
    return {
        "file_id": done.entry.file_id,
        "file": done.entry.name,
        "replays": [each.file_id for each in done.replays],
        "rows": done.rows,
        "came_back": [
            {"file_id": file_id, "file": name, "rows": rows}
            for (file_id, name), rows in done.back.items()
        ],
        "cannot_tell": [
            {"file_id": file_id, "file": name, "because": because}
            for (file_id, name), because in done.unknown.items()
        ],
        "reopened": done.reopened,
        "archived": done.archived,
        "by": by,
        "note": note,
        "problems": [str(problem) for problem in done.problems],
    }


# --- why -----------------------------------------------------------------------------------------


def tell(home: Path | None, sensor: int, time: str, *, as_json: bool) -> None:
    """Tell where the reading of a sensor at a time came from, or why there is none."""
    from pipeline.rework.why import moment, why

    settings = settings_of(home)
    require_home(settings)
    ts = moment(time)
    if ts is None:
        message = f"'{time}' is not a time; write it as 2018-03-06T00:46:02 (UTC)"
        raise InvalidArgument(message)
    if not 0 < sensor <= MAX_ID:
        message = f"{sensor} cannot be the number of a sensor"
        raise InvalidArgument(message)
    with database(settings) as opened:
        told = why(settings, opened.reader, settings.site_contract(), sensor, ts)
    if as_json:
        print_json(_told_record(told))
    else:
        _show(Console(), told)


def _show(console: Console, told: Told) -> None:
    say = partial(tables.say, console)
    model = f" ({escape(told.model.upper())})" if told.model else ""
    say(f"[bold]sensor {told.sensor_id}{model} at {told.ts:%F %T} UTC[/]")
    for reading in told.readings:
        _show_reading(say, reading)
    if not told.readings:
        _show_gap(say, told)
    if told.others:
        say("what else arrived for it:" if told.readings else "what arrived for it:")
        for line in told.others:
            _show_line(say, line)
    if told.unreadable:
        say("rejected rows of this sensor from about then, whose own time cannot be read:")
        for line in told.unreadable:
            _show_line(say, line)
    for name, because in told.unknown.items():
        say(f"[dim]whether {escape(name)} had it too is unknown: {escape(because)}[/]")


def _show_reading(say: Callable[[str], None], reading: Reading) -> None:
    values = ", ".join(f"{n} {v:.6g} {_UNITS[n]}" for n, v in reading.values.items())
    say(f"  {values or 'no value'}")
    for mark in reading.flags:
        say(f"  [yellow]![/] {escape(mark)}")
    location, lat, lon = reading.place
    if location is not None or lat is not None:
        say(f"  [dim]place[/]    {location or '–'} ({lat}, {lon})")
    entry = reading.entry
    if entry is None:
        return
    if reading.line is not None:
        of = reading.line
        where = f"{escape(of.entry.name)} (file {of.entry.file_id})"
        say(f"  [dim]from[/]     {where}, line {of.line_no:,}")
        say(f"  [dim]line[/]     {escape(of.line)}")
        if of.row is not None:
            if of.row.replay_line is not None:
                say(f"  [dim]repaired[/] {escape(of.row.replay_line)}")
            _show_reasons(say, of)
            say(
                f"  [dim]brought back[/] by {escape(of.row.decided_by or '')}, "
                f"{of.row.decided_at:%F %T} UTC, as file {entry.file_id}"
            )
    else:
        say(f"  [dim]from[/]     {escape(entry.name)} (file {entry.file_id})")
        say(f"  [dim]its line cannot be shown: {escape(reading.missing or '')}[/]")
    say(
        f"  [dim]loaded[/]   {entry.loaded_at:%F %T} UTC by version {escape(entry.app_version)}, "
        f"contract {escape(entry.contract_version)}"
    )


def _show_gap(say: Callable[[str], None], told: Told) -> None:
    say("  no reading is stored for this time")
    if told.model is None:
        say("  nor any of this sensor")
        return
    for title, time in (("previous", told.previous), ("next", told.next)):
        say(f"  [dim]{title:<8}[/] {f'{time:%F %T} UTC' if time else 'none'}")
    if told.previous and told.next:
        say(f"  [dim]gap[/]      {told.next - told.previous}")


def _show_line(say: Callable[[str], None], line: Line) -> None:
    became = {
        "duplicate": "the same reading: a duplicate",
        "conflict": "other values: a conflict, in quarantine",
        "quarantined": "in quarantine",
        "repaired": "was in quarantine, and repaired",
        "discarded": "was in quarantine, and discarded",
        "loaded": "loaded",
    }[line.became]
    say(f"  {escape(line.entry.name)} (file {line.entry.file_id}), line {line.line_no:,}: {became}")
    say(f"    {escape(line.line)}")
    _show_reasons(say, line, "    ")
    row = line.row
    if row is not None and row.state == "repaired":
        if row.replay_line is not None:
            say(f"    [dim]repaired[/] {escape(row.replay_line)}")
        say(f"    [dim]by[/] {escape(row.decided_by or '')}, in file {row.replay_file_id}")
    if row is not None and row.state == "discarded":
        say(f"    [dim]by[/] {escape(row.decided_by or '')}: {escape(row.note or '')}")


def _show_reasons(say: Callable[[str], None], line: Line, indent: str = "  ") -> None:
    for reason in line.reasons:
        say(f"{indent}[red]✗[/] [bold]{escape(reason['rule'])}[/]: {escape(reason['message'])}")


def _told_record(told: Told) -> dict[str, Any]:
    return {
        "sensor_id": told.sensor_id,
        "ts": told.ts,
        "model": told.model,
        "readings": [
            {
                "table": reading.table,
                "values": reading.values,
                "flags": reading.flags,
                "location_id": reading.place[0],
                "lat": reading.place[1],
                "lon": reading.place[2],
                "file": _entry_record(reading.entry),
                "parent": _entry_record(reading.parent),
                "line": _line_record(reading.line) if reading.line else None,
                "line_missing": reading.missing,
            }
            for reading in told.readings
        ],
        "others": [_line_record(line) for line in told.others],
        "unreadable": [_line_record(line) for line in told.unreadable],
        "previous": told.previous,
        "next": told.next,
        "cannot_tell": [{"file": n, "because": b} for n, b in told.unknown.items()],
    }


def _entry_record(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "file_id": entry.file_id,
        "name": entry.name,
        "sha256": entry.sha256,
        "loaded_at": entry.loaded_at,
        "contract_version": entry.contract_version,
        "app_version": entry.app_version,
    }


def _line_record(line: Line) -> dict[str, Any]:
    row = line.row
    return {
        "file_id": line.entry.file_id,
        "file": line.entry.name,
        "line_no": line.line_no,
        "line": line.line,
        "became": line.became,
        "reasons": list(line.reasons),
        "repaired": row.replay_line if row else None,
        "replay_file_id": row.replay_file_id if row else None,
        "decided_at": row.decided_at if row else None,
        "decided_by": row.decided_by if row else None,
        "note": row.note if row else None,
    }
