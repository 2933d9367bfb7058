"""What a row may lack, and what it may not hold, by the type of its sensor."""

from __future__ import annotations

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
OPTICAL = f"{PREFIX}P1;durP1;ratioP1;P2;durP2;ratioP2\n"
PMS = f"{PREFIX}P1;P2;P0\n"
BMP = f"{PREFIX}pressure;altitude;pressure_sealevel;temperature\n"
BME = f"{PREFIX}pressure;altitude;pressure_sealevel;temperature;humidity\n"
SOFIA = ",sensor_id,location,lat,lon,timestamp,"


def row(kind: str, *values: object, minute: int = 0) -> str:
    time = f"2019-06-01T10:{minute:02}:00"
    return ";".join(map(str, (5, kind, 7, 42.689, 23.341, time, *values))) + "\n"


def case(name: str) -> bytes:
    (path,) = list(CASES.glob(f"{name}*")) or [CASES / name]
    if not path.exists():
        pytest.skip("the cases are not here")
    return path.read_bytes()


def dust(site: Site) -> list[tuple[object, ...]]:
    found = site.sql("SELECT pm10, pm25, pm1, flags FROM air.raw_particulate ORDER BY ts")
    return [tuple(v if v is None else round(float(v), 2) for v in each) for each in found]


def air(site: Site) -> list[tuple[object, ...]]:
    found = site.sql(
        "SELECT temperature, humidity, pressure, flags FROM air.raw_climate ORDER BY ts"
    )
    return [tuple(v if v is None else round(float(v), 2) for v in each) for each in found]


# --- counts are no concentrations -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["PPD42NS", "ppd42ns", " Ppd42ns ", '"PPD42NS"'])
def test_a_file_of_particle_counts_is_refused(name: str, site: Site) -> None:
    rows = [row(name, 1302.66, 754034, 2.51, 156.41, 86924, 0.29, minute=m) for m in range(3)]
    assert site.load(OPTICAL + "\n".join(rows)).state == "refused"
    assert site.ledger()["rule"] == "not_stored"
    assert "particles per litre" in site.ledger()["reason"]
    assert site.raw_rows() == 0


def test_a_large_file_of_particle_counts_is_refused(make_site: MakeSite) -> None:
    site = make_site(block_bytes=64 * 2**10, batch_bytes=64 * 2**10)
    text = "".join(
        f"{n};PPD42NS;7;42.6;23.3;2015-10-01T14:02:48;1302.6;7;2;156.4;8;0\n"
        for n in range(1, 4000)
    )
    assert site.load(OPTICAL + text).state == "refused"
    assert (
        site.load(OPTICAL + text + row("SDS011", 9, "", "", 5, "", ""), "b.csv").state == "loaded"
    )
    assert site.counts("b.csv") == (4000, 1, 0, 3999)


def test_counts_among_other_rows_are_rejected_one_by_one(site: Site) -> None:
    counts = row("PPD42NS", 1302.66, 754034, 2.51, 156.41, 86924, 0.29)
    site.load(OPTICAL + counts + row("SDS011", 9, "", "", 5, "", "", minute=1))
    assert site.counts() == (2, 1, 0, 1)
    assert dust(site) == [(9, 5, None, 0)]
    assert dict(site.rejected()[2].rules) == {"not_stored": 1}
    assert "particles per litre" in site.rejected()[2].reasons[0]["message"]


def test_case_of_particle_counts(site: Site) -> None:
    assert site.load(case("b08")).state == "refused"


def test_a_site_may_declare_what_its_own_counter_sends(make_site: MakeSite) -> None:
    site = make_site(contract={"models": {"ppd42ns": {"P1": "pm10", "P2": "pm25"}}})
    site.load(OPTICAL + row("PPD42NS", 9, "", "", 5, "", ""))
    assert dust(site) == [(9, 5, None, 0)]


# --- PM1 is no key reading ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["PMS1003", "PMS3003", "PMS5003", "PMS6003", "PMS7003", "SPS30", "NEXTPM", "IPS-7100"]
)
def test_particulate_without_pm1(kind: str, site: Site) -> None:
    text = PMS + row(kind, 48, 39, "") + row(kind, 47, 38.5, 20, minute=1)
    site.load(text + row(kind, 47, 38.5, "x", minute=2) + row(kind, "", 3, 2, minute=3))
    assert dust(site) == [(48, 39, None, 0), (47, 38.5, 20, 0)]
    assert {n: [r["column"] for r in b.reasons] for n, b in site.rejected().items()} == {
        4: ["P0"],
        5: ["P1"],
    }


