"""A simulated month with faults of every kind, compared with its manifest and with the oracle.

Three that know nothing of each other have to agree: the simulator, which says what it damaged; the
oracle, which reads the files its own way; and the pipeline.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import pytest

from pipeline.simulate import FAULT_KINDS, Simulation, write, write_manifest
from pipeline.spreadsheet import MARK, restored
from tests.oracle import COLUMNS, TYPES, Oracle, assert_same, main, split

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Home
    from tests.oracle import Broken

Line = tuple[str, int]  # file name and line number

# Both raw tables, and a model with fault codes of its own (DS18B20). Some days are enough for
# faults of every kind; the whole month comes in the long run.
SMALL = Simulation(
    sensors=1,
    start=date(2018, 1, 1),
    days=5,
    models=("sds011", "bme280", "ds18b20"),
    fault_rate=0.04,
)
LARGE = replace(SMALL, sensors=30, days=31, models=("sds011", "bme280"), fault_rate=0.02, seed=3)
CONFLICT: Broken = frozenset({(None, "conflict")})
MONTHS = {
    dialect: [
        pytest.param(replace(SMALL, dialect=dialect), id=dialect),
        pytest.param(
            replace(LARGE, dialect=dialect), id=f"{dialect}-large", marks=pytest.mark.slow
        ),
    ]
    for dialect in ("sofia", "archive")
}
ARCHIVE_HEADER = (
    "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2"
)
SOFIA_HEADER = ",sensor_id,location,lat,lon,timestamp,P1,P2"
ARCHIVE_ONLY = {"model", "null_sensor_type"}


@dataclass(frozen=True)
class Month:
    """The files of a simulation, and what is known of them beforehand.

    Attributes:
        simulation: what was simulated.
        files: in the order in which they are delivered.
        oracle: what the database has to hold after them.
        quarantined: line → what is wrong with it, from the manifest.
        duplicates: lines that repeat a reading, from the manifest.
        kinds: kind of fault → how often it is in the manifest.
    """

    simulation: Simulation
    files: list[Path]
    oracle: Oracle
    quarantined: dict[Line, Broken]
    duplicates: set[Line]
    kinds: Counter[str]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SMALL, id="sofia"),
        pytest.param(replace(SMALL, dialect="archive"), id="archive"),
        pytest.param(LARGE, id="sofia-large", marks=pytest.mark.slow),
        pytest.param(replace(LARGE, dialect="archive"), id="archive-large", marks=pytest.mark.slow),
    ],
)
def month(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Month:
    """A simulated month, read by the oracle."""
    return simulated(request.param, tmp_path_factory.mktemp("month"))


@pytest.fixture(scope="module")
def loaded(month: Month, new_home: Callable[..., Home]) -> Home:
    """A home into which the month was dropped at once; tests may only look at it."""
    home = new_home()
    home.drop(month.files)
    assert {outcome.state for outcome in home.run()} == {"loaded"}
    return home


def simulated(simulation: Simulation, folder: Path) -> Month:
    written = write(simulation, folder)
    write_manifest(written, folder / "manifest.jsonl")
    told = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    oracle = Oracle(datetime.now(UTC))
    for file in written:
        oracle.take(file.path)
    return Month(
        simulation,
        [file.path for file in written],
        oracle,
        {
            (fault["file"], fault["line"]): frozenset(map(tuple, fault["reasons"]))
            for fault in told
            if fault["outcome"] == "quarantined"
        },
        {(fault["file"], fault["line"]) for fault in told if fault["outcome"] == "duplicate"},
        Counter(fault["kind"] for fault in told),
    )


def test_the_month_has_faults_of_every_kind(month: Month) -> None:
    if month.simulation.dialect == "archive":
        assert month.kinds.keys() == FAULT_KINDS.keys()
    else:
        assert month.kinds.keys() == FAULT_KINDS.keys() - ARCHIVE_ONLY
    rows = sum(book.read for book in month.oracle.books.values())
    assert rows > 1_000 * month.simulation.days
    assert month.kinds.total() == pytest.approx(month.simulation.fault_rate * rows, rel=0.05)


def test_quarantine_holds_what_the_manifest_says(month: Month, loaded: Home) -> None:
    names = {sha256: row.name for sha256, row in loaded.ledger().items()}
    kept = {
        (names[sha256], line_no): row.broken
        for sha256, rows in loaded.quarantined().items()
        for line_no, row in rows.items()
    }
    assert_same(kept, month.quarantined)


def test_the_books_are_those_of_the_manifest(month: Month, loaded: Home) -> None:
    quarantined = Counter(name for name, _ in month.quarantined)
    duplicate = Counter(name for name, _ in month.duplicates)
    ledger = loaded.ledger().values()
    assert len(ledger) == len(month.files)
    for row in ledger:
        due = (quarantined[row.name], duplicate[row.name])
        assert (row.quarantined, row.duplicate) == due, row.name
        assert row.read == row.loaded + row.duplicate + row.quarantined, row.name
    raw = loaded.count("raw_particulate") + loaded.count("raw_climate")
    assert raw == sum(row.loaded for row in ledger)


def test_the_oracle_finds_the_duplicates_of_the_manifest(month: Month) -> None:
    books = month.oracle.books.values()
    assert {(b.name, number) for b in books for number in b.duplicates} == month.duplicates


def test_everything_in_the_database_is_as_the_oracle_says(month: Month, loaded: Home) -> None:
    loaded.assert_as(month.oracle)


def test_the_quarantine_files_hold_every_rejected_line(month: Month, loaded: Home) -> None:
    delimiter = "," if month.simulation.dialect == "sofia" else ";"
    due = set()
    for path, book in zip(month.files, month.oracle.books.values(), strict=True):
        if not book.bad:
            continue
        base = f"{path.stem}.{book.sha256[:12]}"
        due |= {f"{base}.csv", f"{base}.reasons.jsonl"}
        entries = loaded.quarantine_log(book)
        header, *rows = loaded.quarantine_table(book, delimiter)
        columns = path.read_bytes().split(b"\n", 1)[0].decode().split(delimiter)
        assert header == ["line_no", "reasons", *columns]
        numbers = sorted(book.bad)
        assert [int(row[0]) for row in rows] == numbers
        assert [entry["line_no"] for entry in entries] == numbers
        for number, row, entry in zip(numbers, rows, entries, strict=True):
            bad = book.bad[number]
            text = bad.line.decode(errors="replace")
            assert (entry["file"], entry["line"]) == (path.name, text)
            reasons = entry["reasons"]
            assert {(r["column"], r["rule"]) for r in reasons} == bad.broken, entry
            words = row[1].removesuffix(f" | {MARK}")
            assert restored(words) == " | ".join(reason["message"] for reason in reasons)
            fields = split(text.encode(), delimiter, len(row) - 2)
            assert list(map(restored, row[2:])) == (
                text.split(delimiter) if isinstance(fields, str) else fields
            )
    assert set(loaded.quarantine_names()) == due


def test_every_source_is_in_the_archive_byte_for_byte(month: Month, loaded: Home) -> None:
    assert loaded.waiting() == []
    books = month.oracle.books.values()
    assert loaded.archived() == {book.name: book.sha256 for book in books}


# --- The same again, in other ways ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("simulation", "block_bytes"),
    [
        pytest.param(replace(SMALL, fault_rate=0.05), 65_536, id="small"),
        pytest.param(LARGE, 2**20, id="large", marks=pytest.mark.slow),
    ],
)
def test_small_blocks_bring_what_one_go_brings(
    make_home: Callable[..., Home], tmp_path: Path, simulation: Simulation, block_bytes: int
) -> None:
    """In small blocks, a repeated reading meets the first one in the database, not in memory."""
    month = simulated(replace(simulation, models=("sds011", "bme280")), tmp_path)
    home = make_home(batch_bytes=1, block_bytes=block_bytes)
    home.drop(month.files)
    home.run()
    home.assert_as(month.oracle)
    met_in_database = [
        reason
        for book in month.oracle.books.values()
        for entry in home.quarantine_log(book)
        for reason in entry["reasons"]
        if reason["rule"] == "conflict" and "the database" in reason["message"]
    ]
    assert len(met_in_database) > 5


@pytest.mark.parametrize("batch_files", [1, 250])
def test_both_dialects_of_the_same_days_by_turns(
    make_home: Callable[..., Home], tmp_path: Path, batch_files: int
) -> None:
    """Whoever delivers a reading first keeps it, whatever the file looks like and shares."""
    few = replace(SMALL, days=3, models=("sds011", "bme280"), fault_rate=0.1)
    sofia = simulated(few, tmp_path / "sofia").files
    archive = simulated(replace(few, dialect="archive"), tmp_path / "archive").files
    # A day of each kind of sensor, then the month so far, then the other days.
    turns = [archive[0], sofia[1], archive[3], sofia[0], *archive[1:3], *archive[4:]]
    oracle = Oracle(datetime.now(UTC))
    books = [oracle.take(file) for file in turns]
    conflicts = [bad for book in books for bad in book.bad.values() if bad.broken == CONFLICT]
    assert len(conflicts) > 20
    assert sum(len(book.duplicates) for book in books) > 1_000
    assert any(book.loaded and book.duplicates for book in books[4:])

    home = make_home(batch_files=batch_files)
    home.drop(turns)
    home.run()
    home.assert_as(oracle)


@pytest.mark.parametrize("batch_files", [1, 3, 250])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_crowd_of_readings_for_the_same_few_moments(
    make_home: Callable[..., Home], tmp_path: Path, seed: int, batch_files: int
) -> None:
    """Nearly every row repeats or contradicts another, in its own file, batch or an older one."""
    oracle = Oracle(datetime.now(UTC))
    files = list(crowd(random.Random(seed), tmp_path))
    books = [oracle.take(file) for file in files]
    assert sum(len(book.duplicates) for book in books) > 50
    assert sum(bad.broken == CONFLICT for book in books for bad in book.bad.values()) > 50

    home = make_home(batch_files=batch_files)
    home.drop(files)
    home.run()
    home.assert_as(oracle)


def crowd(chance: random.Random, folder: Path) -> Iterator[Path]:
    for number in range(8):
        archive = chance.random() < 0.5
        lines = [ARCHIVE_HEADER if archive else SOFIA_HEADER]
        for index in range(60):
            sensor, second = chance.choice([11, 22, 33]), chance.randrange(60)
            time = f"2018-01-31T23:59:{second:02}"
            usual = sensor * second % 97 / 4
            p1, p2 = chance.choice(
                [(usual, 3), (f"{usual}0", "3.0"), (usual, chance.randrange(9)), ("", 3)]
            )
            lines.append(
                f"{sensor};SDS011;1;42.7;23.3;{time};{p1};;;{p2};;"
                if archive
                else f"{index},{sensor},1,42.7,23.3,{time},{p1},{p2}"
            )
        path = folder / f"{number}.csv"
        path.write_text("\n".join(lines) + "\n" * chance.randrange(2))
        yield path


# --- Cells and lines at the border of what is accepted -------------------------------------------

NUMBERS = (
    *("+7.5", " 7.5 ", "7", "7.", ".5", "7.5e0", "75E-1", "-0", "0.000", "007.5"),
    *("1_000", "0x10", "1,5", "--7", "7.5.1", "7 5", "1e999", "-1e999", "٧", "7,5,1", "."),
    *("nan", "NaN", "-nan", "inf", "-Infinity", "null", "None", "-", "unavailable", "", " "),
)
TIMES = (
    *("2017-07-01T00:02:09", "2017-07-01 00:02:10", "2017-07-01T00:02:11Z", "2017-07-01T00:03"),
    *("2017-07-01T02:02:12+02:00", "2016-08-13T00:00:26.053188+00:00", " 2017-07-01T00:02:13 "),
    *(
        "2010-01-01T00:00:00",
        "2009-12-31T23:59:59",
        "2010-01-01T00:30:00+01:00",
        "2999-01-01T00:00",
    ),
    *("2017-02-29T00:00:00", "2016-02-29T00:00:00", "2017-13-01T00:00:00", "2017-07-01T24:00:01"),
    *("2017-07-01T00:60:00", "2017-07-01", "20170701T000209", "2017-W26-6T00:00:00", "1499000000"),
    *("2017-07-01X00:02:09", "01.07.2017 00:02", "7/1/2017 0:02", "42917.0014", "yesterday", ""),
)
IDS = ("1", "2147483647", "+11", " 12 ", "0", "-1", "2147483648", "11.0", "1_1", "elf", "1e1", "")
PLACES = (
    *(("90", "180"), ("-90", "-180"), ("90.001", "0"), ("0", "180.001"), ("0", "0"), ("0.0", "-0")),
    *(("", ""), ("42.7", ""), ("", "23.3"), ("0", "23.3"), ("north", "23.3"), ("42,7", "nan")),
)

# What becomes of a good row; a lone surrogate stands for a byte that is not UTF-8.
LINES: tuple[Callable[[str], str], ...] = (
    lambda row: '"' + row.replace(";", '";"') + '"',
    lambda row: row.replace(";1;", ';"1";'),
    lambda row: row.replace(";1;", ';"1"1;'),
    lambda row: row.replace(";1;", ';1";'),
    lambda row: row.replace(";1;", ';"1;'),
    lambda row: row.replace(";1;", ';"1;1";'),
    lambda row: row.replace(";1;", ';"1""";'),
    lambda row: row + ";",
    lambda row: row.rpartition(";")[0],
    lambda row: row + "\r",
    lambda row: row.replace(";1;", ";1\r;"),
    lambda row: row + "\0",
    lambda row: row + "\udce9",
    lambda row: row + "\r\n\r\n\n" + row,
    lambda _: "   ",
    lambda _: SOFIA_HEADER,
    lambda _: ARCHIVE_HEADER,
)


