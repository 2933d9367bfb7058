"""Retract and why: a file taken back leaves no trace in the readings; each reading has its line."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Conflict
from pipeline.rework import discard
from pipeline.rework import retract as retracting
from pipeline.rework.retracted import Retracted, plan
from pipeline.rework.why import Told, why
from pipeline.store.load import Store
from tests.integration.conftest import MakeSite, Site, clock, pm, sds
from tests.integration.test_rework import BY, Workshop, bad

ROWS = [pm(second, 5 + second / 100, 2) for second in range(0, 7200, 150)]


@dataclass
class Desk(Workshop):
    """A workshop where files are taken back, too."""

    def retract(self, key: str = "some.csv") -> Retracted:
        return retracting.retract(
            self.site.settings,
            Store(self.site.engine),
            self.contract,
            self.entry(key),
            by=BY,
            note="a test",
        )

    def archived(self, name: str) -> Path:
        (path,) = self.site.settings.archive_folder.rglob(name)
        return path

    def reload(self, name: str = "some.csv") -> None:
        """Drop the archived copy into data/ again."""
        path = self.archived(name)
        shutil.copyfile(path, self.site.data / name)
        assert [outcome.state for outcome in self.site.run()] == ["loaded"]

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every table's rows, with names of files for their numbers."""
        by_name = "(SELECT sha256 FROM air.source_file AS f WHERE f.file_id = t.file_id)"
        near = "round(mean::numeric, 6), round(std::numeric, 6)"
        asked = {
            "source_file": "SELECT name, sha256, bytes, dialect, sensor_model, rows_read,"
            " rows_loaded, rows_duplicate, rows_quarantined, first_ts, last_ts, header"
            " FROM air.source_file WHERE state = 'loaded'",
            "sensor": "SELECT * FROM air.sensor",
            "location": "SELECT * FROM air.location",
            "raw_particulate": f"SELECT sensor_id, ts, location_key, pm10, pm25, pm1, flags,"
            f" {by_name} FROM air.raw_particulate AS t",
            "raw_climate": "SELECT * FROM air.raw_climate",
            "quarantined_row": f"SELECT line_no, line, line_bytes, reasons::text, t.state,"
            f" {by_name}"
            " FROM air.quarantined_row AS t JOIN air.source_file USING (file_id)"
            " WHERE source_file.state = 'loaded'",
            "file_aggregate": f"SELECT sensor_id, quantity, n, min, max, {near}, {by_name}"
            " FROM air.file_aggregate AS t",
            "hourly": f"SELECT sensor_id, quantity, hour, n, min, max, {near} FROM air.hourly",
            "daily": f"SELECT sensor_id, quantity, day, n, min, max, {near} FROM air.daily",
            "sensor_place": "SELECT * FROM air.sensor_place",
        }
        return {name: sorted(self.site.sql(query), key=repr) for name, query in asked.items()}


@pytest.fixture
def desk(site: Site) -> Desk:
    return Desk(site)


# --- retract --------------------------------------------------------------------------------------


def test_retract_and_reload_gives_the_same_database_table_by_table(desk: Desk) -> None:
    site = desk.site
    site.load(sds(*ROWS[:20]), "before.csv")
    # Overlaps with the first, shares hours with both, has bad rows and a place of its own.
    site.load(sds(*ROWS[10:35], bad(7), pm(9000).replace(";42;", ";43;")), "some.csv")
    site.load(sds(*ROWS[40:]), "after.csv")
    before, quarantine = desk.contents(), site.quarantined_files()
    assert site.counts() == (27, 16, 10, 1)

    done = desk.retract()
    assert (done.rows, done.back, done.unknown) == (16, {}, {})
    site.check_books()
    assert site.quarantined_files() == []
    assert site.one("SELECT count(*) FROM air.raw_particulate") == 20 + 8
    entry = desk.entry()
    assert (entry.state, entry.decided_by, entry.note) == ("retracted", BY, "a test")
    (row,) = desk.bench.rows(entry.file_id, states=None)
    assert (row.state, row.note) == ("discarded", "the file was retracted")

    desk.reload()
    assert desk.contents() == before
    assert site.quarantined_files() == quarantine
    assert site.one("SELECT count(*) FROM air.source_file WHERE state = 'retracted'") == 1


def test_rows_that_another_file_delivered_too_come_back_as_that_files(desk: Desk) -> None:
    site = desk.site
    site.load(sds(*ROWS[:30]), "some.csv")
    later = [*ROWS[10:40], ROWS[12], pm(150, 99, 9)]  # one row twice, and one that contradicts
    site.load(sds(*later), "later.csv")
    site.load(sds(*ROWS[5:30]), "latest.csv")
    assert site.counts("later.csv") == (32, 10, 21, 1)
    assert site.counts("latest.csv") == (25, 0, 25, 0)

    done = desk.retract()
    assert {name: rows for (_, name), rows in done.back.items()} == {
        "later.csv": 20,
        "latest.csv": 5,
    }
    site.check_books()
    assert site.counts("later.csv") == (32, 30, 1, 1)
    assert site.counts("latest.csv") == (25, 5, 20, 0)
    latest = desk.entry("latest.csv")
    assert latest.first_ts == datetime.fromisoformat(f"{clock(750)}+00:00")
    # Its key is free now: what had contradicted it passes.
    assert desk.replay("later.csv").lines("loaded") == [33]
    desk.reload()
    site.check_books()
    assert site.one("SELECT count(*) FROM air.raw_particulate") == 40


