"""Real files through the real flow, compared with the oracle row for row.

The files are 352 daily ones of the sensor.community archive and an excerpt of the Sofia set. They
lie beside the project and are not part of it; where they are absent these tests are skipped.
"""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.oracle import Key, Oracle, Reading, assert_close, assert_same

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Home

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "real"
FILES = [*sorted(REAL.glob("archive/*.csv")), *sorted(REAL.glob("sofia/*.csv"))]
# The one row that the network's own archive has without readings, its time taken by a full one.
NULL_FILE = "2017-08-30_sds011_sensor_5331.csv"
NULL_LINE = b"5331;SDS011;2688;57.128;-2.130;2017-08-30T11:27:23;;;;;;"

pytestmark = pytest.mark.skipif(not FILES, reason=f"the real files are not in {REAL}")
# Some of all sensor types and both dialects, of few months: each month costs tables of its own.
SOME = [file for file in FILES if file.name[:7] in {"2017-07", "2017-08", "2018-07"}]
SIZES = [pytest.param(SOME, id="some"), pytest.param(FILES, id="all", marks=pytest.mark.slow)]


class Loaded(NamedTuple):
    """A home with real files, which they are, and what must be in it."""

    home: Home
    files: list[Path]
    oracle: Oracle


@pytest.fixture(scope="module")
def expected() -> Callable[[list[Path]], Oracle]:
    """What the database has to hold after some real files, in whichever order they come."""
    known: dict[tuple[Path, ...], Oracle] = {}

    def expect(files: list[Path]) -> Oracle:
        # The oracle is slow, and its answer the same for all who only look at it.
        if (asked := tuple(files)) not in known:
            known[asked] = oracle = Oracle(datetime.now(UTC))
            for file in files:
                oracle.take(file)
        return known[asked]

    return expect


@pytest.fixture(scope="module", params=SIZES)
def real(
    request: pytest.FixtureRequest,
    new_home: Callable[..., Home],
    expected: Callable[[list[Path]], Oracle],
) -> Loaded:
    """A home into which real files were dropped at once; tests may only look at it."""
    home, files = new_home(), request.param
    home.drop(files)
    outcomes = home.run()
    assert Counter(outcome.state for outcome in outcomes) == {"loaded": len(files)}
    return Loaded(home, files, expected(files))


# --- What is in the database ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("real", [pytest.param(FILES, id="all")], indirect=True)
def test_the_documented_figures_are_those_of_the_database(real: Loaded) -> None:
    ledger = real.home.ledger().values()
    figures = {
        "files": len(ledger),
        "rows read": sum(row.read for row in ledger),
        "loaded": sum(row.loaded for row in ledger),
        "duplicate": sum(row.duplicate for row in ledger),
        "quarantined": sum(row.quarantined for row in ledger),
        "statistics per file": real.home.count("file_aggregate"),
        "statistics per hour": real.home.count("hourly"),
    }
    page = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    for name, figure in figures.items():
        assert f"| {name} | {figure:,} |" in page


def test_everything_in_the_database_is_as_the_oracle_says(real: Loaded) -> None:
    real.home.assert_as(real.oracle)


def test_every_files_books_balance(real: Loaded) -> None:
    home = real.home
    raw = Counter(r.sha256 for table in real.oracle.raw for r in home.raw(table).values())
    kept = Counter({sha256: len(rows) for sha256, rows in home.quarantined().items()})
    for sha256, row in home.ledger().items():
        assert row.read == row.loaded + row.duplicate + row.quarantined, row.name
        assert (row.loaded, row.quarantined) == (raw[sha256], kept[sha256]), row.name
    for outcome in home.outcomes:
        assert outcome.row is not None
        assert outcome.row.rows_loaded == raw[outcome.row.sha256], outcome.name


# --- What is in the folders ----------------------------------------------------------------------


def test_the_row_without_readings_is_in_quarantine_and_nothing_else(real: Loaded) -> None:
    (book,) = (book for book in real.oracle.books.values() if book.name == NULL_FILE)
    assert real.home.quarantined().keys() == {book.sha256}
    (number,) = book.bad
    assert number == 3
    assert book.bad[number].line == NULL_LINE
    assert book.bad[number].broken == {("P1", "null"), ("P2", "null")}

    header, row = real.home.quarantine_table(book, ";")
    assert header[:2] == ["line_no", "reasons"]
    assert row[0] == "3"
    empty = "is empty, and no reading may be (setting contract.partial)"
    assert row[1] == f"P1 {empty} | P2 {empty}"
    assert ";".join(header[2:]).encode() == (REAL / "archive" / NULL_FILE).read_bytes().split()[0]
    assert ";".join(row[2:]).encode() == NULL_LINE

    (entry,) = real.home.quarantine_log(book)
    assert (entry["file"], entry["line_no"]) == (NULL_FILE, 3)
    assert entry["line"].encode() == NULL_LINE
    assert [(r["column"], r["rule"]) for r in entry["reasons"]] == [("P1", "null"), ("P2", "null")]
    base = f"{NULL_FILE.removesuffix('.csv')}.{book.sha256[:12]}"
    assert real.home.quarantine_names() == [f"{base}.csv", f"{base}.reasons.jsonl"]