def test_cells_and_lines_at_the_border_of_what_is_accepted(
    make_home: Callable[..., Home], tmp_path: Path
) -> None:
    oracle = Oracle(datetime.now(UTC))
    home = make_home()
    for number, kind in enumerate(("sds011", "pms5003", "bme280", "ds18b20"), start=1):
        path = tmp_path / f"{kind}.csv"
        path.write_bytes("\n".join(border_rows(kind, number)).encode(errors="surrogateescape"))
        oracle.take(path)
        home.drop([path])
    rules = {
        rule for b in oracle.books.values() for bad in b.bad.values() for _, rule in bad.broken
    }
    assert rules == {
        *("null", "type", "not_finite", "range", "sentinel", "unit", "decimal_comma", "timestamp"),
        *("spreadsheet_date", "null_island", "width", "quote", "nul_byte", "encoding"),
    }
    home.run()
    home.assert_as(oracle)


def test_the_oracle_can_be_asked_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.csv"
    rows = ["0,11,1,42.7,23.3,2018-01-01T00:00:00,7.5,3", "1,11,1,42.7,23.3,,7.5,", ""]
    path.write_text("\n".join([SOFIA_HEADER, *rows]))
    main([str(path)])
    assert capsys.readouterr().out == (
        "some.csv: 2 rows read, 1 loaded, 0 duplicate, 1 quarantined\n"
        "  line 3: P2 null, timestamp null\n"
    )


