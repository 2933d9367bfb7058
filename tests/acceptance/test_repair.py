"""A dirty month, repaired by a person with a spreadsheet, equals the clean month.

The commands are those that a person types. The person is a script: it opens the export as a
spreadsheet does, puts right what is wrong, sorts the rows by their reasons and saves them the way
spreadsheets save. What has to come of it is known beforehand, from the month without its faults
and from the simulator's manifest.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import typer

from pipeline.cli import commands, options
from pipeline.cli.failing import exit_code
from pipeline.config import load_settings
from pipeline.errors import PipelineError
from pipeline.rework import discard, targets
from pipeline.simulate import SimulatedFile, Simulation, write
from pipeline.simulate.damage import KINDS
from pipeline.store import engine as store_engine
from pipeline.store.load import Store
from pipeline.store.rework import Workbench
from tests.oracle import assert_close, assert_same

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

SMALL = Simulation(
    sensors=1, start=date(2018, 1, 30), days=2, models=("sds011", "bme280"), fault_rate=0.05
)
MONTH = replace(SMALL, sensors=10, start=date(2018, 1, 1), days=31, fault_rate=0.02, seed=5)


def told(home: Home, *arguments: str, code: int = 0) -> Any:
    """Type a command; return what it says to machines, or why it refuses.

    The command line itself, in this process: starting Python takes longer than most commands.
    """
    application = typer.Typer()
    application.callback()(options)
    commands.register(application)
    words = ["--home", str(home.settings.home), *arguments, "--json"]
    said = io.StringIO()
    with redirect_stdout(said), pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOFIA_AIR_DATABASE_URL", home.url)
        if code == 2:
            with pytest.raises(PipelineError) as refused:
                application(words, standalone_mode=False)
            assert exit_code(refused.value) == code
            return str(refused.value)
        found = application(words, standalone_mode=False) or 0
    assert found == code, said.getvalue()[-2000:]
    return json.loads(said.getvalue())


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command sends the logs to its home; whoever is tested next may want to see them."""
    yield
    structlog.reset_defaults()
    root = logging.getLogger("sofia_air")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = True


def loaded(home: Home, files: list[SimulatedFile]) -> Home:
    home.drop([file.path for file in files])
    assert {outcome.state for outcome in home.run()} == {"loaded"}
    return home


def clean_lines(dirty: SimulatedFile, clean: Path) -> dict[int, str]:
    """Return line of the dirty file → the clean line that stands there, or should.

    Lines that the faults put in have none.
    """
    lines = clean.read_text().split("\n")[1:]
    extra = {fault.line for fault in dirty.faults if KINDS[fault.kind].extra}
    found, at = {}, 0
    none = sum(fault.outcome == "no row" for fault in dirty.faults)
    for number in range(2, dirty.rows + none + 2):
        if number not in extra:
            found[number] = lines[at]
            at += 1
    assert lines[at:] == [""], "the two files are not of the same month"
    return found


def repaired(export: Path, right: dict[tuple[str, int], str], delimiter: str) -> Path:
    """Repair an export as a person with a spreadsheet does; return what was saved."""
    text = export.read_bytes().decode("utf-8-sig")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    at = {name: position for position, name in enumerate(header)}
    for row in rows:
        line = right.get((row[at["file"]], int(row[at["line_no"]])))
        if line is None:
            continue  # nobody can say what it should be
        before = list(row)
        names = [n for n in header[4:] if not n.startswith("extra_")]
        own = [n for n in names if n in OWN[row[at["file"]]]]
        for name, cell in zip(own, line.split(delimiter), strict=True):
            row[at[name]] = cell
        for name in header:
            if name.startswith("extra_"):
                row[at[name]] = ""
        if row == before:  # it lacks nothing but an empty cell at its end
            row[at["reasons"]] = ""
    rows.sort(key=lambda row: row[at["reasons"]])
    saved = export.with_name("repaired in a spreadsheet.csv")
    with saved.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([header, *rows])
    return saved


OWN: dict[str, list[str]] = {}


def give_up(home: Home, names: set[str]) -> None:
    """Discard what is open of files: one command for each takes its second."""
    engine = store_engine.create(home.url)
    for name in sorted(names):
        entry = targets.one(Workbench(store_engine.reader_of(engine)), name)
        contract = home.settings.site_contract()
        discard.rows(
            home.settings,
            Store(engine),
            contract,
            entry,
            rule=None,
            lines=None,
            by="ivan",
            note="not a reading of its own",
        )
    engine.dispose()


