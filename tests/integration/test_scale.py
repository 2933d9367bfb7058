"""Scale: what is asked of many rejected rows and of a long ledger costs what its answer does."""

from __future__ import annotations

import json
import shutil
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.rework import sheets
from pipeline.rework.why import why
from pipeline.store.read import quarantine
from pipeline.store.read.quarantine import States
from pipeline.store.sql import statement
from tests.integration.conftest import ARCHIVE_SDS, MakeSite, pm, sds, sensor_in
from tests.integration.test_retract import ROWS, Desk
from tests.integration.test_rework import REPAIRED, Workshop, bad, read, write

LISTS = {
    "totals": {},
    "quarantine_files": {"rule": "null", "limit": 20},
    "rework_by_sensor": {"rule": None, "limit": 20},
    "rework_by_age": {"rule": "null"},
    "rework_states": {},
    "rework_states_of": {"file_id": 1},
}


@pytest.fixture
def desk(make_site: MakeSite) -> Desk:
    return Desk(make_site())


@pytest.mark.parametrize("name", LISTS)
def test_a_list_reads_the_summary_and_not_the_rows(desk: Desk, name: str) -> None:
    with desk.site.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        query = f"EXPLAIN (FORMAT json) {statement(name)}".encode()
        plan = driver.execute(query, LISTS[name]).fetchone()
    assert "quarantine_summary" in json.dumps(plan)
    assert "quarantined_row" not in json.dumps(plan)


def states(desk: Desk) -> States:
    with desk.site.reader.snapshot() as connection:
        return quarantine.states(connection)


def test_rows_are_listed_by_what_stands_in_the_column_of_their_sensor(desk: Desk) -> None:
    rows = [bad(10), bad(20), bad(30, 5000).replace("92;", "1635.5;", 1), bad(40)[2:], "x"]
    desk.site.load(sds(pm(0), *rows))
    desk.site.load(sds(bad(50)), "other.csv")
    with desk.site.reader.snapshot() as connection:
        found = quarantine.by_sensor(connection, None, 9)
        of_width = quarantine.by_sensor(connection, "width", 9)
        by_reason = quarantine.by_reason(connection, None)
    assert [astuple(each) for each in found] == [
        ("92", 3, 2),
        ("1635.5", 1, 1),
        ("x", 1, 1),
        (None, 1, 1),
    ]
    assert [each.sensor for each in of_width] == ["x"]
    rules = {each.rule: (each.rows, each.files) for each in by_reason}
    assert rules == {"null": (4, 2), "range": (1, 1), "type": (1, 1), "width": (1, 1)}
    assert all(each.example for each in by_reason)


def test_what_is_remembered_of_a_load_is_bounded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.groups._MOST", 3)
    names = [f"x{n}" for n in range(6)]
    rows = [bad(10 * n).replace("92;", f"{name};", 1) for n, name in enumerate(names)]
    desk.site.load(sds(pm(0), *rows, rows[0], bad(900)[2:], *rows[4:]))
    with desk.site.reader.snapshot() as connection:
        found = {each.sensor: each.rows for each in quarantine.by_sensor(connection, None, 9)}
    assert found == {"x0": 2, "x1": 1, "x2": 1, "…": 5, None: 1}
    assert states(desk).open == 10


def test_each_line_is_counted_under_what_csv_reads_in_its_sensors_column(desk: Desk) -> None:
    lines = [
        '"92";SDS011;42;42.689;23.341;nan;nan;;;2.5;;',
        " 92\t;SDS011",
        '"9;2";SDS011',
        '"92;SDS011',
        '9"2;SDS011',
        "",
        ";;x",
        "a text that is far longer than the number of a sensor",
        "sénsor;1",
    ]
    desk.site.load(sds(*(line for line in lines if line), pm(0)))
    header = ARCHIVE_SDS.strip()
    kept = desk.site.sql("SELECT sensor, sum(open) FROM air.quarantine_summary GROUP BY sensor")
    due: dict[str | None, int] = {}
    for line in filter(None, lines):
        due[sensor_in(header, line)] = due.get(sensor_in(header, line), 0) + 1
    assert dict(kept) == due


# --- a long ledger --------------------------------------------------------------------------------


