"""One hostile file costs no more than it may: the disk, the database and the others stay well."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline import flow, reading
from pipeline.budget import rejected
from pipeline.contract.rules import LIMIT_RULES
from pipeline.core import process as processing
from pipeline.core import validate as validation
from pipeline.errors import DatabaseUnavailable, DiskTrouble, FileChanged, FileRefused, Stopped
from pipeline.files import archive
from pipeline.reading import Reading
from pipeline.rework.refused import Retried, retry
from pipeline.rework.targets import one
from pipeline.store.engine import driver_of
from pipeline.store.load import Store
from pipeline.store.read.entries import Entry
from pipeline.store.rework import Workbench
from pipeline.store.sql import statement
from pipeline.transaction import Transaction
from tests.integration.conftest import ARCHIVE_SDS, MakeSite, Site, clock, pm, sds

RUBBISH = {
    "one letter": "x\n",
    "quotes": '"\n',
    "NUL": "\0\n",
    "neither sensor nor time": "q;SDS011;1;1;1;q;1;;;1;;\n",
    "empty rows": ";SDS011;;;;;;;;;;\n",
}
GOOD = sds(pm(0), pm(1))


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rows are enough for a file to be called rubbish, so that files may be small."""
    monkeypatch.setattr(rejected, "FEWEST_ROWS", 1_000)


def take(site: Site, **dropped: bytes | str) -> dict[str, str]:
    """Drop files, all in one batch; return name → what became of each."""
    for name, content in dropped.items():
        ending = "csv.gz" if content[:1] == b"\x1f" else "csv"
        site.drop(f"{name}.{ending}", content)
    outcomes = site.flow.process(site.scan())
    return {outcome.name.partition(".")[0]: outcome.state for outcome in outcomes}


def quarantined_bytes(site: Site, name: str) -> int:
    """Return what is in quarantine/ beyond the file itself, in bytes; no draft may be left."""
    found = {path.name: path.stat().st_size for path in site.quarantine.iterdir()}
    assert not [left for left in found if left.endswith(".part")]
    return sum(size for left, size in found.items() if ".refused.csv" not in left)


@pytest.mark.parametrize("kind", RUBBISH)
@pytest.mark.parametrize(
    "packed", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["gzip", "plain"]
)
def test_rubbish_is_refused_as_a_whole(kind: str, packed: bool, site: Site) -> None:
    content = (ARCHIVE_SDS + RUBBISH[kind] * 12_000).encode()
    content = gzip.compress(content) if packed else content

    became = take(site, before=GOOD, rubbish=content, later=sds(pm(5)))

    assert became == {"before": "loaded", "rubbish": "refused", "later": "loaded"}
    told = site.refusal(content)
    assert told["rule"] == "mostly_malformed"
    assert "max_malformed_share" in told["message"]
    assert [line["line_no"] for line in told["sample"]] == [2, 3, 4, 5, 6]
    shown = RUBBISH[kind].rstrip("\n").replace("\0", "\ufffd")
    assert {line["line"] for line in told["sample"]} == {shown[:200]}
    assert all(line["reason"] for line in told["sample"])
    assert quarantined_bytes(site, "rubbish") < 5_000
    assert site.one("SELECT count(*) FROM air.quarantined_row") == 0
    assert site.raw_rows() == 3


def test_rubbish_is_found_in_the_middle_of_a_file(make_site: MakeSite) -> None:
    site = make_site(block_bytes=2**16, batch_bytes=2**18)
    rows = [pm(i, sensor=7) for i in range(7_000)]
    content = sds(*rows, *["x"] * 8_000).encode()

    assert take(site, before=GOOD, rubbish=content, later=sds(pm(5))) == {
        "before": "loaded",
        "rubbish": "refused",
        "later": "loaded",
    }
    assert site.refusal(content)["rule"] == "mostly_malformed"
    assert site.sql("SELECT DISTINCT sensor_id FROM air.raw_particulate") == [(92,)]


def test_bad_rows_that_are_readings_are_kept_one_by_one(site: Site) -> None:
    """Whoever saved a month with decimal commas repairs it row by row."""
    content = sds(*(pm(i, p1="9,53") for i in range(12_000)))
    assert site.load(content).rules == {"decimal_comma": 12_000}
    assert site.counts() == (12_000, 0, 0, 12_000)


