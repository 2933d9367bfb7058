"""Blocks processed apart, in any order, and the rule for repeats give what a real database holds.

What is loaded here goes the usual way: rows of a block are compared in memory, and with what is
stored by the server. The other side knows neither: it processes pieces of the files by themselves,
puts the tables together and applies the rule of `contract.repeats` key by key.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.clock import Clock, read_clocks
from pipeline.config import load_settings
from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.contract.repeats import Values, as_stored, resolve
from pipeline.core.process import process
from pipeline.core.ranges import blocks_of_range
from tests.integration.conftest import Site, emptied, in_small_blocks

NOW = datetime.now(UTC)
# Each example goes through the database: to make a failure small takes minutes.
AS_FOUND = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate], report_multiple_bugs=False
)
PARTICLES = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2;P0"
CLIMATE = "sensor_id;sensor_type;location;lat;lon;timestamp;pressure;temperature;humidity"
# As they are stored, three of these are the same.
NUMBERS = ["9.53", "9.530", "9.5300000001", "9.54"]
BAD = ["", "not;a;row", "x;SDS011;;;;never;;;", "1;SDS011;42;0;0;2017-07-01T00:00:00;-1;2;3"]


@st.composite
def rows(draw: st.DrawFn, header: str) -> str:
    """A row with one of few keys; now and then one that is no reading."""
    if draw(st.integers(0, 6)) == 0:
        return draw(st.sampled_from(BAD))
    sensor, second = draw(st.integers(1, 2)), draw(st.integers(0, 1))
    start = f"42;42.7;23.3;2017-07-01T00:00:0{second}"
    one, two = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(NUMBERS))
    if header == PARTICLES:
        model = draw(st.sampled_from(["SDS011", "HPM", "PMS7003"]))
        return f"{sensor};{model};{start};{one};{two};{draw(st.sampled_from(['', *NUMBERS]))}"
    model = draw(st.sampled_from(["BME280", "DHT22"]))
    return f"{sensor};{model};{start};9527{one};{two};55"


@dataclass(frozen=True)
class Delivery:
    """Files of one kind in the order in which they come, and how."""

    header: str
    files: list[list[str]]
    together: bool
    block_bytes: int
    cuts: list[int]
    order: int


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    header = draw(st.sampled_from([PARTICLES, PARTICLES, CLIMATE]))
    files = draw(st.lists(st.lists(rows(header), min_size=1, max_size=8), min_size=1, max_size=3))
    return Delivery(
        header,
        files,
        draw(st.booleans()),
        draw(st.sampled_from([2**20, 150])),
        draw(st.lists(st.integers(0, 8), max_size=3).map(sorted)),
        draw(st.integers(0, 2**16)),
    )


def content_of(delivery: Delivery, number: int) -> bytes:
    # Each file has bytes of its own, also where its rows are another's.
    lines = [delivery.header, *delivery.files[number], " " * number]
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass
class Due:
    """What has to become of a file, or of all."""

    raw: dict[tuple[int, datetime], tuple[Any, ...]] = field(default_factory=dict)
    books: dict[str, list[int]] = field(default_factory=dict)
    rejected: dict[tuple[str, int], tuple[bytes, list[Any]]] = field(default_factory=dict)


def due_of(delivery: Delivery, contract: Contract) -> Due:
    """Process pieces of the files, in any order, and apply the rule."""
    header = recognise(delivery.header, contract)
    sources: dict[str, int] = {}
    blocks = []
    for number in range(len(delivery.files)):
        raw = content_of(delivery, number)
        source = hashlib.sha256(raw).hexdigest()
        sources[source] = number
        lines = raw.split(b"\n", 1)[1].splitlines(keepends=True)
        some = [min(cut, len(lines)) for cut in delivery.cuts]
        for start, end in pairwise([0, *some, len(lines)]):
            text = b"".join(lines[start:end])
            blocks += blocks_of_range(text, header, contract, first_line=start + 2, source=source)
    # Any order: the same for everybody, as the examples are.
    blocks.sort(key=lambda block: hash((delivery.order, block.text, block.segments[0].first_line)))
    done = [process(block, contract, NOW) for block in blocks]
    due = Due(books={source: [0, 0, 0, 0] for source in sources})
    by_key: dict[tuple[int, datetime], list[dict[str, Any]]] = defaultdict(list)
    for one in done:
        for row in one.readings.to_pylist() + one.repeats.to_pylist():
            by_key[row["sensor_id"], row["ts"]].append(row)
            due.books[row["source"]][0] += 1
        for row in one.rejected.to_pylist():
            due.rejected[row["source"], row["line_no"]] = row["line"], json.loads(row["reasons"])
            due.books[row["source"]][0] += 1
            due.books[row["source"]][3] += 1
    for key, same in by_key.items():
        same.sort(key=lambda row: (sources[row["source"]], row["line_no"]))
        outcome = resolve([said_by(row, contract) for row in same])
        assert outcome.kept == 0
        kept = same[0]
        due.raw[key] = (kept["source"], *(kept[name] for name in quantities(delivery)))
        due.books[kept["source"]][1] += 1
        for at in outcome.duplicates:
            due.books[same[at]["source"]][2] += 1
        for at in outcome.conflicts:
            place = same[at]["source"], same[at]["line_no"]
            due.rejected[place] = lines_of(delivery, sources[place[0]])[place[1] - 1], ["conflict"]
            due.books[place[0]][3] += 1
    return due


def said_by(row: dict[str, Any], contract: Contract) -> Values:
    model = contract.models[row["model"]]
    return {name: row[name] for name in model.columns.values()}


def lines_of(delivery: Delivery, number: int) -> Sequence[bytes]:
    return content_of(delivery, number).split(b"\n")


def quantities(delivery: Delivery) -> tuple[str, ...]:
    if delivery.header == PARTICLES:
        return ("pm10", "pm25", "pm1")
    return ("pressure", "temperature", "humidity")


def held_by(site: Site, delivery: Delivery) -> Due:
    """Return what the database holds."""
    table = "raw_particulate" if delivery.header == PARTICLES else "raw_climate"
    found = Due()
    for sensor, ts, sha256, *values in site.sql(
        f"SELECT sensor_id, ts, sha256, {', '.join(quantities(delivery))} FROM air.{table}"
        " JOIN air.source_file USING (file_id)"
    ):
        found.raw[sensor, ts] = (sha256, *map(as_stored, values))
    for sha256, *books in site.sql(
        "SELECT sha256, rows_read, rows_loaded, rows_duplicate, rows_quarantined"
        " FROM air.source_file"
    ):
        found.books[sha256] = books
    for sha256, line_no, line, reasons in site.sql(
        "SELECT sha256, line_no, line, reasons FROM air.quarantined_row"
        " JOIN air.source_file USING (file_id)"
    ):
        if reasons[0]["rule"] == "conflict":
            # It names what is kept by where it was found, which depends on what came together.
            reasons = ["conflict"]
        found.rejected[sha256, line_no] = line.encode(), reasons
    return found


def stop_clock(site: Site) -> None:
    """Let the present be `NOW`: reasons name it, to the minute."""
    store = site.flow.store
    site.flow.clock = Clock(
        site.settings.home,
        lambda: replace(store.server_time(), clock=NOW),
        lambda: replace(read_clocks(), wall=NOW.timestamp()),
    )


@pytest.fixture(scope="module")
def deliver(shared_engine: sa.Engine) -> Iterator[Callable[[Delivery], Site]]:
    """Take files through the flow, into an empty database."""
    base = Path(tempfile.mkdtemp(prefix="sofia-air-repeats-"))

    def run(delivery: Delivery) -> Site:
        shutil.rmtree(base / "home", ignore_errors=True)
        usual = load_settings(base / "home")
        site = Site(
            in_small_blocks(usual, block_bytes=delivery.block_bytes), emptied(shared_engine)
        )
        for number in range(len(delivery.files)):
            stop_clock(site)
            site.drop(f"{number}.csv", content_of(delivery, number))
            if not delivery.together:
                site.run()
                site.reopen()
        stop_clock(site)
        site.run()
        return site

    yield run
    shutil.rmtree(base)


def check(delivery: Delivery, site: Site) -> None:
    due, found = due_of(delivery, site.flow.contract), held_by(site, delivery)
    assert found.raw == due.raw
    assert found.rejected == due.rejected
    assert found.books == due.books
    site.check_books()


@settings(AS_FOUND, max_examples=10)
@given(delivery=deliveries())
def test_blocks_in_any_order_and_the_rule_give_what_is_stored(
    delivery: Delivery, deliver: Callable[[Delivery], Site]
) -> None:
    check(delivery, deliver(delivery))


@pytest.mark.slow
@settings(AS_FOUND, max_examples=400)
@given(delivery=deliveries())
def test_blocks_in_any_order_and_the_rule_give_what_is_stored_at_length(
    delivery: Delivery, deliver: Callable[[Delivery], Site]
) -> None:
    check(delivery, deliver(delivery))