def test_a_file_whose_duplicates_are_elsewhere_is_not_read_for_a_retraction(desk: Desk) -> None:
    site = desk.site
    other = [pm(second, sensor=93) for second in range(0, 900, 150)]
    site.load(sds(*other, other[0]), "other.csv")
    site.load(sds(*ROWS[:5]), "some.csv")
    site.load(sds(*ROWS[20:25], *ROWS[20:22]), "later.csv")
    assert [site.counts(name)[2] for name in ("other.csv", "later.csv")] == [1, 2]
    for name in ("other.csv", "later.csv"):
        desk.archived(name).unlink()
    done = desk.retract("some.csv")
    assert (done.rows, done.back, done.unknown) == (5, {}, {})


def test_a_file_of_which_it_was_not_noted_where_its_duplicates_are_is_read(desk: Desk) -> None:
    site = desk.site
    site.load(sds(*ROWS[:5]), "some.csv")
    site.load(sds(*ROWS[2:7]), "later.csv")
    # As a version before this one has left it.
    site.sql("DELETE FROM air.file_duplicates")
    done = desk.retract("some.csv")
    assert {name: rows for (_, name), rows in done.back.items()} == {"later.csv": 3}


def test_only_files_that_may_have_a_reading_are_read_to_tell_why(desk: Desk) -> None:
    site = desk.site
    site.load(sds(*ROWS[:5]), "some.csv")
    site.load(sds(*ROWS[3:7]), "later.csv")
    desk.archived("later.csv").unlink()

    def unknown(ts: datetime) -> set[str]:
        return set(why(site.settings, site.reader, desk.contract, 92, ts).unknown)

    assert unknown(datetime(2017, 7, 1, tzinfo=UTC)) == set()
    assert unknown(datetime(2017, 7, 1, 0, 7, 30, tzinfo=UTC)) == {"later.csv"}


def test_bytes_that_are_looked_for_all_over_the_archive_are_found(desk: Desk) -> None:
    site = desk.site
    site.load(sds(*ROWS[:5]), "some.csv")
    site.load(sds(*ROWS[2:7]), "later.csv")
    path = desk.archived("later.csv")
    moved = path.parent.parent / "2001-01-01" / "renamed.csv"
    moved.parent.mkdir()
    shutil.move(path, moved)
    done = desk.retract("some.csv")
    assert (len(done.back), done.unknown) == (1, {})


# --- sheets ---------------------------------------------------------------------------------------


@pytest.fixture
def many(desk: Desk) -> Workshop:
    """A file with 50 rejected rows, some of them quoted."""
    rows = [bad(10 * i, "" if i % 3 else '"nan"') for i in range(50)]
    desk.site.load(sds(*rows))
    return desk


def test_rows_in_any_order_are_told_apart_by_their_line(many: Workshop) -> None:
    header, *rows = read(many.sheet())
    for row in rows[::2]:
        row[header.index("P1")] = "7.5"
    write(many.sheet(), [header, *rows[::-1]])
    many.site.edited = True
    done = many.replay()
    assert done.lines("loaded") == list(range(2, 52, 2))
    assert done.lines("failing") == list(range(3, 52, 2))
    assert {v.line_no: v.row for v in done.verdicts if v.edited} == {
        line: 53 - line for line in range(2, 52, 2)
    }


def test_an_untouched_sheet_with_todays_reasons_is_untouched(many: Workshop) -> None:
    assert len(many.replay().lines("failing")) == 50
    before = many.sheet().read_bytes()
    assert not any(verdict.edited for verdict in many.replay(dry=True).verdicts)
    many.replay()
    assert many.sheet().read_bytes() == before


@pytest.mark.parametrize("delimiter", [";", ","])
def test_an_untouched_export_is_untouched(many: Workshop, tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "export.csv"
    many.site.load(sds(bad(5000, "9,5")), "other.csv")
    entries = many.bench.with_open_rows(None)
    sheets.export(
        many.site.settings,
        many.bench,
        many.contract,
        entries,
        rule=None,
        path=path,
        delimiter=delimiter,
    )
    assert len(read(path)) == 52
    done = many.replay(str(path), dry=True) if len(entries) == 1 else None
    assert done is None or not any(verdict.edited for verdict in done.verdicts)


def test_a_summary_holds_after_every_step(desk: Desk) -> None:
    site = desk.site
    site.load(sds(pm(0), bad(10), bad(20, "nan"), bad(30, "9,5")))
    desk.repair(REPAIRED)
    site.edited = True
    desk.replay(dry=True)
    assert site.summary_differs() == {}
    replayed = desk.replay()
    assert site.summary_differs() == {}
    assert states(desk).repaired == 3
    desk.retract(str(replayed.file_id))
    assert site.summary_differs() == {}
    assert states(desk).open == 3
    desk.retract()
    assert site.summary_differs() == {}
    assert states(desk).discarded == 3
