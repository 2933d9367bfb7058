"""Tables and sentences on a terminal: how results look. Nothing here asks or decides anything."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.terminal import Console, escape
from pipeline.config import Settings

if TYPE_CHECKING:
    from rich.table import Table

    # To run, it takes pandas and a second: commands that only look do without.
    from pipeline.flow import Outcome

_STATE = {
    "loaded": "[green]loaded[/]",
    "refused": "[red]refused[/]",
    "known": "[dim]known[/]",
    "left": "[yellow]left[/]",
    "retracted": "[dim]retracted[/]",
}
_MOST = 25

# Short, so that a file's name fits beside them on 80 columns; the sum below has the full words.
BOOKS = (">read", ">loaded", ">dup", ">bad")


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table; a column whose name starts with `>` is aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        right = column.startswith(">")
        made.add_column(
            column.removeprefix(">"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    return made


def count(number: int | None) -> str:
    """Return a count for a table: grouped digits, and a quiet dash for none."""
    return f"{number:,}" if number else "[dim]–[/]"


def state(name: str) -> str:
    """Return a file's state in its colour."""
    return _STATE[name]


def moment(time: datetime | None) -> str:
    """Return a time to the minute; all times are UTC."""
    return f"{time:%Y-%m-%d %H:%M}" if time else "[dim]–[/]"


def outcomes(
    console: Console, found: Sequence[Outcome], seconds: float, settings: Settings
) -> None:
    """Show what became of files, and their books."""
    if not found:
        console.print(f"nothing to take in {escape(str(settings.data))}")
        return
    shown = table("file", "", *BOOKS)
    # With many files, those that need a look come first and the rest is summed up.
    noteworthy = [o for o in found if o.state != "loaded" or (o.row and o.row.rows_quarantined)]
    listed = list(found) if len(found) <= _MOST else noteworthy[:_MOST]
    for outcome in listed:
        row = outcome.row
        books = (
            [row.rows_read, row.rows_loaded, row.rows_duplicate, row.rows_quarantined]
            if row and outcome.state == "loaded"
            else [None] * 4
        )
        shown.add_row(escape(outcome.name), _STATE[outcome.state], *map(count, books))
    if len(listed) < len(found):
        shown.add_row(f"[dim]… and {len(found) - len(listed):,} more[/]")
    console.print(shown)
    for outcome in listed:
        if outcome.message and outcome.state != "known":
            console.print(
                f"  [red]✗[/] {escape(outcome.name)}: {escape(outcome.message)}", soft_wrap=True
            )
    _summary(console, found, seconds)
    hints(console, found, settings)


def _summary(console: Console, found: Sequence[Outcome], seconds: float) -> None:
    states: Counter[str] = Counter(outcome.state for outcome in found)
    rows = [outcome.row for outcome in found if outcome.row and outcome.state == "loaded"]
    parts = [f"{states[state]:,} {state}" for state in _STATE if states[state]]
    read = sum(row.rows_read for row in rows)
    if not rows:
        say(
            console,
            f"{files(len(found))}: {', '.join(parts)}. No rows were loaded"
            f"  [dim]({seconds:.1f} s)[/]",
        )
        return
    told = (
        f"{files(len(found))}: {', '.join(parts)}. {read:,} rows = "
        f"{sum(row.rows_loaded for row in rows):,} loaded + "
        f"{sum(row.rows_duplicate for row in rows):,} duplicate + "
        f"{sum(row.rows_quarantined for row in rows):,} quarantined"
    )
    say(console, f"{told}  [dim]({seconds:.1f} s)[/]")


def hints(console: Console, found: Iterable[Outcome], settings: Settings) -> None:
    """Say where refused files and rejected rows are, how to look at them, and how to go on."""
    refused = [outcome for outcome in found if outcome.state == "refused"]
    if refused:
        name = shlex.quote(refused[0].name) if len(refused) == 1 else "FILE"
        told = {
            "refused files:": escape(str(settings.quarantine)),
            "see why:": f"[bold]{escape(command(f'quarantine show {name}', settings.home))}[/]",
            "repair it there:": "[bold]"
            + escape(command(f"quarantine reprocess {name}", settings.home))
            + "[/] [dim]tries it again[/]",
        }
        for title, text in told.items():
            say(console, f"[dim]{title:<16}[/] {text}")
    rejected = [outcome for outcome in found if outcome.quarantine]
    if rejected:
        say(
            console,
            f"rejected rows: {escape(str(settings.quarantine))}  "
            f"[dim]see[/] [bold]{escape(command('quarantine list', settings.home))}[/]",
        )


def say(console: Console, text: str) -> None:
    """Print a line as it is: its numbers not coloured, and not broken where the screen ends."""
    console.print(text, highlight=False, soft_wrap=True)


def command(words: str, home: Path) -> str:
    """Return a command as it has to be typed here: with `--home` where that is not implied."""
    implied = Path(os.environ.get("SOFIA_AIR_HOME") or ".").expanduser().absolute()
    if home == implied:
        return f"sofia-air {words}"
    return f"sofia-air --home {shlex.quote(str(short(home)))} {words}"


def short(path: Path) -> Path:
    """Return a path below the current folder without it: easier to read, and to type."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def files(number: int) -> str:
    """Return for example `1 file` or `2,000 files`."""
    return f"{number:,} file" if number == 1 else f"{number:,} files"


def rules(counts: Mapping[str, int]) -> str:
    """Return for example `null 3, range 1`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{rule} {number:,}" for rule, number in ordered)


def size(number: int) -> str:
    """Return a number of bytes in words."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def rejected_rows(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show rejected rows: number, reasons in words, what is accepted, the line as it stood."""
    for row in rows:
        mark = "" if row["state"] == "open" else f" [dim]({row['state']})[/]"
        say(console, f"[bold]line {row['line_no']:,}[/]{mark}")
        say(console, f"  {_marked(row)}")
        for reason in row["reasons"]:
            expected = reason["expected"]
            # Most messages say it already.
            told = not expected or expected in reason["message"] or reason["rule"] == "conflict"
            accepted = "" if told else f" [dim]– accepted: {escape(expected)}[/]"
            broken = f"[bold]{escape(reason['rule'])}[/]: {escape(reason['message'])}"
            say(console, f"  [red]✗[/] {broken}{accepted}")
        if row["state"] != "open":
            _decision(console, row)


def _decision(console: Console, row: Mapping[str, Any]) -> None:
    """Show what became of a rejected row, and who decided it."""
    if row["replay_line"] is not None:
        say(console, f"  [green]→[/] {escape(row['replay_line'])}")
    when = f"{row['decided_at']:%Y-%m-%d %H:%M} UTC by {escape(row['decided_by'] or '')}"
    if row["state"] == "repaired":
        say(console, f"  [green]✓[/] repaired {when}, in file {row['replay_file_id']}")
    else:
        say(console, f"  [dim]–[/] discarded {when}: {escape(row['note'] or '')}")


def _marked(row: Mapping[str, Any]) -> str:
    """Return the line with its offending values marked, where they can be told for certain."""
    line = escape(row["line"])
    for reason in row["reasons"]:
        value = reason["value"]
        if value and reason["column"] and line.count(escape(value)) == 1:
            line = line.replace(escape(value), f"[reverse red]{escape(value)}[/]")
    return line
