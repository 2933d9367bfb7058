"""Whatever is dropped, the real flow copes: each kind of bad input, against a real PostgreSQL.

After every test the site's books are checked: the ledger's numbers against the tables, the
quarantine files against the quarantined rows, the statistics against a recompute in SQL.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipeline.config import load_settings
from pipeline.contract import FILE_RULES, PLACE_UNKNOWN, ROW_RULES, flag_bits
from pipeline.files.watch import Found
from tests.integration.conftest import (
    ARCHIVE_BME,
    ARCHIVE_DS18B20,
    ARCHIVE_SDS,
    SOFIA_BME,
    SOFIA_SDS,
    Bad,
    MakeSite,
    Site,
    clock,
    emptied,
    pm,
    sds,
)

GOOD = sds(pm(0), pm(1), pm(2))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail, rather than hang, when something waits for ever."""

    def give_up(signum: int, frame: object) -> None:
        # Not an OSError, which the code under test would take for trouble with a disk.
        pytest.fail(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- refused as a whole ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    content: bytes
    rule: str
    words: tuple[str, ...]
    name: str = "some.csv"
    flags: dict[str, object] = field(default_factory=dict)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


MANY = sds(*(pm(i, p1=i % 97 / 7) for i in range(2000))).encode()
PACKED = gzip.compress(MANY, mtime=0)
LONG = b"9" * 5000

REFUSED = {
    "no bytes": Refused(b"", "empty", ("0 bytes",)),
    "blank lines only": Refused(b"\n\r\n\n", "empty", ("blank lines only",)),
    "blank lines only, no final newline": Refused(b"\n\n\r", "empty", ("blank lines only",)),
    "nothing inside a gzip": Refused(gzip.compress(b""), "empty", ("0 bytes",), "some.csv.gz"),
    "unknown header": Refused(
        b"sensor_id;sensor_type;location;lat;lon;time;P1\n92;SDS011;1;42;23;2017-07-01T00:00;5\n",
        "unknown_header",
        ("SDS011", "'timestamp', 'P2' is missing", "sensor_id;sensor_type;location"),
    ),
    "nearest is not the first": Refused(
        b"sensor_id;sensor_type;location;lat;lon;pressure;temperature;humidity\n",
        "unknown_header",
        ("nearest is BME280", "'timestamp' is missing"),
    ),
    "no header at all": Refused(
        pm(0).encode() + b"\n", "unknown_header", ("not a header", "92;SDS011;42", "sensor_id")
    ),
    "a web page": Refused(b"<!DOCTYPE html>\n<html></html>\n", "unknown_header", ("DOCTYPE",)),
    "a column twice": Refused(
        b"sensor_id,location,lat,lon,timestamp,P1,P2,p1\n", "unknown_header", ("twice: 'P1'",)
    ),
    "noise": Refused(
        b"sensor_id;sensor_type;location;lat;lon;timestamp;noise_LAeq;noise_LA_min;noise_LA_max\n"
        b"9;Laerm;1;42;23;2020-01-01T00:00:00;50;40;60\n",
        "not_stored",
        ("noise", "'noise_LAeq'", "only particulate matter"),
    ),
    "noise, capitals": Refused(
        b"sensor_id;sensor_type;location;lat;lon;timestamp;NOISE_LAEQ\n", "not_stored", ("noise",)
    ),
    "radiation": Refused(
        b"sensor_id;sensor_type;location;lat;lon;timestamp;counts_per_minute;hv_pulses\n",
        "not_stored",
        ("radiation",),
    ),
    "junk": Refused(random.Random(1).randbytes(5000), "binary", ("not UTF-8", "0x")),
    "NUL bytes only": Refused(bytes(3), "binary", ("control character 0x00",)),
    "zip": Refused(zipped(), "binary", ("ZIP archive or Excel workbook",)),
    "xlsx called csv": Refused(zipped(), "binary", ("ZIP archive or Excel",), "Book1.xlsx.csv"),
    "parquet": Refused(b"PAR1\x15\x04PAR1", "binary", ("Parquet",)),
    "bzip2": Refused(b"BZh91AY&SY", "binary", ("bzip2",)),
    "UTF-16 with BOM": Refused(GOOD.encode("utf-16"), "utf16", ("UTF-16", "UTF-8")),
    "UTF-16 BE with BOM": Refused(b"\xfe\xff" + GOOD.encode("utf-16-be"), "utf16", ("UTF-16",)),
    "UTF-16 LE": Refused(GOOD.encode("utf-16-le"), "utf16", ("UTF-16",)),
    "UTF-16 BE": Refused(GOOD.encode("utf-16-be"), "utf16", ("UTF-16",)),
    "UTF-16 in a gzip": Refused(gzip.compress(GOOD.encode("utf-16")), "utf16", ("UTF-16",)),
    "gzip, a bit flipped": Refused(
        flipped(PACKED, len(PACKED) // 2), "corrupt_gzip", ("damaged",), "some.csv.gz"
    ),
    "gzip, wrong checksum": Refused(
        flipped(PACKED, len(PACKED) - 5), "corrupt_gzip", ("damaged", "CRC"), "some.csv.gz"
    ),
    "gzip, cut short": Refused(PACKED[:-9], "corrupt_gzip", ("cut short",), "some.csv.gz"),
    "gzip, cut after its magic": Refused(PACKED[:2], "corrupt_gzip", ("cut short",), "a.csv.gz"),
    "gzip, junk behind it": Refused(PACKED + b"junk", "corrupt_gzip", ("damaged",), "a.csv.gz"),
    "gzip, second member cut": Refused(PACKED + PACKED[:-9], "corrupt_gzip", ("cut short",)),
    "gzip bomb": Refused(
        gzip.compress(ARCHIVE_SDS.encode() + b"\n" * 10_000_000),
        "too_large",
        ("more than 1,000,000 bytes", "max_inflated_bytes"),
        "bomb.csv.gz",
        {"max_inflated_bytes": 1_000_000},
    ),
    "gzip in a gzip": Refused(
        gzip.compress(PACKED), "binary", ("compressed with gzip twice",), "some.csv.gz"
    ),
    "a long line": Refused(
        GOOD.encode() + LONG + b"\n" + pm(9).encode(),
        "line_too_long",
        ("line 5 ", "4,000 bytes", "max_line_bytes"),
        flags={"max_line_bytes": 4000},
    ),
    "a long last line": Refused(
        GOOD.encode() + LONG, "line_too_long", ("line 5 ",), flags={"max_line_bytes": 4000}
    ),
    "a long header": Refused(
        LONG + b"\n" + GOOD.encode(), "line_too_long", ("line 1 ",), flags={"max_line_bytes": 4000}
    ),
    "a long line in a gzip": Refused(
        gzip.compress(GOOD.encode() + LONG * 100 + b"\n" + pm(9).encode()),
        "line_too_long",
        ("line 5 ",),
        "long.csv.gz",
        {"max_line_bytes": 4000, "block_bytes": 2**16},
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_as_a_whole(case: Refused, make_site: MakeSite) -> None:
    site = make_site(**case.flags)
    site.drop("before.csv", sds(pm(100)))
    site.drop(case.name, case.content)
    site.drop("later.csv", sds(pm(200)))

    outcomes = {outcome.name: outcome for outcome in site.run()}

    assert {name: o.state for name, o in outcomes.items()} == {
        "before.csv": "loaded",
        case.name: "refused",
        "later.csv": "loaded",
    }
    ledger = site.ledger(case.name)
    assert (ledger["state"], ledger["rule"]) == ("refused", case.rule)
    assert case.rule in FILE_RULES
    for words in case.words:
        assert words in ledger["reason"]
    assert outcomes[case.name].message == ledger["reason"]
    told = site.refusal(case.content)
    assert (told["file"], told["rule"], told["message"]) == (
        case.name,
        case.rule,
        ledger["reason"],
    )
    assert not (site.data / case.name).exists()
    assert site.archived() == ["before.csv", "later.csv"]
    assert site.raw_rows() == 2
    assert site.one("SELECT count(*) FROM air.quarantined_row") == 0


def test_a_line_of_a_hundred_megabytes(site: Site) -> None:
    content = GOOD.encode() + b"7" * 100_000_000 + b"\n" + pm(9).encode() + b"\n"
    site.drop("long.csv", content)
    site.drop("other.csv", GOOD)

    assert [o.state for o in site.run()] == ["refused", "loaded"]

    assert site.ledger("long.csv")["rule"] == "line_too_long"
    assert "line 5 is longer than 1,048,576 bytes" in site.ledger("long.csv")["reason"]
    assert site.refusal(content)["bytes"] == len(content)
    assert site.raw_rows() == 3


@pytest.mark.parametrize("batch_bytes", [100_000, 10_000_000], ids=["streamed", "held"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_nothing_stays_of_a_file_that_is_refused_half_way(
    batch_bytes: int, packed: bool, make_site: MakeSite
) -> None:
    site = make_site(block_bytes=2**16, max_line_bytes=2**14, batch_bytes=batch_bytes)
    rng = random.Random(7)
    rows = [pm(i, p1=rng.random(), p2=rng.random(), sensor=7) for i in range(6000)]
    bad = sds(*rows[:4000], "not a row", "9" * 2**15, *rows[4000:]).encode()
    if packed:
        bad = gzip.compress(bad)
    assert len(bad) > 100_000
    site.drop("before.csv", GOOD)
    site.drop("bad.csv", bad)
    site.drop("again.csv", bad)
    site.drop("later.csv", sds(pm(0), "short", pm(9)))

    # All in one batch, however large.
    outcomes = {o.name: o.state for o in site.flow.process(site.scan())}

    assert outcomes == {
        "before.csv": "loaded",
        "bad.csv": "refused",
        "again.csv": "known",
        "later.csv": "loaded",
    }
    assert "line 4,003 " in site.ledger("bad.csv")["reason"]
    assert site.sql("SELECT DISTINCT sensor_id FROM air.raw_particulate") == [(92,)]
    assert site.sql("SELECT sensor_id FROM air.sensor") == [(92,)]
    assert site.counts("before.csv") == (3, 3, 0, 0)
    assert site.counts("later.csv") == (3, 1, 1, 1)
    assert site.archived() == ["before.csv", "later.csv"]
    # The rejected row of the refused file is nowhere: the whole file is kept instead, twice.
    digits = [name.split(".")[1] for name in site.quarantined_files()]
    assert len(set(digits)) == 2
    refused = [name for name in site.quarantined_files() if ".refused." in name]
    assert [name.partition(".")[0] for name in refused] == ["again", "bad", "bad"]


def test_a_header_and_nothing_else_is_an_empty_file(site: Site) -> None:
    for number, content in enumerate([ARCHIVE_SDS, ARCHIVE_SDS.rstrip(), ARCHIVE_SDS + "\n\r\n"]):
        site.drop(f"{number}.csv", content)
    site.drop("bom.csv", b"\xef\xbb\xbf" + SOFIA_BME.encode())

    assert [o.state for o in site.run()] == ["loaded"] * 4

    for name, dialect, model in [("0.csv", "archive", "sds011"), ("bom.csv", "sofia", "bme280")]:
        ledger = site.ledger(name)
        assert (ledger["dialect"], ledger["sensor_model"]) == (dialect, model)
        assert (ledger["first_ts"], ledger["last_ts"]) == (None, None)
        assert site.counts(name) == (0, 0, 0, 0)
    assert site.archived() == ["0.csv", "1.csv", "2.csv", "bom.csv"]
    assert site.quarantined_files() == []


# --- rows that cannot be split --------------------------------------------------------------------

NEAR = pm(50).encode()

UNSPLITTABLE = {
    "too few fields": (b"92;SDS011;42;1;1;2017-07-01T00:00:50;9.53", "width", "has 7 fields"),
    "one field": (b"hello", "width", "has 1 field, its header has 12"),
    "too many fields": (NEAR + b";7;8", "width", "has 14 fields"),
    "quoted delimiter too many": (b'"a;b";' + NEAR, "width", "has 13 fields"),
    "a lone quote": (b'9"2' + NEAR[2:], "quote", "out of place"),
    "an open quote": (b'"92' + NEAR[2:], "quote", "out of place"),
    "text behind a quote": (b'"92"x' + NEAR[2:], "quote", "out of place"),
    "a lone quote at the end": (NEAR + b'"', "quote", "out of place"),
    "NUL": (b"9\0002" + NEAR[2:], "nul_byte", "NUL byte at position 2"),
    "NUL only": (b"\0", "nul_byte", "position 1"),
    "NUL and not UTF-8": (NEAR + b"\xff\0", "nul_byte", "NUL"),
    "latin-1": (NEAR.replace(b"SDS011", b"S\xe4S"), "encoding", "0xE4 at position 5"),
    "half a UTF-8 letter": (NEAR + "д".encode()[:1], "encoding", "0xD0"),
    "a surrogate": (NEAR + b"\xed\xa0\x80", "encoding", "0xED"),
    "an overlong slash": (NEAR + b"\xc0\xaf", "encoding", "0xC0"),
    "a lone carriage return": (NEAR + b"\r" + NEAR, "width", "carriage return in its middle"),
    "a leading carriage return": (b"\r" + NEAR, "width", "carriage return in its middle"),
}


@dataclass(frozen=True)
class Sorted:
    """What became of a file: its lines, the rejected ones, its counts."""

    lines: list[bytes]
    rejected: dict[int, Bad]
    counts: tuple[int, int, int, int]


@pytest.fixture(scope="module")
def fresh(shared_engine: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Site]:
    """Make a site whose results several tests look at."""

    def make() -> Site:
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("SOFIA_AIR_")]:
                patch.delenv(name)
            return Site(load_settings(tmp_path_factory.mktemp("fresh")), emptied(shared_engine))

    return make


@pytest.fixture(scope="module")
def unsplit(fresh: Callable[[], Site]) -> dict[str, Sorted]:
    """What became of every bad line, with a good one and a blank one beside each."""
    site = fresh()
    found: dict[str, Sorted] = {}
    for sensor, (name, end) in enumerate({"LF": b"\n", "CRLF": b"\r\n"}.items(), start=1):
        lines = [ARCHIVE_SDS.rstrip().encode()]
        for number, (bad, *_) in enumerate(UNSPLITTABLE.values()):
            lines += [pm(number, sensor=sensor).encode(), bad, b""]
        assert site.load(end.join(lines), f"{name}.csv").state == "loaded"
        found[name] = Sorted(lines, site.rejected(f"{name}.csv"), site.counts(f"{name}.csv"))
    site.check_books()
    return found


@pytest.mark.parametrize("end", ["LF", "CRLF"])
@pytest.mark.parametrize("kind", UNSPLITTABLE)
def test_a_row_that_cannot_be_split_is_quarantined_verbatim(
    kind: str, end: str, unsplit: dict[str, Sorted]
) -> None:
    line, rule, words = UNSPLITTABLE[kind]
    bad = unsplit[end].rejected[unsplit[end].lines.index(line) + 1]
    assert bad.exact == line
    readable = b"\0" not in line and line.decode(errors="ignore").encode() == line
    assert (bad.line_bytes is None) == readable
    (reason,) = bad.reasons
    assert reason["rule"] == rule
    assert rule in ROW_RULES
    assert words in reason["message"]


@pytest.mark.parametrize("end", ["LF", "CRLF"])
def test_only_rows_that_cannot_be_split_are_quarantined(
    end: str, unsplit: dict[str, Sorted]
) -> None:
    kinds = len(UNSPLITTABLE)
    assert list(unsplit[end].rejected) == list(range(3, 3 * kinds + 1, 3))
    assert unsplit[end].counts == (2 * kinds, kinds, 0, kinds)


@pytest.mark.parametrize("kind", ["too few fields", "a lone quote", "NUL", "latin-1"])
def test_a_single_bad_row(kind: str, site: Site) -> None:
    line, rule, _ = UNSPLITTABLE[kind]
    outcome = site.load(GOOD.encode() + line)
    assert outcome.rules == {rule: 1}
    assert site.counts() == (4, 3, 0, 1)
    assert site.rejected()[5].exact == line


def test_a_quoted_field_longer_than_pythons_csv_reader_takes(site: Site) -> None:
    note = '"' + "n" * 200_000 + '"'
    good = pm(1).replace(";;;", f";{note};;", 1)

    outcome = site.load(sds(pm(0), good, good + ";too;many", "short", pm(2)))

    assert outcome.rules == {"width": 2}
    assert site.counts() == (5, 3, 0, 2)
    assert site.rejected()[4].line == good + ";too;many"
    assert "14 fields" in site.rejected()[4].reasons[0]["message"]


# --- cells ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    kind: str
    column: str
    text: str
    rule: str
    words: str
    expected: str


PLACE = {"location": "42", "lat": "42.689", "lon": "23.341"}
CLIMATE = {"pressure": "95270.27", "temperature": "23.46", "humidity": "62.48"}
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "sds": (
        ARCHIVE_SDS,
        {**PLACE, "sensor_id": "92", "sensor_type": "SDS011", "P1": "9.53", "P2": "2.83"},
    ),
    "bme": (ARCHIVE_BME, {**PLACE, "sensor_id": "93", "sensor_type": "BME280", **CLIMATE}),
    "ds18b20": (
        ARCHIVE_DS18B20,
        {**PLACE, "sensor_id": "94", "sensor_type": "DS18B20", "temperature": "23.46"},
    ),
    "sofia": (SOFIA_BME, {**PLACE, "sensor_id": "95", **CLIMATE}),
}


def row_of(kind: str, second: int, **changed: str) -> str:
    """Return a row of a kind of file, good but for what is changed."""
    header, cells = ROWS[kind]
    mark = "," if kind == "sofia" else ";"
    cells = {**cells, "timestamp": clock(second), **changed}
    return mark.join(cells.get(name, "") for name in header.rstrip().split(mark))


PM = "0 to 1999.9 µg/m³"
WHOLE = "a whole number from 1 to 2147483647"
PLACE_ID = "a whole number from 0 to 2147483647"
TIME = "an ISO 8601 time from 2010-01-01 to "
DEGREES = "−50 to 50 °C"
HUMID = "0 to 100 %RH"
PASCAL = "30000 to 110000 Pa"

CELLS = [
    *(
        Cell("sds", column, text, rule, words, PM)
        for column in ("P1", "P2")
        for text, rule, words in [
            ("", "null", f"{column} is empty"),
            ("nan", "not_finite", "'nan', which is not a number"),
            ("NaN", "not_finite", "'NaN'"),
            ("inf", "not_finite", "'inf'"),
            ("-Infinity", "not_finite", "'-Infinity'"),
            ("-999", "sentinel", "a code for 'no reading'"),
            ("-999.0", "sentinel", "a code for 'no reading'"),
            ("-9999", "sentinel", "a code for 'no reading'"),
            ("-1", "sentinel", "a code for 'no reading'"),
            ("unavailable", "type", "'unavailable' is not a number"),
            ("24,65", "decimal_comma", "write 24.65"),
            ("-0.01", "range", "is below 0"),
            ("1999.91", "range", "is above 1999.9"),
            ("1e999", "range", "is above 1999.9"),
        ]
    ),
    Cell("sds", "P1", "  ", "null", "P1 is empty", PM),
    Cell("sds", "P1", "1_000", "type", "'1_000' is not a number", PM),
    Cell("sds", "P1", "0x10", "type", "'0x10' is not a number", PM),
    Cell("sds", "P1", "٢٤", "type", "'٢٤' is not a number", PM),
    Cell("sds", "P1", "nan(1)", "type", "'nan(1)' is not a number", PM),
    Cell("sds", "P1", "--5", "type", "'--5' is not a number", PM),
    Cell("sds", "P1", "+-5", "type", "'+-5' is not a number", PM),
    Cell("sds", "P1", "++5", "type", "'++5' is not a number", PM),
    Cell("sds", "P1", "1.2.3", "type", "'1.2.3' is not a number", PM),
    Cell("sds", "P1", "9.5 µg", "type", "'9.5 µg' is not a number", PM),
    Cell("sds", "P1", "1,234,567", "type", "'1,234,567' is not a number", PM),
    Cell("sds", "sensor_id", "", "null", "sensor_id is empty", WHOLE),
    Cell("sds", "sensor_id", "1764.5", "type", "'1764.5' is not a whole number", WHOLE),
    Cell("sds", "sensor_id", "-5", "range", "-5 is out of range", WHOLE),
    Cell("sds", "sensor_id", "0", "range", "0 is out of range", WHOLE),
    Cell("sds", "sensor_id", "2147483648", "range", "out of range", WHOLE),
    Cell("sds", "sensor_id", "99999999999", "range", "out of range", WHOLE),
    Cell("sds", "sensor_id", "1" * 30, "range", "out of range", WHOLE),
    Cell("sds", "sensor_id", "abc", "type", "not a whole number", WHOLE),
    Cell("sds", "sensor_id", "0x1A", "type", "not a whole number", WHOLE),
    Cell("sds", "sensor_id", "1e3", "type", "not a whole number", WHOLE),
    Cell("sds", "sensor_id", "1 764", "type", "not a whole number", WHOLE),
    Cell("sds", "sensor_id", "١٢", "type", "not a whole number", WHOLE),
    Cell("sds", "sensor_id", "+-92", "type", "not a whole number", WHOLE),
    Cell("sds", "location", "home", "type", "location 'home' is not a whole", PLACE_ID),
    Cell("sds", "location", "-1", "range", "location -1 is out of range", PLACE_ID),
    Cell("sds", "location", "99999999999", "range", "location", PLACE_ID),
    Cell("sds", "lat", "90.01", "range", "not on Earth", "−90 to 90 degrees"),
    Cell("sds", "lat", "42689", "range", "not on Earth", "−90 to 90 degrees"),
    Cell("sds", "lat", "north", "type", "'north' is not a number", "−90 to 90 degrees"),
    Cell("sds", "lon", "-180.5", "range", "not on Earth", "−180 to 180 degrees"),
    Cell("sds", "lon", "nan", "not_finite", "'nan'", "−180 to 180 degrees"),
    Cell("sds", "lon", "23,34", "decimal_comma", "write 23.34", "−180 to 180 degrees"),
    *(
        Cell("sds", "timestamp", text, rule, words, TIME)
        for text, rule, words in [
            ("", "null", "timestamp is empty"),
            ("2017-13-45T00:00:00", "timestamp", "does not exist"),
            ("2017-02-29T12:00:00", "timestamp", "does not exist"),
            ("2017-07-01T25:00:00", "timestamp", "does not exist"),
            ("2017-07-01T00:00:60", "timestamp", "does not exist"),
            ("31/07/2017", "spreadsheet_date", "rewritten by a spreadsheet"),
            ("31.07.2017 00:02", "spreadsheet_date", "rewritten by a spreadsheet"),
            ("7/31/17 0:02", "spreadsheet_date", "rewritten by a spreadsheet"),
            ("42917.5", "spreadsheet_date", "rewritten by a spreadsheet"),
            ("1970-01-01T00:00:00", "range", "before 2010-01-01: the clock was not set"),
            ("2009-12-31T23:59:59", "range", "before 2010-01-01"),
            ("2010-01-01T00:30:00+01:00", "range", "before 2010-01-01"),
            ("0001-01-01T00:00:00+14:00", "range", "before 2010-01-01"),
            ("2999-01-01T00:00:00", "range", "in the future"),
            ("9999-12-31T23:59:59-14:00", "range", "in the future"),
            ("yesterday", "timestamp", "is not a time"),
            ("2017-07-01", "timestamp", "is not a time"),
            ("2017-07-01T00", "timestamp", "is not a time"),
            ("20170701T000209", "timestamp", "is not a time"),
            ("2017-W26-6T00:00:00", "timestamp", "is not a time"),
            ("2017-07-01x00:02:09", "timestamp", "is not a time"),
            ("2017-07-01T00:02:09 Europe/Sofia", "timestamp", "is not a time"),
            ("2017-07-01T00:02:09+99:99", "timestamp", "does not exist"),
            ("2017-07-01T00:02:09+03:60", "timestamp", "does not exist"),
            ("1498867329", "timestamp", "is not a time"),
        ]
    ),
    Cell("sds", "sensor_type", "", "null", "sensor_type is empty", "one of SDS011, "),
    Cell("sds", "sensor_type", "XYZ", "model", "'XYZ' is not a known", "one of SDS011, "),
    Cell("sds", "sensor_type", "BME280", "model", "has no column 'pressure', 'temp", "one of SDS"),
    Cell("sds", "sensor_type", "DHT22", "model", "has no column 'temp", "one of SDS011, "),
    Cell("bme", "pressure", "952.70", "unit", "looks like hPa, but files carry Pa", PASCAL),
    Cell("bme", "pressure", "1100", "unit", "looks like hPa", PASCAL),
    Cell("bme", "pressure", "0", "range", "is below 30000", PASCAL),
    Cell("bme", "pressure", "29999.9", "range", "is below 30000", PASCAL),
    Cell("bme", "pressure", "110000.1", "range", "is above 110000", PASCAL),
    Cell("bme", "pressure", "-1", "sentinel", "a code for 'no reading'", PASCAL),
    Cell("bme", "pressure", "unknown", "type", "is not a number", PASCAL),
    Cell("bme", "temperature", "-128", "sentinel", "a code for 'no reading'", DEGREES),
    Cell("bme", "temperature", "-128.00", "sentinel", "a code for 'no reading'", DEGREES),
    Cell("bme", "temperature", "50.01", "range", "is above 50", DEGREES),
    Cell("bme", "temperature", "-50.01", "range", "is below −50", DEGREES),
    Cell("bme", "temperature", "85", "range", "is above 50", DEGREES),
    Cell("bme", "humidity", "100.01", "range", "is above 100", HUMID),
    Cell("bme", "humidity", "-1.0", "sentinel", "a code for 'no reading'", HUMID),
    Cell("bme", "humidity", "-0.5", "range", "is below 0", HUMID),
    Cell("ds18b20", "temperature", "85", "sentinel", "a code for 'no reading'", DEGREES),
    Cell("ds18b20", "temperature", "85.00", "sentinel", "a code for 'no reading'", DEGREES),
    Cell("ds18b20", "temperature", "-127", "sentinel", "a code for 'no reading'", DEGREES),
    Cell("ds18b20", "temperature", "84.9", "range", "is above 50", DEGREES),
    Cell("sofia", "temperature", '"24,65"', "decimal_comma", "write 24.65", DEGREES),
    Cell("sofia", "pressure", "", "null", "pressure is empty", PASCAL),
    Cell("sofia", "humidity", '"6""2"', "type", "'6\"2' is not a number", HUMID),
]


@dataclass(frozen=True)
class Judged:
    cells: dict[Cell, Bad | None]
    counts: dict[str, tuple[int, int, int, int]]


@pytest.fixture(scope="module")
def judged(fresh: Callable[[], Site]) -> Judged:
    """What became of every cell, all of a kind in one file, with good rows between them."""
    site = fresh()
    where: dict[Cell, tuple[str, int]] = {}
    for kind, (header, _) in ROWS.items():
        cells = [cell for cell in CELLS if cell.kind == kind]
        lines = [header.rstrip()]
        for cell in cells:
            lines.append(row_of(kind, len(lines)))
            lines.append(row_of(kind, len(lines), **{cell.column: cell.text}))
            where[cell] = (kind, len(lines))
        site.drop(f"{kind}.csv", "\n".join(lines))
    assert {outcome.state for outcome in site.run()} == {"loaded"}
    site.check_books()
    rejected = {kind: site.rejected(f"{kind}.csv") for kind in ROWS}
    return Judged(
        {cell: rejected[kind].get(line_no) for cell, (kind, line_no) in where.items()},
        {kind: site.counts(f"{kind}.csv") for kind in ROWS},
    )


@pytest.mark.parametrize("kind", ROWS)
def test_rows_beside_bad_cells_are_loaded(kind: str, judged: Judged) -> None:
    bad = sum(cell.kind == kind for cell in CELLS)
    assert judged.counts[kind] == (2 * bad, bad, 0, bad)


@pytest.mark.parametrize("cell", CELLS, ids=[f"{c.kind} {c.column} {c.text!a}"[:60] for c in CELLS])
def test_a_bad_cell_has_the_fitting_reason(cell: Cell, judged: Judged) -> None:
    bad = judged.cells[cell]
    assert bad is not None, "was loaded"
    assert bad.line_bytes is None
    assert cell.text in bad.line
    (reason,) = bad.reasons
    value = cell.text.strip('"').replace('""', '"') if cell.kind == "sofia" else cell.text
    assert (reason["rule"], reason["column"]) == (cell.rule, cell.column)
    assert reason["value"] == (value or None)
    assert reason["expected"].startswith(cell.expected)
    assert cell.words in reason["message"]
    assert cell.rule in ROW_RULES


def test_a_code_within_a_sites_own_range_is_still_no_reading(make_site: MakeSite) -> None:
    site = make_site(contract={"ranges": {"temperature": {"accept": (-130, 100)}}})
    probes = [row_of("ds18b20", n, temperature=t) for n, t in enumerate(["85", "84.9", "-127"])]
    site.load(ARCHIVE_DS18B20 + "\n".join(probes), "probes.csv")
    others = [row_of("bme", n, temperature=t) for n, t in enumerate(["85", "-127", "-128"])]
    site.load(ARCHIVE_BME + "\n".join(others), "others.csv")

    for name, lines in {"probes.csv": [2, 4], "others.csv": [4]}.items():
        rejected = site.rejected(name)
        assert list(rejected) == lines
        assert all(bad.rules == {"sentinel": 1} for bad in rejected.values())


def test_coordinates_of_nowhere(site: Site) -> None:
    site.load(sds(pm(0), pm(1).replace("42.689;23.341", "0;0"), pm(2).replace("42.689", "0")))
    ((line_no, bad),) = site.rejected().items()
    (reason,) = bad.reasons
    assert line_no == 3
    assert (reason["rule"], reason["column"], reason["value"]) == ("null_island", "lat,lon", "0,0")
    assert "in the Atlantic" in reason["message"]


def test_a_row_tells_everything_that_is_wrong_with_it_in_the_order_of_its_columns(
    site: Site,
) -> None:
    site.load(sds(pm(0), "x;SDS011;y;91;0;never;nan;;;-5;;"))
    (bad,) = site.rejected().values()
    assert [(reason["column"], reason["rule"]) for reason in bad.reasons] == [
        ("sensor_id", "type"),
        ("location", "type"),
        ("lat", "range"),
        ("timestamp", "timestamp"),
        ("P1", "not_finite"),
        ("P2", "range"),
    ]
    (log,) = site.quarantine.glob("*.reasons.jsonl")
    assert json.loads(log.read_text())["reasons"] == bad.reasons


def test_a_very_long_value_is_shortened_in_its_reason_and_kept_in_its_line(site: Site) -> None:
    site.load(sds(pm(0), pm(1, p1="9" * 50_000 + "x")))
    (bad,) = site.rejected().values()
    (reason,) = bad.reasons
    assert len(reason["message"]) < 250
    assert len(bad.line) > 50_000


# --- files that were joined -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "header"),
    [
        (GOOD, ARCHIVE_SDS),
        (GOOD, "\ufeff" + ARCHIVE_SDS),
        (GOOD, ARCHIVE_SDS.upper()),
        (GOOD, ARCHIVE_BME),
        (GOOD, ARCHIVE_DS18B20),
        (GOOD, SOFIA_SDS),
        (SOFIA_SDS + "0,92,42,42.6,23.3,2017-07-01T00:00:00,9.53,2.83\n", SOFIA_SDS),
        (SOFIA_SDS + "0,92,42,42.6,23.3,2017-07-01T00:00:00,9.53,2.83\n", SOFIA_BME),
        (
            SOFIA_SDS[1:] + "92,42,42.6,23.3,2017-07-01T00:00:00,9.53,2.83\n",
            "location,sensor_id,lat,lon,timestamp,P1,P2\n",
        ),
    ],
    ids=[
        "the same",
        "the same with BOM",
        "the same in capitals",
        "another model's",
        "a shorter one",
        "the other dialect's",
        "Sofia, the same",
        "Sofia, another model's",
        "Sofia, other order",
    ],
)
def test_two_files_joined(first: str, header: str, site: Site) -> None:
    rows = first.count("\n") - 1
    below = first.partition("\n")[2]
    site.load(first + header + below)
    # The second header is no row. Below another one the same rows are other ones, or none.
    if header.strip("\ufeff\n").lower() == first.partition("\n")[0].lower():
        assert site.counts() == (2 * rows, rows, rows, 0)
    else:
        read, _, duplicate, _ = site.counts()
        assert (read, duplicate) == (2 * rows, 0)
        ((_, section),) = site.sql("SELECT first_line, header FROM air.source_section")
        assert section == header.strip("\ufeff\n")


def test_rows_of_another_models_file_joined_are_taken_for_what_they_are(site: Site) -> None:
    other = row_of("bme", 5)
    site.load(GOOD + ARCHIVE_BME + f"{other}\n")
    assert site.rejected() == {}
    assert site.raw_rows() == 4


# --- what is written differently and means the same ---------------------------------------------

PLAIN = [
    "sensor_id,location,lat,lon,timestamp,P1,P2",
    "92,42,42.689,23.341,2017-07-01T00:00:00,9.53,2.83",
    "93,43,42.69,23.35,2017-07-01T00:00:01,10.5,0",
    "92,42,42.689,23.341,2017-07-01T00:02:28,24.5,12",
]
TEXT = "\n".join(PLAIN) + "\n"


def per_field(change: Callable[[str], str], mark: str = ",") -> str:
    return "".join(mark.join(map(change, line.split(","))) + "\n" for line in PLAIN)


def in_column(number: int, change: Callable[[str], str]) -> str:
    lines = [line.split(",") for line in PLAIN]
    for fields in lines[1:]:
        fields[number] = change(fields[number])
    return "".join(",".join(fields) + "\n" for fields in lines)


def with_column(at: int, name: str, value: str) -> str:
    lines = [line.split(",") for line in PLAIN]
    for number, fields in enumerate(lines):
        fields.insert(at, value if number else name)
    return "".join(",".join(fields) + "\n" for fields in lines)


def shifted(text: str) -> str:
    """Return the same time as it is told three hours further east."""
    there = datetime.fromisoformat(text) + timedelta(hours=3)
    return there.isoformat() + "+03:00"


SAME: dict[str, str | bytes] = {
    "plain": TEXT,
    "quoted": per_field(lambda text: f'"{text}"'),
    "quoted here and there": TEXT.replace("9.53", '"9.53"').replace("lat", '"lat"'),
    "doubled quotes in an ignored column": with_column(5, "note", '"said ""hm"", left"'),
    "CRLF": TEXT.replace("\n", "\r\n"),
    "mixed line ends": TEXT.replace("\n", "\r\n", 2),
    "BOM": b"\xef\xbb\xbf" + TEXT.encode(),
    "BOM and quotes": b"\xef\xbb\xbf" + per_field(lambda text: f'"{text}"').encode(),
    "no final newline": TEXT.rstrip("\n"),
    "no final newline, CR": TEXT.rstrip("\n") + "\r",
    "blank lines everywhere": "\r\n\n" + TEXT.replace("\n", "\n\n\r\n") + "\n\n",
    "time with Z": in_column(4, lambda text: text + "Z"),
    "time with offset": in_column(4, shifted),
    "time with offset, no colon": in_column(4, lambda text: text + "+0000"),
    "time with fraction": in_column(4, lambda text: text + ".000000+00:00"),
    "time with fraction of 9": in_column(4, lambda text: text + ".000000000"),
    "time with a space": in_column(4, lambda text: text.replace("T", " ")),
    "times of every kind": TEXT.replace("T00:00:00", " 00:00").replace("00:00:01", "00:00:01Z"),
    "spaces around": per_field(lambda text: f"  {text} "),
    "plus signs": in_column(5, lambda text: f"+{text}"),
    "plus signs on ids": in_column(0, lambda text: f"+{text}"),
    "leading zeros": in_column(0, lambda text: f"000{text}"),
    "exponents": in_column(5, lambda text: f"{float(text) / 10!r}e1" if text != "9.53" else text),
    "no leading zero": in_column(6, lambda text: {"0": ".0", "12": "12."}.get(text, text)),
    "header in capitals": TEXT.replace(PLAIN[0], PLAIN[0].upper()),
    "header in small letters": TEXT.replace(PLAIN[0], PLAIN[0].lower()),
    "unknown columns": with_column(3, "battery", "3.7"),
    "unnamed columns": with_column(0, "", "17"),
    "unnamed columns, two": with_column(0, "", "17")
    .replace("P2\n", "P2,\n")
    .replace("2.83", "2.83,x")
    .replace(",0\n", ",0,y\n")
    .replace(",12\n", ",12,z\n"),
    "Cyrillic in an ignored column": with_column(2, "място", "кв. Лозенец, №5".replace(",", "")),
    "Cyrillic and a comma": with_column(2, "място", '"кв. Лозенец, №5"'),
    "semicolons": per_field(str, ";"),
    "tabs": per_field(str, "\t"),
    "other order": per_field(str).replace(
        TEXT, "".join(",".join(reversed(line.split(","))) + "\n" for line in PLAIN)
    ),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip of two members": gzip.compress(TEXT[:100].encode()) + gzip.compress(TEXT[100:].encode()),
    "gzip with padding": gzip.compress(TEXT.encode()) + bytes(512),
    "sensor_type": with_column(1, "sensor_type", "SDS011"),
    "sensor_type in small letters": with_column(1, "sensor_type", " sds011 "),
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_written_differently_and_the_same_readings(content: str | bytes, site: Site) -> None:
    name = "some.csv.gz" if content[:2] == b"\x1f\x8b" else "some.csv"
    outcome = site.load(content, name)

    assert outcome.state == "loaded"
    assert outcome.rules == {}
    assert site.counts(name) == (3, 3, 0, 0)
    readings = site.sql(
        "SELECT sensor_id, ts, pm10, pm25, location_id, lat, lon, flags FROM air.raw_particulate"
        " JOIN air.location USING (location_key) ORDER BY sensor_id, ts"
    )
    start = datetime(2017, 7, 1, tzinfo=UTC)
    assert readings == [
        (92, start, 9.53, 2.83, 42, 42.689, 23.341, 0),
        (92, start + timedelta(seconds=148), 24.5, 12.0, 42, 42.689, 23.341, 0),
        (93, start + timedelta(seconds=1), 10.5, 0.0, 43, 42.69, 23.35, 0),
    ]
    ledger = site.ledger(name)
    assert (ledger["first_ts"], ledger["last_ts"]) == (start, start + timedelta(seconds=148))
    assert ledger["sensor_model"] == "sds011"
    assert ledger["dialect"] == ("archive" if b"sensor_type" in _bytes(content) else "sofia")


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def test_times_with_fractions_keep_them(site: Site) -> None:
    moment = "2016-08-13T00:00:26.053188+00:00"
    site.load(sds(pm(0).replace("2017-07-01T00:00:00", moment)))
    assert site.one("SELECT ts FROM air.raw_particulate") == datetime.fromisoformat(moment)


def test_pressure_is_stored_in_hectopascal(site: Site) -> None:
    site.load(SOFIA_BME + row_of("sofia", 0) + "\n")
    stored = site.sql("SELECT temperature, humidity, pressure FROM air.raw_climate")
    assert stored == [(23.46, 62.48, 952.7027)]


# --- names ----------------------------------------------------------------------------------------

NAMES: dict[str, bytes] = {
    "spaces": b" two  words .csv",
    "Cyrillic": "данни от София.csv".encode(),
    "quotes": b'"it\'s" `$HOME` %s {x} \\n.csv',
    "newlines": b"line\nbreak\r\n.csv",
    "a leading dash": b"--help.csv",
    "255 bytes": b"x" * 251 + b".csv",
    "255 bytes, dots early": b"2017.07." + b"x" * 243 + b".csv",
    "255 bytes of Cyrillic": ("щ" * 125 + "x").encode() + b".csv",
    "255 bytes, compressed": b"x" * 248 + b".csv.gz",
    "not UTF-8": b"\xff\xfe \xe4.csv",
    "not UTF-8, 255 bytes": b"\xe4" * 251 + b".csv",
    "capitals": b"DATA.CSV",
    "markup": b"[red]x[.csv",
    "SQL": b"'; DROP TABLE air.sensor; --.csv",
    "the ending only": b"a.csv.gz.csv",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_any_name_works(name: bytes, site: Site) -> None:
    assert len(name) <= 255
    contents = [sds(pm(0), "bad"), sds(pm(1), "bad")]
    with within(30):
        for content in contents:
            assert site.load(content, name).state == "loaded"
        refused = site.load("nothing\n", name)

    assert refused.state == "refused"
    shown = name.decode(errors="backslashreplace")
    assert site.sql("SELECT DISTINCT name FROM air.source_file") == [(shown,)]
    assert not list(site.data.glob("*.csv*"))
    archived = [path for path in site.settings.archive_folder.rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in archived) == sorted(contents)
    # The first under its own name, the second beside it with digits of its hash put in.
    assert name in [os.fsencode(path.name) for path in archived]
    ending = b".csv.gz" if name.endswith(b".csv.gz") else name[-4:]
    assert all(os.fsencode(path.name).endswith(ending) for path in archived)
    assert len(list(site.quarantine.glob("*.reasons.jsonl"))) == 2
    assert site.refusal("nothing\n")["file"] == shown
    assert site.raw_rows() == 2


# --- what is not a file ---------------------------------------------------------------------------


def test_what_is_not_a_regular_csv_file_is_never_opened(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text(GOOD)
    (site.data / "folder.csv").mkdir()
    (site.data / "folder.csv" / "inner.csv").write_text(GOOD)
    (site.data / "link.csv").symlink_to(outside)
    (site.data / "dangling.csv").symlink_to(tmp_path / "nowhere.csv")
    os.mkfifo(site.data / "pipe.csv")
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(site.data)  # the path of a socket is limited to 107 bytes
        try:
            listener.bind("socket.csv")
        finally:
            os.chdir(here)
    expected = {
        "folder.csv": "a folder",
        "link.csv": "a symbolic link",
        "dangling.csv": "a symbolic link",
        "pipe.csv": "a FIFO",
        "socket.csv": "a socket",
    }
    for name, words in {
        ".hidden.csv": "a hidden file",
        ".csv": "a hidden file",
        "upload.csv.part": "in the making",
        "upload.csv.TMP": "in the making",
        "notes.txt": "does not end in .csv or .csv.gz",
        "table.xlsx": "does not end in",
        "data.gz": "does not end in",
        "csv": "does not end in",
    }.items():
        (site.data / name).write_text(GOOD)
        expected[name] = words
    try:
        os.mknod(site.data / "device.csv", 0o600 | 0o020000, os.makedev(1, 5))  # like /dev/zero
        expected["device.csv"] = "a device"
    except PermissionError:
        pass  # only root may make one
    site.drop("real.csv", GOOD)

    with within(10):
        reasons = site.ignored()
        outcomes = site.run()

    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]
    assert [(o.name, o.state) for o in outcomes] == [("real.csv", "loaded")]
    assert {path.name for path in site.data.iterdir()} == {*expected, "archive"}
    assert outside.read_text() == GOOD
    assert site.raw_rows() == 3


def test_a_file_called_archive_does_not_stand_for_the_folder(site: Site) -> None:
    (site.data / "archive").write_text(GOOD)
    assert "does not end in" in site.ignored()["archive"]


def becomes_fifo(path: Path, other: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def becomes_link(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


def becomes_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def becomes_socket(path: Path, other: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        short = other.with_name("s")
        short.symlink_to(path.parent)
        listener.bind(str(short / path.name))


def vanishes(path: Path, other: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "change", [becomes_fifo, becomes_link, becomes_folder, becomes_socket, vanishes]
)
def test_what_changes_its_nature_after_the_scan_is_left_alone(
    change: Callable[[Path, Path], None], site: Site, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text(sds(pm(77)))
    path = site.drop("some.csv", GOOD)
    site.drop("other.csv", sds(pm(9)))
    found = site.scan()
    change(path, outside)
    before = os.path.lexists(path)

    with within(10):
        outcomes = site.run(found)

    assert [(o.name, o.state) for o in outcomes] == [("some.csv", "left"), ("other.csv", "loaded")]
    assert outcomes[0].message is not None
    assert os.path.lexists(path) == before
    assert outside.read_text() == sds(pm(77))
    assert site.sql("SELECT name FROM air.source_file") == [("other.csv",)]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        # Reading the start of this file fails with EIO, as on a failing disk.
        ("/proc/self/mem", "/proc/self/mem: cannot be read: Input/output error"),
        # This one claims to have 0 bytes, and has some: as a file that grows while it is read.
        ("/proc/self/mounts", "mounts: was written to while it was being read"),
    ],
    ids=["failing disk", "growing"],
)
def test_a_file_that_cannot_be_read_is_left_and_the_others_go_on(
    path: str, words: str, site: Site
) -> None:
    site.drop("other.csv", GOOD)
    failing = Found(Path(path), 0, 0, datetime.now(UTC))

    outcomes = site.run([failing, *site.scan()])

    assert [o.state for o in outcomes] == ["left", "loaded"]
    assert words in str(outcomes[0].message)


# --- nothing good in it ---------------------------------------------------------------------------


def test_a_file_of_bad_rows_only(site: Site) -> None:
    rows = [pm(i, p1="nan") for i in range(500)]
    outcome = site.load(sds(*rows))

    assert (outcome.state, outcome.rules) == ("loaded", {"not_finite": 500})
    assert site.counts() == (500, 0, 0, 500)
    assert [bad.line for bad in site.rejected().values()] == rows
    ledger = site.ledger()
    assert (ledger["sensor_model"], ledger["first_ts"]) == ("sds011", None)
    assert site.archived() == ["some.csv"]
    for table in ("raw_particulate", "sensor", "location", "hourly", "file_aggregate"):
        assert site.one(f"SELECT count(*) FROM air.{table}") == 0
    assert outcome.quarantine is not None
    assert outcome.quarantine.read_text("utf-8-sig").count("\n") == 501


# --- the same bytes again -------------------------------------------------------------------------


@pytest.mark.parametrize("content", [sds(pm(0), pm(1), "bad"), "nothing\n"], ids=["good", "bad"])
def test_the_same_bytes_change_nothing_under_any_name_at_any_time(content: str, site: Site) -> None:
    state = "loaded" if content.startswith("sensor_id") else "refused"
    assert site.load(content, "first.csv").state == state
    before = site.dump()

    for new_process in (False, True):
        if new_process:
            site.reopen()
        for name in ("first.csv", "other.csv", "other.csv"):
            outcome = site.load(content, name)
            assert outcome.state == "known"
            assert "came before as first.csv" in str(outcome.message)
    site.drop("twin 1.csv", content)
    site.drop("twin 2.csv", content)
    assert [o.state for o in site.run()] == ["known", "known"]

    assert site.dump() == before
    assert list(site.data.glob("*.csv")) == []
    everywhere = ["first.csv", "other.csv", "twin 1.csv", "twin 2.csv"]
    if state == "loaded":
        assert site.archived() == everywhere
    else:
        assert site.archived() == []
        refused = [n for n in site.quarantined_files() if n.endswith(".refused.csv")]
        assert [name.partition(".")[0] + ".csv" for name in refused] == everywhere


@pytest.mark.parametrize("content", [sds(pm(0), pm(1), "bad"), "nothing\n"], ids=["good", "bad"])
def test_the_same_bytes_twice_in_one_batch(content: str, site: Site) -> None:
    site.drop("one.csv", content)
    site.drop("other.csv", sds(pm(5)))
    site.drop("two.csv", content)

    outcomes = site.run()

    first = "loaded" if content.startswith("sensor_id") else "refused"
    assert [o.state for o in outcomes] == [first, "loaded", "known"]
    file_id = site.ledger("one.csv")["file_id"]
    assert f"came before as one.csv (file {file_id})" in str(outcomes[2].message)
    assert site.one("SELECT count(*) FROM air.source_file") == 2
    everything = [name.partition(".")[0] for name in site.quarantined_files()]
    if first == "loaded":
        assert site.archived() == ["one.csv", "other.csv", "two.csv"]
        assert everything == ["one", "one"]
    else:
        assert site.archived() == ["other.csv"]
        assert everything == ["one", "one", "two"]


def test_a_refused_file_is_judged_anew_under_another_contract(make_site: MakeSite) -> None:
    content = "sensor_id,location,lat,lon,timestamp,dust\n92,42,42.6,23.3,2017-07-01T00:00:00,5\n"
    site = make_site()
    assert site.load(content).state == "refused"

    site.settings = load_settings(
        site.settings.home, contract={"models": {"dustbox": {"dust": "pm10"}}}
    )
    site.reopen()

    assert site.load(content).state == "loaded"
    assert site.sql("SELECT state, sensor_model FROM air.source_file") == [("loaded", "dustbox")]
    assert site.sql("SELECT pm10 FROM air.raw_particulate") == [(5.0,)]


# --- files that change ----------------------------------------------------------------------------


def test_the_same_name_with_new_content_is_a_new_file(site: Site) -> None:
    first, second = sds(pm(0), pm(1)), sds(pm(1), pm(2), pm(3))
    site.load(first)
    site.load(second)

    rows = "SELECT rows_read, rows_loaded, rows_duplicate FROM air.source_file ORDER BY file_id"
    assert site.sql(rows) == [(2, 2, 0), (3, 2, 1)]
    archived = [path for path in site.settings.archive_folder.rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in archived) == [first, second]


AFTER_HASHING = pytest.mark.parametrize(
    "moment", ["checkout", "begin"], ids=["before its header is read", "before its rows are read"]
)


def at(moment: str, site: Site, change: Callable[[], object]) -> None:
    """Change something, once, at a moment of the connection to the database.

    After a file was hashed, the first `checkout` is for the question whether the ledger knows it;
    then a large file's header is read. The transaction with its rows is between `begin` and
    `commit`, and only then the file is moved.
    """

    def hook(*_: object) -> None:
        change()

    sa.event.listen(site.engine, moment, hook, once=True)


def test_lines_appended_after_the_file_was_read(site: Site) -> None:
    path = site.drop("some.csv", sds(pm(0), pm(1), "bad"))

    def append() -> None:
        with path.open("a") as file:
            file.write(f"{pm(2)}\nworse\n")

    at("commit", site, append)
    (outcome,) = site.run()

    assert outcome.state == "loaded"
    assert site.archived() == []
    assert path.read_text() == sds(pm(0), pm(1), "bad", pm(2), "worse")
    site.check_books()

    (outcome,) = site.run()

    assert outcome.state == "loaded"
    rows = (
        "SELECT rows_read, rows_loaded, rows_duplicate, rows_quarantined"
        " FROM air.source_file ORDER BY file_id"
    )
    assert site.sql(rows) == [(3, 2, 0, 1), (5, 1, 2, 2)]
    assert site.archived() == ["some.csv"]


def test_a_file_replaced_after_it_was_read(site: Site) -> None:
    path = site.drop("some.csv", sds(pm(0)))
    other = site.data / ".other"
    other.write_text(sds(pm(1)))

    at("commit", site, lambda: other.replace(path))
    site.run()

    assert site.archived() == []
    assert [o.state for o in site.run()] == ["loaded"]
    assert site.raw_rows() == 2
    assert site.archived() == ["some.csv"]


def test_a_file_taken_away_after_it_was_read(site: Site) -> None:
    path = site.drop("some.csv", sds(pm(0)))
    at("commit", site, path.unlink)
    (outcome,) = site.run()
    assert outcome.state == "loaded"
    assert site.archived() == []
    assert site.raw_rows() == 1


@AFTER_HASHING
@pytest.mark.parametrize(
    "later",
    [b"", b"\n", b"junk\n", zipped(), MANY[:5000], MANY + pm(9999).encode(), PACKED[:-9]],
    ids=["emptied", "blank", "junk", "zip", "cut", "longer", "cut gzip"],
)
def test_a_large_file_rewritten_after_it_was_hashed_is_left_alone(
    later: bytes, moment: str, make_site: MakeSite
) -> None:
    site = make_site(block_bytes=2**16, batch_bytes=50_000)
    path = site.drop("large.csv", MANY)
    site.drop("other.csv", sds(pm(86_000)))

    at(moment, site, lambda: path.write_bytes(later))
    outcomes = site.flow.process(site.scan())

    assert [(o.name, o.state) for o in outcomes] == [("large.csv", "left"), ("other.csv", "loaded")]
    assert site.sql("SELECT name FROM air.source_file") == [("other.csv",)]
    assert path.read_bytes() == later
    path.unlink()
    # The ledger holds nothing against the bytes that were hashed first.
    assert site.load(MANY, "large.csv").state == "loaded"
    assert site.counts("large.csv") == (2000, 2000, 0, 0)


@AFTER_HASHING
def test_a_large_file_that_vanishes_after_it_was_hashed(moment: str, make_site: MakeSite) -> None:
    site = make_site(block_bytes=2**16, batch_bytes=50_000)
    path = site.drop("large.csv", MANY)
    site.drop("other.csv", GOOD)
    at(moment, site, path.unlink)
    outcomes = site.flow.process(site.scan())
    assert [(o.name, o.state) for o in outcomes] == [("large.csv", "left"), ("other.csv", "loaded")]


# --- kept and flagged -----------------------------------------------------------------------------

BIT = flag_bits("raw_climate") | flag_bits("raw_particulate")

FLAGGED: dict[str, tuple[str, dict[str, str], int]] = {
    "nothing to remark": ("sds", {}, 0),
    "no latitude": ("sds", {"lat": ""}, PLACE_UNKNOWN),
    "no longitude": ("sds", {"lon": ""}, PLACE_UNKNOWN),
    "no coordinates": ("sds", {"lat": "", "lon": " "}, PLACE_UNKNOWN),
    "no place at all": ("sds", {"lat": "", "lon": "", "location": ""}, PLACE_UNKNOWN),
    "P1 beyond the datasheet": ("sds", {"P1": "1000"}, BIT["pm10"]),
    "P1 at the ceiling": ("sds", {"P1": "999.9"}, 0),
    "P2 below saturation": ("sds", {"P2": "999.89"}, 0),
    "P2 at the ceiling": ("sds", {"P2": "999.9"}, BIT["pm25"]),
    "P2 in saturation": ("sds", {"P2": "1999.9"}, BIT["pm25"]),
    "both, nowhere": ("sds", {"P1": "1999.9", "P2": "1001", "lat": ""}, 1 | 2 | 4),
    "too hot": ("bme", {"temperature": "49.9"}, BIT["temperature"]),
    "too cold": ("bme", {"temperature": "-30.01"}, BIT["temperature"]),
    "cold": ("bme", {"temperature": "-30"}, 0),
    "humidity stuck high": ("bme", {"humidity": "99.9"}, BIT["humidity"]),
    "humidity stuck low": ("bme", {"humidity": "1"}, BIT["humidity"]),
    "humid": ("bme", {"humidity": "99.5"}, 0),
    "high in the mountains": ("bme", {"pressure": "30000"}, 0),
}


@pytest.mark.parametrize("case", FLAGGED.values(), ids=FLAGGED)
def test_suspect_values_are_kept_and_flagged(
    case: tuple[str, dict[str, str], int], site: Site
) -> None:
    kind, changed, flags = case
    site.load(ROWS[kind][0] + row_of(kind, 0, **changed) + "\n")
    assert site.counts() == (1, 1, 0, 0)
    table = "raw_particulate" if kind == "sds" else "raw_climate"
    assert site.one(f"SELECT flags FROM air.{table}") == flags
    place = site.sql(
        f"SELECT location_id, lat, lon FROM air.{table} JOIN air.location USING (location_key)"
    )
    due = {**ROWS[kind][1], **changed}
    assert place == [
        (
            int(due["location"]) if due["location"].strip() else None,
            float(due["lat"]) if due["lat"].strip() else None,
            float(due["lon"]) if due["lon"].strip() else None,
        )
    ]


# --- conflicts ------------------------------------------------------------------------------------


def kept(site: Site) -> list[tuple[Any, ...]]:
    return site.sql("SELECT pm10, pm25 FROM air.raw_particulate ORDER BY ts")


def the_conflict(site: Site, name: str) -> dict[str, Any]:
    (bad,) = site.rejected(name).values()
    (reason,) = bad.reasons
    assert reason["rule"] == "conflict"
    assert bad.line == pm(5, p1="9.54")
    assert reason["expected"] == "pm10 9.53, pm25 2.83"
    assert reason["value"] == "pm10 9.54, pm25 2.83"
    assert "pm10 9.53, pm25 2.83 in" in reason["message"]
    return reason


def test_a_conflict_within_a_file(site: Site) -> None:
    site.load(sds(pm(1), pm(5), pm(3), pm(5, p1="9.54"), pm(5, p1="9.530")))
    assert site.counts() == (5, 3, 1, 1)
    assert "in line 3;" in the_conflict(site, "some.csv")["message"]
    assert kept(site) == [(9.53, 2.83)] * 3


def test_a_conflict_with_another_file_of_the_batch(site: Site) -> None:
    site.drop("first.csv", sds(pm(1), pm(5)))
    site.drop("second.csv", sds(pm(5, p1="9.54"), pm(5), pm(6)))
    site.run()
    assert site.counts("first.csv") == (2, 2, 0, 0)
    assert site.counts("second.csv") == (3, 1, 1, 1)
    assert "in line 3 of first.csv;" in the_conflict(site, "second.csv")["message"]
    assert kept(site) == [(9.53, 2.83)] * 3


def test_a_conflict_with_a_file_of_the_batch_that_is_written_differently(site: Site) -> None:
    """Another header is another block, so it is the database that finds this one."""
    site.drop("first.csv", sds(pm(1), pm(5)))
    site.drop("second.csv", "\ufeff" + sds(pm(5, p1="9.54"), pm(6)).replace("ratioP2", "note"))
    site.run()
    assert site.counts("second.csv") == (2, 1, 0, 1)
    assert "from first.csv" in the_conflict(site, "second.csv")["message"]
    assert kept(site) == [(9.53, 2.83)] * 3


def test_a_conflict_with_the_database(site: Site) -> None:
    site.load(sds(pm(1), pm(5)), "first.csv")
    site.reopen()
    site.load(sds(pm(6), pm(5, p1="9.54"), pm(5)), "second.csv")
    assert site.counts("second.csv") == (3, 1, 1, 1)
    assert "in the database, from first.csv;" in the_conflict(site, "second.csv")["message"]
    assert kept(site) == [(9.53, 2.83)] * 3


def test_a_row_that_lost_to_the_database_is_nobodys_measure(site: Site) -> None:
    """What counts is what stays: not the first of the file, which is not stored."""
    site.load(sds(pm(1), pm(5)), "first.csv")
    site.load(sds(pm(5, p1="9.54"), pm(5), pm(5, p1="9.54"), pm(5, p1=7), pm(5)), "second.csv")
    assert site.counts("second.csv") == (5, 0, 2, 3)
    rejected = site.rejected("second.csv")
    assert [(line_no, bad.reasons[0]["value"]) for line_no, bad in rejected.items()] == [
        (2, "pm10 9.54, pm25 2.83"),
        (4, "pm10 9.54, pm25 2.83"),
        (5, "pm10 7, pm25 2.83"),
    ]
    for bad in rejected.values():
        assert bad.reasons[0]["expected"] == "pm10 9.53, pm25 2.83"
        assert "in the database, from first.csv" in bad.reasons[0]["message"]


def test_a_row_of_a_single_quantity_that_lost_to_the_database_is_nobodys_measure(
    site: Site,
) -> None:
    def celsius(*values: str) -> str:
        rows = [f"92;DS18B20;42;42.689;23.341;{clock(5)};{value}\n" for value in values]
        return ARCHIVE_DS18B20 + "".join(rows)

    site.load(celsius("21.5"), "first.csv")
    site.load(celsius("21.6", "21.5", "21.6"), "second.csv")
    assert site.counts("second.csv") == (3, 0, 1, 2)
    assert list(site.rejected("second.csv")) == [2, 4]


def test_a_conflict_far_apart_in_one_large_file(make_site: MakeSite) -> None:
    site = make_site(block_bytes=2**16)
    site.load(sds(pm(5), *(pm(i) for i in range(10, 2000)), pm(5, p1="9.54")))
    assert site.counts() == (1992, 1991, 0, 1)
    assert "from some.csv" in the_conflict(site, "some.csv")["message"]