def conflicting(rows: int) -> str:
    return sds(pm(0), *(pm(0, p1=2 + i % 1000) for i in range(rows)))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {"max_quarantined_rows": 1_000},
            "at most 1,000 rows (setting limits.max_quarantined_rows)",
        ),
        ({"max_quarantined_bytes": 100_000}, "bytes (setting limits.max_quarantined_share)"),
        (
            {"max_quarantined_bytes": 100_000, "max_quarantined_share": 0},
            "100,000 bytes (setting limits.max_quarantined_bytes)",
        ),
    ],
    ids=["rows", "share", "bytes"],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "held"])
@pytest.mark.parametrize(
    "content",
    [sds(*(pm(i, p1="z") for i in range(3_000))), conflicting(3_000)],
    ids=["invalid", "conflicts"],
)
def test_what_a_file_leaves_in_quarantine_is_bounded(
    content: str, streamed: bool, flags: dict[str, Any], words: str, make_site: MakeSite
) -> None:
    sizes = {"block_bytes": 2**16, "batch_bytes": 2**16} if streamed else {}
    site = make_site(**flags, **sizes)
    few = sds(pm(900), pm(901, p1="z"))

    assert take(site, few=few, many=content) == {"few": "loaded", "many": "refused"}

    told = site.refusal(content)
    assert told["rule"] == "too_many_rejected"
    assert words in told["message"]
    assert len(told["sample"]) == 5
    assert site.counts("few.csv") == (2, 1, 0, 1)
    assert site.one("SELECT count(*) FROM air.quarantined_row") == 1


def test_a_small_file_leaves_little_in_quarantine(site: Site) -> None:
    """As many bytes as it has, some hundred times, whatever it inflates to."""
    content = gzip.compress(sds(pm(0), *[pm(0, p1=7)] * 130_000).encode(), 9)
    assert len(content) < 40_000

    assert take(site, bomb=content) == {"bomb": "refused"}

    told = site.refusal(content)
    assert told["rule"] == "too_many_rejected"
    assert "max_amplification" in told["message"]


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("spread", [True, False], ids=["spread", "at its start"])
def test_a_few_bad_rows_in_a_hundred_never_refuse_a_large_file(
    spread: bool, packed: bool, make_site: MakeSite
) -> None:
    """It has far more of them than a file of a usual size may have."""
    site = make_site(
        max_quarantined_rows=50, max_quarantined_bytes=10_000, block_bytes=2**16, batch_bytes=2**16
    )
    bad = {i for i in range(10_000) if (i % 50 == 0 if spread or packed else i < 200)}
    content = sds(*(pm(i, p1=9999 if i in bad else 1) for i in range(10_000))).encode()
    assert take(site, month=gzip.compress(content) if packed else content) == {"month": "loaded"}
    name = "month.csv.gz" if packed else "month.csv"
    assert site.counts(name) == (10_000, 9_800, 0, 200)


NAMING = {
    "places": "92;SDS011;{n};42.6;23.3;{time};1;;;1;;",
    "sensors": "{n};SDS011;1;42.6;23.3;{time};1;;;1;;",
}


def naming(kind: str, count: int, *, of: int | None = None, start: int = 0) -> str:
    """Return a file with so many sensors or places, and so many rows."""
    row = NAMING[kind]
    rows = range(of or count)
    return sds(*(row.format(n=1 + i % count, time=clock(start + i)) for i in rows))


