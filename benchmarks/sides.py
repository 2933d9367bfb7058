"""Sides: ours and the others, each timed from its files waiting to its rows committed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import psycopg
import sqlalchemy as sa

from benchmarks.place import Place
from pipeline.embedded import bin_dir

_SOFIA = "idx integer, sensor_id integer NOT NULL, location integer, lat float8, lon float8, "
_SOFIA += "timestamp timestamptz NOT NULL, p1 real, p2 real"
_ARCHIVE = (
    "sensor_id integer NOT NULL, sensor_type text, location integer, lat float8, lon float8, "
)
_ARCHIVE += "timestamp timestamptz NOT NULL, p1 real, durp1 real, ratiop1 real, p2 real, "
_ARCHIVE += "durp2 real, ratiop2 real"


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run took.

    Attributes:
        seconds: from the first file found to the last one committed and archived.
        rows: how many rows were read.
        peak_mb: the most memory that the process had, in MiB; 0 for others than ours.
        stages: stage → seconds spent in it; stages overlap.
    """

    seconds: float
    rows: int
    peak_mb: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


def ours(
    place: Place, files: Sequence[Path], database: str = "ours", *, fresh: bool = True
) -> Taken:
    """Load files with this package, in a process of its own."""
    if fresh:
        place.fresh(database, ours=True)
    home = place.home(files)
    place.settle(database)
    command = [sys.executable, "-m", "benchmarks.worker", str(home)]
    done = subprocess.run(
        [*command, place.sqlalchemy_url(database)], stdout=subprocess.PIPE, check=True, text=True
    )
    told = json.loads(done.stdout)
    rows = told["loaded"] + told["duplicate"] + told["quarantined"]
    return Taken(told["seconds"], rows, told["peak_mb"], told["stages"])


def psql(place: Place, files: Sequence[Path], rows: int) -> Taken:
    r"""Load files with one psql session, one `\copy` each, into a table like ours."""
    place.fresh("theirs", ours=False)
    archive = b";" in files[0].read_bytes()[:200]
    _make_table(place, _ARCHIVE if archive else _SOFIA)
    options = "csv header" + (" delimiter ';'" if archive else "")
    script = place.folder / "copy.sql"
    script.write_text("".join(f"\\copy raw from '{path}' {options}\n" for path in files))
    place.settle("theirs")
    began = time.perf_counter()
    subprocess.run(
        [bin_dir() / "psql", place.url("theirs"), "-q", "-v", "ON_ERROR_STOP=1", "-f", script],
        check=True,
    )
    return Taken(time.perf_counter() - began, rows)


def to_sql(place: Place, file: Path, rows: int) -> Taken:
    """Load the first rows of a file with `DataFrame.to_sql(method="multi")`."""
    place.fresh("theirs", ours=False)
    _make_table(place, _SOFIA)
    address = place.url("theirs")
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(address))
    place.settle("theirs")
    began = time.perf_counter()
    frame = pd.read_csv(file, nrows=rows, parse_dates=["timestamp"])
    frame.columns = pd.Index(["idx", *(name.lower() for name in frame.columns[1:])])
    frame["timestamp"] = frame["timestamp"].dt.tz_localize("UTC")
    frame.to_sql("raw", engine, if_exists="append", index=False, method="multi", chunksize=1000)
    seconds = time.perf_counter() - began
    engine.dispose()
    return Taken(seconds, rows)


def has_pgloader() -> bool:
    """Return whether pgloader is installed."""
    return shutil.which("pgloader") is not None


def pgloader(place: Place, file: Path, rows: int) -> Taken:
    """Load a file with pgloader."""
    place.fresh("theirs", ours=False)
    _make_table(place, _SOFIA)
    url = place.sqlalchemy_url("theirs")
    user, _, rest = url.removeprefix("postgresql://").partition("@")
    socket = unquote(rest.partition("host=")[2].partition("&")[0])
    names = "idx, sensor_id, location, lat, lon, timestamp, p1, p2"
    command = place.folder / "pgloader.load"
    command.write_text(
        f"LOAD CSV FROM '{file}' ({names})\n"
        f"  INTO postgresql://{user}@unix:{socket}:5432/theirs\n"
        f"  TARGET TABLE public.raw ({names})\n"
        "  WITH skip header = 1, fields terminated by ','\n"
        "  SET timezone TO 'UTC';\n"
    )
    place.settle("theirs")
    began = time.perf_counter()
    done = subprocess.run(
        ["pgloader", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    (loaded,) = place.ask("theirs", "SELECT count(*) FROM raw")
    if loaded != rows:
        message = f"pgloader loaded {loaded} of {rows} rows:\n{done.stdout[-2000:]}"
        raise RuntimeError(message)
    return Taken(seconds, rows)


def _make_table(place: Place, columns: str) -> None:
    months = [(year, month) for year in (2017, 2018, 2019) for month in range(1, 13)]
    place.run(
        "theirs",
        f"CREATE TABLE raw ({columns}, PRIMARY KEY (sensor_id, timestamp)) "
        "PARTITION BY RANGE (timestamp)",
        *(
            f"CREATE TABLE raw_{year}_{month:02} PARTITION OF raw FOR VALUES "
            f"FROM ('{year}-{month:02}-01 00:00+00') "
            f"TO ('{year + month // 12}-{month % 12 + 1:02}-01 00:00+00')"
            for year, month in months
        ),
    )
