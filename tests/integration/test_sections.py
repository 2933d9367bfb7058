"""Files that were joined of several: every row is read under the header above it, or rejected."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSite, Site

ROOT = Path(__file__).parents[2]
CASES = next(
    (found for above in ROOT.parents if (found := above / "shared" / "cases").is_dir()),
    ROOT.parent / "shared" / "cases",
)
PREFIX = "sensor_id;sensor_type;location;lat;lon;timestamp;"
PM = f"{PREFIX}P1;P2\n"
SWAPPED = f"{PREFIX}P2;P1\n"
SDS = f"{PREFIX}P1;durP1;ratioP1;P2;durP2;ratioP2\n"
TH = f"{PREFIX}temperature;humidity\n"
HT = f"{PREFIX}humidity;temperature\n"
SOFIA_PM = ",sensor_id,location,lat,lon,timestamp,P1,P2\n"
SOFIA_TH = ",sensor_id,location,lat,lon,timestamp,temperature,humidity\n"


def particulate(site: Site) -> list[tuple[int, float, float]]:
    """Return sensor, PM10 and PM2.5 of everything stored."""
    found = site.sql("SELECT sensor_id, pm10, pm25 FROM air.raw_particulate ORDER BY 1, ts")
    return [(sensor, round(pm10, 2), round(pm25, 2)) for sensor, pm10, pm25 in found]


def climate(site: Site) -> list[tuple[int, float, float]]:
    """Return sensor, temperature and humidity of everything stored."""
    found = site.sql("SELECT sensor_id, temperature, humidity FROM air.raw_climate ORDER BY 1, ts")
    return [(sensor, round(t, 2), round(h, 2)) for sensor, t, h in found]


def row(second: int, *values: object, sensor: int = 5, kind: str = "SDS011") -> str:
    """Return an archive row."""
    time = f"2020-06-06T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return ";".join(map(str, (sensor, kind, 7, 42.689, 23.341, time, *values))) + "\n"


def sofia(second: int, *values: object, sensor: int = 5) -> str:
    """Return a row of the Sofia set."""
    time = f"2020-06-06T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return ",".join(map(str, (0, sensor, 42, 42.689, 23.341, time, *values))) + "\n"


# --- the rows below another header ----------------------------------------------------------------


def test_climate_below_particulate_of_the_same_width_is_not_stored_as_particulate(
    site: Site,
) -> None:
    text = SOFIA_PM + sofia(0, 9.53, 2.83) + SOFIA_TH + sofia(1, 21.4, 55.1, sensor=6)
    site.load(text + sofia(120, 21.3, 55.3, sensor=6))
    assert site.counts() == (3, 3, 0, 0)
    assert particulate(site) == [(5, 9.53, 2.83)]
    assert climate(site) == [(6, 21.4, 55.1), (6, 21.3, 55.3)]


@pytest.mark.parametrize(
    ("first", "second"), [(PM, SWAPPED), (PM, SWAPPED.upper()), (PM, "\ufeff" + SWAPPED)]
)
def test_columns_in_another_order_are_not_swapped(first: str, second: str, site: Site) -> None:
    site.load(first + row(0, 30, 15) + second + row(180, 15, 30))
    assert site.counts() == (2, 2, 0, 0)
    assert particulate(site) == [(5, 30, 15), (5, 30, 15)]


def test_temperature_and_humidity_in_another_order(site: Site) -> None:
    first, second = row(0, 21.4, 55.1, kind="DHT22"), row(120, 45.1, 21.4, kind="DHT22")
    site.load(TH + first + HT + second)
    assert climate(site) == [(5, 21.4, 55.1), (5, 21.4, 45.1)]


@pytest.mark.parametrize(
    ("name", "pm", "th"),
    [
        ("e31_cat_sofia_pm_then_th", [(500031, 9.53, 2.83)], [(21.4, 55.1), (21.3, 55.3)]),
        ("e32_cat_bmp_orders", [], [(21.4, 55.1), (21.4, 45.1)]),
        ("e09_cat_swapped_columns", [(500012, 30, 15), (500012, 30, 15)], []),
    ],
)
def test_cases(
    name: str, pm: list[tuple[int, float, float]], th: list[tuple[float, float]], site: Site
) -> None:
    if not (path := CASES / f"{name}.csv").exists():
        pytest.skip("the cases are not here")
    site.load(path.read_bytes())
    assert particulate(site) == pm
    assert [(t, h) for _, t, h in climate(site)] == th
    assert site.rejected() == {}


@pytest.mark.parametrize("header", [SOFIA_TH, TH, TH.replace(";", "\t"), TH.replace(";", "|")])
def test_another_dialect_and_delimiter(header: str, site: Site) -> None:
    mark = next(mark for mark in ",;\t|" if mark in header)
    below = (
        sofia(9, 20.5, 60.5, sensor=6)
        if header == SOFIA_TH
        else row(9, 20.5, 60.5, sensor=6, kind="DHT22").replace(";", mark)
    )
    site.load(SDS + row(0, 9.5, "", "", 2.5, "", "") + header + below)
    assert site.counts() == (2, 2, 0, 0)
    assert particulate(site) == [(5, 9.5, 2.5)]
    assert climate(site) == [(6, 20.5, 60.5)]


def test_the_same_header_again_is_no_row(site: Site) -> None:
    site.load(PM + row(0, 9, 5) + PM + row(9, 8, 4) + PM + PM + row(18, 7, 3))
    assert site.counts() == (3, 3, 0, 0)
    assert site.sql("SELECT * FROM air.source_section") == []


def test_a_file_without_its_last_line_end_is_joined_to_the_next_ones_header(site: Site) -> None:
    first = SOFIA_PM + sofia(0, 9.53, 2.83).rstrip()
    second = SDS + row(1, 30, "", "", 15, "", "").rstrip()
    third = TH + row(2, 21.4, 55.1, sensor=6, kind="DHT22").rstrip()
    site.load(first + second + third + "\ufeff" + HT + row(3, 45, 20, sensor=6, kind="DHT22"))
    assert site.counts() == (4, 4, 0, 0)
    assert particulate(site) == [(5, 9.53, 2.83), (5, 30, 15)]
    assert climate(site) == [(6, 21.4, 55.1), (6, 20, 45)]


@pytest.mark.parametrize("cut", ["2", "-1;", "2;;", '"2";', "2017-07-01T00:02:09+03:60;;"])
def test_a_row_that_was_cut_in_front_of_the_next_header_is_counted(cut: str, site: Site) -> None:
    site.load(SOFIA_PM + sofia(0, 9.53, 2.83) + cut + PM + row(1, 30, 15))
    assert site.counts() == (3, 2, 0, 1)


def test_where_a_row_came_from_is_known_by_its_line(site: Site) -> None:
    site.load(PM + row(0, 9, 5) + TH + row(1, 99, 55, kind="DHT22") + SWAPPED + row(2, 7, "x"))
    assert {line: dict(bad.rules) for line, bad in site.rejected().items()} == {
        4: {"range": 1},
        6: {"type": 1},
    }
    assert [reason["column"] for reason in site.rejected()[6].reasons] == ["P1"]
    assert site.sql("SELECT first_line, header FROM air.source_section ORDER BY 1") == [
        (4, TH.rstrip()),
        (6, SWAPPED.rstrip()),
    ]
    assert site.ledger()["header"] == PM.rstrip()


# --- headers that are not understood --------------------------------------------------------------

NOT_UNDERSTOOD = {
    "a key is missing": (PREFIX.replace("timestamp", "when") + "P1;P2\n", "unknown_section"),
    "readings are missing": (PREFIX + "value_type;value\n", "unknown_section"),
    "noise": (PREFIX + "noise_LAeq;noise_LA_max\n", "not_stored"),
    "other words": ("id;type;place;latitude;longitude;time;pm25;pm10\n", "unknown_section"),
    "other words in quotes": (
        '"id";"type";"place";"latitude";"longitude";"time";"pm2.5";"pm10"\n',
        "unknown_section",
    ),
    "a column twice": (PREFIX + "P1;P1\n", "unknown_section"),
    "another delimiter": ("sensor_id,timestamp,P1,P2\n", "unknown_section"),
    "too long": (PREFIX + "P2;P1;" + "x" * 20_000 + "\n", "unknown_section"),
    "a NUL byte": (PREFIX + "P2;P1;\0\n", "unknown_section"),
    "capitals": ("SENSORID;SENSOR_TYPE;LOCATION;LAT;LON;TIMESTAMP;P2;P1\n", "unknown_section"),
}


@pytest.mark.parametrize(("header", "rule"), NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_rows_below_a_header_that_is_not_understood_are_rejected(
    header: str, rule: str, site: Site
) -> None:
    site.load(PM + row(0, 9, 5) + header + row(1, 8, 4) + row(2, 7, 3) + SWAPPED + row(3, 2, 6))
    assert site.counts() == (5, 2, 0, 3)
    assert particulate(site) == [(5, 9, 5), (5, 6, 2)]
    assert [(line, dict(bad.rules)) for line, bad in site.rejected().items()] == [
        (line, {rule: 1}) for line in (3, 4, 5)
    ]
    assert "not understood" in site.rejected()[4].reasons[0]["message"]


def test_a_header_that_is_not_utf8_is_not_understood(site: Site) -> None:
    header = f"{PREFIX}P2;P1;\xb5\n".encode("latin-1")
    site.load((PM + row(0, 9, 5)).encode() + header + row(1, 8, 4).encode())
    assert site.counts() == (3, 1, 0, 2)
    assert {rule for bad in site.rejected().values() for rule in bad.rules} == {"unknown_section"}
    assert site.rejected()[3].exact == header.rstrip()


@pytest.mark.parametrize(
    "bad",
    [
        "abc;SDS011;7;42.689;23.341;2020-06-06T00:01:00;9;5\n",
        ";SDS011;;;;;;\n",
        "sensor_id;SDS011;7;42.689;23.341;2020-06-06T00:01:00;9;5\n",
        "nan;nan;nan;nan;nan;nan;nan;nan\n",
        "one;two;three\n",
        "# a remark; with words; of all kinds\n",
        "P1\n",
        "unknown;unknown;unknown;unknown;unknown;unknown;unknown;unknown\n",
    ],
)
def test_a_damaged_row_is_no_header(bad: str, site: Site) -> None:
    site.load(PM + row(0, 9, 5) + bad + row(1, 8, 4))
    assert site.counts() == (3, 2, 0, 1)


# --- the same as one by one -----------------------------------------------------------------------

HEADERS = [PM, SWAPPED, SDS, TH, HT, SOFIA_PM, SOFIA_TH, SOFIA_PM[1:], PM.replace(";", ",")]


@st.composite
def valid_files(draw: st.DrawFn) -> list[bytes]:
    """Files of different kinds, with bad rows among good ones, no two with the same reading."""
    files = []
    for number in range(draw(st.integers(2, 5))):
        header = draw(st.sampled_from(HEADERS))
        mark = max(";,", key=header.count)
        names = header.rstrip().split(mark)
        lines = [header]
        for second in range(draw(st.integers(0, 4))):
            cells = {
                "": second,
                "sensor_id": draw(st.sampled_from([5, 6, "x"])),
                "sensor_type": "SDS011" if "P1" in names else "DHT22",
                "location": 7,
                "lat": 42.689,
                "lon": 23.341,
                "timestamp": f"2020-06-{number + 1:02}T00:00:{second:02}",
                "durP1": "",
                "ratioP1": "",
                "durP2": "",
                "ratioP2": "",
            }
            value = st.sampled_from([1.5, 20, 45.25, 300, ""])
            lines.append(mark.join(str(cells.get(n, draw(value))) for n in names) + "\n")
        text = "".join(lines)
        end = draw(st.sampled_from(["\n", "\r\n"]))
        text = text.replace("\n", end)
        if draw(st.booleans()) and len(lines) > 1:
            text = text.removesuffix(end)
        files.append(draw(st.sampled_from(["", "\ufeff"])).encode() + text.encode())
    return files


def stored(site: Site) -> dict[str, list[tuple[object, ...]]]:
    """Return what is stored, wherever it came from, and the books of all files together."""
    return {
        "pm": site.sql(
            "SELECT sensor_id, ts, pm10, pm25, pm1, flags FROM air.raw_particulate ORDER BY 1, 2"
        ),
        "climate": site.sql(
            "SELECT sensor_id, ts, temperature, humidity, pressure, flags FROM air.raw_climate"
            " ORDER BY 1, 2"
        ),
        "books": site.sql(
            "SELECT sum(rows_read), sum(rows_loaded), sum(rows_duplicate), sum(rows_quarantined)"
            " FROM air.source_file"
        ),
        "rejected": sorted(
            site.sql(
                "SELECT line, jsonb_path_query_array(reasons, '$[*].rule')::text"
                " FROM air.quarantined_row"
            )
        ),
    }


@pytest.mark.slow
@settings(max_examples=150)
@given(files=valid_files(), block_bytes=st.sampled_from([64 * 2**10, 4 * 2**20]))
def test_joined_files_store_what_they_store_one_by_one(
    make_site: MakeSite, files: list[bytes], block_bytes: int
) -> None:
    check_joined(make_site, files, block_bytes)


def check_joined(make_site: MakeSite, files: Sequence[bytes], block_bytes: int) -> None:
    """Compare what files store one by one with what they store when they are joined."""
    single = make_site(block_bytes=block_bytes)
    for number, file in enumerate(files):
        single.load(file, f"{number}.csv")
    expected = stored(single)
    together = make_site(block_bytes=block_bytes)
    together.load(b"".join(files))
    assert stored(together) == expected


def test_long_sections_go_on_across_blocks(make_site: MakeSite) -> None:
    kinds = [
        (SDS, ("", "", 2.5, "", "")),
        (PM, (2.5,)),
        (SWAPPED, (3.5,)),
        (SDS, ("", "", 4, "", "")),
    ]
    files = [
        (
            header + "".join(row(10_000 * number + second, 9.5, *values) for second in range(1_500))
        ).encode()
        for number, (header, values) in enumerate(kinds)
    ]
    for end in (b"", b"\n"):
        check_joined(make_site, [file.removesuffix(b"\n") + end for file in files], 64 * 2**10)


# --- limits ---------------------------------------------------------------------------------------


def test_a_file_that_is_nothing_but_changes_of_header_is_refused(site: Site) -> None:
    pair = PM + row(0, 9, 5) + SWAPPED + row(1, 5, 9)
    outcome = site.load(pair * 2_000)
    assert outcome.state == "refused"
    assert site.ledger()["rule"] == "too_many_headers"


def test_many_joined_files_of_two_kinds_are_no_trouble(site: Site) -> None:
    files = [
        PM + row(2 * n, 9, 5) + TH + row(2 * n + 1, 20, 50, sensor=6, kind="DHT22")
        for n in range(3_000)
    ]
    site.load("".join(files))
    assert site.counts() == (6_000, 6_000, 0, 0)


# --- repair ---------------------------------------------------------------------------------------


def sheet_of(site: Site) -> Path:
    (path,) = site.quarantine.glob("*.csv")
    return path


def test_each_header_stands_above_its_rows_in_quarantine(site: Site) -> None:
    site.load(PM + row(0, "x", 5) + SOFIA_TH + sofia(1, 99, 55, sensor=6))
    rows = list(csv.reader(io.StringIO(sheet_of(site).read_text("utf-8-sig")), delimiter=";"))
    assert [line[0] for line in rows] == ["line_no", "2", "line_no", "4"]
    assert rows[2][2:] == SOFIA_TH.rstrip().split(",")
    assert rows[3][2:] == sofia(1, 99, 55, sensor=6).rstrip().split(",")
    assert all(len(above) == len(below) for above, below in pairwise(rows) if above[0] == "line_no")
