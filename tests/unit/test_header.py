"""A file is known by its header: which dialect, which columns, which models; and why not."""

from __future__ import annotations

import pytest

from pipeline.contract import Contract
from pipeline.contract.header import header_again, recognise
from pipeline.errors import FileRefused

DEFAULT = Contract.default()
PREFIX = "sensor_id;sensor_type;location;lat;lon;timestamp;"
SOFIA = "sensor_id,location,lat,lon,timestamp,"

# The archive's headers, as published, and which of the models with those columns comes first.
ARCHIVE = {
    "sds011": "P1;durP1;ratioP1;P2;durP2;ratioP2",
    "pms5003": "P1;P2;P0",
    "hpm": "P1;P2",
    "sps30": "P1;P4;P2;P0;N10;N4;N25;N1;N05;TS",
    "nextpm": "P1;P2;P0;N1;N25;N10",
    "dht22": "temperature;humidity",
    "bmp280": "pressure;altitude;pressure_sealevel;temperature",
    "bme280": "pressure;altitude;pressure_sealevel;temperature;humidity",
    "ds18b20": "temperature",
    "scd30": "temperature;humidity;co2_ppm",
}


@pytest.mark.parametrize(("name", "columns"), ARCHIVE.items(), ids=ARCHIVE)
def test_archive_headers(name: str, columns: str) -> None:
    header = recognise(PREFIX + columns, DEFAULT)
    assert (header.dialect, header.delimiter) == ("archive", ";")
    assert name in {model.name for model in header.models}
    assert header.names == tuple((PREFIX + columns).split(";"))


def test_an_archive_header_names_every_model_whose_readings_are_all_there() -> None:
    header = recognise(PREFIX + ARCHIVE["bmp280"], DEFAULT)
    assert {model.name for model in header.models} == {"bmp180", "bmp280", "ds18b20"}


@pytest.mark.parametrize(
    ("columns", "model"),
    [
        ("P1,P2", "sds011"),
        ("P1,P2,P0", "pms5003"),
        ("pressure,temperature,humidity", "bme280"),
        ("temperature,humidity", "dht22"),
        ("pressure,temperature", "bmp280"),
        ("temperature", "ds18b20"),
        ("temperature,co2_ppm", "ds18b20"),
    ],
)
def test_a_sofia_header_stands_for_the_model_that_explains_most_of_it(
    columns: str, model: str
) -> None:
    for line in (SOFIA + columns, f",{SOFIA}{columns}"):
        header = recognise(line, DEFAULT)
        assert header.dialect == "sofia"
        assert [each.name for each in header.models] == [model]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters(delimiter: str) -> None:
    header = recognise((SOFIA + "P1,P2").replace(",", delimiter), DEFAULT)
    assert header.delimiter == delimiter
    assert header.names[-2:] == ("P1", "P2")


def test_spelling_quotes_spaces_and_unnamed_columns() -> None:
    line = '"SENSOR_ID", Location,LAT,lon , TimeStamp,p1,"p2",,,Бележка'
    header = recognise(line, DEFAULT)
    assert header.line == line
    assert header.names == (
        *("sensor_id", "location", "lat", "lon", "timestamp", "P1", "P2"),
        *("unnamed_8", "unnamed_9", "Бележка"),
    )


def test_the_order_of_columns_is_free() -> None:
    header = recognise("P2;P1;timestamp;lon;lat;location;sensor_type;sensor_id", DEFAULT)
    assert header.dialect == "archive"
    assert header.names[0] == "P2"


REFUSED = {
    "nothing of it": ("a,b,c", "unknown_header", "is not a header of air-quality readings"),
    "one word": ("hello", "unknown_header", "found: 'hello'"),
    "nothing": (",,,", "unknown_header", "is not a header"),
    "no time": (SOFIA.replace("timestamp", "when") + "P1,P2", "unknown_header", "'timestamp'"),
    "no P2": (SOFIA + "P1", "unknown_header", "nearest is SDS011, for which 'P2' is missing"),
    "no humidity and no key": (
        "sensor_id,lat,lon,timestamp,humidity",
        "unknown_header",
        "nearest is DHT22, for which 'location', 'temperature' is missing",
    ),
    "twice": (SOFIA + "P1,P2,P1", "unknown_header", "names a column twice: 'P1'"),
    "twice in another case": (SOFIA + "P1,P2,LAT", "unknown_header", "twice: 'lat'"),
    "an open quote": ('"' + SOFIA + "P1,P2", "unknown_header", "is missing"),
    "noise": (PREFIX + "noise_LAeq;noise_LA_min", "not_stored", "a file of noise measurements"),
    "radiation": (PREFIX + "counts_per_minute", "not_stored", "a file of radiation measurements"),
    "brightness": (PREFIX + "Brightness", "not_stored", "a file of brightness measurements"),
}


@pytest.mark.parametrize(("line", "rule", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(line: str, rule: str, words: str) -> None:
    with pytest.raises(FileRefused) as refused:
        recognise(line, DEFAULT)
    assert refused.value.rule == rule
    assert words in str(refused.value)


def test_a_long_first_line_is_not_repeated_whole() -> None:
    with pytest.raises(FileRefused) as refused:
        recognise("x" * 100_000, DEFAULT)
    assert len(str(refused.value)) < 500


def test_a_column_that_is_not_stored_beside_readings_that_are_is_ignored() -> None:
    assert recognise(PREFIX + "P1;P2;brightness", DEFAULT).models


def test_a_sites_own_model() -> None:
    contract = Contract.with_overrides({}, {"dust": {"Dust": "pm10"}})
    header = recognise(SOFIA + "DUST", contract)
    assert [model.name for model in header.models] == ["dust"]
    assert header.names[-1] == "Dust"
    with pytest.raises(FileRefused, match="none of its columns"):
        recognise(SOFIA + "DUST", DEFAULT)


@pytest.mark.parametrize(
    ("line", "again"),
    [
        (SOFIA + "P1", True),
        (PREFIX.upper(), True),
        ("\ufeff" + SOFIA, True),
        ("sensor_id;1;2;3", False),
        ("1,42,42.6,23.3,2017-07-01T00:00:00,9.5,2.8", False),
        ("", False),
    ],
)
def test_a_header_in_the_middle(line: str, again: bool) -> None:
    reason = header_again(line.encode())
    assert (reason is not None) == again
    if reason:
        assert reason.rule == "repeated_header"
