"""The laws that a storm checks: some after each fault, all of them whenever it is calm.

What has to be in the database is worked out by `tests.oracle`, which shares no code with the
pipeline. It is given the files in the order of the ledger's numbers, which is the order in which
they were taken: so it is known exactly which of two files keeps a reading that both have.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from pipeline.config import load_settings
from tests import feed
from tests.acceptance.conftest import Home, Ledger, due_ledger
from tests.faults.daemon import get
from tests.faults.harness import UNBALANCED, aggregates, lives, wait_for
from tests.faults.storm.world import Violation, World
from tests.oracle import Oracle, assert_same

PATIENCE = 150.0  # seconds; the daemon tries again after a minute at the latest
MOST_MEMORY = 450 << 20  # bytes: what is promised is 400 MiB, and a fork of the tests is larger


# --- after each fault -----------------------------------------------------------------------------


def check_quickly(world: World) -> None:
    """Check what holds at any moment, also while files are being loaded.

    Raises:
        Violation: a law was broken.
    """
    _alive(world)
    nothing_vanished(world)
    _none_refused_on_disk(world)
    if not world.disturbed("schema"):
        with suppress(psycopg.Error), psycopg.connect(world.url, connect_timeout=2) as connection:
            connection.execute("SET statement_timeout = '10s'")
            _refused_and_balanced(world, connection)


def _alive(world: World) -> None:
    pid = world.site.pid
    if pid is None or not lives(pid):
        message = f"the daemon has ended by itself:\n{world.site.output()}"
        raise Violation(message)
    with suppress(OSError):
        status = (Path("/proc") / str(pid) / "status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        memory = int(line.split()[1]) << 10
        if memory > MOST_MEMORY:
            message = f"the daemon took {memory >> 20} MiB of memory"
            raise Violation(message)


def nothing_vanished(world: World) -> None:
    """Law 3: the bytes of every file that was delivered are somewhere.

    The folders are looked at in the order in which a file moves, so none is missed on its way.
    """
    kept = {sha256 for folder in _folders(world) for _, sha256 in hashes(world, folder)}
    if gone := world.delivered.keys() - kept:
        names = sorted(repr(world.delivered[sha256].name) for sha256 in gone)
        message = f"vanished: {', '.join(names[:5])} ({len(gone)} in all)"
        raise Violation(message)


def _folders(world: World) -> list[Path]:
    return [world.data, world.data / "archive", world.site.quarantine]


def hashes(world: World, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file of a folder, and of the days in it, with its hash."""
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                if folder.name == "archive":
                    yield from hashes(world, Path(entry.path))
                continue
            with suppress(FileNotFoundError):
                found = entry.stat()
                key = (found.st_ino, found.st_size, found.st_mtime_ns)
                if key not in world.hashed:
                    data = Path(entry.path).read_bytes()
                    world.hashed[key] = hashlib.sha256(data).hexdigest()
                yield Path(entry.path), world.hashed[key]


def _none_refused_on_disk(world: World) -> None:
    for path, sha256 in hashes(world, world.site.quarantine):
        file = world.delivered.get(sha256)
        if file and file.good and ".refused." in path.name:
            message = f"a good file was refused: {path.name}: {_reason(path)}"
            raise Violation(message)


def _reason(path: Path) -> str:
    stem = path.name.partition(".refused.")[0]
    with suppress(OSError):
        return (path.parent / f"{stem}.refused.json").read_text()[:500]
    return "no reason is given"


def _refused_and_balanced(world: World, connection: psycopg.Connection[Any]) -> None:
    for name, sha256, reason in connection.execute(
        "SELECT name, sha256, reason FROM air.source_file WHERE state <> 'loaded'"
    ):
        file = world.delivered.get(sha256)
        if file is None or file.good:
            message = f"a good file was refused: {name}: {reason}"
            raise Violation(message)
    if unbalanced := connection.execute(UNBALANCED.encode()).fetchall():
        message = f"books that do not balance: {unbalanced[:5]}"
        raise Violation(message)
    if broken := feed.broken(lambda question: connection.execute(question.encode()).fetchall()):
        message = f"the change feed: {broken}"
        raise Violation(message)


# --- when it is calm ------------------------------------------------------------------------------