def contents(home: Home) -> dict[str, Any]:
    """Return what analysts see, without the numbers of files."""
    raw = {
        table: {key: reading[:-1] for key, reading in home.raw(table).items()}
        for table in ("raw_particulate", "raw_climate")
    }
    return {**raw, "sensors": home.types()}


@pytest.mark.parametrize(
    "simulation",
    [
        pytest.param(SMALL, id="sofia"),
        pytest.param(replace(SMALL, dialect="archive"), id="archive", marks=pytest.mark.slow),
        pytest.param(MONTH, id="sofia-month", marks=pytest.mark.slow),
        pytest.param(replace(MONTH, dialect="archive"), id="archive-month", marks=pytest.mark.slow),
    ],
)
def test_a_dirty_month_that_was_repaired_equals_the_clean_one(
    new_home: Callable[..., Home], tmp_path: Path, simulation: Simulation
) -> None:
    clean_files = write(replace(simulation, fault_rate=0.0), tmp_path / "clean")
    dirty_files = write(simulation, tmp_path / "dirty")
    clean, dirty = loaded(new_home(), clean_files), loaded(new_home(), dirty_files)
    delimiter = "," if simulation.dialect == "sofia" else ";"
    right = {}
    for spoilt, whole in zip(dirty_files, clean_files, strict=True):
        assert spoilt.path.name == whole.path.name
        names = whole.path.read_text().split("\n", 1)[0].split(delimiter)
        OWN[spoilt.path.name] = [n or f"unnamed_{i}" for i, n in enumerate(names, start=1)]
        for number, line in clean_lines(spoilt, whole.path).items():
            right[spoilt.path.name, number] = line
    faults = {
        (file.path.name, fault.line): fault
        for file in dirty_files
        for fault in file.faults
        if fault.outcome == "quarantined"
    }
    hopeless = {place for place, fault in faults.items() if KINDS[fault.kind].extra}
    assert len(faults) > 60
    assert len(hopeless) > 3

    export = tmp_path / "export.csv"
    exported = told(dirty, "quarantine", "export", "--all", "-o", str(export))
    assert exported["rows"] == len(faults)
    saved = repaired(export, right, delimiter)
    before = dirty.dump()
    dry = told(dirty, "quarantine", "reprocess", str(saved), "--dry-run")
    assert dirty.dump() == before
    done = told(dirty, "quarantine", "reprocess", str(saved))
    for answer in (dry, done):
        back = {
            (one["file"], line)
            for one in answer["files"]
            for line in (*one["loaded"], *one["duplicate"])
        }
        assert back == faults.keys() - hopeless
        still = {(o["file"], f["line_no"]) for o in answer["files"] for f in o["failing"]}
        assert still == hopeless
    give_up(dirty, {name for name, _ in hopeless})

    due, got = contents(clean), contents(dirty)
    for table, readings in due.items():
        assert_same(got[table], readings)
    assert_close(dirty.hourly(), clean.hourly())
    assert_close(dirty.hourly(), dirty.hourly_anew())
    assert_close(dirty.by_file(), dirty.by_file_anew())
    # The books: each file and its replay together are the clean file, but for what was put in.
    books = (
        "SELECT coalesce(parent.name, file.name), sum(file.rows_loaded)"
        " FROM air.source_file AS file LEFT JOIN air.source_file AS parent"
        " ON parent.file_id = file.parent_file_id GROUP BY 1"
    )
    assert dict(dirty.sql(books)) == dict(clean.sql(books))
    listed = told(dirty, "quarantine", "list")
    assert listed["rows"] == {
        "open": 0,
        "repaired": len(faults) - len(hopeless),
        "discarded": len(hopeless),
        "quarantined": len(faults),
    }
    assert dirty.quarantine_names() == []


