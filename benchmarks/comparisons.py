"""Comparisons: each measures two things by turns and gives one figure, with the target it has."""

from __future__ import annotations

import calendar
import gzip
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psycopg

from benchmarks import sides
from benchmarks.figures import Figure, ratio
from benchmarks.place import Place
from benchmarks.sides import Taken
from pipeline import simulate

MILLION = 1_000_000
Comparison = Callable[[Place, int], Figure]


def _by_turns(
    first: Callable[[], Taken], second: Callable[[], Taken], repeats: int
) -> tuple[list[Taken], list[Taken]]:
    """Run two sides A B A B; the first run of each only warms up caches."""
    pairs = [(first(), second()) for _ in range(repeats + 1)][1:]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _seconds(runs: list[Taken]) -> list[float]:
    return [run.seconds for run in runs]


def _median(runs: list[Taken]) -> Taken:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _figure(
    name: str, what: str, ours: list[Taken], theirs: list[Taken], target: float, note: str = ""
) -> Figure:
    return Figure(
        name=name,
        what=what,
        value=ratio(_seconds(ours), _seconds(theirs)),
        target=target,
        ours=_seconds(ours),
        theirs=_seconds(theirs),
        note=note,
        stages=_median(ours).stages,
    )


def one_file(place: Place, repeats: int) -> Figure:
    """One Sofia file of 1,000,000 rows, against psql."""
    file = place.sofia(MILLION)
    ours, theirs = _by_turns(
        lambda: sides.ours(place, [file]), lambda: sides.psql(place, [file], MILLION), repeats
    )
    what = r"one Sofia file of 1,000,000 rows, against psql's `\copy` of it"
    return _figure("one_file", what, ours, theirs, 0.75)


def many_files(place: Place, repeats: int) -> Figure:
    """2,000 archive files, against psql."""
    files = place.archive(sensors=100, days=20)
    ours, theirs = _by_turns(
        lambda: sides.ours(place, files), lambda: sides.psql(place, files, 0), repeats
    )
    rows = _median(ours).rows
    what = (
        f"{len(files):,} archive files of {rows // len(files)} rows, against one psql session "
        r"with one `\copy` each"
    )
    return _figure("many_files", what, ours, theirs, 0.75)


def to_sql(place: Place, repeats: int) -> Figure:
    """1,000,000 rows, against `DataFrame.to_sql`."""
    file, some = place.sofia(MILLION), 50_000
    ours = [sides.ours(place, [file]) for _ in range(repeats)]
    theirs = sides.to_sql(place, file, some)
    scaled = theirs.seconds * MILLION / some
    return Figure(
        name="to_sql",
        what='1,000,000 rows: how many times faster than `DataFrame.to_sql(method="multi")`',
        value=scaled / statistics.median(_seconds(ours)),
        target=60,
        at_least=True,
        ours=_seconds(ours),
        theirs=[scaled],
        note=f"its {some:,} rows took {theirs.seconds:.1f} s, times {MILLION // some}",
    )


def pgloader(place: Place, repeats: int) -> Figure:
    """1,000,000 rows, against pgloader."""
    file = place.sofia(MILLION)
    ours = [sides.ours(place, [file]) for _ in range(repeats)]
    theirs = [sides.pgloader(place, file, MILLION)]
    return Figure(
        name="pgloader",
        what="1,000,000 rows: how many times faster than pgloader",
        value=1 / ratio(_seconds(ours), _seconds(theirs)),
        target=8,
        at_least=True,
        ours=_seconds(ours),
        theirs=_seconds(theirs),
    )


def ten_million(place: Place, repeats: int) -> Figure:
    """Ten times the rows, in rows a second."""
    large, small = place.sofia(10 * MILLION), place.sofia(MILLION)
    ours, theirs = _by_turns(
        lambda: sides.ours(place, [large]), lambda: sides.ours(place, [small]), min(repeats, 2)
    )
    return Figure(
        name="ten_million",
        what="rows a second of a 10,000,000-row file, against one of 1,000,000",
        value=10 / ratio(_seconds(ours), _seconds(theirs)),
        target=0.9,
        at_least=True,
        ours=_seconds(ours),
        theirs=_seconds(theirs),
        note=f"peak memory {max(run.peak_mb for run in ours):.0f} MiB",
    )


def memory(place: Place, repeats: int) -> Figure:  # noqa: ARG001  # memory does not vary so
    """The most memory of our process, whatever comes."""
    bad = _all_bad(place)
    packed = _packed(place)
    peaks = {
        "1,000,000 rows": sides.ours(place, [place.sofia(MILLION)]).peak_mb,
        "10,000,000 rows": sides.ours(place, [place.sofia(10 * MILLION)]).peak_mb,
        "10,000 files": sides.ours(place, place.archive(sensors=100, days=100)).peak_mb,
        "1,000,000 bad rows": sides.ours(place, [bad]).peak_mb,
        "1,000,000 rows, compressed": sides.ours(place, [packed]).peak_mb,
    }
    return Figure(
        name="memory",
        what="peak resident memory of our process, the highest of the runs named",
        value=max(peaks.values()),
        target=400,
        unit="MiB",
        note=", ".join(f"{name}: {peak:.0f}" for name, peak in peaks.items()),
    )


