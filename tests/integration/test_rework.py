"""Repair and replay: what a person puts right comes back once, and all books balance."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Settings, load_settings
from pipeline.contract import Contract
from pipeline.errors import Conflict, NotFound
from pipeline.rework import discard, refused, sheets, targets
from pipeline.rework.replay import Replay, Replayed
from pipeline.rework.targets import Target
from pipeline.store.load import Store
from pipeline.store.read.entries import Entry
from pipeline.store.read.quarantine import States, states_of
from pipeline.store.rework import Workbench
from tests.integration.conftest import (
    ARCHIVE_DS18B20,
    MakeSite,
    Site,
    clock,
    pm,
    sds,
)

BY = "maria"
BAD = "92;SDS011;42;42.689;23.341;{};{};;;{};;"


def bad(second: int, p1: object = "", p2: object = 2.5) -> str:
    return BAD.format(clock(second), p1, p2)


@dataclass
class Workshop:
    """A site where somebody repairs rows."""

    site: Site

    @property
    def bench(self) -> Workbench:
        return Workbench(self.site.reader)

    @property
    def contract(self) -> Contract:
        return self.site.settings.site_contract()

    def entry(self, key: str = "some.csv") -> Entry:
        return targets.one(self.bench, key)

    def replay(self, key: str = "some.csv", *, dry: bool = False, **given: Any) -> Replayed:
        """Replay what `reprocess KEY` would."""
        wanted, problems = targets.named(self.site.settings, self.bench, key)
        (target,) = wanted or [Target(self.entry())]
        if not wanted:
            return Replayed(target.entry, problems=problems)
        done = self.worker().run(target.entry, sheet=target.sheet, dry=dry, **given)
        done.problems += problems
        return done

    def worker(self) -> Replay:
        store = Store(self.site.engine)
        return Replay(self.site.settings, store, self.contract, BY)

    def sheet(self, key: str = "some.csv") -> Path:
        path = sheets.path_of(self.site.settings, self.entry(key))
        assert path is not None
        return path

    def repair(self, cells: dict[int, dict[str, str]], path: Path | None = None) -> None:
        """Change cells of the sheet in quarantine/: line number → column → text."""
        path = path or self.sheet()
        header, *rows = read(path)
        for row in rows:
            for column, text in cells.get(int(row[header.index("line_no")]), {}).items():
                row[header.index(column)] = text
        write(path, [header, *rows])

    def states(self, key: str = "some.csv") -> dict[int, str]:
        rows = self.bench.rows(self.entry(key).file_id, states=None)
        return {row.line_no: row.state for row in rows}


def read(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode("utf-8-sig")
    delimiter = max(";,\t", key=text.split("\n")[0].count)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def write(path: Path, rows: Sequence[Sequence[str]], delimiter: str = ";", **how: Any) -> None:
    with path.open("w", encoding=how.pop("encoding", "utf-8-sig"), newline="") as file:
        csv.writer(file, delimiter=delimiter, **how).writerows(rows)


@pytest.fixture
def shop(site: Site) -> Workshop:
    return Workshop(site)


@pytest.fixture
def three(shop: Workshop) -> Workshop:
    """A file with a good row in line 2 and bad ones in lines 3, 4 and 5."""
    rows = [pm(0), bad(10), bad(20, "nan"), bad(30, "9,5")]
    assert shop.site.load(sds(*rows)).state == "loaded"
    assert shop.site.counts() == (4, 1, 0, 3)
    return shop


REPAIRED = {3: {"P1": "7.5"}, 4: {"P1": "8.5"}, 5: {"P1": "9.5"}}


# --- what is right comes back ---------------------------------------------------------------------


def test_repaired_rows_come_back_and_the_books_balance_across_both(three: Workshop) -> None:
    three.repair(REPAIRED)
    done = three.replay()
    assert (done.lines("loaded"), done.problems, done.wrong) == ([3, 4, 5], [], False)
    assert three.states() == {3: "repaired", 4: "repaired", 5: "repaired"}
    parent, replay = three.entry(), three.bench.entry(done.file_id or 0)
    assert replay is not None
    assert replay.parent_file_id == parent.file_id
    assert (replay.rows_read, replay.rows_loaded, replay.rows_duplicate) == (3, 3, 0)
    with three.site.reader.snapshot() as connection:
        found = states_of(connection, parent.file_id)
    assert found == States(open=0, repaired=3, discarded=0, quarantined=3)
    assert three.site.sql("SELECT pm10 FROM air.raw_particulate ORDER BY ts") == [
        (pytest.approx(9.53),),
        (7.5,),
        (8.5,),
        (9.5,),
    ]
    assert three.site.quarantined_files() == []
    row = three.bench.rows(parent.file_id, states=None)[0]
    assert (row.line, row.decided_by) == (bad(10), BY)
    assert row.replay_line == bad(10, "7.5")


def test_a_dry_run_says_what_then_happens_and_changes_nothing(three: Workshop) -> None:
    three.repair({3: {"P1": "7.5"}, 4: {"P1": "-3"}})
    before, files = three.site.dump(), three.sheet().read_bytes()
    told = three.replay(dry=True)
    assert three.site.dump() == before
    assert three.sheet().read_bytes() == files
    assert told.file_id is None
    three.site.edited = True
    done = three.replay()
    assert done.verdicts == told.verdicts
    assert [(v.line_no, v.became, v.row) for v in done.verdicts] == [
        (3, "loaded", 2),
        (4, "failing", 3),
        (5, "failing", None),
    ]
    assert [r.rule for v in done.verdicts for r in v.reasons] == ["range", "decimal_comma"]


def test_what_still_fails_stays_open_as_the_person_left_it(three: Workshop) -> None:
    three.repair({3: {"P1": "7.5"}, 4: {"P1": "12345"}})
    done = three.replay()
    assert done.wrong
    header, *rows = read(three.sheet())
    assert [(row[0], row[header.index("P1")]) for row in rows] == [("4", "12345"), ("5", "9,5")]
    assert "12345 µg/m³ is above 1999.9" in rows[0][1]
    (log,) = three.site.quarantine.glob("*.jsonl")
    assert [json.loads(line)["line"] for line in log.read_text().splitlines()] == [
        bad(20, "nan"),
        bad(30, "9,5"),
    ]
    three.repair({4: {"P1": "8"}, 5: {"P1": "9"}})
    assert three.replay().lines("loaded") == [4, 5]
    assert three.site.quarantined_files() == []


def test_after_a_change_of_the_contract_rows_come_back_as_they_stood(make_site: MakeSite) -> None:
    site = make_site()
    name, time = "ds18b20.csv", "2017-07-01T00:00:{:02}"
    row = "7;DS18B20;1;42.7;23.3;{};{}"
    values = (20, 55, 61, 59.99, 85)
    lines = [row.format(time.format(i), value) for i, value in enumerate(values)]
    site.load(ARCHIVE_DS18B20 + "\n".join(lines) + "\n", name)
    assert site.counts(name) == (5, 1, 0, 4)
    (site.settings.home / "sofia-air.toml").write_text(
        "[contract.ranges.temperature]\naccept = [-50, 60]\n"
    )
    shop = Workshop(Site(load_settings(site.settings.home), site.engine))
    assert shop.replay(name, dry=True).lines("loaded") == [3, 5]
    done = shop.replay(name)
    assert (done.lines("loaded"), done.lines("failing")) == ([3, 5], [4, 6])
    assert not done.wrong  # nobody has edited anything
    assert [r.rule for v in done.verdicts for r in v.reasons] == ["range", "sentinel"]
    replay = shop.bench.entry(done.file_id or 0)
    assert replay is not None
    assert replay.contract_version == shop.contract.version != shop.entry(name).contract_version
    assert [r.replay_line for r in shop.bench.rows(1, states=None)] == []
    back = shop.bench.replayed_rows(replay.file_id)
    assert [(row.line_no, row.replay_line) for row in back] == [(3, None), (5, None)]


def test_only_rows_of_a_reason(three: Workshop) -> None:
    three.repair(REPAIRED)
    assert three.replay(rule="decimal_comma").lines("loaded") == [5]
    assert three.states() == {3: "open", 4: "open", 5: "repaired"}
    # What was repaired meanwhile is still in the sheet.
    three.site.edited = True
    assert [row[0] for row in read(three.sheet())[1:]] == ["3", "4"]
    assert three.replay().lines("loaded") == [3, 4]


def test_rows_that_repeat_what_is_stored_are_repaired_and_count_as_duplicates(
    three: Workshop,
) -> None:
    three.site.load(sds(pm(10, 7.5, 2.5)), "later.csv")
    three.repair({3: {"P1": "7.50"}, 4: {"timestamp": clock(10), "P1": "7.5"}})
    done = three.replay()
    assert (done.lines("duplicate"), done.lines("loaded")) == ([3, 4], [])
    replay = three.bench.entry(done.file_id or 0)
    assert replay is not None
    assert (replay.rows_read, replay.rows_loaded, replay.rows_duplicate) == (2, 0, 2)


def test_rows_that_contradict_what_is_stored_stay_open(three: Workshop) -> None:
    three.repair({3: {"timestamp": clock(0), "P1": "1"}, 4: {"P1": "5"}, 5: {"P1": "6"}})
    three.repair({5: {"timestamp": clock(20)}})
    done = three.replay()
    assert (done.lines("loaded"), done.lines("failing")) == ([4], [3, 5])
    told = [v.reasons[0].message for v in done.verdicts if v.reasons]
    assert "in the database, from some.csv" in told[0]
    assert "in line 4" in told[1]
    three.site.edited = True


# --- exactly once ---------------------------------------------------------------------------------


def test_a_second_replay_finds_nothing(three: Workshop) -> None:
    three.repair(REPAIRED)
    old = three.sheet()
    raw = old.read_bytes()
    three.replay()
    before = three.site.dump()
    again = three.replay()
    assert (again.verdicts, again.file_id) == ([], None)
    # As a crash after the commit leaves it: the older sheet is understood, and goes.
    old.write_bytes(raw)
    again = three.replay()
    assert (again.verdicts, again.problems) == ([], [])
    assert three.site.dump() == before
    assert three.site.quarantined_files() == []


@pytest.mark.parametrize("homes", [1, 4], ids=["one home", "a home each"])
def test_replays_at_once_bring_each_row_back_once(
    three: Workshop, tmp_path: Path, homes: int
) -> None:
    """Those of one home wait for each other's sheets; of several only the database keeps order."""
    three.repair(REPAIRED)
    settings = [three.site.settings]
    for number in range(1, homes):
        home = tmp_path / f"home {number}"
        shutil.copytree(three.site.quarantine, home / "quarantine")
        settings.append(load_settings(home))
    done: list[Replayed] = []
    ready = threading.Barrier(4)

    def work(own: Settings) -> None:
        worker = Replay(own, Store(three.site.engine), three.contract, BY)
        entry = three.entry()
        ready.wait()
        done.append(worker.run(entry, dry=False))

    threads = [threading.Thread(target=work, args=(settings[n % homes],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(each.lines("loaded")) for each in done) == 3
    assert [each.file_id for each in done].count(None) == 3
    assert three.site.one("SELECT count(*) FROM air.source_file") == 2
    assert three.site.quarantined_files() == []


# --- edited badly ---------------------------------------------------------------------------------

Spoil = Callable[[Path, list[list[str]]], None]


def saved(**how: Any) -> Spoil:
    return lambda path, rows: write(path, rows, **how)


def only(*numbers: int) -> Spoil:
    return lambda path, rows: write(path, [rows[n] for n in numbers])


def column(name: str, *, drop: bool = False, new: str = "") -> Spoil:
    def spoil(path: Path, rows: list[list[str]]) -> None:
        at = rows[0].index(name)
        if drop:
            rows = [[*row[:at], *row[at + 1 :]] for row in rows]
        else:
            rows[0][at] = new
        write(path, rows)

    return spoil


def shuffled(path: Path, rows: list[list[str]]) -> None:
    order = list(range(len(rows[0])))[::-1]
    write(path, [[row[i] for i in order] for row in (rows[0], *rows[:0:-1])], ",")


def semicolon_commas(path: Path, rows: list[list[str]]) -> None:
    head, *rest = rows
    write(path, [head, *[[c.replace(".", ",") for c in row] for row in rest]])


def cell(row: int, name: str, text: str) -> Spoil:
    def spoil(path: Path, rows: list[list[str]]) -> None:
        rows[row][rows[0].index(name)] = text
        write(path, rows)

    return spoil


def noted(path: Path, rows: list[list[str]]) -> None:
    write(path, [[*rows[0], "my notes"], *[[*row, "ask Ivan"] for row in rows[1:]]])


def unclosed(path: Path, rows: list[list[str]]) -> None:
    write(path, rows)
    path.write_bytes(path.read_bytes().replace(b";7.5;", b';"7.5;'))


def raw(data: bytes) -> Spoil:
    def spoil(path: Path, rows: list[list[str]]) -> None:
        path.write_bytes(data)

    return spoil


def doubled(path: Path, rows: list[list[str]]) -> None:
    write(path, [*rows, [*rows[1][:-6], "99", *rows[1][-5:]]])


# How the sheet is saved after lines 3, 4 and 5 were repaired; which lines come back; what is said.
SPOILT: dict[str, tuple[Spoil, list[int], str | None]] = {
    "as it was": (saved(), [3, 4, 5], None),
    "with commas": (saved(delimiter=","), [3, 4, 5], None),
    "with tabs": (saved(delimiter="\t"), [3, 4, 5], None),
    "without a byte order mark": (saved(encoding="utf-8"), [3, 4, 5], None),
    "with everything quoted": (saved(quoting=csv.QUOTE_ALL), [3, 4, 5], None),
    "reordered": (shuffled, [3, 4, 5], None),
    "without the reasons": (column("reasons", drop=True), [3, 4, 5], None),
    "without an empty column": (column("durP1", drop=True), [3, 4, 5], None),
    "with notes": (noted, [3, 4, 5], "not a column of some.csv: 'my notes'; ignored"),
    "rows deleted": (
        only(0, 2),
        [4],
        "2 open rows of some.csv are not in it any more",
    ),
    "all rows deleted": (only(0), [], "3 open rows of some.csv are not in it any more"),
    "no line numbers": (column("line_no", drop=True), [], "the column 'line_no' is missing"),
    "a column deleted": (column("P2", drop=True), [], "the column 'P2' of some.csv is missing"),
    "a column renamed": (column("P2", new="PM"), [], "the column 'P2' of some.csv is missing"),
    "decimal commas": (semicolon_commas, [], "decimal commas: the spreadsheet saved numbers in"),
    "another number": (
        cell(1, "line_no", "77"),
        [4, 5],
        "row 2, column 'line_no': line 77 of some",
    ),
    "no number": (cell(1, "line_no", "three"), [4, 5], "'three' is not a line number"),
    "a number twice": (doubled, [4, 5], "row 5, column 'line_no': line 3 stands in row 2 already"),
    "a line break": (cell(1, "P1", "7\n5"), [4, 5], "row 2, column 'P1': the cell holds a line br"),
    "a quotation mark": (unclosed, [], "the cell holds a line break"),
    "another encoding": (
        saved(encoding="utf-16"),
        [],
        "this is UTF-16 text: save it as 'CSV UTF-8'; nothing of it was taken",
    ),
    "not UTF-8": (
        raw(b"line_no;P1\n3;\xb5\n"),
        [],
        "row 2: byte 0xB5 is not UTF-8",
    ),
    "a workbook": (
        raw(b"PK\x03\x04 and so on"),
        [],
        "this is a workbook, not a CSV file",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_sheet_edited_badly_is_told_and_loses_nothing(three: Workshop, how: str) -> None:
    spoil, back, message = SPOILT[how]
    three.repair(REPAIRED)
    path = three.sheet()
    spoil(path, read(path))
    spoilt = path.read_bytes()
    three.site.edited = True
    done = three.replay()
    assert done.lines("loaded") == back, done
    assert three.states() == {n: "repaired" if n in back else "open" for n in (3, 4, 5)}
    said = [str(problem) for problem in done.problems]
    if message is None:
        assert said == []
    else:
        assert any(message in text for text in said), said
    # What was not taken is still there: in the sheet that was left alone, beside it as the person
    # left it, or in the sheet with all that is open.
    kept = [aside.read_bytes() for aside in three.site.quarantine.glob("*.kept")]
    if path.exists() and path.read_bytes() == spoilt:
        assert back == []
        path.unlink()  # so that the books can be checked, it is written anew
        three.replay()
    elif any("is kept as it was" in text for text in said):
        assert kept == [spoilt]
    elif path.exists():
        open_lines = [n for n in (3, 4, 5) if n not in back]
        assert [int(row[0]) for row in read(path)[1:]] == open_lines
    else:
        assert back == [3, 4, 5]


def test_an_edit_of_a_row_that_is_settled_already_is_told(three: Workshop) -> None:
    three.repair({3: {"P1": "7.5"}})
    raw, path = three.sheet().read_bytes(), three.sheet()
    three.replay()
    path.write_bytes(raw)
    three.repair({3: {"P1": "70"}})
    edited = path.read_bytes()
    done = three.replay()
    (first, aside) = done.problems
    assert "line 3 was repaired already, in file" in first.message
    assert "is kept as it was in" in aside.message
    (kept,) = three.site.quarantine.glob("*.kept")
    assert kept.read_bytes() == edited
    assert done.wrong


def test_a_row_that_never_had_enough_fields_can_be_completed(shop: Workshop) -> None:
    shop.site.load(sds(pm(0), "92;SDS011;42;42.689;23.341", bad(9) + ";;7"))
    header, *rows = read(shop.sheet())
    write(shop.sheet(), [header, [*rows[0], clock(5), "1.5", "", "", "2.5"], rows[1]])
    shop.site.edited = True
    done = shop.replay()
    assert done.lines("loaded") == [3]
    assert [v.reasons[0].rule for v in done.verdicts if v.reasons] == ["width"]
    header, row = read(shop.sheet())
    write(shop.sheet(), [header, [*row[: len(header)]]])
    shop.repair({4: {"P1": "3"}})
    assert shop.replay().lines("loaded") == [4]


def test_a_row_that_lacks_only_empty_cells_is_right_when_its_reasons_are_cleared(
    shop: Workshop,
) -> None:
    shop.site.load(sds(pm(0), pm(5).removesuffix(";"), bad(9)))
    assert shop.replay().lines("loaded") == []
    header, *rows = read(shop.sheet())
    write(shop.sheet(), [header, *[[row[0], "", *row[2:]] for row in rows]])
    done = shop.replay()
    assert (done.lines("loaded"), done.lines("failing")) == ([3], [4])
    # Clearing them does not make anything else of a row that is as it was.
    assert [v.edited for v in done.verdicts] == [True, False]


# --- other sheets ---------------------------------------------------------------------------------


def test_a_copy_that_was_dropped_into_data_closes_the_rows_it_repaired(three: Workshop) -> None:
    copy = three.sheet()
    three.repair({3: {"P1": "7.5"}, 5: {"P1": "9.5"}})
    repaired = copy.read_bytes()
    copy.unlink()
    three.site.load(repaired, copy.name)
    assert three.site.counts(copy.name) == (3, 2, 0, 1)
    three.site.edited = True  # the copy's own sheet leaves out its first two columns
    done = three.worker().run(three.entry(), dry=False)
    assert (done.lines("duplicate"), done.lines("failing")) == ([3, 5], [4])
    assert three.states() == {3: "repaired", 4: "open", 5: "repaired"}


def test_an_export_of_several_files_is_repaired_and_replayed(shop: Workshop) -> None:
    site = shop.site
    site.load(sds(pm(0), bad(1), bad(2) + ";extra"), "one.csv")
    climate = ARCHIVE_DS18B20 + "7;DS18B20;1;42.7;23.3;2017-07-01T00:00:00;hot\n"
    site.load(climate, "two.csv")
    site.load(",sensor_id,location,lat,lon,timestamp,P1,P2\n0,5,1,42.7,23.3,,7.5,3\n", "three.csv")
    path = site.settings.home / "out.csv"
    entries = shop.bench.with_open_rows(None)
    done = sheets.export(
        site.settings, shop.bench, shop.contract, entries, rule=None, path=path, delimiter=","
    )
    assert (done.rows, done.files) == (4, {"one.csv": 2, "two.csv": 1, "three.csv": 1})
    header, *rows = read(path)
    assert header[:4] == ["file_id", "file", "line_no", "reasons"]
    assert header[-1] == "extra_1"
    for row in rows:
        at = {name: position for position, name in enumerate(header)}
        row[at["extra_1"]] = ""
        row[at["temperature" if row[1] == "two.csv" else "P1"]] = "21"
        row[at["timestamp"]] = row[at["timestamp"]] or "2017-07-01T00:00:00"
    write(path, [header, *rows[::-1]], ";")
    wanted, problems = targets.named(site.settings, shop.bench, str(path))
    assert problems == []
    back = {}
    for target in wanted:
        back[target.entry.name] = shop.worker().run(target.entry, sheet=target.sheet, dry=False)
    assert {name: one.lines("loaded") for name, one in back.items()} == {
        "one.csv": [3, 4],
        "two.csv": [2],
        "three.csv": [2],
    }
    assert site.one("SELECT temperature FROM air.raw_climate") == 21
    assert site.quarantined_files() == []
    with pytest.raises(Conflict, match="already exists"):
        sheets.export(
            site.settings, shop.bench, shop.contract, entries, rule=None, path=path, delimiter=","
        )


def test_rows_are_told_apart_by_their_file_in_an_export(three: Workshop) -> None:
    path = three.site.settings.home / "out.csv"
    sheets.export(
        three.site.settings,
        three.bench,
        three.contract,
        [three.entry()],
        rule="null",
        path=path,
        delimiter=",",
    )
    header, row = read(path)
    write(path, [header, ["999", *row[1:]], ["", *row[1:]]], ",")
    wanted, problems = targets.named(three.site.settings, three.bench, str(path))
    assert wanted == []
    assert [p.message.split(":")[0] for p in problems] == [
        "file 999 is not in the ledger",
        "'' is not a number of a file",
    ]
    strange = three.site.settings.home / "strange.csv"
    write(strange, read(three.sheet()))
    with pytest.raises(NotFound, match="unknown which file"):
        targets.named(three.site.settings, three.bench, str(strange))


def test_a_bare_name_that_the_ledger_knows_means_the_ledgers_file(
    three: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three.repair(REPAIRED)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.csv").write_text(sds(pm(0)))  # what was loaded lies where one types
    assert three.replay("some.csv").lines("loaded") == [3, 4, 5]
    (problem,) = three.replay("./some.csv").problems
    assert "the column 'line_no' is missing" in problem.message


# --- discard --------------------------------------------------------------------------------------


def test_discarded_rows_wait_no_longer_and_are_kept(three: Workshop) -> None:
    site, store = three.site, Store(three.site.engine)

    def give_up(**which: Any) -> list[int]:
        lines, _ = discard.rows(
            site.settings,
            store,
            three.contract,
            three.entry(),
            **{"rule": None, "lines": None, **which},
            by=BY,
            note="broken sensor",
        )
        return lines

    assert give_up(lines=[4, 99]) == [4]
    assert give_up(rule="decimal_comma") == [5]
    assert three.states() == {3: "open", 4: "discarded", 5: "discarded"}
    assert [row[0] for row in read(three.sheet())[1:]] == ["3"]
    site.check_books()
    row = three.bench.rows(three.entry().file_id, states=("discarded",))[0]
    assert (row.line, row.note, row.decided_by) == (bad(20, "nan"), "broken sensor", BY)
    assert three.replay(rule="not_finite").verdicts == []
    assert give_up() == [3]
    assert site.quarantined_files() == []


# --- refused files --------------------------------------------------------------------------------

ROOFTOP = "sensor_id;sensor_type;location;lat;lon;timestamp;dust10;dust25\n"
ROOF = ROOFTOP + "5;rooftop;1;42.7;23.3;2017-07-01T00:00:00;7;3\n5;rooftop;1;42.7;23.3;;7;3\n"


def retry(shop: Workshop, key: str, *, dry: bool = False) -> refused.Retried:
    store = Store(shop.site.engine)
    return refused.retry(shop.site.settings, store, shop.contract, shop.entry(key), by=BY, dry=dry)


def test_a_refused_file_comes_back_once_its_model_is_known(make_site: MakeSite) -> None:
    site = make_site()
    assert site.load(ROOF, "roof.csv").state == "refused"
    assert retry(Workshop(site), "roof.csv").state == "not repaired"
    (site.settings.home / "sofia-air.toml").write_text(
        '[contract.models.rooftop]\ndust10 = "pm10"\ndust25 = "pm25"\n'
    )
    shop = Workshop(Site(load_settings(site.settings.home), site.engine))
    told = retry(shop, "roof.csv", dry=True)
    assert (told.state, told.rows_read, told.rows_loaded) == ("would load", 2, 1)
    done = retry(shop, "roof.csv")
    assert (done.state, done.rows_loaded, done.rows_quarantined) == ("loaded", 1, 1)
    assert shop.bench.refused(None) == []
    assert [name for name in site.quarantined_files() if "refused" in name] == []
    assert site.archived() == ["roof.csv"]


def test_a_refused_file_that_was_repaired_where_it_lies_takes_its_place(shop: Workshop) -> None:
    site = shop.site
    broken = sds(pm(0), pm(1)).replace("timestamp", "tiempo")
    site.load(broken, "spanish.csv")
    (path,) = site.quarantine.glob("spanish.*.refused.csv")
    path.write_text(broken.replace("tiempo", "time"))
    assert retry(shop, "spanish.csv").state == "still refused"
    assert path.exists()
    path.write_text(broken.replace("tiempo", "timestamp"))
    old = shop.entry("spanish.csv").file_id
    done = retry(shop, str(old))
    assert (done.state, done.rows_loaded) == ("loaded", 2)
    parent, child = shop.bench.entry(old), shop.bench.entry(done.file_id or 0)
    assert parent is not None
    assert child is not None
    assert (child.name, child.parent_file_id, parent.decided_by) == ("spanish.csv", old, BY)
    assert shop.bench.refused(None) == []
    assert site.quarantined_files() == []
    # The refused bytes may come again, and are refused again; nothing breaks.
    assert site.load(broken, "again.csv").state == "known"


def test_a_refused_file_can_be_discarded(shop: Workshop) -> None:
    shop.site.load("who;goes;there\n", "foe.csv")
    entry, store = shop.entry("foe.csv"), Store(shop.site.engine)
    assert discard.refused(shop.site.settings, store, entry, by=BY, note="not ours")
    assert not discard.refused(shop.site.settings, store, entry, by=BY, note="twice")
    assert shop.bench.refused(None) == []
    assert len(shop.site.quarantined_files()) == 2


def test_a_header_that_an_older_version_did_not_keep_is_read_from_the_archive(
    three: Workshop,
) -> None:
    three.site.sql("UPDATE air.source_file SET header = NULL")
    three.repair(REPAIRED)
    assert three.replay().lines("loaded") == [3, 4, 5]


def test_without_header_and_archive_the_rows_wait(three: Workshop) -> None:
    three.site.sql("UPDATE air.source_file SET header = NULL")
    for path in three.site.settings.archive_folder.rglob("*.csv"):
        path.unlink()
    done = three.replay()
    (problem,) = done.problems
    assert problem.message.startswith("its rows cannot be judged: its header")
    assert three.states() == {3: "open", 4: "open", 5: "open"}


# --- formulas -------------------------------------------------------------------------------------

FORMULAS = [
    *(
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-1+2",
        "@SUM(A1)",
        "'=1",
        "''=1",
        " =1",
        "＝1",
        "a;=1",
        "a,-b",
    ),
    *("'", "''", "'x", "-5", "+3.5e1", "-0.01", "x", '"=1"', '=HYPERLINK("http://x","y")', "\t=1"),
]


def _file_of(cells: Sequence[str]) -> str:
    """Return rows whose dust is missing, with these cells where nothing is checked."""
    text = io.StringIO()
    header = csv.reader([sds().split("\n")[0]], delimiter=";")
    lines = csv.writer(text, delimiter=";", lineterminator="\n")
    lines.writerows(header)
    for second, cell in enumerate(cells):
        start = bad(second).split(";")
        start[7] = cell
        lines.writerow(start)
    return text.getvalue()


def _columns(shop: Workshop) -> dict[int, tuple[str, str]]:
    """Return line number → P1 and durP1 of what came back."""
    found = {}
    for row in shop.bench.rows(shop.entry().file_id, states=None):
        (cells,) = csv.reader([row.present.decode()], delimiter=";")
        found[row.line_no] = cells[6], cells[7]
    return found


@pytest.mark.parametrize("way", ["in place", "exported", "reasons cleared", "older release"])
def test_formulas_are_plain_text_in_a_sheet_and_come_back_as_they_were(
    shop: Workshop, way: str, tmp_path: Path
) -> None:
    assert shop.site.load(_file_of(FORMULAS)).state == "loaded"
    lines = range(2, len(FORMULAS) + 2)
    before = shop.sheet().read_bytes()
    path = shop.sheet()
    if way == "exported":
        path = tmp_path / "out.csv"
        sheets.export(
            *(shop.site.settings, shop.bench, shop.contract, [shop.entry()]),
            rule=None,
            path=path,
            delimiter=",",
        )
    header, *rows = read(path)
    at = header.index("durP1")
    live = [row for row in rows if re.match(r"[\s\"]*[=+\-@＝]", row[at])]
    assert {row[at] for row in live} == {"-5", "+3.5e1", "-0.01"}
    if way == "older release":
        for row, cell in zip(rows, FORMULAS, strict=True):
            row[at], row[1] = cell, "P1 is empty"
    if way == "reasons cleared":
        for row in rows:
            row[1] = ""
    write(path, [header, *rows], delimiter="," if way == "exported" else ";")
    # What nobody has touched is not taken for an edit.
    done = shop.replay(str(path), dry=True)
    assert [v.edited for v in done.verdicts] == [False] * len(FORMULAS)
    shop.repair({line: {"P1": "7.5"} for line in lines}, path)
    done = shop.replay(str(path))
    assert (done.lines("loaded"), done.problems) == (list(lines), [])
    assert _columns(shop) == {
        line: ("7.5", cell) for line, cell in zip(lines, FORMULAS, strict=True)
    }
    assert before.startswith(b"\xef\xbb\xbf")


def test_a_formula_in_a_repaired_cell_is_plain_text_too(shop: Workshop) -> None:
    assert shop.site.load(_file_of(["x", "=1", "=1"])).state == "loaded"
    shop.repair({2: {"durP1": "=2"}, 3: {"durP1": "'=2"}, 4: {"durP1": "''=2"}})
    assert not shop.replay().lines("loaded")
    header, *rows = read(shop.sheet())
    assert [row[header.index("durP1")] for row in rows] == ["'=2", "'=2", "''=2"]
    shop.repair({line: {"P1": "7.5"} for line in (2, 3, 4)})
    assert shop.replay().lines("loaded") == [2, 3, 4]
    assert _columns(shop) == {2: ("7.5", "=2"), 3: ("7.5", "=2"), 4: ("7.5", "'=2")}


def test_names_of_columns_and_files_are_plain_text(shop: Workshop, tmp_path: Path) -> None:
    text = _file_of(["x"]).replace(";durP1;", ";=cmd();")
    assert shop.site.load(text, "=1+1.csv").state == "loaded"
    path = tmp_path / "out.csv"
    sheets.export(
        *(shop.site.settings, shop.bench, shop.contract, [shop.entry("=1+1.csv")]),
        rule=None,
        path=path,
        delimiter=",",
    )
    for each in (path, shop.sheet("=1+1.csv")):
        assert not [c for row in read(each) for c in row if c.startswith("=")]
    header, *_ = read(shop.sheet("=1+1.csv"))
    assert "'=cmd()" in header
    shop.repair({2: {"P1": "7.5"}}, shop.sheet("=1+1.csv"))
    done = shop.replay("=1+1.csv")
    assert (done.lines("loaded"), done.problems) == ([2], [])
