"""The change feed: what each kind of transaction writes, in which order, and what is read of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from typing import Any

import psycopg
import pytest

from pipeline.rework import discard
from pipeline.store import changes
from pipeline.store.load import Store
from pipeline.store.read.changes import Change, Page, number_before, read
from tests import feed
from tests.integration.conftest import ARCHIVE_BME, MakeSite, Site, pm, sds
from tests.integration.test_mend import mended, spoil
from tests.integration.test_restored import climate, dust
from tests.integration.test_retract import Desk
from tests.integration.test_rework import BY, REPAIRED, bad

JULY, AUGUST = date(2017, 7, 1), date(2017, 8, 1)


@contextmanager
def connected(site: Site) -> Iterator[psycopg.Connection[Any]]:
    url = site.engine.raw_connection()
    try:
        driver: Any = url.driver_connection
        with psycopg.connect(driver.info.dsn, autocommit=True) as connection:
            yield connection
    finally:
        url.close()


def page(site: Site, after: int = 0, **asked: Any) -> Page:
    with connected(site) as connection:
        return read(connection, after, **asked)


def gist(change: Change) -> dict[str, Any]:
    """Return of a change what is not empty, without its number, time and file."""
    names = [name for name in Change.__slots__ if name not in {"seq", "at", "file_id"}]
    return {name: value for name in names if (value := getattr(change, name))}


def since(site: Site, after: int) -> list[tuple[int, dict[str, Any]]]:
    return [(change.file_id, gist(change)) for change in page(site, after).changes]


def newest(site: Site) -> int:
    return page(site).newest


@pytest.fixture
def desk(site: Site) -> Desk:
    return Desk(site)


def file_id(site: Site, name: str = "some.csv") -> int:
    return int(site.ledger(name)["file_id"])


# --- what is written ------------------------------------------------------------------------------


def test_a_load_tells_months_sensors_and_what_waits(site: Site) -> None:
    rows = [
        dust(sensor, 11, day).splitlines()[1]
        for sensor, day in [(3, "2017-07-31"), (3, "2017-08-01"), (2, "2017-08-02")]
    ]
    site.load(sds(*rows, pm(0, "x"), pm(1, "y")))
    assert since(site, 0) == [
        (
            file_id(site),
            {
                "kind": "load",
                "raw_table": "raw_particulate",
                "months": {JULY: 1, AUGUST: 2},
                "rows_added": 3,
                "sensors": (2, 3),
                "quarantine_opened": 2,
            },
        )
    ]


def test_a_file_in_both_tables_has_a_row_for_each(site: Site) -> None:
    site.load(climate(3, 33, "2017-07-01") + sds(pm(0), pm(1, "x")))
    (one, first), (other, second) = since(site, 0)
    assert one == other == file_id(site)
    assert first == {
        "kind": "load",
        "raw_table": "raw_climate",
        "months": {JULY: 1},
        "rows_added": 1,
        "sensors": (3,),
        "quarantine_opened": 1,
    }
    assert second == {
        "kind": "load",
        "raw_table": "raw_particulate",
        "months": {JULY: 1},
        "rows_added": 1,
        "sensors": (92,),
    }


def test_files_that_bring_nothing_are_told_too(site: Site) -> None:
    site.load(sds(pm(0)), "first.csv")
    last = newest(site)
    site.load("nothing\n", "refused.csv")
    site.load(sds(pm(0)) + "\n", "again.csv")
    site.load(sds(pm(0)), "known.csv")
    loads = {"kind": "load"}
    assert since(site, last) == [
        (file_id(site, "refused.csv"), loads),
        (file_id(site, "again.csv"), loads),
    ]


def test_only_what_was_free_is_told(site: Site) -> None:
    site.load(sds(*(pm(second) for second in range(0, 40, 2))), "even.csv")
    last = newest(site)
    site.load(sds(*(pm(second) for second in range(40))), "every.csv")
    ((_, told),) = since(site, last)
    assert (told["rows_added"], told["months"]) == (20, {JULY: 20})


def test_a_replay_tells_what_came_back_and_what_no_longer_waits(desk: Desk) -> None:
    site = desk.site
    site.edited = True
    site.load(sds(pm(0), bad(10), bad(20, "nan"), bad(30, "9,5")))
    last = newest(site)
    desk.repair(REPAIRED)
    desk.replay(dry=True)
    assert since(site, last) == []
    done = desk.replay()
    assert done.file_id is not None
    assert since(site, last) == [
        (file_id(site), {"kind": "replay", "quarantine_closed": 3}),
        (
            done.file_id,
            {
                "kind": "replay",
                "raw_table": "raw_particulate",
                "months": {JULY: 3},
                "rows_added": 3,
                "sensors": (92,),
            },
        ),
    ]
    # The replay is taken back alone: its rows wait again.
    last = newest(site)
    desk.retract(str(done.file_id))
    assert since(site, last) == [
        (file_id(site), {"kind": "retract", "quarantine_opened": 3}),
        (
            done.file_id,
            {
                "kind": "retract",
                "raw_table": "raw_particulate",
                "months": {JULY: -3},
                "rows_removed": 3,
                "sensors": (92,),
            },
        ),
    ]


def test_a_retraction_tells_what_went_and_what_came_back_as_another_files(desk: Desk) -> None:
    site = desk.site
    site.load(sds(pm(0), pm(10), bad(20)), "first.csv")
    site.load(sds(pm(10), pm(30)), "second.csv")
    last = newest(site)
    desk.retract("first.csv")
    dusty = {"kind": "retract", "raw_table": "raw_particulate", "sensors": (92,)}
    assert since(site, last) == [
        (
            file_id(site, "first.csv"),
            {**dusty, "months": {JULY: -2}, "rows_removed": 2, "quarantine_closed": 1},
        ),
        (file_id(site, "second.csv"), {**dusty, "months": {JULY: 1}, "rows_added": 1}),
    ]


def test_a_discard_tells_how_many_rows(desk: Desk) -> None:
    site = desk.site
    site.load(sds(pm(0), bad(10), bad(20)))
    site.load("nothing\n", "refused.csv")
    last = newest(site)
    store = Store(site.engine)
    for _ in range(2):  # the second time there is nothing to discard
        discard.rows(
            site.settings, store, desk.contract, desk.entry(), rule=None, lines=None, by=BY, note=""
        )
    discard.refused(site.settings, store, desk.entry("refused.csv"), by=BY, note="")
    assert since(site, last) == [
        (file_id(site), {"kind": "discard", "quarantine_closed": 2}),
        (file_id(site, "refused.csv"), {"kind": "discard"}),
    ]


def test_a_mend_tells_which_months_to_look_at_again(site: Site) -> None:
    site.load(dust(1, 11, "2017-07-01"), "dust.csv")
    site.load(dust(2, 22, "2017-08-01"), "other.csv")
    last = newest(site)
    spoil(site.engine, "DELETE FROM air.location WHERE location_id = 22")
    site.reopen()
    assert mended(site).readings == 1
    assert since(site, last) == [
        (
            file_id(site, "other.csv"),
            {
                "kind": "mend",
                "raw_table": "raw_particulate",
                "months": {AUGUST: 0},
                "rows_changed": 1,
                "sensors": (2,),
            },
        )
    ]
    last = newest(site)
    spoil(site.engine, "DELETE FROM air.sensor WHERE sensor_id = 1")
    site.reopen()
    mended(site)
    assert since(site, last) == [(file_id(site, "dust.csv"), {"kind": "mend", "sensors": (1,)})]


# --- in the transaction ---------------------------------------------------------------------------


class Broken(BaseException):
    """The end of the process, as far as the flow can tell."""


@pytest.mark.parametrize("where", ["before", "after"])
def test_what_is_rolled_back_is_not_told(
    where: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither readings without their row in the feed, nor the other way round."""
    site.load(sds(pm(0)), "first.csv")
    last = newest(site)
    write = changes.Changes.write

    def broken(told: changes.Changes, cursor: Any) -> None:
        if where == "after":
            write(told, cursor)
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(changes.Changes, "write", broken)
        site.drop("second.csv", sds(pm(1)))
        with pytest.raises(Broken):
            site.run()
    assert (site.raw_rows(), since(site, last)) == (1, [])
    site.reopen()
    site.run()
    assert site.raw_rows() == 2
    ((_, told),) = since(site, last)
    assert told["rows_added"] == 1