def border_rows(kind: str, number: int) -> Iterator[str]:
    """Yield a header, rows with an odd cell each, and odd lines."""
    columns = TYPES[kind]
    yield ";".join(["sensor_id", "sensor_type", "location", "lat", "lon", "timestamp", *columns])
    start = datetime(2017, 8, number, tzinfo=UTC)
    moments = (f"{start + timedelta(minutes=n):%Y-%m-%dT%H:%M:%S}" for n in count())
    usual = {
        "sensor_id": str(100 + number),
        "sensor_type": kind.upper(),
        "location": "1",
        "lat": "42.7",
        "lon": "23.3",
        **{name: "95000" if name == "pressure" else "7.5" for name in columns},
    }
    for name in columns:
        for text in (*numbers_around(name), *NUMBERS):
            yield _row(usual, columns, next(moments), {name: text})
    for text in TIMES:
        yield _row(usual, columns, text, {})
    for text in IDS:
        yield _row(usual, columns, next(moments), {"sensor_id": text})
        yield _row(usual, columns, next(moments), {"location": text})
    for lat, lon in PLACES:
        yield _row(usual, columns, next(moments), {"lat": lat, "lon": lon})
    for spoilt in LINES:
        yield spoilt(_row(usual, columns, next(moments), {}))


def numbers_around(name: str) -> Iterator[str]:
    column = COLUMNS[name]
    codes = (*column.no_reading, 85, -127, -128)
    for border in (column.low, column.high, 0, 1, 45, -30, 99.9, 999.9, 300, 1100, *codes):
        for step in (-0.01, 0, 0.01):
            yield f"{border + step:.2f}"


def _row(usual: dict[str, str], columns: tuple[str, ...], time: str, odd: dict[str, str]) -> str:
    row = {**usual, "timestamp": time, **odd}
    names = ["sensor_id", "sensor_type", "location", "lat", "lon", "timestamp", *columns]
    return ";".join(row[name] for name in names)
