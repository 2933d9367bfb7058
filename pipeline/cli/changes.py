"""`changes`: the change feed, printed as it comes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from pipeline.cli.session import Database, database, print_json, require_home
from pipeline.config import load_settings
from pipeline.errors import InvalidArgument, PipelineError
from pipeline.store import address
from pipeline.store.read import changes as feed
from pipeline.store.read.changes import Change, Page
from pipeline.store.read.follow import follow
from pipeline.store.refusals import guarded
from pipeline.visible import visible, visible_json

if TYPE_CHECKING:
    import psycopg

_ANEW = "the database was restored: what was seen of it may not have happened; from the beginning"
_SHOWN = 100


def show(
    home: Path | None,
    *,
    after: int | None,
    limit: int | None,
    following: bool,
    generation: UUID | None,
    as_json: bool,
) -> None:
    """Print changes: those that there are, or each as it comes."""
    if generation is not None and after is None:
        message = "--generation: specify --after too: the last change that was seen in it"
        raise InvalidArgument(message)
    settings = load_settings(home)
    require_home(settings)
    with database(settings) as opened:
        if following:
            _follow(opened, after, limit, generation, as_json=as_json)
            return
        with guarded(), closing(_connect(opened)) as connection:
            wanted = limit or _SHOWN
            start = feed.number_before(connection, wanted) if after is None else after
            page = feed.read(connection, start, limit=wanted, generation=generation)
    if as_json:
        print_json(
            {
                "generation": _text(page.generation),
                "anew": page.anew,
                "newest": page.newest,
                "changes": [_record(change) for change in page.changes],
            }
        )
        return
    if page.anew:
        typer.echo(_ANEW, err=True)
    for change in page.changes:
        typer.echo(_line(change))
    if page.changes and page.changes[-1].seq < page.newest:
        more = f"more: --after {page.changes[-1].seq} --generation {page.generation}"
        typer.echo(more, err=True)


def _follow(
    opened: Database,
    after: int | None,
    limit: int | None,
    generation: UUID | None,
    *,
    as_json: bool,
) -> None:
    def lost(error: PipelineError, seconds: float) -> None:
        told = visible(str(error))
        typer.echo(f"{told}; trying again in {seconds:.0f} s", err=True)

    def connect() -> psycopg.Connection[Any]:
        try:
            return _connect(opened)
        except BaseException:
            if opened.revive is not None:
                opened.revive()
            raise

    left = sys.maxsize if limit is None else limit
    with _ended_by_signals() as printing:
        for page in follow(
            connect, after=after, generation=generation, output=_stdout(), on_lost=lost
        ):
            with printing():
                if page.anew:
                    _say_anew(page, as_json=as_json)
                for change in page.changes[:left]:
                    _print(change, page, as_json=as_json)
                sys.stdout.flush()
            left -= len(page.changes)
            if left <= 0:
                return


def _connect(opened: Database) -> psycopg.Connection[Any]:
    url = opened.url
    if opened.embedded and os.geteuid() == 0:
        url += "&require_auth=none"  # another user's server gets no password of root's
    return address.connect(address.keywords(url))


def _stdout() -> int | None:
    try:
        return sys.stdout.fileno()
    except (OSError, ValueError):  # it is none of the system's files
        return None


class _Ended(BaseException):
    """The end that a signal has asked for."""


@contextmanager
def _ended_by_signals() -> Iterator[Callable[[], Any]]:
    """End the block when SIGINT or SIGTERM comes, but not in the middle of a line.

    Yields:
        What opens a block that is finished first.
    """
    asked = held = False

    def end(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        if not held:
            raise _Ended

    @contextmanager
    def whole() -> Iterator[None]:
        nonlocal held
        held = True
        try:
            yield
        finally:
            held = False
        if asked:
            raise _Ended

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield whole
    except _Ended:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_anew(page: Page, *, as_json: bool) -> None:
    if as_json:
        typer.echo(_json_line({"anew": True, "generation": _text(page.generation)}))
    else:
        typer.echo(_ANEW, err=True)


def _print(change: Change, page: Page, *, as_json: bool) -> None:
    if as_json:
        typer.echo(_json_line({**_record(change), "generation": _text(page.generation)}))
    else:
        typer.echo(_line(change))


def _json_line(record: dict[str, Any]) -> str:
    return visible_json(json.dumps(record, ensure_ascii=False))


def _text(generation: UUID | None) -> str | None:
    return None if generation is None else str(generation)


def _record(change: Change) -> dict[str, Any]:
    return {
        "seq": change.seq,
        "at": change.at.isoformat(),
        "kind": change.kind,
        "file_id": change.file_id,
        "raw_table": change.raw_table,
        "months": {month.isoformat(): rows for month, rows in change.months.items()},
        "rows_added": change.rows_added,
        "rows_removed": change.rows_removed,
        "rows_changed": change.rows_changed,
        "sensors": list(change.sensors),
        "quarantine_opened": change.quarantine_opened,
        "quarantine_closed": change.quarantine_closed,
    }


def _line(change: Change) -> str:
    """Return a change as a person reads it."""
    counts = {
        "+{:,} readings": change.rows_added,
        "-{:,} readings": change.rows_removed,
        "{:,} readings mended": change.rows_changed,
        "{:,} rows to quarantine": change.quarantine_opened,
        "{:,} rows out of quarantine": change.quarantine_closed,
    }
    parts = [text.format(number) for text, number in counts.items() if number]
    if change.raw_table:
        months = [f"{month:%Y-%m}" for month in change.months]
        span = months[0] if len(months) == 1 else f"{months[0]} … {months[-1]}"
        sensors = len(change.sensors)
        parts += [change.raw_table, span, f"{sensors:,} sensor{'s' * (sensors != 1)}"]
    return f"{change.seq:>8}  {change.at:%F %T}  {change.kind:<8} file {change.file_id:<7} " + (
        ", ".join(parts) or "no readings"
    )
