"""The simulator keeps its word: clean rows are clean, and faults are what the manifest says.

Files are looked at with the standard library alone, so that a mistake which the simulator shares
with the pipeline cannot hide; one test then asks the pipeline's own steps.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest

from pipeline.contract import ROW_RULES, Contract
from pipeline.contract.header import recognise
from pipeline.core.normalise import normalise, settle
from pipeline.core.parse import parse
from pipeline.core.sections import Sections
from pipeline.core.validate import validate
from pipeline.errors import DiskTrouble, InvalidArgument
from pipeline.files.read import merged
from pipeline.simulate import (
    FAULT_KINDS,
    Fault,
    SimulatedFile,
    Simulation,
    write,
    write_manifest,
    write_sample_data,
)
from pipeline.simulate.damage import KINDS
from pipeline.simulate.samples import REFUSED

SAMPLE_DATA = Path(__file__).parents[2] / "sample_data"
CONTRACT = Contract.default()

SMALL = Simulation(sensors=4, days=2, start=date(2018, 1, 31))
DIRTY = replace(SMALL, fault_rate=0.1)

# Written down here once more, on purpose: low, high and what a file may never hold.
CLEAN = {
    "P1": (0, 1999.9),
    "P2": (0, 1999.9),
    "P0": (0, 1999.9),
    "temperature": (-50, 50),
    "humidity": (0, 100),
    "pressure": (30_000, 110_000),
}


def content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.name.endswith(".gz") else data


def delimiter(path: Path) -> str:
    return ";" if "_sensor_" in path.name else ","


def clean_rows(file: SimulatedFile) -> list[dict[str, str]]:
    """The lines that are not in the manifest, by column."""
    header, *lines = content(file.path).decode("latin-1").splitlines()
    assert len(lines) == file.rows + sum(fault.outcome == "no row" for fault in file.faults)
    faulty = {fault.line for fault in file.faults}
    kept = [line for number, line in enumerate(lines, start=2) if number not in faulty]
    return list(csv.DictReader([header, *kept], delimiter=delimiter(file.path), strict=True))


def assert_clean(files: list[SimulatedFile]) -> None:
    keys: Counter[tuple[str, str]] = Counter()
    for file in files:
        for row in clean_rows(file):
            assert re.fullmatch(r"[1-9]\d*", row["sensor_id"])
            assert re.fullmatch(r"[1-9]\d*", row["location"])
            assert re.fullmatch(r"42\.[678]\d\d", row["lat"])
            assert re.fullmatch(r"23\.[234]\d\d", row["lon"])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", row["timestamp"])
            time = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC)
            assert datetime(2010, 1, 1, tzinfo=UTC) <= time <= datetime.now(UTC)
            assert file.path.name.startswith((f"{time:%Y-%m}_", f"{time:%Y-%m-%d}_"))
            for column in CLEAN.keys() & row.keys():
                low, high = CLEAN[column]
                assert re.fullmatch(r"-?\d+\.\d\d", row[column])
                assert low <= float(row[column]) <= high
            keys[row["sensor_id"], row["timestamp"]] += 1
    assert keys
    assert set(keys.values()) == {1}


def test_the_same_simulation_gives_the_same_bytes(tmp_path: Path) -> None:
    for number, simulation in enumerate(
        [DIRTY, replace(DIRTY, dialect="archive"), replace(DIRTY, gzip=True)]
    ):
        one = write(simulation, tmp_path / f"{number} one")
        two = write(simulation, tmp_path / f"{number} two")
        assert [file.path.name for file in one] == [file.path.name for file in two]
        assert [file.path.read_bytes() for file in one] == [file.path.read_bytes() for file in two]
        assert [file.faults for file in one] == [file.faults for file in two]


def test_another_seed_gives_another_air_and_other_faults(tmp_path: Path) -> None:
    one = write(DIRTY, tmp_path / "one")
    two = write(replace(DIRTY, seed=2), tmp_path / "two")
    assert [file.faults for file in one] != [file.faults for file in two]
    assert clean_rows(one[0])[0]["P1"] != clean_rows(two[0])[0]["P1"]
    assert clean_rows(one[0])[0]["sensor_id"] != clean_rows(two[0])[0]["sensor_id"]


def test_a_day_is_the_same_alone_and_among_others(tmp_path: Path) -> None:
    run = replace(SMALL, dialect="archive", days=3, start=date(2018, 1, 3))
    among = {f.path.name: f.path.read_bytes() for f in write(run, tmp_path / "among")}
    alone = write(replace(run, days=1, start=run.start + timedelta(days=1)), tmp_path / "alone")
    assert len(alone) == 2 * run.sensors
    assert all(among[file.path.name] == file.path.read_bytes() for file in alone)


def test_how_much_is_made_at_a_time_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(SMALL, rows=6000, start=date(2018, 1, 30))
    dirty = replace(run, fault_rate=0.1)
    at_once = write(run, tmp_path / "at once")
    monkeypatch.setattr("pipeline.simulate.files._ROWS_AT_A_TIME", 1)
    by_day = write(run, tmp_path / "by day")
    assert [file.path.read_bytes() for file in at_once] == [
        file.path.read_bytes() for file in by_day
    ]
    for clean, faulty in zip(by_day, write(dirty, tmp_path / "dirty"), strict=True):
        hit = sum(not KINDS[fault.kind].extra for fault in faulty.faults)
        assert len(clean_rows(faulty)) == clean.rows - hit
        assert_clean([faulty])
        assert faulty.faults[0].line < 0.1 * clean.rows < 0.9 * clean.rows < faulty.faults[-1].line


def test_compressing_changes_nothing_else(tmp_path: Path) -> None:
    plain = write(DIRTY, tmp_path / "plain")
    packed = write(replace(DIRTY, gzip=True), tmp_path / "packed")
    assert [f"{file.path.name}.gz" for file in plain] == [file.path.name for file in packed]
    assert [content(file.path) for file in plain] == [content(file.path) for file in packed]
    assert packed[0].path.read_bytes()[4:8] == b"\0\0\0\0"  # no time of writing inside


@pytest.mark.parametrize("season", [date(2018, 1, 1), date(2018, 7, 10)])
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_clean_rows_keep_the_contract(tmp_path: Path, season: date, rate: float) -> None:
    run = Simulation(sensors=2, start=season, days=2, fault_rate=rate)
    assert_clean(write(run, tmp_path / "sofia"))
    assert_clean(write(replace(run, dialect="archive"), tmp_path / "archive"))


def test_every_model_has_archive_files(tmp_path: Path) -> None:
    run = Simulation(sensors=1, dialect="archive", models=tuple(CONTRACT.models))
    files = write(run, tmp_path)
    assert_clean(files)
    assert len(files) == len(CONTRACT.models)
    for file, model in zip(files, CONTRACT.models.values(), strict=True):
        header = recognise(content(file.path).decode().partition("\n")[0], CONTRACT)
        assert model in header.models
        assert set(header.names) >= {*model.columns, *model.other}
        assert {row["sensor_type"] for row in clean_rows(file)} == {model.name.upper()}


def test_headers_are_those_of_real_files(tmp_path: Path) -> None:
    prefix = "sensor_id;sensor_type;location;lat;lon;timestamp;"
    expected = {
        "sds011": prefix + "P1;durP1;ratioP1;P2;durP2;ratioP2",
        "bme280": prefix + "pressure;altitude;pressure_sealevel;temperature;humidity",
        "bmp180": prefix + "pressure;altitude;pressure_sealevel;temperature",
        "dht22": prefix + "temperature;humidity",
        "sps30": prefix + "P1;P4;P2;P0;N10;N4;N25;N1;N05;TS",
        "nextpm": prefix + "P1;P2;P0;N1;N25;N10",
    }
    run = Simulation(sensors=1, dialect="archive", models=tuple(expected))
    headers = [content(f.path).decode().partition("\n")[0] for f in write(run, tmp_path)]
    assert headers == list(expected.values())
    sofia = {
        True: ",sensor_id,location,lat,lon,timestamp,pressure,temperature,humidity",
        False: "sensor_id,location,lat,lon,timestamp,pressure,temperature,humidity",
    }
    for index, header in sofia.items():
        run = Simulation(sensors=1, models=("bme280",), index_column=index)
        assert content(write(run, tmp_path)[0].path).decode().partition("\n")[0] == header


def test_sofia_files_are_monthly_and_in_the_order_of_time(tmp_path: Path) -> None:
    files = write(SMALL, tmp_path)
    assert [file.path.name for file in files] == [
        "2018-01_sds011sof.csv",
        "2018-02_sds011sof.csv",
        "2018-01_bme280sof.csv",
        "2018-02_bme280sof.csv",
    ]
    for file in files:
        rows = clean_rows(file)
        times = [row["timestamp"] for row in rows]
        assert times == sorted(times)
        assert len({row["sensor_id"] for row in rows}) == SMALL.sensors
        assert [row[""] for row in rows] == [str(number) for number in range(len(rows))]


def test_archive_files_hold_one_sensor_and_day_each(tmp_path: Path) -> None:
    files = write(replace(SMALL, dialect="archive"), tmp_path)
    assert len(files) == 2 * SMALL.days * SMALL.sensors
    for file in files:
        rows = clean_rows(file)
        day, model, _, sensor = file.path.stem.split("_")
        assert {row["timestamp"][:10] for row in rows} == {day}
        assert {row["sensor_id"] for row in rows} == {sensor}
        assert {row["sensor_type"].lower() for row in rows} == {model}
        times = [row["timestamp"] for row in rows]
        assert times == sorted(times)


def test_sensors_report_every_148_seconds_with_gaps(tmp_path: Path) -> None:
    times = defaultdict(list)
    for file in write(Simulation(sensors=10, days=10, models=("sds011",)), tmp_path):
        for row in clean_rows(file):
            times[row["sensor_id"]].append(datetime.fromisoformat(row["timestamp"]))
    steps = [
        (later - earlier).total_seconds()
        for series in times.values()
        for earlier, later in pairwise(series)
    ]
    assert median(steps) == pytest.approx(148, abs=1)
    assert min(steps) > 60
    assert 0.5 < mean(143 <= step <= 153 for step in steps) < 0.99
    assert any(step > 290 for step in steps)
    assert any(step > 1800 for step in steps)


def test_the_next_id_at_the_same_place_is_the_station_s_other_sensor(tmp_path: Path) -> None:
    files = write(replace(SMALL, start=date(2018, 1, 1)), tmp_path)
    places = [
        {int(row["sensor_id"]): (row["location"], row["lat"], row["lon"]) for row in clean_rows(f)}
        for f in files
    ]
    assert len(places) == 2
    assert {sensor + 1: place for sensor, place in places[0].items()} == places[1]
    assert len(set(places[0].values())) == SMALL.sensors


@pytest.mark.parametrize("dialect", ["sofia", "archive"])
def test_rows_decide_how_long_it_takes(tmp_path: Path, dialect: str) -> None:
    run = Simulation(sensors=3, rows=5000, dialect="archive" if dialect == "archive" else "sofia")
    totals: Counter[str] = Counter()
    for file in write(run, tmp_path):
        totals["sds011" if "sds011" in file.path.name else "bme280"] += len(clean_rows(file))
    assert totals == {"sds011": 5000, "bme280": 5000}


def test_the_air_has_seasons_and_days(tmp_path: Path) -> None:
    rows: dict[str, list[dict[str, str]]] = {}
    for name, start in {"winter": date(2018, 1, 1), "summer": date(2018, 7, 1)}.items():
        run = Simulation(sensors=1, days=31, start=start)
        for file in write(run, tmp_path / name):
            rows[f"{name} {file.path.stem[8:14]}"] = clean_rows(file)

    def average(key: str, column: str, hours: tuple[int, ...] = tuple(range(24))) -> float:
        return mean(
            float(row[column]) for row in rows[key] if int(row["timestamp"][11:13]) in hours
        )

    for particulate in (rows["winter sds011"], rows["summer sds011"]):
        assert all(float(row["P2"]) < float(row["P1"]) for row in particulate)
    assert average("winter sds011", "P1") > 2 * average("summer sds011", "P1")
    assert max(float(row["P1"]) for row in rows["winter sds011"]) > 200
    assert (
        average("winter bme280", "temperature") < 5 < 15 < average("summer bme280", "temperature")
    )
    noon, night = (10, 11, 12, 13), (0, 1, 2, 3)
    for season in ("winter bme280", "summer bme280"):
        assert average(season, "temperature", noon) > average(season, "temperature", night) + 3
        assert average(season, "humidity", noon) < average(season, "humidity", night) - 10
        assert average(season, "pressure") == pytest.approx(95_000, abs=1500)


def test_clean_rows_follow_a_site_s_own_ranges(tmp_path: Path) -> None:
    own = Contract.with_overrides(
        {"pm10": {"accept": (25.005, 40.0)}, "temperature": {"accept": (1.0, 2.0)}}, {}
    )
    files = write(replace(SMALL, start=date(2018, 1, 1)), tmp_path, own)
    values = {
        column: [float(row[column]) for row in clean_rows(file)]
        for file, column in zip(files, ["P1", "temperature"], strict=True)
    }
    assert (min(values["P1"]), max(values["P1"])) == (25.01, 40.0)
    assert (min(values["temperature"]), max(values["temperature"])) == (1.0, 2.0)


# ---- faults ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> list[SimulatedFile]:
    """Every kind of fault many times, in both dialects."""
    folder = tmp_path_factory.mktemp("dirty")
    run = replace(DIRTY, sensors=6, fault_rate=0.2)
    return write(run, folder / "sofia") + write(replace(run, dialect="archive"), folder / "archive")


def test_every_kind_occurs_about_as_often(dirty: list[SimulatedFile]) -> None:
    for dialect, without in {",": {"null_sensor_type", "model"}, ";": set[str]()}.items():
        files = [file for file in dirty if delimiter(file.path) == dialect]
        kinds = Counter(fault.kind for file in files for fault in file.faults)
        assert set(kinds) == set(FAULT_KINDS) - without
        del kinds["unit"]  # only half of the files, those with a pressure, can have it
        assert max(kinds.values()) - min(kinds.values()) <= len(SMALL.models)
        total = sum(file.rows for file in files)
        assert sum(len(file.faults) for file in files) == pytest.approx(0.2 * total, rel=0.01)


def test_small_files_get_their_share_of_rare_faults(tmp_path: Path) -> None:
    run = Simulation(sensors=10, days=10, dialect="archive", models=("sds011",), fault_rate=0.001)
    files = write(run, tmp_path)
    total = sum(file.rows for file in files)
    assert sum(len(file.faults) for file in files) == pytest.approx(0.001 * total, abs=1)
    assert max(len(file.faults) for file in files) == 1


def test_faults_break_the_documented_rules_and_all_of_them(dirty: list[SimulatedFile]) -> None:
    faults = [fault for file in dirty for fault in file.faults]
    # Of other headers and sensor types, files are made by hand where they are tested.
    others = {"repeated_header", "unknown_section", "not_stored"}
    assert {rule for fault in faults for _, rule in fault.reasons} == set(ROW_RULES) - others
    for fault in faults:
        outcomes = {"duplicate": "duplicate", "repeated_header": "no row"}
        assert fault.outcome == outcomes.get(fault.kind, "quarantined")
        reasons = {"duplicate": 0, "repeated_header": 0, "two_cells": 2}
        assert len(fault.reasons) == reasons.get(fault.kind, 1)


def test_chosen_kinds_are_the_only_ones(tmp_path: Path) -> None:
    chosen = ("unit", "width")
    files = write(replace(DIRTY, faults=chosen, models=("bme280",)), tmp_path)
    assert {fault.kind for file in files for fault in file.faults} == set(chosen)


READINGS = set(CLEAN)
PLACE = {"lat", "lon", "location"}

# Kind → where it strikes, and which rule it breaks there.
STRIKES: dict[str, tuple[set[str], str]] = {
    "null_reading": (READINGS, "null"),
    "null_sensor_id": ({"sensor_id"}, "null"),
    "null_timestamp": ({"timestamp"}, "null"),
    "null_sensor_type": ({"sensor_type"}, "null"),
    "type_reading": (READINGS, "type"),
    "type_sensor_id": ({"sensor_id"}, "type"),
    "type_place": (PLACE, "type"),
    "not_finite": (READINGS, "not_finite"),
    "range_reading": (READINGS, "range"),
    "range_sensor_id": ({"sensor_id"}, "range"),
    "range_timestamp": ({"timestamp"}, "range"),
    "range_place": (PLACE, "range"),
    "sentinel": (READINGS, "sentinel"),
    "unit": ({"pressure"}, "unit"),
    "decimal_comma": (READINGS, "decimal_comma"),
    "timestamp": ({"timestamp"}, "timestamp"),
    "spreadsheet_date": ({"timestamp"}, "spreadsheet_date"),
    "null_island": ({"lat,lon"}, "null_island"),
    "model": ({"sensor_type"}, "model"),
}

# Rule → what a cell that breaks it looks like.
LOOKS = {
    "null": "",
    "type": r"[A-Za-z/?]+|\d+\.5|\d+[N-]\d+",
    "not_finite": "nan|NaN|-?inf",
    "unit": r"9\d\d\.\d\d",
    "decimal_comma": r"-?\d+,\d\d",
    "timestamp": r"2018-13-45T00:00:00|2018-02-30T[\d:]{8}|yesterday|2018-0\d-\d\d",
    "spreadsheet_date": r"\d\d/\d\d/2018 \d\d:\d\d|\d/\d+/2018 \d+:\d\d"
    r"|\d\d\.\d\d\.18 \d\d:\d\d|4313\d\.\d{5}",
    "model": "XYZ99|unknown",
}


def is_broken(column: str, rule: str, cell: str) -> bool:
    """Whether a cell breaks a rule, as far as the standard library can tell."""
    if rule == "type" and column != "sensor_id" and re.fullmatch(r"[\d.]+", cell):
        return False
    if rule in LOOKS:
        return bool(re.fullmatch(LOOKS[rule], cell))
    if column == "timestamp":
        return cell in {"1970-01-01T00:00:00", "2999-12-31T23:59:59"}
    codes = {-999.0, -9999.0, -128.0 if column == "temperature" else -1.0}
    value = float(cell)
    if rule == "sentinel":
        return value in codes
    ids, degrees = (1, 2**31 - 1), {"lat": (-90, 90), "lon": (-180, 180)}
    low, high = (CLEAN | degrees).get(column, ids)
    # A value that another rule explains better is not called out of range.
    better = column in READINGS and value in codes
    better |= column == "pressure" and 300 <= value <= 1100
    return not low <= value <= high and not better


def test_faulty_lines_are_what_the_manifest_says(dirty: list[SimulatedFile]) -> None:
    seen: set[str] = set()
    for file in dirty:
        lines = content(file.path).split(b"\n")
        assert lines.pop() == b""
        faulty = {fault.line for fault in file.faults}
        assert [fault.line for fault in file.faults] == sorted(faulty)
        header = lines[0].decode()
        mark = delimiter(file.path)
        columns = header.split(mark)
        key = slice(columns.index("sensor_id"), columns.index("timestamp") + 1)
        for fault in file.faults:
            seen.add(fault.kind)
            line = lines[fault.line - 1]
            earlier = [
                other
                for number, other in enumerate(lines[: fault.line - 1], start=1)
                if number not in faulty
            ]
            text = line.decode("latin-1")
            if fault.kind in STRIKES or fault.kind == "two_cells":
                (fields,) = csv.reader([text], delimiter=mark, strict=True)
                row = dict(zip(columns, fields, strict=True))
                struck = {str(column): rule for column, rule in fault.reasons}
                for column, rule in struck.items():
                    if fault.kind != "two_cells":
                        assert column in STRIKES[fault.kind][0]
                        assert rule == STRIKES[fault.kind][1]
                    if rule == "null_island":
                        assert float(row["lat"]) == float(row["lon"]) == 0
                    else:
                        assert is_broken(column, rule, row[column]), (fault, text)
                if fault.kind == "two_cells":
                    assert len(struck) == 2
                    assert list(struck) == sorted(struck, key=columns.index)
            elif fault.kind == "width":
                assert abs(text.count(mark) - header.count(mark)) == 1
            elif fault.kind == "quote":
                assert text.count('"') == 1
                assert f'{mark}"' not in text
                assert f'"{mark}' not in text
            elif fault.kind == "nul_byte":
                assert line.count(b"\0") == 1
            elif fault.kind == "encoding":
                with pytest.raises(UnicodeDecodeError):
                    line.decode()
            elif fault.kind == "repeated_header":
                assert text == header
            elif fault.kind == "duplicate":
                assert line in earlier
            elif fault.kind == "conflict":
                fields = text.split(mark)
                (partner,) = [
                    other
                    for raw in earlier
                    if (other := raw.decode().split(mark))[key] == fields[key]
                ]
                assert all(
                    abs(float(ours) - float(theirs)) > 0.1
                    for ours, theirs, name in zip(fields, partner, columns, strict=True)
                    if name in CLEAN
                )
            else:
                pytest.fail(f"nothing is known of {fault.kind}")
    assert seen == set(FAULT_KINDS)


def test_out_of_range_is_not_what_another_rule_explains_better(tmp_path: Path) -> None:
    # A draw that hits a code, or hPa, by chance is rare: many are needed to see one.
    run = Simulation(sensors=20, days=2, models=("bme280",))
    for file in write(replace(run, faults=("range_reading",), fault_rate=0.5), tmp_path):
        header, *lines = content(file.path).decode().splitlines()
        columns = header.split(",")
        for fault in file.faults:
            ((column, rule),) = fault.reasons
            cell = lines[fault.line - 2].split(",")[columns.index(str(column))]
            assert is_broken(str(column), rule, cell), (column, cell)


def test_no_two_faults_refer_to_the_same_line(dirty: list[SimulatedFile]) -> None:
    for file in dirty:
        lines = content(file.path).split(b"\n")
        extra = [f for f in file.faults if f.kind in {"duplicate", "conflict"}]
        mark = delimiter(file.path).encode()
        at = lines[0].split(mark).index(b"sensor_id")
        time = lines[0].split(mark).index(b"timestamp")
        keys = Counter(
            (fields[at], fields[time]) for f in extra if (fields := lines[f.line - 1].split(mark))
        )
        assert set(keys.values()) <= {1}


@pytest.mark.parametrize(
    "run",
    [
        Simulation(sensors=6, days=2, fault_rate=0.3),
        Simulation(sensors=3, fault_rate=0.5, index_column=False, models=("dht22", "pms5003")),
        Simulation(
            sensors=2,
            dialect="archive",
            fault_rate=0.3,
            models=("sds011", "bme280", "ds18b20", "sps30", "bmp180"),
        ),
    ],
    ids=["sofia", "sofia's other models", "archive"],
)
def test_the_pipeline_s_own_verdict_is_the_manifest(tmp_path: Path, run: Simulation) -> None:
    for file in write(run, tmp_path):
        header, _, body = content(file.path).partition(b"\n")
        ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n")) + 1
        sections = Sections(0, recognise(header.decode(), CONTRACT), CONTRACT).cut(body, ends, 2)
        (block,) = merged(sections, len(body))
        rows = parse(block)
        valid, found = validate(rows, CONTRACT, datetime.now(UTC))
        rejected = [*found, *rows.rejected]
        duplicates = 0
        for group in valid:
            readings, repeats = normalise(group, rows, CONTRACT)
            repeated, conflicts = settle(readings, repeats, rows, [file.path.name], {})
            rejected += conflicts
            duplicates += sum(repeated.values())
            assert not readings.frame["flags"].any()
        verdict = {
            row.line_no: tuple((reason.column, reason.rule) for reason in row.reasons)
            for row in rejected
        }
        assert verdict == {f.line: f.reasons for f in file.faults if f.outcome == "quarantined"}
        assert duplicates == sum(f.outcome == "duplicate" for f in file.faults)


def test_the_manifest_is_one_object_a_faulty_line(tmp_path: Path) -> None:
    files = write(DIRTY, tmp_path)
    write_manifest(files, tmp_path / "manifest.jsonl")
    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert entries == [
        {
            "file": file.path.name,
            "line": fault.line,
            "kind": fault.kind,
            "outcome": fault.outcome,
            "reasons": [list(reason) for reason in fault.reasons],
        }
        for file in files
        for fault in file.faults
    ]


# ---- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "key"),
    [
        (Simulation(sensors=0), "sensors"),
        (Simulation(days=0), "days"),
        (Simulation(rows=0), "rows"),
        (Simulation(models=()), "models"),
        (Simulation(models=("sds011", "sds011")), "models"),
        (Simulation(models=("sds012",)), "models: 'sds012'"),
        (Simulation(models=("bmp180",)), "models: a Sofia file of bmp180"),
        (Simulation(fault_rate=0.6), "fault_rate"),
        (Simulation(faults=("rust",)), "faults: 'rust'"),
        (Simulation(faults=("model",), fault_rate=0.1), "faults: none"),
        (Simulation(start=date(2009, 12, 31)), "start"),
        (Simulation(start=datetime.now(UTC).date(), days=2), "days"),
        (Simulation(sensors=1, rows=10**9), "rows"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(tmp_path: Path, run: Simulation, key: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^{re.escape(key)}"):
        write(run, tmp_path / "out")
    assert not list(tmp_path.rglob("*.csv"))


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "2018-01_sds011sof.csv").write_text("older")
    seen: list[str] = []

    def inject(_self: object, text: bytes, _line: int) -> tuple[bytes, list[Fault]]:
        seen.extend(path.name for path in tmp_path.iterdir())
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("pipeline.simulate.faults.Injector.inject", inject)
    with pytest.raises(DiskTrouble, match=r"2018-01_sds011sof\.csv: .*no space"):
        write(SMALL, tmp_path)
    # While it was being made it had a name that the pipeline leaves alone.
    draft, whole = sorted(seen)
    assert re.fullmatch(r"\.sofia-air\.[0-9a-f]{16}\.part", draft)
    assert whole == "2018-01_sds011sof.csv"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [
        ("2018-01_sds011sof.csv", "older")
    ]


# ---- sample_data/ ------------------------------------------------------------------------------


def test_the_committed_samples_are_what_would_be_made_today(tmp_path: Path) -> None:
    write_sample_data(tmp_path)
    made = {path.name: path for path in tmp_path.iterdir()}
    committed = {path.name: path for path in SAMPLE_DATA.iterdir() if path.name != ".gitkeep"}
    assert committed.keys() == made.keys()
    for name, path in committed.items():
        if name.endswith(".gz"):
            # Another zlib may pack the same text into other bytes, and so cut it elsewhere.
            ours, theirs = inflated(path), inflated(made[name])
            assert ours.startswith(theirs) or theirs.startswith(ours)
            assert ours == theirs or name in REFUSED
        else:
            assert path.read_bytes() == made[name].read_bytes(), name
    assert sum(path.stat().st_size for path in committed.values()) < 600_000


def inflated(path: Path) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(path.read_bytes())


def test_the_samples_show_everything(tmp_path: Path) -> None:
    files = write_sample_data(tmp_path)
    assert_clean(files)
    assert {fault.kind for file in files for fault in file.faults} == set(FAULT_KINDS)
    (smog,) = [file for file in files if file.path.name == "2018-01_sds011sof.csv"]
    values = [float(row["P1"]) for row in clean_rows(smog)]
    assert mean(values[:200]) < 40
    assert max(values) > 300
    readme = (tmp_path / "README.md").read_text()
    for path in tmp_path.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme
    for name in REFUSED:
        assert (tmp_path / name).exists()
    with pytest.raises(EOFError):
        gzip.decompress((tmp_path / next(iter(REFUSED))).read_bytes())