def become_calm(world: World) -> None:
    """End all faults and wait until every file is taken, also those that a restore took back.

    Raises:
        Violation: that does not happen, or a file is unknown without a reason.
    """
    world.undo()
    while True:
        _wait_until_taken(world)
        missing = world.delivered.keys() - known(world)
        if not missing:
            break
        names = sorted(repr(world.delivered[sha256].name) for sha256 in missing)
        if not world.restored:
            message = f"taken, and not in the ledger: {', '.join(names[:5])}"
            raise Violation(message)
        # From the archive or the quarantine, as a person would: so their bytes are there.
        where = {
            sha256: path for folder in _folders(world)[1:] for path, sha256 in hashes(world, folder)
        }
        for sha256 in missing:
            file = world.delivered[sha256]
            if sha256 not in where or where[sha256].read_bytes() != file.data:
                message = f"cannot be delivered again: {file.name!r}"
                raise Violation(message)
            world.drop(file)
        world.note(f"{len(missing)} files delivered again after the restore")
    world.restored = False


def known(world: World) -> set[str]:
    """Return the hashes that the ledger has."""
    return {sha256 for (sha256,) in world.sql("SELECT sha256 FROM air.source_file")}


def _wait_until_taken(world: World) -> None:
    def taken() -> bool:
        _alive(world)
        return not world.waiting()

    try:
        wait_for("every file to be taken", taken, PATIENCE)
    except AssertionError:
        waiting = ", ".join(map(repr, sorted(world.waiting())[:5]))
        message = f"still in data/ after {PATIENCE:.0f} s: {waiting}\n{world.site.output()}"
        raise Violation(message) from None


def check_all(world: World, *, thorough: bool = True) -> None:
    """Check every law; it has to be calm.

    Args:
        world: what to check.
        thorough: compare the statistics with the oracle's too, and not only with a recompute by
            PostgreSQL.

    Raises:
        Violation: a law was broken.
    """
    check_quickly(world)
    entries = world.sql("SELECT sha256, name, state FROM air.source_file ORDER BY file_id")
    _every_file_once(world, entries)
    oracle = _oracle(
        world, [(sha256, name) for sha256, name, state in entries if state == "loaded"]
    )
    try:
        _Loaded(load_settings(world.home), world.url).check(oracle, thorough=thorough)
        aggregates(world.url)
    except AssertionError as error:
        raise Violation(str(error)) from error
    _references(world)
    _quarantine(world, oracle)
    _places(world, {sha256: state for sha256, _, state in entries})
    _answers(world)


def _oracle(world: World, files: list[tuple[str, str]]) -> Oracle:
    """Return an oracle that was given these files in this order; asked before, it goes on."""
    taken, oracle = world.oracle
    if files[: len(taken)] != taken:
        taken, oracle = [], Oracle(datetime.now(UTC))
    for sha256, name in files[len(taken) :]:
        book = oracle.take_bytes(name, world.delivered[sha256].data)
        if not book.loaded:
            book.types.clear()
    world.oracle = files, oracle
    return oracle


class _Loaded(Home):
    """What is in the database of the files that were not refused."""

    def ledger(self) -> dict[str, Ledger]:
        return {
            # A file that brought no reading is listed with the model that its header suggests.
            sha256: row if row.loaded else row._replace(models="")
            for sha256, row in super().ledger().items()
            if row.state != "refused"
        }

    def check(self, oracle: Oracle, *, thorough: bool) -> None:
        """Compare with the oracle."""
        if thorough:
            self.assert_as(oracle)
            return
        books = oracle.books.values()
        assert_same(self.ledger(), {book.sha256: due_ledger(book) for book in books})
        for table, rows in oracle.raw.items():
            assert_same(self.raw(table), rows)
        assert_same(self.types(), oracle.types)
        assert_same(self.quarantined(), {book.sha256: book.bad for book in books if book.bad})