def one_percent_bad(place: Place, repeats: int) -> Figure:
    """Some bad rows, against none."""
    dirty, clean = place.sofia(MILLION, faults=0.01), place.sofia(MILLION)
    ours, theirs = _by_turns(
        lambda: sides.ours(place, [dirty]), lambda: sides.ours(place, [clean]), repeats
    )
    what = "1,000,000 rows with 1 % bad rows of every kind, against clean ones"
    return _figure("one_percent_bad", what, ours, theirs, 1.3)


def all_bad(place: Place, repeats: int) -> Figure:
    """Bad rows only, against none."""
    bad, clean = _all_bad(place), place.sofia(MILLION)
    ours, theirs = _by_turns(
        lambda: sides.ours(place, [bad]), lambda: sides.ours(place, [clean]), repeats
    )
    return _figure("all_bad", "1,000,000 bad rows, against clean ones", ours, theirs, 4.0)


def _all_bad(place: Place) -> Path:
    """Return a file in which each row's PM10 is out of range."""
    path = place.folder / "input" / "2018-01_all_bad.csv"
    if not path.exists():
        lines = place.sofia(MILLION).read_text().splitlines()
        with path.open("w") as file:
            file.write(lines[0] + "\n")
            for line in lines[1:]:
                before, p1, p2 = line.rsplit(",", 2)
                file.write(f"{before},95{p1},{p2}\n")
    return path


def _packed(place: Place) -> Path:
    path = place.folder / "input" / "2018-01_packed.csv.gz"
    if not path.exists():
        with place.sofia(MILLION).open("rb") as plain, gzip.open(path, "wb", 5) as packed:
            shutil.copyfileobj(plain, packed)
    return path


def same_rows(place: Place, repeats: int) -> Figure:
    """The same rows in other bytes, against their first load."""
    first = place.sofia(MILLION)
    again = place.folder / "input" / "2018-01_other_bytes.csv"
    if not again.exists():
        again.write_bytes(first.read_bytes().replace(b"\n", b"\r\n"))
    pairs = []
    for _ in range(repeats + 1):
        loaded = sides.ours(place, [first])
        pairs.append((sides.ours(place, [again], fresh=False), loaded))
    ours, theirs = ([pair[side] for pair in pairs[1:]] for side in (0, 1))
    what = "the same rows in other bytes (every key collides), against their first load"
    return _figure("same_rows", what, ours, theirs, 2.5)


def same_bytes(place: Place, repeats: int) -> Figure:
    """The same bytes again, against their first load."""
    file = place.sofia(MILLION)
    pairs = []
    for _ in range(repeats + 1):
        loaded = sides.ours(place, [file])
        pairs.append((sides.ours(place, [file], fresh=False), loaded))
    ours, theirs = ([pair[side] for pair in pairs[1:]] for side in (0, 1))
    return _figure("same_bytes", "the same bytes again, against the first", ours, theirs, 0.1)


def full_table(place: Place, repeats: int) -> Figure:
    """A table of 50,000,000 rows, against an empty one."""
    file = place.sofia(MILLION)
    _fill(place)
    fulls, empties = [], []
    for _ in range(repeats + 1):
        fulls.append(sides.ours(place, [file], "filled", fresh=False))
        # What it brought is taken out again, so that each run finds the same.
        place.run("filled", "DELETE FROM air.raw_particulate WHERE file_id > 0", *_FORGET)
        place.run("filled", "VACUUM ANALYZE air.raw_particulate_2018_01")
        empties.append(sides.ours(place, [file]))
    (rows,) = place.ask("filled", "SELECT count(*) FROM air.raw_particulate")
    fulls, empties = fulls[1:], empties[1:]
    return Figure(
        name="full_table",
        what=f"rows a second into a table that holds {rows:,} rows, against an empty one",
        value=1 / ratio(_seconds(fulls), _seconds(empties)),
        target=0.8,
        at_least=True,
        ours=_seconds(fulls),
        theirs=_seconds(empties),
    )


_FORGET = (
    "TRUNCATE air.source_file, air.file_aggregate, air.hourly, air.daily, air.sensor_place CASCADE",
)
_FILLED = 50_000_000


