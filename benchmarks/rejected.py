"""Scale of what was rejected: times the commands that list, export, replay and retract.

Makes a home with a private PostgreSQL, rejected rows by the million, and a ledger and an archive
of 200,000 small files; then runs each command as a user does, in a process of its own, and prints
a table: median seconds, seconds of the processor (those to compare on a busy machine), rows a
second, and the memory of the process at its peak.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pipeline.embedded import EmbeddedPostgres

HEADER = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
START = datetime(2018, 1, 1)  # noqa: DTZ001  # as files write it
SENSORS = 200
A_DAY = 1_000  # archived files
DUPLICATES_EVERY = 100  # one archived file in so many holds its row twice
# What rejects nine rows in ten by default, and lets them pass a replay.
WIDER = "[contract.ranges.pm10]\naccept = [0, 5000]\n"


@dataclass(frozen=True, slots=True)
class Run:
    """What a command took.

    Attributes:
        seconds: wall clock.
        cpu: processor time of the process alone, without the server's, in seconds.
        megabytes: resident memory at its peak, of the process alone.
        code: its exit code.
    """

    seconds: float
    cpu: float
    megabytes: float
    code: int


@dataclass(frozen=True, slots=True)
class Home:
    """A home folder, and how to run commands there."""

    folder: Path

    def command(self, *words: str) -> Run:
        """Run a command and measure it.

        Raises:
            RuntimeError: it failed.
        """
        program = "from pipeline.cli import main; main()"
        arguments = [sys.executable, "-c", program, "--home", str(self.folder), *words]
        with tempfile.TemporaryFile() as said:
            started = time.perf_counter()
            process = subprocess.Popen(arguments, stdout=said, stderr=said)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = code = os.waitstatus_to_exitcode(status)
            if code not in {0, 3}:
                said.seek(0)
                message = f"{' '.join(words)}: exit code {code}: {said.read().decode()[-2000:]}"
                raise RuntimeError(message)
        return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, code)

    def clear(self, name: str) -> Path:
        """Return a path in the home where nothing is."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        return path

    def dirty_file(self, name: str, rows: int, first: int) -> Path:
        """Write a file all of whose rows are rejected: nine in ten for their range."""
        path = self.folder / name
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(HEADER)
            for row in range(first, first + rows):
                time_of = START + timedelta(seconds=150 * (row // SENSORS))
                value = f"{2000 + row % 2900 + row % 10 / 10:.1f}"
                if row % 10 == 9:
                    value = ("", "145,65", "abc", "-1")[row // 10 % 4]
                file.write(
                    f"{1000 + row % SENSORS};SDS011;{row % SENSORS};42.7;23.3;{time_of:%FT%T};"
                    f"{value};;;12.5;;\n"
                )
        return path

    def small_file(self, name: str, sensor: int) -> Path:
        """Write a good day of one sensor into data/."""
        folder = self.folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / name
        rows = (
            f"{sensor};SDS011;1;42.7;23.3;{START + timedelta(seconds=150 * i):%FT%T};9;;;5;;\n"
            for i in range(570)
        )
        path.write_text(HEADER + "".join(rows), encoding="utf-8")
        return path


def fill_archive(home: Home, url: str, files: int) -> None:
    """Make small files that were loaded long ago: in the archive, the ledger and a raw table."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT air.ensure_month('air.raw_particulate', '2016-01-01')")
        cursor.execute(
            "CREATE TEMPORARY TABLE made (number integer, name text, sha256 text, bytes bigint,"
            " sensor integer, ts timestamptz, day timestamptz, twice boolean) ON COMMIT DROP"
        )
        with cursor.copy("COPY made FROM STDIN") as copy:
            for number in range(files):
                day = datetime(2016, 2, 1, tzinfo=UTC) + timedelta(days=number // A_DAY)
                ts = datetime(2016, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
                sensor = 100_000 + number % A_DAY
                twice = number % DUPLICATES_EVERY == 0
                row = f"{sensor};SDS011;1;42.7;23.3;{ts:%FT%T};9;;;5;;\n"
                text = (HEADER + row * (1 + twice)).encode()
                name = f"2016-01-01_sds011_sensor_{sensor}_{number}.csv"
                folder = home.folder / "data" / "archive" / f"{day:%F}"
                if number % A_DAY == 0:
                    folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(text)
                digest = hashlib.sha256(text).hexdigest()
                copy.write_row((number, name, digest, len(text), sensor, ts, day, twice))
        cursor.execute(
            "INSERT INTO air.location (location_id, lat, lon) VALUES (1, 42.7, 23.3)"
            " ON CONFLICT DO NOTHING"
        )
        cursor.execute(
            "INSERT INTO air.sensor SELECT DISTINCT sensor, 'sds011' FROM made"
            " ON CONFLICT DO NOTHING"
        )
        cursor.execute(
            "INSERT INTO air.source_file (file_id, name, sha256, bytes, dialect, sensor_model,"
            " state, rows_read, rows_loaded, rows_duplicate, first_ts, last_ts, detected_at,"
            " loaded_at, contract_version, app_version, header) OVERRIDING SYSTEM VALUE"
            " SELECT 1000000 + number, name, sha256, bytes, 'archive', 'sds011', 'loaded',"
            " 1 + twice::integer, 1, twice::integer, ts, ts, day, day, 'old', '0.1.0',"
            " %s FROM made",
            [HEADER.strip()],
        )
        cursor.execute(
            "INSERT INTO air.raw_particulate (sensor_id, ts, location_key, file_id, pm10, pm25)"
            " SELECT sensor, ts, (SELECT location_key FROM air.location WHERE location_id = 1"
            " AND lat = 42.7), 1000000 + number, 9, 5 FROM made"
        )
        cursor.execute(
            "SELECT setval(pg_get_serial_sequence('air.source_file', 'file_id'), 2000000)"
        )
        cursor.execute(
            "INSERT INTO air.file_duplicates"
            " SELECT 1000000 + number, sensor, ts, ts FROM made WHERE twice"
        )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")


def median(work: Callable[[], Run], repeats: int) -> Run:
    """Return the median of several runs, and the most memory of any."""
    runs = [work() for _ in range(repeats)]
    return Run(
        statistics.median(run.seconds for run in runs),
        statistics.median(run.cpu for run in runs),
        max(run.megabytes for run in runs),
        runs[0].code,
    )


def show(name: str, run: Run, rows: int | None = None) -> None:
    """Print one line of the table."""
    speed = f"{rows / run.seconds:>12,.0f}" if rows else " " * 12
    print(
        f"{name:<44} {run.seconds:>8.2f} {run.cpu:>7.2f} {speed} {run.megabytes:>7.0f}"
        f"   load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def snapshot_of_sheets(home: Home) -> list[Path]:
    """Return the CSVs of rejected rows."""
    return sorted((home.folder / "quarantine").glob("*.csv"), key=lambda p: p.stat().st_size)


def measure(home: Home, rows: int, repeats: int, only: Sequence[str]) -> None:
    """Time every command."""
    name = "dirty-0.csv"
    looks = {
        "quarantine list": ["quarantine", "list"],
        "quarantine list --by reason": ["quarantine", "list", "--by", "reason"],
        "quarantine list --by sensor": ["quarantine", "list", "--by", "sensor"],
        "quarantine list --by age": ["quarantine", "list", "--by", "age"],
        "quarantine list --reason null": ["quarantine", "list", "--reason", "null"],
        "quarantine show FILE": ["quarantine", "show", name],
        "quarantine show FILE --reason null": ["quarantine", "show", name, "--reason", "null"],
        "status": ["status"],
    }
    if "look" in only:
        for title, words in looks.items():
            show(title, median(partial(home.command, *words), repeats))
    if "export" in only:

        def exported() -> Run:
            path = str(home.clear("export.csv"))
            return home.command("quarantine", "export", "--all", "--output", path)

        show("quarantine export --all", median(exported, repeats), rows)
    if "once" in only:
        numbers = iter(range(50_000, 60_000))

        def once() -> Run:
            sensor = next(numbers)
            home.small_file(f"2018-01-01_sds011_sensor_{sensor}.csv", sensor)
            return home.command("run", "--once")

        show("run --once, one file", median(once, repeats))
        taken = iter(range(50_000, 60_000))
        show(
            "retract, one file",
            median(
                lambda: home.command(
                    "retract", f"2018-01-01_sds011_sensor_{next(taken)}.csv", "--yes"
                ),
                repeats,
            ),
        )
        show("why", median(lambda: home.command("why", "100100", "2016-01-01T00:01:40"), repeats))
    if "replay" in only:
        dry = ["quarantine", "reprocess", "--all", "--dry-run"]
        show("reprocess --all --dry-run, none passes", home.command(*dry), rows)
        (home.folder / "sofia-air.toml").write_text(WIDER)
        show("reprocess --all --dry-run, 9 of 10 pass", home.command(*dry), rows)
        show("reprocess --all", home.command("quarantine", "reprocess", "--all"), rows)
        (home.folder / "sofia-air.toml").unlink()
    if "edited" in only:
        sheet = edited(home)
        count = sum(1 for _ in sheet.open("rb")) - 1
        words = ["quarantine", "reprocess", str(sheet)]
        show("reprocess FILE.csv --dry-run, all edited", home.command(*words, "--dry-run"), count)
        show("reprocess FILE.csv, all edited", home.command(*words), count)
    if "discard" in only:
        words = ["quarantine", "discard", "dirty-1.csv", "--note", "not wanted"]
        show("quarantine discard FILE", home.command(*words))


def edited(home: Home) -> Path:
    """Repair every row of the largest CSV in quarantine/, as a spreadsheet saves it."""
    source = snapshot_of_sheets(home)[-1]
    target = home.folder / source.name
    with source.open(encoding="utf-8-sig") as rows, target.open("w", encoding="utf-8") as file:
        file.write(next(rows))
        for row in rows:
            cells = row.split(";")
            cells[-6] = "17.5"
            file.write(";".join(cells))
    return target


def main() -> None:
    """Make the home, or use one that was kept, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rejected", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rejected rows")
    parser.add_argument("--dirty", type=int, default=5, help="files that they are in")
    parser.add_argument("--files", type=int, default=200_000, help="files in ledger and archive")
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of each command that only looks"
    )
    parser.add_argument("--folder", type=Path, help="the home; kept, and used as it is next time")
    parser.add_argument(
        "--only",
        nargs="+",
        default=["look", "export", "once", "replay", "edited"],
        help="look, export, once, replay, edited, discard",
    )
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="sofia-air-rejected-"))
    home = Home(folder.absolute())
    try:
        home.folder.mkdir(parents=True, exist_ok=True)
        # It runs throughout: what starting it takes is not ours.
        with EmbeddedPostgres(home.folder) as server:
            url = make_conninfo(server.url)
            print(f"{'command':<44} {'seconds':>8} {'cpu s':>7} {'rows/s':>12} {'MB':>7}")
            if not (home.folder / "data" / "archive").exists():
                each = given.rows // given.dirty
                paths = [
                    str(home.dirty_file(f"dirty-{n}.csv", each, n * each))
                    for n in range(given.dirty)
                ]
                show("ingest, all rows rejected", home.command("ingest", *paths), given.rows)
                for path in paths:
                    Path(path).unlink()
                fill_archive(home, url, given.files)
            measure(home, given.rows, given.repeats, given.only)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