def test_numbers_come_in_the_order_of_commits(make_site: MakeSite) -> None:
    """Whoever looks at any moment, and asks for what came after, misses nothing."""
    site = make_site()
    barrier = threading.Barrier(3)
    done = threading.Event()

    def writer(number: int) -> None:
        store = Store(site.engine)
        barrier.wait()
        for each in range(15):
            with store.loading("discard") as load:
                load.changes.file(1000 * number + each)
                if each % 5 == 3:
                    # A number is taken, and given up again.
                    load.changes.write(load._cursor)

    def reader() -> list[int]:
        seen: list[int] = []
        barrier.wait()
        with connected(site) as connection:
            last = False
            while not last:
                last = done.is_set()
                found = read(connection, seen[-1] if seen else 0, limit=7).changes
                last = last and not found
                seen += [change.seq for change in found]
        return seen

    with ThreadPoolExecutor(3) as threads:
        looking = threads.submit(reader)
        for each in [threads.submit(writer, number) for number in (1, 2)]:
            each.result()
        done.set()
        seen = looking.result()
    assert seen == sorted(seen)
    assert seen == [seq for (seq,) in site.sql("SELECT seq FROM air.change ORDER BY seq")]
    assert len(seen) >= 30
    site.sql("DELETE FROM air.change")


