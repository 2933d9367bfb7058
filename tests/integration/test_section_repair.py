"""Rejected rows of joined files: repaired, brought back, explained and taken back."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.rework import replay, retract, sheets, why
from pipeline.rework.sheet import decode
from pipeline.store.load import Store
from pipeline.store.read.doubtful import DoubtfulFile, doubtful_files
from pipeline.store.read.entries import Entry
from pipeline.store.rework import Workbench
from tests.integration.test_sections import (
    PM,
    SOFIA_TH,
    SWAPPED,
    TH,
    climate,
    particulate,
    row,
    sofia,
)

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSite, Site

TEXT = (
    PM
    + row(0, "x", 5)
    + row(9, 9, 5)
    + SOFIA_TH
    + sofia(1, 99, 55, sensor=6)
    + SWAPPED
    + row(2, "y", 30)
)


@pytest.fixture
def joined(site: Site) -> Site:
    site.load(TEXT)
    assert site.counts() == (4, 1, 0, 3)
    return site


def entry(site: Site, name: str = "some.csv") -> Entry:
    (found,) = Workbench(site.reader).entries(name)
    return found


def table(site: Site) -> tuple[Path, list[list[str]]]:
    (path,) = site.quarantine.glob("*.csv")
    text = path.read_text("utf-8-sig")
    return path, list(csv.reader(io.StringIO(text, newline=""), delimiter=";"))


def save(path: Path, rows: list[list[str]], mark: str = ";") -> None:
    """Save as a spreadsheet does: every row as wide as the widest."""
    width = max(map(len, rows))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=mark).writerows(
            [*cells, *[""] * (width - len(cells))] for cells in rows
        )


def mend(rows: list[list[str]]) -> None:
    """Put right all three rows."""
    for cells in rows:
        for wrong, right in (("x", "8"), ("99", "19.5"), ("y", "15")):
            if cells[0] != "line_no" and wrong in cells:
                cells[cells.index(wrong)] = right


def bring_back(site: Site, dry: bool = False, sheet: Path | None = None) -> replay.Replayed:
    given = decode(sheet.name, sheet) if sheet else None
    again = replay.Replay(site.settings, Store(site.engine), site.settings.site_contract(), "me")
    return again.run(entry(site), sheet=given, dry=dry)


@pytest.mark.parametrize("mark", [";", ","])
@pytest.mark.parametrize("ordered", ["as it was", "sorted", "reversed"])
def test_rows_of_each_section_are_repaired_in_one_sheet(
    joined: Site, ordered: str, mark: str
) -> None:
    path, rows = table(joined)
    mend(rows)
    if ordered == "sorted":
        rows[1:] = sorted(rows[1:], key=lambda cells: cells[0])
    elif ordered == "reversed":
        rows[1:] = rows[:0:-1]
    save(path, rows, mark)
    joined.edited = True
    done = bring_back(joined)
    assert not done.wrong, done.problems
    assert done.lines("loaded") == [2, 5, 7]
    assert particulate(joined) == [(5, 8, 5), (5, 30, 15), (5, 9, 5)]
    assert climate(joined) == [(6, 19.5, 55)]
    assert joined.quarantined_files() == []


def test_a_sheet_that_was_not_touched_changes_nothing(joined: Site) -> None:
    path, rows = table(joined)
    save(path, rows)
    done = bring_back(joined)
    assert (done.lines("failing"), done.lines("loaded")) == ([2, 5, 7], [])
    assert not [verdict for verdict in done.verdicts if verdict.edited]
    assert [cells[0] for cells in table(joined)[1]] == [
        "line_no",
        "2",
        "line_no",
        "5",
        "line_no",
        "7",
    ]


def test_a_section_whose_names_were_deleted_is_not_taken(joined: Site) -> None:
    path, rows = table(joined)
    mend(rows)
    save(path, [cells for at, cells in enumerate(rows) if at == 0 or cells[0] != "line_no"])
    joined.edited = True
    done = bring_back(joined)
    assert done.wrong
    assert "temperature" in str(done.problems[0])
    assert climate(joined) == []


def test_an_exported_sheet(joined: Site, tmp_path: Path) -> None:
    bench, path = Workbench(joined.reader), tmp_path / "out.csv"
    contract = joined.settings.site_contract()
    sheets.export(
        joined.settings, bench, contract, [entry(joined)], rule=None, path=path, delimiter=","
    )
    rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    mend(rows)
    save(path, rows, ",")
    assert bring_back(joined, sheet=path).lines("loaded") == [2, 5, 7]
    assert climate(joined) == [(6, 19.5, 55)]
    assert particulate(joined) == [(5, 8, 5), (5, 30, 15), (5, 9, 5)]


def test_a_repaired_sheet_that_is_dropped_is_read_by_its_own_headers(joined: Site) -> None:
    path, rows = table(joined)
    mend(rows)
    save(path, rows)
    joined.load(path.read_bytes(), path.name)
    assert joined.counts(path.name) == (3, 3, 0, 0)
    assert particulate(joined) == [(5, 8, 5), (5, 30, 15), (5, 9, 5)]
    assert climate(joined) == [(6, 19.5, 55)]
    joined.edited = True
    assert bring_back(joined).lines("duplicate") == [2, 5, 7]


def test_a_replay_can_be_taken_back(joined: Site) -> None:
    path, rows = table(joined)
    mend(rows)
    save(path, rows)
    joined.edited = True
    done = bring_back(joined)
    assert done.file_id is not None
    before = particulate(joined)
    store, contract = Store(joined.engine), joined.settings.site_contract()
    again = Workbench(joined.reader).entry(done.file_id)
    assert again is not None
    gone = retract.retract(joined.settings, store, contract, again, by="me", note=None)
    assert (gone.rows, gone.reopened) == (3, 3)
    assert climate(joined) == []
    assert bring_back(joined).lines("loaded") == [2, 5, 7]
    assert particulate(joined) == before


def test_rows_come_back_once_their_header_is_understood(make_site: MakeSite) -> None:
    own = "sensor_id;sensor_type;location;lat;lon;timestamp;coarse;fine\n"
    site = make_site()
    site.load(PM + row(0, 9, 5) + own + row(1, 8, 4, kind="OWN") + PM + row(2, 7, 3))
    assert site.counts() == (4, 2, 0, 2)
    known = {"models": {"own": {"coarse": "pm10", "fine": "pm25"}}}
    site.settings = site.settings.model_copy(
        update={"contract": type(site.settings.contract).model_validate(known)}
    )
    done = bring_back(site)
    assert not done.problems, done.problems
    assert (done.lines("loaded"), done.lines("failing")) == ([4], [3])
    assert particulate(site) == [(5, 9, 5), (5, 8, 4), (5, 7, 3)]


def test_why_knows_the_line_below_any_header(joined: Site) -> None:
    joined.load(PM + row(0, 1, 2) + TH + row(30, 20, 50, sensor=6, kind="DHT22"), "b.csv")
    contract = joined.settings.site_contract()

    def told(sensor: int, second: int) -> why.Told:
        ts = datetime(2020, 6, 6, 0, 0, second, tzinfo=UTC)
        return why.why(joined.settings, joined.reader, contract, sensor, ts)

    (reading,) = told(6, 30).readings
    assert reading.line is not None
    assert (reading.line.entry.name, reading.line.line_no) == ("b.csv", 4)
    (line,) = told(6, 1).others
    assert (line.entry.name, line.line_no, line.became) == ("some.csv", 5, "quarantined")


def test_a_joined_file_is_taken_back_and_loaded_again(joined: Site) -> None:
    store, contract = Store(joined.engine), joined.settings.site_contract()
    gone = retract.retract(joined.settings, store, contract, entry(joined), by="me", note=None)
    assert gone.rows == 1
    joined.load(TEXT, "again.csv")
    assert joined.counts("again.csv") == (4, 1, 0, 3)


def test_readings_of_a_joined_file_come_back_as_its_own(joined: Site) -> None:
    """Two files bring the same readings; the first is taken back."""
    second = row(50, 20, 50, sensor=6, kind="DHT22")
    joined.load(TH + second, "first.csv")
    joined.load(PM + row(60, 1, 2) + TH + second, "second.csv")
    assert joined.counts("second.csv") == (2, 1, 1, 0)
    store, contract = Store(joined.engine), joined.settings.site_contract()
    first = entry(joined, "first.csv")
    gone = retract.retract(joined.settings, store, contract, first, by="me", note=None)
    assert gone.came_back == 1
    assert climate(joined) == [(6, 20, 50)]


# --- what earlier versions stored -----------------------------------------------------------------


def doubtful(site: Site, *types: str) -> list[DoubtfulFile]:
    with site.reader.snapshot() as connection:
        return doubtful_files(connection, types, 10)


def test_files_that_an_earlier_version_misread_are_named(site: Site) -> None:
    site.load(PM + row(0, 9, 5), "good.csv")
    site.load(PM + row(1, 9, 5) + "abc;SDS011;7;42;23;2020-06-06T00:01:00;9;5\n", "joined.csv")
    site.load(PM + row(2, 9, 5), "counts.csv")
    assert doubtful(site, "ppd42ns") == []
    # As an earlier version left them.
    site.sql(
        'UPDATE air.quarantined_row SET line = :line, reasons = \'[{"rule": "repeated_header"}]\'',
        line=SWAPPED.rstrip(),
    )
    site.sql(
        "UPDATE air.source_file SET sensor_model = 'ppd42ns, sds011' WHERE name = 'counts.csv'"
    )
    found = {each.name: each.why for each in doubtful(site, "ppd42ns")}
    assert found == {"joined.csv": "header", "counts.csv": "type"}
    site.sql("UPDATE air.quarantined_row SET line = :line", line=PM.rstrip().upper())
    assert doubtful(site) == []
    site.sql("DELETE FROM air.quarantined_row")
    site.sql("DELETE FROM air.quarantine_summary")
    site.sql("UPDATE air.change SET quarantine_opened = 0")
    site.sql(
        "UPDATE air.source_file SET rows_read = 1, rows_quarantined = 0 WHERE name = 'joined.csv'"
    )
    for path in site.quarantine.iterdir():
        path.unlink()
