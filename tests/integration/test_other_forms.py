"""Files that say the same in another form, or something else altogether."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import MakeSite, Site

ROOT = Path(__file__).parents[2]
CASES = next(
    (found for above in ROOT.parents if (found := above / "shared" / "cases").is_dir()),
    ROOT.parent / "shared" / "cases",
)
PREFIX = "sensor_id;sensor_type;location;lat;lon;timestamp;"
PM = f"{PREFIX}P1;P2\n"
SOFIA = ",sensor_id,location,lat,lon,timestamp,P1,P2\n"


def row(time: str = "2018-07-01T00:02:09", p1: object = 9.5, sensor: object = 5) -> str:
    return f"{sensor};SDS011;7;42.689;23.341;{time};{p1};2.5\n"


def case(name: str) -> bytes:
    found = sorted(CASES.glob(f"{name}*"))
    if not found:
        pytest.skip("the cases are not here")
    return found[0].read_bytes()


# --- line ends and delimiters ---------------------------------------------------------------------


def test_a_carriage_return_too_many(site: Site) -> None:
    text = SOFIA + "0,5,42,42.6,23.3,2017-07-01T00:00:09,x,2.83\n" * 2
    text += "0,5,42,42.6,23.3,2017-07-01T00:00:09,9.53,2.83\n"
    site.load(text.replace("\n", "\r\r\n"))
    assert site.counts() == (3, 1, 0, 2)
    assert site.rejected()[2].line == text.split("\n")[1]


def test_carriage_returns_alone(make_site: MakeSite) -> None:
    rows = [row(f"2018-07-01T{n // 60:02}:{n % 60:02}:00") for n in range(1000)]
    text = (PM + "".join(rows)).replace("\n", "\r")
    for size in (64 * 2**10, 4 * 2**20):
        site = make_site(block_bytes=size, batch_bytes=size)
        site.load(text)
        assert site.counts() == (1000, 1000, 0, 0)


@pytest.mark.parametrize("mark", [";", ",", "\t", "|"])
def test_delimiters(mark: str, site: Site) -> None:
    site.load((PM + row() + row(p1="x")).replace(";", mark))
    assert site.counts() == (2, 1, 0, 1)


@pytest.mark.parametrize("line", [" ", "\t", " \t ", ";;;;;;;", ",,", "||", ' ; ; ""', "\v", ";\r"])
def test_lines_of_nothing_but_spaces_and_delimiters_are_blank(line: str, site: Site) -> None:
    site.load(f"{PM}{line}\n{row()}{line}\n{row(p1='x')}{line}\n")
    assert site.counts() == (2, 1, 0, 1)
    assert list(site.rejected()) == [5]


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sensor", ["92.0", "92.", "+92.000", " 92.0 "])
def test_whole_numbers_with_a_fraction_of_zero(sensor: str, site: Site) -> None:
    site.load(PM + row(sensor=sensor) + row(sensor="92.5"))
    assert site.one("SELECT sensor_id FROM air.raw_particulate") == 92
    assert dict(site.rejected()[3].rules) == {"type": 1}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2018-07-01T24:00:00", "2018-07-02 00:00:00"),
        ("2018-12-31 24:00", "2019-01-01 00:00:00"),
        ("2018-07-01T24:00:00.000Z", "2018-07-02 00:00:00"),
        ("2018-07-01T24:00:00+02:00", "2018-07-01 22:00:00"),
        ("2018-07-01T00:02:09,250", "2018-07-01 00:02:09.25"),
        ("2018-07-01T00:02:09.250z", "2018-07-01 00:02:09.25"),
        ("2018-07-01t00:02:09z", "2018-07-01 00:02:09"),
    ],
)
def test_times(written: str, meant: str, site: Site) -> None:
    site.load(PM + row(written))
    shown = "SELECT trim('0' FROM to_char(ts AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'))"
    due = site.one(
        f"SELECT trim('0' FROM to_char(timestamp '{meant}', 'YYYY-MM-DD HH24:MI:SS.US'))"
    )
    assert site.one(f"{shown} FROM air.raw_particulate") == due


@pytest.mark.parametrize(
    "written",
    ["2018-07-01T24:00:01", "2018-07-01T24:01:00", "2018-07-01T25:00:00", "2018-02-30T24:00"],
)
def test_times_that_do_not_exist(written: str, site: Site) -> None:
    site.load(PM + row(written))
    assert dict(site.rejected()[2].rules) == {"timestamp": 1}


@pytest.mark.parametrize(
    "cell",
    [
        "05. Okt",
        "12.05.2017",
        "Mai 83",
        "5-Oct",
        "Oct-10",
        "2017-05-12",
        "9.май",
        "1/2/17",
        "Sep 05",
    ],
)
def test_values_that_a_spreadsheet_made_dates(cell: str, site: Site) -> None:
    site.load(PM + row(p1=cell))
    assert dict(site.rejected()[2].rules) == {"spreadsheet_date": 1}


def test_what_cannot_be_seen_is_written_out(site: Site) -> None:
    site.load(PM + row() + row(sensor="\ufeff5") + row(p1="9.5\u00a0", sensor=6))
    assert "\\ufeff5" in site.rejected()[3].reasons[0]["message"]


def test_an_unknown_column_twice_is_ignored(site: Site) -> None:
    site.load(f"{PREFIX}P1;P2;x;x\n5;SDS011;7;42.6;23.3;2018-07-01T00:02:09;9;5;1;2\n")
    assert site.counts() == (1, 1, 0, 0)


def test_a_reading_twice_is_not(site: Site) -> None:
    assert site.load(f"{PREFIX}P1;P2;P1\n").state == "refused"
    assert "twice: 'P1'" in site.ledger()["reason"]


# --- other kinds of file --------------------------------------------------------------------------


def tar(content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("some.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(gzip.compress((PM + row()).encode())), "compressed with gzip twice"),
        (gzip.compress(tar((PM + row()).encode())), "a tar archive"),
        (tar((PM + row()).encode()), "a tar archive"),
        (f"{PREFIX}value_type;value\n".encode(), "a long table"),
        (f"{PREFIX}no2_ppb;co_ppb\n".encode(), "none of its columns holds readings"),
        (b"#group,false,false,true,true\n#datatype,string\n", "an annotated CSV of InfluxDB"),
    ],
)
def test_a_refusal_says_what_the_file_is(content: bytes, words: str, site: Site) -> None:
    assert site.load(content).state == "refused"
    assert words in site.ledger()["reason"]
    assert "nearest" not in site.ledger()["reason"]


# --- the cases ------------------------------------------------------------------------------------

LOADED = {
    "e35": 5,
    "h_cr_only": 2,
    "h_pipe": 1,
    "b03a": 1,
    "b20": 2,
    "t_24h": 1,
    "t_frac_comma": 1,
    "c22": 2,
    "e12": 1,
}


@pytest.mark.parametrize(("name", "rows"), LOADED.items())
def test_cases_that_are_loaded(name: str, rows: int, site: Site) -> None:
    site.load(case(name))
    assert site.counts() == (rows, rows, 0, 0)


@pytest.mark.parametrize("name", ["g_double", "z_targz", "b13", "b19f", "c13"])
def test_cases_that_are_refused(name: str, site: Site) -> None:
    assert site.load(case(name)).state == "refused"
    assert "nearest" not in site.ledger()["reason"]
    assert "control character" not in site.ledger()["reason"]


def test_case_of_dates_as_values(site: Site) -> None:
    site.load(case("b06"))
    assert [set(bad.rules) for bad in site.rejected().values()] == [{"spreadsheet_date"}] * 2
