"""Whatever bytes come, nothing crashes and every line is accounted for exactly once.

Files of good and nearly good rows are mangled byte by byte and judged twice: by the pipeline, and
by an oracle below that knows the contract's figures but none of the pipeline's code: it reads a
line at a time, with regular expressions and plain Python.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import Phase, assume, example, given, note, settings
from hypothesis import strategies as st

from pipeline.config import load_settings
from pipeline.contract import MAX_ID, Contract, Model
from pipeline.contract.header import Header, recognise
from pipeline.core.normalise import normalise, settle
from pipeline.core.parse import parse
from pipeline.core.records import Block, RejectedRow
from pipeline.core.validate import validate
from pipeline.errors import FileRefused
from pipeline.files import read
from pipeline.records import Content
from tests.integration.conftest import (
    ARCHIVE_BME,
    ARCHIVE_DS18B20,
    ARCHIVE_SDS,
    SOFIA_BME,
    SOFIA_SDS,
    Site,
    emptied,
    in_small_blocks,
)

CONTRACT = Contract.default()
# A long run through the database shows the first failure as it is: to make it small takes minutes.
AS_FOUND = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate], report_multiple_bugs=False
)
NOW = datetime(2020, 1, 1, 12, tzinfo=UTC)

# --- the oracle -----------------------------------------------------------------------------------

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?0*\d{1,18}", re.ASCII)
TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?:(:\d\d)([.,]\d+)?)?([Zz]|[+-]\d\d:?(?:\d\d)?)?", re.ASCII
)

# What is told about a cell, by what an independent reader can tell: no value, no sense, no belief.
CLASSES = {
    "null": "empty",
    "type": "unreadable",
    "not_finite": "unreadable",
    "decimal_comma": "unreadable",
    "timestamp": "unreadable",
    "spreadsheet_date": "unreadable",
    "range": "unbelievable",
    "sentinel": "unbelievable",
    "unit": "unbelievable",
    "null_island": "unbelievable",
    "model": "model",
    "not_stored": "model",
    "repeated_header": "header",
}
STRUCTURE = {"width", "quote", "nul_byte", "encoding", "repeated_header"}


@dataclass(frozen=True)
class Reading:
    """A good line."""

    key: tuple[int, datetime]
    place: tuple[int | None, float | None, float | None]
    values: tuple[np.float32, ...]


Fault = set[tuple[str | None, str]]


def physical_lines(raw: bytes) -> tuple[str | None, dict[int, bytes]]:
    """Return the header and the non-blank lines after it, by number."""
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    # CR CR LF ends a line as well: a text of CR LF that was written as text on Windows.
    numbered = [(n, line.rstrip(b"\r")) for n, line in enumerate(lines, start=1)]
    while numbered and not numbered[0][1].strip(b"\r"):
        numbered.pop(0)
    if not numbered:
        return None, {}
    _, header = numbered.pop(0)
    try:
        text: str | None = header.strip(b"\r").decode()
    except UnicodeDecodeError:
        text = None
    # Spaces and delimiters alone are nothing either.
    return text, {
        n: line for n, line in numbered if line.replace(b'""', b"").strip(b" \t\r\v\f;,|")
    }


def names_columns(header: str | None, lines: Iterable[bytes]) -> bool:
    """Whether a line looks like another header: what is below it is tested in test_sections."""
    names = {name.strip().lower() for name in re.split("[;,|\t]", header or "")} - {""}
    for line in lines:
        text = line.decode(errors="replace").lower()
        if "sensor_id" in text or names & {*re.split("[;,|\t]", text)}:
            return True
    return False


def fields_of(line: bytes, delimiter: str) -> list[str] | None:
    """Split by RFC 4180; None when the quotes do not allow it."""
    text, fields, at = line.decode(), [], 0
    while True:
        if text[at : at + 1] == '"':
            end, field = at + 1, ""
            while True:
                close = text.find('"', end)
                if close < 0:
                    return None
                field += text[end:close]
                end = close + 1
                if text[end : end + 1] != '"':
                    break
                field, end = field + '"', end + 1
            fields.append(field)
        else:
            end = text.find(delimiter, at)
            end = len(text) if end < 0 else end
            if '"' in text[at:end]:
                return None
            fields.append(text[at:end])
        if end == len(text):
            return fields
        if text[end] != delimiter:
            return None
        at = end + 1


def number_of(text: str) -> float | None:
    return float(text) if NUMBER.fullmatch(text) else None


def time_of(text: str) -> datetime | None:
    match = TIME.fullmatch(text)
    if not match:
        return None
    day, minute, second, fraction, zone = match.groups()
    try:
        late = (
            minute == "24:00" and (second or ":00") == ":00" and not (fraction or "0").strip(".,0")
        )
        minute = "00:00" if late else minute
        moment = datetime.fromisoformat(f"{day}T{minute}{second or ':00'}").replace(tzinfo=UTC)
        moment += timedelta(days=late)
        if fraction:
            moment += timedelta(microseconds=int(fraction[1:7].ljust(6, "0")))
        if zone and zone.upper() != "Z":
            hours, minutes = int(zone[1:3]), int(zone[3:].strip(":") or 0)
            if hours > 23 or minutes > 59:
                return None
            ahead = timedelta(hours=hours, minutes=minutes)
            moment -= ahead if zone[0] == "+" else -ahead
    except ValueError:
        return None
    except OverflowError:  # into the year 0 or 10,000
        return datetime.min.replace(tzinfo=UTC)
    return moment


def oracle(line: bytes, header: Header, now: datetime = NOW) -> Reading | Fault:
    """Judge one line."""
    if b"\0" in line or b"\r" in line:
        return {(None, "structure")}
    try:
        line.decode()
    except UnicodeDecodeError:
        return {(None, "structure")}
    fields = fields_of(line, header.delimiter)
    if fields is None or len(fields) != len(header.names):
        return {(None, "structure")}
    cells = {name: text.strip() for name, text in zip(header.names, fields, strict=True)}
    model = header.models[0]
    if header.dialect == "archive":
        fitting = {each.name: each for each in header.models}
        if cells["sensor_type"].lower() not in fitting:
            empty = not fields[header.names.index("sensor_type")]
            return {("sensor_type", "empty" if empty else "model")}
        model = fitting[cells["sensor_type"].lower()]
    return process(cells, model, now)


def process(cells: dict[str, str], model: Model, now: datetime) -> Reading | Fault:
    faults: Fault = set()

    def whole(name: str, least: int, *, optional: bool) -> int | None:
        text = cells[name]
        if not text:
            if not optional:
                faults.add((name, "empty"))
            return None
        if not re.fullmatch(r"[+-]?\d+(\.0*)?", text, re.ASCII):
            faults.add((name, "unreadable"))
        text = text.partition(".")[0]
        if (name, "unreadable") in faults:
            pass
        elif not WHOLE.fullmatch(text) or not least <= int(text) <= MAX_ID:
            faults.add((name, "unbelievable"))
        return int(text) if WHOLE.fullmatch(text) else None

    def number(name: str, low: float, high: float, *, optional: bool) -> float | None:
        text = cells.get(name, "")
        if not text:
            if not optional:
                faults.add((name, "empty"))
            return None
        value = number_of(text)
        if value is None:
            faults.add((name, "unreadable"))
        elif not low <= value <= high:
            faults.add((name, "unbelievable"))
        return value

    sensor = whole("sensor_id", 1, optional=False)
    location = whole("location", 0, optional=True)
    lat = number("lat", -90, 90, optional=True)
    lon = number("lon", -180, 180, optional=True)
    if lat == 0 and lon == 0:
        faults.add(("lat,lon", "unbelievable"))
    moment = time_of(cells["timestamp"])
    if not cells["timestamp"]:
        faults.add(("timestamp", "empty"))
    elif moment is None:
        faults.add(("timestamp", "unreadable"))
    elif not datetime(2010, 1, 1, tzinfo=UTC) <= moment <= now + timedelta(days=1):
        faults.add(("timestamp", "unbelievable"))
    values = []
    for column, name in model.columns.items():
        quantity = CONTRACT.quantities[name]
        value = number(column, *quantity.file_range, optional=column == "P0")
        if value is not None:
            if value in (*quantity.sentinels, *model.sentinels.get(column, ())):
                faults.add((column, "unbelievable"))
            with np.errstate(over="ignore"):
                values.append(np.float32(value / quantity.file_scale))
    if faults:
        return faults
    assert sensor is not None
    assert moment is not None
    return Reading((sensor, moment), (location, lat, lon), tuple(values))


# --- files and what befalls them ------------------------------------------------------------------

HEADERS = {
    "sds": (ARCHIVE_SDS, ("P1", "P2"), "SDS011"),
    "bme": (ARCHIVE_BME, ("pressure", "temperature", "humidity"), "BME280"),
    "ds18b20": (ARCHIVE_DS18B20, ("temperature",), "DS18B20"),
    "sofia sds": (SOFIA_SDS, ("P1", "P2"), ""),
    "sofia bme": (SOFIA_BME[1:], ("pressure", "temperature", "humidity"), ""),
}
MOMENTS = [f"2017-07-01T00:0{minute}:0{second}" for minute in range(3) for second in range(3)]
ODD_MOMENTS = [
    "2017-07-01 00:00:00", "2017-07-01T00:00", "2017-07-01T00:00:00Z", "2017-07-01T03:00:00+03:00",
    "2017-07-01T03:00:00+0300", "2017-07-01T03:00:00+03", "2017-07-01T00:00:00.000001",
    "2017-07-01T00:00:00.1234567891", "2016-12-31T23:59:60", "2017-06-31T00:00:00",
    "2017-07-01T24:00:00", "2017-07-01T000000", "2017-07-01T00", "20170701T000000", "2017-07-01",
    "31/07/2017", "", "never", "1970-01-01T00:00:00", "2020-01-02T12:00:00", "2020-01-02T12:00:01",
    "2999-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00",
    "2017-07-01T00:00:00+03:60", "2017-07-01T00:00:00-24:00", "2017-07-01T00:00:00+23:59",
    "2017-07-01t00:00:00", "2017-07-01T00:00:00z", "٢٠١٧-07-01T00:00:00",
]  # fmt: skip
ODD_NUMBERS = [
    "", "nan", "NaN", "inf", "-Infinity", "nan(1)", "-999", "-9999", "-1", "-1.0", "-128", "85",
    "-127", "unavailable", "24,65", "+24.5", " 24.5 ", "24.", ".5", "-.5", "+.5", ".", "1e1",
    "1E+1", "1e999", "-1e999", "1e-999", "--5", "+-5", "++5", "1_0", "0x1A", "1.2.3", "٢٤",
    "00024.5", "-0", "0", "1999.9", "2000", "99.9", "100", "101", "50", "-50", "51", "30000",
    "29999", "110000", "952.70", "1100", "9" * 400, "1\xa0", "\u200b5", "5\u2028",
]  # fmt: skip
ODD_IDS = [
    "", "0", "-0", "-5", "+7", " 7 ", "007", "0" * 30 + "7", "7.0", "7e0", "0x7", "0X1F", "x",
    "2147483647", "2147483648", "99999999999", "9" * 18, "9" * 19, "9" * 40, "-" + "9" * 19, "٧",
    "1_0", "7\xa0",
]  # fmt: skip
ODD_TYPES = ["", " ", "SDS011", "sds011 ", "HPM", "PMS5003", "laerm", "Σds"]
# These fit a BME280's header too, with fewer columns: such rows are handled apart from the others.
PARTIAL_TYPES = ["DHT22", "bmp180"]


@st.composite
def rows(draw: st.DrawFn, kind: str, partial: bool) -> str:
    """A row that is good, most of the time."""
    oddity = 8
    header, columns, kind_of_sensor = HEADERS[kind]
    mark = ";" if ";" in header else ","

    def choice(usual: Sequence[str], odd: Sequence[str]) -> str:
        return draw(st.sampled_from(odd if draw(st.integers(0, oddity)) == oddity else usual))

    cells = {
        "sensor_id": choice(["1", "2"], ODD_IDS),
        "sensor_type": choice([kind_of_sensor], ODD_TYPES + PARTIAL_TYPES * partial),
        "location": choice(["42"], ODD_IDS),
        "lat": choice(["42.689"], [*ODD_NUMBERS, "0.0"]),
        "lon": choice(["23.341"], [*ODD_NUMBERS, "0.0"]),
        "timestamp": choice(MOMENTS, ODD_MOMENTS),
    }
    for column in columns:
        usual = ["95270.27", "95000"] if column == "pressure" else ["9.53", "9.530", "12"]
        cells[column] = choice(usual, ODD_NUMBERS)
    fields = [cells.get(name, "") for name in header.rstrip().split(mark)]
    if draw(st.integers(0, oddity)) == oddity:
        at = draw(st.integers(0, len(fields) - 1))
        escaped = fields[at].replace('"', '""')
        fields[at] = f'"{escaped}"'
    if draw(st.integers(0, 2 * oddity)) == 0:
        fields.append("more")
    return mark.join(fields)


@st.composite
def texts(draw: st.DrawFn, kind: str, most: int = 10, partial: bool = True) -> bytes:
    """A file before anything befalls it."""
    header, *_ = HEADERS[kind]
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    body = draw(st.lists(rows(kind, partial), max_size=most))
    if draw(st.booleans()) and body:
        extra: list[str] = ["", " ", *body]
        body.insert(draw(st.integers(0, len(body))), draw(st.sampled_from(extra)))
    # Files with other headers are other blocks, and must keep their place all the same.
    header = draw(st.sampled_from([header, header, header.upper()]))
    text = end.join([header.rstrip(), *body]) + (end if draw(st.booleans()) else "")
    bom = "\ufeff" if draw(st.integers(0, 5)) == 0 else ""
    return (bom + text).encode()


PIECES = [
    b"\0", b'"', b'""', b"\r", b"\n", b"\r\n", b"\xff", b"\xe4", b"\xc3", b"\xed\xa0\x80", b";",
    b",", b"\t", b" ", b"-", b".", b"9", b"e", b"x", "щ".encode(), b"\xef\xbb\xbf", b"\x1a",
]  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn, raw: bytes, spare: int = 0, most: int = 5) -> bytes:
    """Bytes to which something happened, the first `spare` excepted."""
    for _ in range(draw(st.integers(0, most))):
        if len(raw) <= spare:
            break
        at = draw(st.integers(spare, len(raw) - 1))
        match draw(st.integers(0, 5)):
            case 0:
                raw = raw[:at] + bytes([raw[at] ^ 1 << draw(st.integers(0, 7))]) + raw[at + 1 :]
            case 1:
                raw = raw[:at] + draw(st.sampled_from(PIECES)) + raw[at:]
            case 2:
                raw = raw[:at] + raw[at + draw(st.integers(1, 20)) :]
            case 3:
                till = at + draw(st.integers(1, 200))
                raw = raw[:till] + raw[at:]
            case 4:
                raw = raw[:at]
            case _:
                raw = raw[:at] + draw(st.sampled_from(PIECES)) + raw[at + 1 :]
    return raw


# Several files of a kind, as a batch may bring them.
folders = st.sampled_from(sorted(HEADERS)).flatmap(
    lambda kind: st.lists(texts(kind).flatmap(mangled), min_size=1, max_size=4)
)

# --- in memory: split, validate, normalise --------------------------------------------------------

Place = tuple[int, int]  # which file, which line


@dataclass
class Processed:
    """What the pipeline says of a block."""

    header: Header
    good: dict[Place, Reading]
    bad: dict[Place, RejectedRow]
    duplicates: int
    conflicts: list[RejectedRow]


def blocks_of(raw: bytes, file: int, block_bytes: int) -> list[Block]:
    content = Content(Path("some.csv"), len(raw), hashlib.sha256(raw).hexdigest(), raw, (0,) * 5)
    return list(read.blocks(content, file, CONTRACT, read.Limits(block_bytes, 2**20, 2**30)))


def judged_by_us(block: Block, names: list[str]) -> Processed:
    split_rows = parse(block)
    valid, found = validate(split_rows, CONTRACT, NOW)
    rejected = [*found, *split_rows.rejected]
    judged = Processed(block.header, {}, {(row.file, row.line_no): row for row in rejected}, 0, [])
    assert len(judged.bad) == len(rejected)
    for group in valid:
        readings, repeats = normalise(group, split_rows, CONTRACT)
        for frame in (readings.frame, repeats.frame):
            for row in frame.to_dict("records"):
                place = (int(row["file"]), int(split_rows.line_no[row["row"]]))
                assert place not in judged.good
                judged.good[place] = Reading(
                    (int(row["sensor_id"]), row["ts"].to_pydatetime().replace(tzinfo=UTC)),
                    (
                        None if row["location_id"] < 0 else int(row["location_id"]),
                        None if np.isnan(row["lat"]) else float(row["lat"]),
                        None if np.isnan(row["lon"]) else float(row["lon"]),
                    ),
                    tuple(
                        np.float32(row[name])
                        for name in readings.quantities
                        if not np.isnan(row[name])
                    ),
                )
        counted, contradicting = settle(readings, repeats, split_rows, names, {})
        judged.duplicates += sum(counted.values())
        judged.conflicts += contradicting
        assert not readings.frame[["sensor_id", "ts"]].duplicated().any()
        assert len(repeats.frame) == sum(counted.values()) + len(contradicting)
    assert sum(split_rows.read.values()) == len(judged.good) + len(judged.bad)
    return judged


def check_refusal(rule: str, header_text: str | None) -> None:
    assert rule in {"empty", "binary", "utf16", "unknown_header", "not_stored"}
    if header_text is not None and rule == "unknown_header":
        with pytest.raises(FileRefused):
            recognise(header_text, CONTRACT)


def check_block(judged: Processed, lines: dict[Place, bytes]) -> None:
    for place, reading in judged.good.items():
        assert oracle(lines[place], judged.header) == reading
    for place, row in judged.bad.items():
        assert row.line == lines[place]
        verdict = oracle(row.line, judged.header)
        assert isinstance(verdict, set), f"{row.line!r} is good, and was rejected: {row}"
        rules = {reason.rule for reason in row.reasons}
        if rules == {"repeated_header"}:
            assert b"sensor_id" in row.line.lower()
        elif rules <= STRUCTURE:
            assert verdict == {(None, "structure")}
        else:
            assert {(r.column, CLASSES.get(r.rule)) for r in row.reasons} == verdict
    for row in judged.conflicts:
        assert row.line == lines[row.file, row.line_no]
    if judged.header.dialect == "sofia":  # one model, so one group: the first line is the first
        good, stays = judged.good, dict[tuple[int, datetime], tuple[np.float32, ...]]()
        agree = sum(
            stays.setdefault(good[place].key, good[place].values) == good[place].values
            for place in sorted(good)
        )
        assert judged.duplicates == agree - len(stays)
        assert len(judged.conflicts) == len(good) - agree


def check_in_memory(raws: list[bytes], block_bytes: int) -> None:
    note(repr(raws))
    due: dict[Place, bytes] = {}
    blocks: list[Block] = []
    for file, raw in enumerate(raws):
        header_text, lines = physical_lines(raw)
        assume(not names_columns(header_text, lines.values()))
        try:
            found = blocks_of(raw, file, block_bytes)
        except FileRefused as refusal:
            check_refusal(refusal.rule, header_text)
            continue
        assert {block.header.line for block in found} == {header_text}
        due |= {(file, line_no): line for line_no, line in lines.items()}
        blocks += found
    names = [f"{file}.csv" for file in range(len(raws))]
    accounted: Counter[Place] = Counter()
    for block in read.merged(blocks, block_bytes):
        judged = judged_by_us(block, names)
        check_block(judged, due)
        accounted.update([*judged.good, *judged.bad])
    assert accounted == Counter(list(due))


SIZES = st.sampled_from([2**20, 2**20, 400])
ROW = "1,42,42.6,23.3,2017-07-01T00:00:00,95270,20,50"


@settings(max_examples=30)
@given(folders, SIZES)
@example([b"", b"\n\r\n", b"\xef\xbb\xbf"], 2**20)
@example([SOFIA_BME.encode() + b'"', ARCHIVE_SDS.encode() + b'"\r\n"\r\n'], 2**20)
@example([f"{SOFIA_BME}\ufeff0,{ROW}".encode(), f"{SOFIA_BME[1:]}\ufeff{ROW}".encode()], 2**20)
def test_every_line_is_judged_once_and_as_the_oracle_does(
    raws: list[bytes], block_bytes: int
) -> None:
    check_in_memory(raws, block_bytes)


@pytest.mark.slow
@settings(max_examples=1000)
@given(folders, SIZES)
def test_every_line_is_judged_once_and_as_the_oracle_does_at_length(
    raws: list[bytes], block_bytes: int
) -> None:
    check_in_memory(raws, block_bytes)


ODD_CELLS = st.one_of(
    st.sampled_from(sorted({*ODD_NUMBERS, *ODD_MOMENTS, *ODD_IDS})),
    st.text("0123456789.,+-eExXTZ: \t\xa0_naif", max_size=20),
    st.text(st.characters(codec="utf-8", exclude_characters='\0\r\n";'), max_size=9),
)


@settings(max_examples=15)
@given(st.lists(ODD_CELLS, min_size=99, max_size=99))
def test_any_text_in_any_cell_is_judged_as_the_oracle_does(cells: list[str]) -> None:
    """One cell a row, so that the reasons can be compared cell by cell."""
    good = ["1", "BME280", "42", "42.6", "23.3", MOMENTS[0], "95270", "", "", "20", "50"]
    lines = []
    for number, text in enumerate(cells):
        row = list(good)
        row[number % len(good)] = text
        lines.append(";".join(row))
    check_in_memory([(ARCHIVE_BME + "\n".join(lines)).encode()], 2**20)


# --- through a real database ----------------------------------------------------------------------


@dataclass(frozen=True)
class Delivery:
    """Files of one kind, and how they come."""

    contents: list[bytes]
    together: bool
    block_bytes: int


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    kind = draw(st.sampled_from(sorted(HEADERS)))
    contents = []
    count = draw(st.integers(1, 3))
    for _ in range(count):
        raw = draw(texts(kind, most=6, partial=False))
        # Only a file that comes alone may have its header mangled: files that stand for other
        # sensor models are not handled in the order of their names.
        spare = 0 if count == 1 else raw.index(b"\n") + 1 if b"\n" in raw else len(raw)
        contents.append(draw(mangled(raw, spare)))
    return Delivery(contents, draw(st.booleans()), draw(st.sampled_from([2**20, 200])))


@dataclass
class Books:
    """What the oracle expects of a file."""

    read: int = 0
    loaded: int = 0
    duplicate: int = 0
    quarantined: int = 0


@pytest.fixture(scope="module")
def deliver(shared_engine: sa.Engine) -> Iterator[Callable[[Delivery], Site]]:
    """Take files through the flow, into an empty database."""
    base = Path(tempfile.mkdtemp(prefix="sofia-air-properties-"))

    def run(delivery: Delivery) -> Site:
        shutil.rmtree(base / "home", ignore_errors=True)
        usual = load_settings(base / "home")
        smaller = in_small_blocks(usual, block_bytes=delivery.block_bytes)
        site = Site(smaller, emptied(shared_engine))
        for number, content in enumerate(delivery.contents):
            site.drop(f"{number}.csv", content)
            if not delivery.together:
                site.run()
                site.reopen()
        site.run()
        return site

    yield run
    shutil.rmtree(base)


def check_in_database(delivery: Delivery, site: Site) -> None:
    note(repr(delivery))
    now = datetime.now(UTC)
    stays: dict[tuple[int, datetime], Reading] = {}
    seen: set[bytes] = set()
    for number, content in enumerate(delivery.contents):
        name = f"{number}.csv"
        if content in seen:
            assert site.sql("SELECT 1 FROM air.source_file WHERE name = :name", name=name) == []
            continue
        seen.add(content)
        ledger = site.ledger(name)
        if ledger["state"] == "refused":
            assert site.refusal(content)["rule"] == ledger["rule"]
            assert ledger["rule"] in {"empty", "binary", "utf16", "unknown_header", "not_stored"}
            continue
        header_text, lines = physical_lines(content)
        assume(not names_columns(header_text, lines.values()))
        assert header_text is not None
        header = recognise(header_text, CONTRACT)
        due = Books(read=len(lines))
        bad: dict[int, bytes] = {}
        for line_no, line in lines.items():
            verdict = oracle(line, header, now)
            if not isinstance(verdict, Reading):
                bad[line_no] = line
                continue
            first = stays.setdefault(verdict.key, verdict)
            if first is verdict:
                due.loaded += 1
            elif first.values == verdict.values:
                due.duplicate += 1
            else:
                bad[line_no] = line
        due.quarantined = len(bad)
        assert Books(*site.counts(name)) == due
        assert {n: row.exact for n, row in site.rejected(name).items()} == bad
    assert stored(site) == {key: (reading.place, reading.values) for key, reading in stays.items()}
    site.check_books()


def stored(site: Site) -> dict[object, object]:
    """Return what the raw tables hold."""
    found: dict[object, object] = {}
    for table, names in {
        "raw_particulate": ("pm10", "pm25"),
        "raw_climate": ("pressure", "temperature", "humidity"),
    }.items():
        for sensor, ts, location, lat, lon, *values in site.sql(
            f"SELECT sensor_id, ts, location_id, lat, lon, {', '.join(names)} FROM air.{table}"
            " LEFT JOIN air.location USING (location_key)"
        ):
            kept = tuple(np.float32(value) for value in values if value is not None)
            found[sensor, ts] = ((location, lat, lon), kept)
    return found


@settings(max_examples=10)
@given(delivery=deliveries())
def test_the_database_holds_what_the_oracle_says(
    delivery: Delivery, deliver: Callable[[Delivery], Site]
) -> None:
    check_in_database(delivery, deliver(delivery))


@pytest.mark.slow
@settings(AS_FOUND, max_examples=400)
@given(delivery=deliveries())
def test_the_database_holds_what_the_oracle_says_at_length(
    delivery: Delivery, deliver: Callable[[Delivery], Site]
) -> None:
    check_in_database(delivery, deliver(delivery))