def test_what_was_rejected_does_not_come_back_as_a_duplicate(desk: Desk) -> None:
    """It was a conflict once; that its values were taken back later makes it no duplicate."""
    site = desk.site
    site.load(sds(pm(0, 1)), "first.csv")
    site.load(sds(pm(9)), "other.csv")
    site.load(sds(pm(0, 2), pm(9)), "second.csv")
    assert site.counts("second.csv") == (2, 0, 1, 1)
    desk.retract("first.csv")
    site.load(sds(pm(0, 2)), "third.csv")
    done = desk.retract("third.csv")
    assert done.back == {}
    assert desk.states("second.csv") == {2: "open"}
    assert site.counts("second.csv") == (2, 0, 1, 1)
    assert desk.replay("second.csv").lines("loaded") == [2]


@pytest.mark.parametrize("policy", ["gzip", "delete"])
def test_what_comes_back_depends_on_the_archive(make_site: MakeSite, policy: str) -> None:
    desk = Desk(make_site(archive_policy=policy))
    desk.site.load(sds(*ROWS[:10]), "some.csv")
    desk.site.load(sds(*ROWS[5:15]), "later.csv")
    done = desk.retract()
    if policy == "gzip":
        assert (list(done.back.values()), done.unknown) == ([5], {})
        assert done.archived.endswith("some.csv.gz")
    else:
        assert done.back == {}
        ((_, name),) = done.unknown
        assert name == "later.csv"
        assert "[archive] policy = delete" in next(iter(done.unknown.values()))
        assert "[archive] policy = delete" in done.archived
    desk.site.check_books()


def test_a_copy_whose_bytes_have_changed_is_not_believed(desk: Desk) -> None:
    desk.site.load(sds(*ROWS[:10]), "some.csv")
    desk.site.load(sds(*ROWS[5:15]), "later.csv")
    path = desk.archived("later.csv")
    path.write_bytes(path.read_bytes().replace(b";2;", b";3;"))
    done = desk.retract()
    assert done.back == {}
    assert "no file in" in next(iter(done.unknown.values()))


def test_a_files_replays_go_with_it(desk: Desk) -> None:
    site = desk.site
    site.load(sds(*ROWS[:5], bad(1), bad(2)), "some.csv")
    desk.repair({7: {"P1": "7"}})
    replay = desk.replay().file_id
    with site.reader.snapshot() as connection:
        planned = plan(connection, desk.entry())
    assert ([e.file_id for e in planned.replays], planned.rows) == ([replay], 6)
    done = desk.retract()
    assert ([e.file_id for e in done.replays], done.rows) == ([replay], 6)
    assert site.raw_rows() == 0
    assert site.one("SELECT count(*) FROM air.hourly") == 0
    assert site.one("SELECT count(*) FROM air.daily") == 0
    site.check_books()
    with pytest.raises(Conflict, match="was retracted already, by maria"):
        desk.retract()
    desk.reload()
    assert desk.states() == {7: "open", 8: "open"}


def test_a_replay_that_is_taken_back_opens_its_rows_again_as_they_were_repaired(
    desk: Desk,
) -> None:
    site = desk.site
    site.load(sds(*ROWS[:5], bad(1), bad(2)), "some.csv")
    desk.repair({7: {"P1": "7"}, 8: {"P1": "8"}})
    before = desk.contents()
    replay = desk.replay().file_id
    done = desk.retract(str(replay))
    assert (done.rows, done.reopened) == (2, 2)
    assert desk.states() == {7: "open", 8: "open"}
    after = desk.contents()
    assert after == before
    assert site.raw_rows() == 5
    assert "7" in desk.sheet().read_text("utf-8-sig").split("\n")[1].split(";")
    site.edited = True
    site.check_books()
    # The person's work is not lost: it comes back as it was.
    assert desk.replay().lines("loaded") == [7, 8]
    assert site.quarantined_files() == []


def test_what_a_person_was_at_work_on_is_kept_when_the_file_is_retracted(desk: Desk) -> None:
    desk.site.load(sds(*ROWS[:5], bad(1)), "some.csv")
    desk.repair({7: {"P1": "7"}})
    edited = desk.sheet().read_bytes()
    desk.retract()
    (kept,) = desk.site.quarantine.glob("*.kept")
    assert kept.read_bytes() == edited


def test_what_was_refused_cannot_be_retracted(desk: Desk) -> None:
    desk.site.load("who;goes;there\n", "foe.csv")
    with pytest.raises(Conflict, match="was refused: nothing of it was loaded"):
        desk.retract("foe.csv")


# --- why ------------------------------------------------------------------------------------------