def test_every_source_is_in_the_archive_byte_for_byte(real: Loaded) -> None:
    assert real.home.waiting() == []
    assert real.home.archived() == {book.name: book.sha256 for book in real.oracle.books.values()}


# --- The same again, in other ways ---------------------------------------------------------------


def test_the_same_files_under_other_names_change_nothing(make_home: Callable[..., Home]) -> None:
    home = make_home()
    home.drop(SOME)
    home.run()
    before, names = home.dump(), home.quarantine_names()
    assert all(before.values())

    home.drop(SOME, rename=lambda name: f"again-{name}")
    outcomes = home.run()

    assert {outcome.state for outcome in outcomes} == {"known"}
    assert home.dump() == before
    assert home.quarantine_names() == names
    assert home.waiting() == []
    archived = home.archived()
    for file in SOME:
        assert archived[f"again-{file.name}"] == archived[file.name]
    assert len(archived) == 2 * len(SOME)


def test_the_same_rows_in_other_bytes_are_duplicates(
    make_home: Callable[..., Home], tmp_path: Path
) -> None:
    """Compressed, a file has another hash: now the readings themselves must be recognised."""
    home, oracle = make_home(), Oracle(datetime.now(UTC))
    packed = [tmp_path / f"{file.name}.gz" for file in SOME]
    for file, target in zip(SOME, packed, strict=True):
        target.write_bytes(gzip.compress(file.read_bytes(), 1))
    for delivery in (SOME, packed):
        home.drop(delivery)
        home.run()
        for file in delivery:
            oracle.take(file)

    home.assert_as(oracle)
    again = [row for row in home.ledger().values() if row.name.endswith(".gz")]
    assert len(again) == len(SOME)
    assert all(row.loaded == 0 and row.duplicate > 0 for row in again)
    assert sum(row.quarantined for row in again) == 1


@pytest.mark.parametrize(
    ("flags", "youngest_first"),
    [
        pytest.param({"batch_files": 1}, False, id="one-by-one", marks=pytest.mark.slow),
        pytest.param({"batch_files": 7, "block_bytes": 65_536}, True, id="small-blocks"),
        pytest.param({"batch_bytes": 1, "block_bytes": 65_536}, True, id="streamed"),
    ],
)
@pytest.mark.parametrize("files", SIZES)
def test_batches_blocks_and_order_make_no_difference(
    make_home: Callable[..., Home],
    expected: Callable[[list[Path]], Oracle],
    files: list[Path],
    flags: dict[str, int],
    *,
    youngest_first: bool,
) -> None:
    home = make_home(**flags)
    home.drop(files)
    home.run(youngest_first=youngest_first)
    home.assert_as(expected(files))


@pytest.mark.parametrize(
    ("files", "block_bytes"),
    [
        pytest.param(SOME, 200_000, id="some"),
        pytest.param(FILES, 65_536, id="all", marks=pytest.mark.slow),
    ],
)
def test_one_large_file_brings_what_its_days_bring(
    make_home: Callable[..., Home],
    expected: Callable[[list[Path]], Oracle],
    tmp_path: Path,
    files: list[Path],
    block_bytes: int,
) -> None:
    """As the archive's monthly files do: many days in one file, streamed in many blocks."""
    days: dict[bytes, list[bytes]] = defaultdict(list)
    single, joined = expected(files), Oracle(datetime.now(UTC))
    for file in files:
        header, lines = file.read_bytes().split(b"\n", 1)
        days[header].append(lines)
    home = make_home(batch_bytes=1, block_bytes=block_bytes)
    for number, (header, parts) in enumerate(days.items()):
        large = tmp_path / f"{number}.csv"
        large.write_bytes(b"\n".join([header, b"".join(parts)]))
        joined.take(large)
        home.drop([large])
    assert len(home.run()) == len(days)

    home.assert_as(joined)
    assert_close(home.hourly(), single.hourly())
    for table, rows in single.raw.items():
        assert_same(_without_file(home.raw(table)), _without_file(rows))


def _without_file(rows: dict[Key, Reading]) -> dict[Key, Reading]:
    return {key: reading._replace(sha256="") for key, reading in rows.items()}