@pytest.mark.parametrize(
    ("before", "beside"),
    [
        ("nothing", "nothing"),
        ("some", "others"),
        ("all", "the same ones"),
        ("the rows", "nothing"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "held"])
@pytest.mark.parametrize("kind", ["places", pytest.param("sensors", marks=pytest.mark.slow)])
def test_sensors_and_places_are_bounded_whatever_else_is_loaded(
    kind: str, streamed: bool, beside: str, before: str, make_site: MakeSite
) -> None:
    """The verdict is about the file alone: not its neighbours, nor what was loaded before."""
    flags = {"block_bytes": 2**16, "batch_bytes": 2**16} if streamed else {}
    site = make_site(max_places=300, **flags)
    first: list[tuple[int, int, int]] = {
        "nothing": [],
        "some": [(200, 200, 50_000)],
        "all": [(300, 301, 60_000)],
        "the rows": [(300, 300, 0), (300, 300, 10_000)],
    }[before]
    for number, (count, rows, start) in enumerate(first):
        content = naming(kind, count, of=rows, start=start)
        assert take(site, **{f"first{number}": content}) == {f"first{number}": "loaded"}
    size = 2_000 if streamed else 301
    files = {"many": naming(kind, 301, of=size), "few": naming(kind, 300, of=size, start=10_000)}
    if beside == "others":
        files = {"before": GOOD, **files, "later": sds(pm(5))}
    elif beside == "the same ones":
        files = {"before": naming(kind, 300, of=300), **files}

    became = take(site, **files)

    assert {name for name, state in became.items() if state == "refused"} == {"many"}
    told = site.ledger("many.csv")
    assert told["rule"] == "over_budget"
    words = "sensors" if kind == "sensors" else "places"
    assert told["reason"] == f"names more than 300 {words} (setting limits.max_places)"


@pytest.mark.parametrize("kind", ["max_malformed_share", "file_seconds", "max_line_bytes"])
def test_a_refused_file_that_cannot_be_moved_is_read_once(
    kind: str, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.001 if kind == "file_seconds" else 60
    site = make_site(file_seconds=seconds, file_seconds_per_mb=0, block_bytes=2**16)
    line = "9" * 2**20 if kind == "max_line_bytes" else ""
    content = sds(pm(0), *["x" for _ in range(12_000)], line)
    real, reads = Reading.parse, 0

    def parse(*given: Any) -> int:
        nonlocal reads
        reads += 1
        return real(*given)

    def full(*_: object) -> None:
        message = f"{site.quarantine}: cannot be written: No space left on device"
        raise DiskTrouble(message)

    monkeypatch.setattr(Reading, "parse", parse)
    with monkeypatch.context() as disk, capture_logs() as told:
        disk.setattr(archive, "move", full)
        assert take(site, bad=content, twin=content) == {"bad": "refused", "twin": "known"}
        number = site.ledger("bad.csv")["file_id"]
        once = reads
        for _ in range(3):
            outcomes = site.flow.process(site.scan())
            assert [outcome.state for outcome in outcomes] == ["known", "known"]
    assert reads == once
    assert site.ledger("bad.csv")["file_id"] == number
    assert len([line for line in told if line["event"] == "file.refused"]) == 1

    site.run()  # there is room again
    assert reads == once
    assert not list(site.data.glob("*.csv"))
    assert len(list(site.quarantine.glob("*.refused.csv"))) == 2
    assert site.ledger("bad.csv")["rule"] in LIMIT_RULES

    assert take(site, bad=content) == {"bad": "refused"}  # somebody tries it again
    assert reads > once


@pytest.mark.usefixtures("few_rows")
def test_a_limit_that_was_raised_counts_for_a_file_that_could_not_be_moved(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()

    def full(*_: object) -> None:
        message = "no space left"
        raise DiskTrouble(message)

    with monkeypatch.context() as disk:
        disk.setattr(archive, "move", full)
        assert take(site, bad=sds(pm(0), *["x"] * 1_000)) == {"bad": "refused"}
    site.flow.settings = site.settings.changed(max_malformed_share=1.0)
    assert [outcome.state for outcome in site.run()] == ["loaded"]


@pytest.mark.parametrize("trouble", ["connection", "value"])
def test_what_a_failed_try_refused_is_confirmed_before_it_is_written(
    trouble: str, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading ahead refuses a file, then the try fails on account of something else."""
    site = make_site(block_bytes=2**16, batch_bytes=2**16)
    path = site.drop("bad.csv", sds(*(pm(i, sensor=7) for i in range(3_000)), *["x"] * 20_000))
    real, tries = Transaction.run, 0

    def run(self: Transaction) -> None:
        nonlocal tries
        tries += 1
        if tries > 1:
            real(self)
            return
        with pytest.raises(FileRefused):
            real(self)
        path.write_text(sds(pm(1)))  # the sender was not done yet
        if trouble == "connection":
            raise DatabaseUnavailable("server closed the connection")
        raise FileChanged("another file changed")

    monkeypatch.setattr(Transaction, "run", run)
    (outcome,) = site.run()
    assert outcome.state == "left"
    assert site.one("SELECT count(*) FROM air.source_file") == 0
    assert not list(site.quarantine.glob("*.refused*"))
    assert [each.state for each in site.run()] == ["loaded"]


def test_places_are_found_without_comparing_every_pair(site: Site) -> None:
    """That would take minutes for the places that one file may name."""
    rows = [f"92;SDS011;{n};{n / 1e3};;{clock(n)};1;;;1;;" for n in range(2_000)]
    assert site.load(sds(*rows)).state == "loaded"
    places = {name: list(range(2_000)) for name in ("location_ids", "lats", "lons")}
    with site.engine.begin() as connection:
        cursor = driver_of(connection).cursor()
        cursor.execute(f"EXPLAIN {statement('find_locations')}".encode(), places)
        plan = "\n".join(line for (line,) in cursor)
    assert "Nested Loop" not in plan, plan


def test_a_file_takes_no_more_time_than_it_may(make_site: MakeSite) -> None:
    slow = sds(*(pm(i, p1=f"z{i}") for i in range(30_000)))
    site = make_site(file_seconds=0.05, file_seconds_per_mb=1e-6)
    assert take(site, slow=slow) == {"slow": "refused"}
    told = site.ledger("slow.csv")
    assert told["rule"] == "over_budget"
    assert "file_seconds" in told["reason"]


def test_only_the_file_that_costs_too_much_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files share a block: when that takes too long, each has to answer for itself."""
    real = processing.process

    def slow(block: Any, *given: Any, **options: Any) -> Any:
        if b"slow" in block.text:
            until = time.thread_time() + 0.3
            while time.thread_time() < until:
                given[2]()
        return real(block, *given, **options)

    monkeypatch.setattr(reading, "process", slow)
    monkeypatch.setattr(site.flow, "settings", site.settings.changed(file_seconds=0.2))

    became = take(site, first=GOOD, slow=sds(pm(3), "slow"), last=sds(pm(4)))

    assert became == {"first": "loaded", "slow": "refused", "last": "loaded"}
    assert site.ledger("slow.csv")["rule"] == "over_budget"
    assert site.raw_rows() == 3


@pytest.mark.parametrize("limit", ["file_seconds", "max_places", "reasons"])
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "done"])
def test_a_refused_file_is_tried_again_within_its_budget(
    limit: str, dry: bool, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is `quarantine reprocess` that reads it."""
    flags: dict[str, dict[str, Any]] = {
        "file_seconds": {"file_seconds": 0.05, "file_seconds_per_mb": 1e-6},
        "max_places": {"max_places": 100},
        "reasons": {"max_quarantined_rows": 10, "max_quarantined_share": 0},
    }
    site = make_site(**flags[limit])
    rows = {
        "file_seconds": sds(*(pm(i, p1=f"z{i}") for i in range(30_000))),
        "max_places": naming("places", 101),
        "reasons": sds(*(pm(i, p1=f"z{i}", p2=f"y{i}") for i in range(6_000))),
    }
    assert site.load(rows[limit]).state == "refused"
    entry = one(Workbench(site.reader), "some.csv")
    most: list[int | None] = []
    real = validation.validate

    def validate(*given: Any) -> Any:
        most.append(given[4] if len(given) > 4 else None)
        return real(*given)

    monkeypatch.setattr(processing, "validate", validate)
    monkeypatch.setattr(flow.Flow, "process", lambda *_: pytest.fail("it was tried for real"))

    began = time.thread_time()
    done = reprocessed(site, entry, dry=dry)

    assert done.state == "still refused"
    assert done.message == site.ledger()["reason"]
    assert all(bound is not None for bound in most)
    if limit == "file_seconds":
        assert time.thread_time() - began < 1
    else:
        assert most


def reprocessed(site: Site, entry: Entry, *, dry: bool) -> Retried:
    store, contract = Store(site.engine), site.settings.site_contract()
    return retry(site.settings, store, contract, entry, by="me", dry=dry)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("again", ["dropped", "reprocessed"])
def test_a_limit_that_was_raised_counts(again: str, make_site: MakeSite) -> None:
    site = make_site()
    content = sds(pm(0), *["x"] * 1_000)
    assert site.load(content).state == "refused"
    entry = one(Workbench(site.reader), "some.csv")
    assert reprocessed(site, entry, dry=True).state == "still refused"
    site.settings = site.settings.changed(max_malformed_share=1.0)
    site.reopen()

    if again == "dropped":
        assert site.load(content).state == "loaded"
    else:
        assert reprocessed(site, entry, dry=True).state == "would load"
        done = reprocessed(site, entry, dry=False)
        assert (done.state, done.rows_quarantined) == ("loaded", 1_000)
        assert not list(site.quarantine.glob("*.refused*"))

    assert site.counts() == (1_001, 1, 0, 1_000)


@pytest.mark.usefixtures("few_rows")
def test_what_is_before_a_refused_file_is_loaded_once_more_at_most(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(block_bytes=2**16, batch_bytes=2**22)
    stored: list[str] = []
    real = Transaction._note_header

    def note(self: Transaction, block: Any) -> None:
        stored.append(self._names[block.segments[0].file])
        real(self, block)

    monkeypatch.setattr(Transaction, "_note_header", note)
    good = {f"good{n}": sds(*(pm(i, sensor=n + 1) for i in range(2_000))) for n in range(3)}
    late = [pm(i, sensor=9) for i in range(2_000)]
    bad = {f"zbad{n}": sds(*late, *["x"] * (2_500 + n)) for n in range(6)}

    became = take(site, **dict(sorted({**good, **bad}.items())), zzlast=GOOD)

    assert set(became.values()) == {"loaded", "refused"}
    assert [name for name, state in became.items() if state == "refused"] == sorted(bad)
    blocks = -(-len(good["good0"]) // 2**16)
    assert 0 < stored.count("good0.csv") <= 3 * blocks


def test_rows_with_very_many_reasons_are_the_same_in_pieces(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        f"{i % 7 + 1};SDS011;b{i};c{i};d{i};{clock(i)};e{i};;;f{i};;" if i % 3 else pm(i)
        for i in range(2_000)
    ]
    content = sds(*rows, "x", *rows[:700])
    found = []
    for most in (10**9, 1_000):
        monkeypatch.setattr(reading, "_MOST_REASONS", most)
        site = make_site()
        assert take(site, other=GOOD, dirty=content) == {"other": "loaded", "dirty": "loaded"}
        found.append((site.counts("dirty.csv"), site.rejected("dirty.csv"), site.raw_rows()))
    assert found[0] == found[1]


def _endless(kind: str) -> bytes:
    match kind:
        case "nothing":
            return gzip.compress(ARCHIVE_SDS.encode() + b"\n" * 12_000_000, 1)
        case "uneven":
            return (ARCHIVE_SDS + "".join(f"a{i};t{i};\n" for i in range(60_000))).encode()
        case _:
            rows = (f"a{i};SDS011;b{i};c{i};d{i};{clock(i)};e{i};;;f{i};;" for i in range(15_000))
            return sds(*rows).encode()


@pytest.mark.parametrize("kind", ["nothing", "uneven", "garbage"])
def test_it_stops_in_the_middle_of_any_file(kind: str, site: Site) -> None:
    path = site.drop(f"endless.csv{'.gz' if kind == 'nothing' else ''}", _endless(kind))
    found = site.scan()
    waits: list[Callable[[], None]] = []

    def stop() -> None:
        waits.append(lambda: None)
        if len(waits) == 4:
            site.flow.stopping.set()

    site.flow.on_progress = stop
    before = threading.active_count()  # other tests of this process may have left some
    with pytest.raises(Stopped):
        site.flow.process(found)
    assert threading.active_count() - before < 9
    assert path.exists()
    assert site.one("SELECT count(*) FROM air.source_file") == 0
    assert json.dumps(site.quarantined_files()) == "[]"