@pytest.mark.parametrize(
    "simulation",
    [
        pytest.param(replace(SMALL, models=("bme280",), faults=("range_reading",)), id="small"),
        pytest.param(
            replace(MONTH, models=("bme280",), faults=("range_reading",)),
            id="month",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_after_a_change_of_the_contract_exactly_the_rows_of_the_manifest_come_back(
    new_home: Callable[..., Home], tmp_path: Path, simulation: Simulation
) -> None:
    files = write(simulation, tmp_path / "files")
    home = loaded(new_home(), files)
    due: set[tuple[str, int]] = set()
    others: set[tuple[str, int]] = set()
    for file in files:
        lines = file.path.read_text().split("\n")
        at = lines[0].split(",").index("temperature")
        for fault in file.faults:
            cell = float(lines[fault.line - 1].split(",")[at])
            warm = fault.reasons == (("temperature", "range"),) and 50 < cell <= 60
            (due if warm else others).add((file.path.name, fault.line))
    assert len(due) > 2
    assert len(others) > 20

    settings = "[contract.ranges.temperature]\naccept = [-50, 60]\n"
    (home.settings.home / "sofia-air.toml").write_text(settings)
    before = home.dump()
    dry = told(home, "quarantine", "reprocess", "--all", "--dry-run")
    assert home.dump() == before
    done = told(home, "quarantine", "reprocess", "--all")
    for answer in (dry, done):
        assert {(o["file"], line) for o in answer["files"] for line in o["loaded"]} == due
        still = {(o["file"], f["line_no"]) for o in answer["files"] for f in o["failing"]}
        assert still == others
    versions = dict(home.sql("SELECT parent_file_id, contract_version FROM air.source_file"))
    assert versions.pop(None) != load_settings(home.settings.home).site_contract().version
    assert set(versions.values()) == {done["contract_version"]}
    hot = home.sql("SELECT count(*) FROM air.raw_climate WHERE temperature > 50")
    assert hot == [(len(due),)]
    assert_close(home.hourly(), home.hourly_anew())
    again = told(home, "quarantine", "reprocess", "--all")
    assert [one["loaded"] for one in again["files"]] == [[]] * len(again["files"])


# --- What the commands say ------------------------------------------------------------------------


def test_the_commands_say_what_a_person_and_a_script_need(
    new_home: Callable[..., Home], tmp_path: Path
) -> None:
    home = loaded(new_home(), write(replace(SMALL, days=2, models=("sds011",)), tmp_path))
    name = min(home.archived())
    for by in ("file", "reason", "sensor", "age"):
        answer = told(home, "quarantine", "list", "--by", by)
        groups = answer["files"] if by == "file" else answer[f"by_{by}"]
        counted = sum(group["rows"] for group in groups)
        # A row with two reasons counts for each.
        assert counted == answer["rows"]["open"] or (
            by == "reason" and counted > answer["rows"]["open"]
        )
        assert answer["rows"]["open"] == answer["rows"]["quarantined"]
    shown = told(home, "quarantine", "show", name, "--reason", "range")
    assert {reason["rule"] for row in shown["rows"] for reason in row["reasons"]} >= {"range"}

    # A wrong word is 2, what was edited and still fails is 3.
    said = told(home, "quarantine", "reprocess", code=2)
    assert "specify FILE..., --all or --reason" in said
    said = told(home, "quarantine", "discard", name, "--note", " ", code=2)
    assert "--note: say why" in said
    said = told(home, "quarantine", "discard", name, "--line", "1", "--note", "x", code=2)
    assert "no such row is open" in said
    said = told(home, "retract", name, code=2)
    assert "stdin is not a terminal; pass --yes to confirm" in said
    (sheet,) = home.settings.quarantine.glob("*.csv")
    text = sheet.read_bytes().decode("utf-8-sig")
    header, first = text.split("\n")[:2]
    sheet.write_text(f"{header}\n{first.rpartition(',')[0]},-77\n")
    answer = told(home, "quarantine", "reprocess", str(sheet), code=3)
    assert answer["files"][0]["failing"][0]["edited"]

    ((sensor, ts),) = home.sql("SELECT sensor_id, ts FROM air.raw_particulate LIMIT 1")
    answer = told(home, "why", str(sensor), f"{ts:%FT%T}")
    (reading,) = answer["readings"]
    assert reading["line"]["file"] == name
    assert reading["line"]["line"].split(",")[5] == f"{ts:%FT%T}"
    answer = told(home, "retract", name, "--yes", "--note", "a test")
    assert answer["rows"] > 0
    assert home.count("raw_particulate") == 0
    assert "retracted already" in told(home, "retract", name, "--yes", code=2)