def test_a_file_without_the_column_of_pm1(site: Site) -> None:
    site.load(f"{PREFIX}P1;P2\n" + row("PMS3003", 48, 39) + row("SDS011", 9, 5, minute=1))
    assert dust(site) == [(48, 39, None, 0), (9, 5, None, 0)]


def test_the_same_row_without_pm1_again_is_a_duplicate_and_with_it_a_conflict(site: Site) -> None:
    site.load(PMS + row("PMS3003", 48, 39, "") * 2)
    assert site.counts() == (2, 1, 1, 0)
    site.load(PMS + row("PMS3003", 48, 39, 7), "b.csv")
    assert site.counts("b.csv") == (1, 0, 0, 1)
    site.load(PMS + row("PMS3003", "48.0", 39, ""), "c.csv")
    assert site.counts("c.csv") == (1, 0, 1, 0)


def test_case_without_pm1(site: Site) -> None:
    site.load(case("c01"))
    assert dust(site) == [(48, 39, None, 0), (47, 38.5, None, 0)]


# --- rows that are not complete -------------------------------------------------------------------


def test_a_row_without_one_of_its_readings_is_rejected_and_the_setting_is_named(site: Site) -> None:
    site.load(BMP + row("BMP280", "", "", "", 2.6))
    assert site.counts() == (1, 0, 0, 1)
    assert "contract.partial" in site.rejected()[2].reasons[0]["message"]


def test_such_rows_are_kept_if_the_site_says_so(make_site: MakeSite) -> None:
    site = make_site(contract={"partial": "accept"})
    site.load(
        BME
        + row("BME280", "", "", "", 2.6, 70)
        + row("BME280", 94812.31, "", "", "", "", minute=1)
        + row("BME280", "", "", "", "", "", minute=2)
        + row("BME280", 94812.31, "", "", 4.4, 66, minute=3)
        + row("BME280", 94812.31, "", "", "x", 66, minute=4)
    )
    assert air(site) == [
        (2.6, 70, None, 16384),
        (None, None, 948.12, 16384),
        (4.4, 66, 948.12, 0),
    ]
    assert {n: [r["rule"] for r in b.reasons] for n, b in site.rejected().items()} == {
        4: ["null", "null", "null"],
        6: ["type"],
    }


def test_of_some_models_only(make_site: MakeSite) -> None:
    site = make_site(contract={"partial_models": ["BMP280"]})
    text = BMP + row("BMP280", "", "", "", 2.6) + row("BMP180", "", "", "", 3.6, minute=1)
    site.load(text)
    assert air(site) == [(2.6, None, None, 16384)]


def test_rows_rejected_before_come_back_after_the_setting_changed(make_site: MakeSite) -> None:
    before, after = make_site(), make_site(contract={"partial": "accept"})
    assert before.flow.contract.version != after.flow.contract.version


def test_case_without_pressure(make_site: MakeSite) -> None:
    make_site().load(case("c03"))
    site = make_site(contract={"partial": "accept"})
    site.load(case("c03"))
    assert air(site) == [(2.6, None, None, 16384)]


# --- readings of two sensors in one row -----------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    ["pressure,temperature,humidity,P1,P2", "P1,P2,temperature", "P1,P2,humidity"],
)
def test_a_file_with_readings_that_no_model_has_together_is_refused(
    columns: str, site: Site
) -> None:
    values = ",".join("9" for _ in columns.split(","))
    text = f"{SOFIA}{columns}\n0,5,42,42.689,23.341,2017-07-01T00:02:09,{values}\n"
    assert site.load(text).state == "refused"
    assert "a file of each" in site.ledger()["reason"]


def test_case_of_two_kinds(site: Site) -> None:
    assert site.load(case("b22")).state == "refused"


def test_a_row_of_two_sensors_is_rejected(site: Site) -> None:
    header = f"{PREFIX}P1;P2;temperature;humidity\n"
    site.load(
        header
        + row("SDS011", 9, 5, "", " ")
        + row("DHT22", "", "", 21, 55, minute=1)
        + row("SDS011", 9, 5, 21, "", minute=2)
    )
    assert site.counts() == (3, 2, 0, 1)
    assert dict(site.rejected()[4].rules) == {"model": 1}


@pytest.mark.parametrize("name", ["SDS021", "SDS011", "sds021"])
def test_known_types(name: str, site: Site) -> None:
    site.load(OPTICAL + row(name, 9, "", "", 5, "", ""))
    assert site.counts() == (1, 1, 0, 0)


def test_case_of_saturation(site: Site) -> None:
    site.load(case("g03"))
    assert [row[3] for row in dust(site)] == [2 | 4, 4]