def _fill(place: Place) -> None:
    """Fill a database with two years of readings of other sensors, 148 s apart, made by SQL."""
    months = [date(2017 + month // 12, month % 12 + 1, 1) for month in range(25)]
    place.fresh("filled", ours=True)
    a_month = _FILLED // len(months)
    sensors = a_month * 148 // (28 * 86_400) + 1  # whatever the month, it has that many days
    for month in months:
        place.run(
            "filled",
            f"SELECT air.ensure_month('air.raw_particulate', '{month}')",
            "INSERT INTO air.raw_particulate "
            "(sensor_id, ts, location_key, file_id, pm10, pm25, flags) "
            f"SELECT 500000 + sensor, '{month} 00:00+00'::timestamptz + step * interval '148 s', "
            "1, 0, 20, 10, 0 "
            f"FROM generate_series(1, {sensors}) AS sensor, "
            f"generate_series(0, {a_month // sensors - 1}) AS step",
        )
    place.run("filled", "VACUUM ANALYZE air.raw_particulate")


def whole_set(place: Place, repeats: int) -> Figure:  # noqa: ARG001  # one run, written down
    """As many rows as the whole data set has, month by month."""
    months = [date(2017 + (6 + m) // 12, (6 + m) % 12 + 1, 1) for m in range(25)]
    place.fresh("whole", ours=True)
    seconds, rows, peak = 0.0, 0, 0.0
    for month in months:
        folder = place.folder / "input" / "month"
        shutil.rmtree(folder, ignore_errors=True)
        days = calendar.monthrange(month.year, month.month)[1]
        simulate.write(
            simulate.Simulation(sensors=SENSORS_EACH, start=month, days=days, seed=1), folder
        )
        taken = sides.ours(place, sorted(folder.iterdir()), "whole", fresh=False)
        seconds, rows, peak = seconds + taken.seconds, rows + taken.rows, max(peak, taken.peak_mb)
        print(f"    {month}: {rows:,} rows in {seconds:.0f} s", flush=True)
    shutil.rmtree(place.folder / "input" / "month")
    tables, indexes = place.ask(
        "whole",
        "SELECT sum(pg_table_size(oid))::bigint, sum(pg_indexes_size(oid))::bigint FROM pg_class "
        "WHERE relnamespace = 'air'::regnamespace AND relkind = 'r'",
    )
    assert isinstance(tables, int)
    assert isinstance(indexes, int)
    (loaded,) = place.ask("whole", "SELECT sum(rows_loaded)::bigint FROM air.source_file")
    note = (
        f"{rows:,} rows of {2 * SENSORS_EACH} sensors in 25 months, {loaded:,} loaded; tables "
        f"{tables / 2**30:.1f} GiB, indexes {indexes / 2**30:.1f} GiB; peak memory {peak:.0f} MiB"
    )
    return Figure(
        name="whole_set",
        what="the size of the whole data set, month by month",
        value=seconds,
        target=None,
        unit="s",
        ours=[seconds],
        note=note,
    )


SENSORS_EACH = 111


def latency(place: Place, repeats: int) -> Figure:
    """A daemon with nothing else to do, and small files, one by one."""
    place.fresh("ours", ours=True)
    home = place.home([])
    text = place.sofia(MILLION).read_text().splitlines()
    environment = {"SOFIA_AIR_DATABASE_URL": place.sqlalchemy_url("ours"), "PATH": "/usr/bin:/bin"}
    program = Path(sys.executable).with_name("sofia-air")
    found = []
    with subprocess.Popen(
        [program, "--home", home, "run"], env=environment, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            with psycopg.connect(place.url("ours"), autocommit=True) as connection:
                for number in range(10 * repeats + 3):
                    lines = text[1 + 1000 * number : 1001 + 1000 * number]
                    name = f"{number}.csv"
                    (home / "data" / name).write_text("\n".join([text[0], *lines]) + "\n")
                    closed = time.perf_counter()
                    query = "SELECT 1 FROM air.source_file WHERE name = %s"
                    while not connection.execute(query, [name]).fetchone():
                        time.sleep(0.002)
                        if time.perf_counter() - closed > 60:
                            message = "the daemon does not take files"
                            raise TimeoutError(message)
                    found.append(time.perf_counter() - closed)
                    time.sleep(0.3)
        finally:
            daemon.terminate()
    found = found[3:]  # the first ones also start the server's and our own machinery
    p95 = statistics.quantiles(found, n=20)[-1]
    return Figure(
        name="latency",
        what="idle daemon, one 1,000-row file: from its close to its commit, p95",
        value=p95,
        target=0.3,
        unit="s",
        ours=found,
        note=f"{len(found)} files; median {statistics.median(found):.3f} s",
    )


def help_page(place: Place, repeats: int) -> Figure:  # noqa: ARG001  # needs no place
    """`sofia-air --help`, against Python doing nothing."""
    program = Path(sys.executable).with_name("sofia-air")

    def timed(*command: object) -> float:
        began = time.perf_counter()
        subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    pairs = [
        (timed(program, "--help"), timed(sys.executable, "-c", "pass"))
        for _ in range(4 * repeats + 1)
    ][1:]
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    return Figure(
        name="help_page",
        what="`sofia-air --help`, against `python -c pass`",
        value=ratio(ours, theirs),
        target=10,
        ours=ours,
        theirs=theirs,
    )


COMPARISONS: dict[str, Comparison] = {
    comparison.__name__: comparison
    for comparison in (
        one_file,
        many_files,
        to_sql,
        pgloader,
        ten_million,
        memory,
        one_percent_bad,
        all_bad,
        same_rows,
        same_bytes,
        full_table,
        whole_set,
        latency,
        help_page,
    )
}