def ask(desk: Desk, second: int, sensor: int = 92) -> Told:
    ts = datetime.fromisoformat(clock(second)).replace(tzinfo=UTC)
    return why(desk.site.settings, desk.site.reader, desk.contract, sensor, ts)


def became(told: Told) -> list[tuple[str, int, str]]:
    return [(line.entry.name, line.line_no, line.became) for line in told.others]


@pytest.fixture
def asked(desk: Desk) -> Desk:
    """A site where every fate has befallen a reading."""
    site = desk.site
    rows = [pm(0), pm(60), bad(120), pm(0), bad(180), bad(240), pm(600), pm(600, 1, 1)]
    site.load(sds(*rows), "first.csv")
    rows = [pm(60), pm(0, 1, 1), pm(300), "\n92;SDS011;42;42.689;23.341;soon;1;;;1;;"]
    site.load(sds(*rows).replace("\n", "\r\n"), "second.csv")
    site.load(sds(pm(0, sensor=920), pm(60)), "third.csv")
    desk.repair({4: {"P1": "7.5"}}, desk.sheet("first.csv"))
    desk.replay("first.csv")
    store = Store(site.engine)
    discard.rows(
        site.settings,
        store,
        desk.contract,
        desk.entry("first.csv"),
        rule=None,
        lines=[6],
        by=BY,
        note="spider",
    )
    return desk


def test_why_a_reading_is_there(asked: Desk) -> None:
    told = ask(asked, 300)
    (reading,) = told.readings
    assert reading.entry is not None
    assert reading.line is not None
    assert (reading.line.entry.name, reading.line.line_no) == ("second.csv", 4)
    assert reading.line.line == pm(300)
    assert reading.values == {"pm10": pytest.approx(9.53), "pm25": pytest.approx(2.83)}
    assert reading.entry.contract_version == asked.contract.version
    assert (told.others, told.unknown, told.unreadable) == ([], {}, [])


def test_why_with_duplicates_and_a_conflict(asked: Desk) -> None:
    told = ask(asked, 0)
    (reading,) = told.readings
    assert reading.line is not None
    assert (reading.line.entry.name, reading.line.line_no) == ("first.csv", 2)
    assert became(told) == [("first.csv", 5, "duplicate"), ("second.csv", 3, "conflict")]
    assert "this row says pm10 1, pm25 1" in told.others[1].reasons[0]["message"]
    assert became(ask(asked, 60)) == [
        ("second.csv", 2, "duplicate"),
        ("third.csv", 3, "duplicate"),
    ]

    # A line that contradicts an earlier one of its own file has the same key, and is no duplicate.
    assert became(ask(asked, 600)) == [("first.csv", 9, "conflict")]


def test_why_of_a_repaired_reading(asked: Desk) -> None:
    (reading,) = ask(asked, 120).readings
    assert reading.line is not None
    assert reading.parent is not None
    assert reading.line.row is not None
    assert reading.entry is not None
    assert (reading.parent.name, reading.line.line_no) == ("first.csv", 4)
    assert reading.line.line == bad(120)
    assert reading.line.row.replay_line == bad(120, "7.5")
    assert reading.line.row.decided_by == BY
    assert reading.line.row.replay_file_id == reading.entry.file_id


def test_why_there_is_none(asked: Desk) -> None:
    quarantined = ask(asked, 240)
    assert quarantined.readings == []
    assert became(quarantined) == [("first.csv", 7, "quarantined")]
    assert quarantined.others[0].reasons[0]["rule"] == "null"
    discarded = ask(asked, 180)
    assert became(discarded) == [("first.csv", 6, "discarded")]
    assert discarded.others[0].row is not None
    assert discarded.others[0].row.note == "spider"
    never = ask(asked, 400)
    assert (never.readings, never.others) == ([], [])
    assert [line.line_no for line in never.unreadable] == [6]
    assert never.previous is not None
    assert never.next is not None
    assert f"{never.previous:%FT%T}" == clock(300)
    assert f"{never.next:%FT%T}" == clock(600)
    stranger = ask(asked, 0, sensor=4711)
    assert (stranger.model, stranger.previous, stranger.others) == (None, None, [])


def test_why_says_what_cannot_be_told(asked: Desk) -> None:
    asked.archived("second.csv").unlink()
    told = ask(asked, 300)
    assert told.readings[0].line is None
    assert "no file in" in (told.readings[0].missing or "")
    told = ask(asked, 60)
    assert list(told.unknown) == ["second.csv"]
    assert became(told) == [("third.csv", 3, "duplicate")]


@pytest.mark.parametrize("name", ["some.csv", "some.csv.gz"])
def test_why_reads_a_large_file_block_by_block(make_site: MakeSite, name: str) -> None:
    desk = Desk(make_site(block_bytes=65_536, archive_policy="gzip"))
    text = sds(*(pm(second, sensor=1 + second % 7) for second in range(6_000))).encode()
    desk.site.load(gzip.compress(text, mtime=0) if name.endswith("gz") else text, name)
    second = 7 * 700 + 4
    (reading,) = ask(desk, second, sensor=5).readings
    assert reading.line is not None
    assert (reading.line.line_no, reading.line.line) == (second + 2, pm(second, sensor=5))