def _every_file_once(world: World, entries: list[tuple[Any, ...]]) -> None:
    every = [sha256 for sha256, *_ in entries]
    if len(every) != len(set(every)) or set(every) != world.delivered.keys():
        message = "the ledger does not have every file once"
        raise Violation(message)
    for sha256, name, state in entries:
        file = world.delivered[sha256]
        if (state == "loaded") != file.good:
            message = f"{name!r} is {state}"
            raise Violation(message)
        if file.name.isprintable() and name not in world.names[sha256]:
            message = f"{name!r} is in the ledger, and came as {world.names[sha256]}"
            raise Violation(message)


_REFERENCES = {
    "readings without a sensor": """
        SELECT DISTINCT sensor_id FROM (SELECT sensor_id FROM air.raw_particulate
            UNION ALL SELECT sensor_id FROM air.raw_climate) AS rows
        EXCEPT SELECT sensor_id FROM air.sensor""",
    "sensors without a reading": """
        SELECT sensor_id FROM air.sensor EXCEPT (SELECT sensor_id FROM air.raw_particulate
            UNION SELECT sensor_id FROM air.raw_climate)""",
    "places of sensors that are not those of the readings": """
        (SELECT sensor_id, location_key, min(ts), max(ts) FROM (
            SELECT sensor_id, location_key, ts FROM air.raw_particulate
            UNION ALL SELECT sensor_id, location_key, ts FROM air.raw_climate) AS rows
          GROUP BY sensor_id, location_key
         EXCEPT SELECT sensor_id, location_key, first_ts, last_ts FROM air.sensor_place)
        UNION ALL
        (SELECT sensor_id, location_key, first_ts, last_ts FROM air.sensor_place
         EXCEPT SELECT sensor_id, location_key, min(ts), max(ts) FROM (
            SELECT sensor_id, location_key, ts FROM air.raw_particulate
            UNION ALL SELECT sensor_id, location_key, ts FROM air.raw_climate) AS rows
          GROUP BY sensor_id, location_key)""",
    "quarantined rows or statistics without a file": """
        SELECT file_id FROM air.quarantined_row UNION SELECT file_id FROM air.file_aggregate
        EXCEPT SELECT file_id FROM air.source_file""",
}


def _references(world: World) -> None:
    for what, query in _REFERENCES.items():
        if found := world.sql(query):
            message = f"{what}: {found[:5]}"
            raise Violation(message)


def _quarantine(world: World, oracle: Oracle) -> None:
    """Every rejected row is in its file's CSV and in its reason log."""
    present = {path.name for path in world.site.quarantine.glob("*")}
    for book in oracle.books.values():
        numbers = sorted(book.bad)
        base = f"{book.name.removesuffix('.gz').removesuffix('.csv')}.{book.sha256[:12]}"
        if not numbers or not book.name.isprintable():
            continue
        if {f"{base}.csv", f"{base}.reasons.jsonl"} - present:
            message = f"{book.name}: has rejected rows, and no CSV or log of them"
            raise Violation(message)
        text = (world.site.quarantine / f"{base}.csv").read_text("utf-8-sig")
        delimiter = ";" if book.dialect == "archive" else ","
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        log = (world.site.quarantine / f"{base}.reasons.jsonl").read_text().removesuffix("\n")
        found = [json.loads(line)["line_no"] for line in log.split("\n")]
        if [int(row[0]) for row in rows[1:]] != numbers or found != numbers:
            message = f"{book.name}: its CSV or log has other rows than were rejected"
            raise Violation(message)


def _places(world: World, states: dict[str, str]) -> None:
    """Every file lies where it belongs: the loaded in the archive, the refused in quarantine."""
    archived = {sha256 for _, sha256 in hashes(world, world.data / "archive")}
    kept = {sha256 for _, sha256 in hashes(world, world.site.quarantine)}
    for sha256, state in states.items():
        if sha256 not in (archived if state == "loaded" else kept):
            message = f"{world.delivered[sha256].name!r} is {state}, and not where it belongs"
            raise Violation(message)


def _answers(world: World) -> None:
    """The daemon says that it is well."""
    deadline = time.monotonic() + 120
    answer: object = None
    while time.monotonic() < deadline:
        try:
            answer = [get(world.port, path)[0] for path in ("/healthz", "/readyz")]
        except OSError as error:
            answer = error
        if answer == [200, 200]:
            return
        time.sleep(0.2)
    message = f"/healthz and /readyz answer {answer}"
    raise Violation(message)