def test_whoever_listens_is_woken_by_the_commit(site: Site) -> None:
    with connected(site) as connection:
        connection.execute("LISTEN air_change")
        site.load(sds(pm(0), pm(1, "x")) + "\n" + climate(3, 33, "2017-07-01"))
        (heard,) = connection.notifies(timeout=30, stop_after=1)
        assert int(heard.payload) == newest(site)


# --- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "law"),
    [
        ("DELETE FROM air.raw_particulate WHERE ts = '2017-07-01 00:00:01+00'", "months sum to"),
        ("UPDATE air.change SET months = '{\"2017-08-01\": 2}'", "months sum to the raw"),
        ("UPDATE air.change SET rows_added = 1", "sum to its counts"),
        ("UPDATE air.change SET sensors = '{1}'", "names the sensors"),
        ("UPDATE air.change SET quarantine_opened = 2", "waits in quarantine"),
        ("DELETE FROM air.change", "every file"),
    ],
)
def test_the_law_can_be_broken(harm: str, law: str, engine: Any, tmp_path: Any) -> None:
    from pipeline.config import load_settings

    site = Site(load_settings(tmp_path / "home"), engine)
    site.load(sds(pm(0), pm(1), pm(2, "x")))

    def laws() -> dict[str, Any]:
        return dict(feed.broken(lambda question: site.sql(question.replace(":", r"\:"))))

    assert laws() == {}
    site.sql(harm.replace(":", r"\:"))
    assert any(law in each for each in laws()), laws()


# --- what is read ---------------------------------------------------------------------------------


def test_a_page_after_a_number_in_a_generation(site: Site) -> None:
    for number in range(5):
        site.load(sds(pm(number)), f"{number}.csv")
    every = page(site)
    numbers = [change.seq for change in every.changes]
    assert (len(numbers), every.newest, every.anew) == (5, numbers[-1], False)
    assert every.generation == site.one(
        "SELECT generation FROM air.generation ORDER BY number DESC LIMIT 1"
    )
    some = page(site, numbers[1], limit=2, generation=every.generation)
    assert [change.seq for change in some.changes] == numbers[2:4]
    assert (some.newest, some.anew) == (numbers[-1], False)
    end = page(site, numbers[-1], generation=every.generation)
    assert (end.changes, end.newest, end.anew) == ((), numbers[-1], False)
    # Another generation, or a number that this database has not reached.
    for again in (
        page(site, numbers[1], generation=uuid.uuid4()),
        page(site, 0, generation=uuid.uuid4()),
        page(site, numbers[-1] + 1),
        page(site, numbers[-1] + 1, generation=every.generation),
    ):
        assert (again.anew, again.changes) == (True, every.changes)
    with connected(site) as connection:
        assert number_before(connection, 2) == numbers[2]
        assert number_before(connection, 0) == numbers[-1]
        assert number_before(connection, 99) == 0


def test_an_empty_feed(site: Site) -> None:
    empty = page(site)
    assert (empty.newest, empty.anew, empty.changes) == (0, False, ())


def test_reading_needs_the_driver_and_no_more() -> None:
    heavy = "{'sqlalchemy', 'alembic', 'pandas', 'pyarrow', 'numpy', 'pandera'}"
    asked = f"import sys, pipeline.store.read.follow; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_the_feed_has_the_widest_months(site: Site) -> None:
    """Whatever a file is sorted by, and however many sensors and months it has."""
    rows = [
        f"{1 + number % 7};BME280;33;42.3;23.3;20{17 + number % 2}-{1 + number % 12:02}-"
        f"{1 + number % 28:02}T{number % 24:02}:00:00;95000;;;{number % 30};50"
        for number in range(4_000)
    ]
    site.load(ARCHIVE_BME + "\n".join(rows) + "\n")
    ((_, told),) = since(site, 0)
    assert len(told["months"]) == 12
    assert told["sensors"] == (1, 2, 3, 4, 5, 6, 7)
