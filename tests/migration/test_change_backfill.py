"""The migration that begins the change feed: files that are there already are in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command

from pipeline.config import load_settings
from pipeline.store import migrate
from pipeline.store.engine import reader_of
from pipeline.store.read.revision import revision
from tests import feed
from tests.integration.conftest import Site, pm, sds
from tests.integration.test_restored import climate, dust
from tests.integration.test_retract import Desk
from tests.integration.test_rework import bad
from tests.migration.test_migrations import config_for


def laws(site: Site) -> dict[str, Any]:
    return dict(feed.broken(lambda question: site.sql(question.replace(":", r"\:"))))


SUMS = """
    SELECT file_id, raw_table, key AS month, sum(value::bigint) AS rows
      FROM air.change, jsonb_each_text(months)
     GROUP BY 1, 2, 3 HAVING sum(value::bigint) <> 0 ORDER BY 1, 2, 3
""".replace(":", r"\:")


@pytest.fixture
def filled(engine: sa.Engine, tmp_path: Path) -> Site:
    """Files of every kind: of a month and of several, in one table and in both, and what became."""
    desk = Desk(Site(load_settings(tmp_path / "home"), engine))
    site = desk.site
    site.edited = True
    site.load(dust(1, 11, "2017-07-01"), "dust.csv")
    site.load(dust(1, 11, "2017-07-01") + "\n", "duplicate.csv")
    site.load(climate(3, 33, "2017-09-01"), "climate.csv")
    site.load(
        dust(1, 11, "2017-07-31", hour=23) + dust(2, 11, "2017-08-01").splitlines()[1] + "\n",
        "months.csv",
    )
    site.load(climate(3, 33, "2017-09-02") + dust(4, 11, "2017-09-02"), "both.csv")
    site.load(
        climate(3, 33, "2017-09-30") + dust(4, 11, "2017-10-01") + bad(5) + "\n", "everything.csv"
    )
    site.load(sds(pm(0), bad(10), bad(20)), "bad.csv")
    desk.repair({3: {"P1": "7.5"}}, desk.sheet("bad.csv"))
    desk.replay("bad.csv")
    site.load(sds(bad(30)), "only bad.csv")
    site.load("nothing\n", "refused.csv")
    site.load(dust(7, 11, "2017-07-07") + bad(40) + "\n", "retracted.csv")
    desk.retract("retracted.csv")
    return site


@pytest.mark.parametrize("revision", ["0006", "0005", "0004", "0003"])
def test_what_is_there_is_in_the_feed(revision: str, filled: Site) -> None:
    site = filled
    site.check_books()
    due = site.sql(SUMS)
    with site.engine.begin() as connection:
        command.downgrade(config_for(connection), revision)
    migrate.upgrade(site.engine)
    assert laws(site) == {}
    assert site.sql(SUMS) == due
    ((kinds,),) = site.sql(
        "SELECT jsonb_object_agg(name, kinds) FROM (SELECT name, array_agg(kind) AS kinds"
        " FROM air.change JOIN air.source_file USING (file_id) GROUP BY name) AS each"
    )
    assert kinds.pop("bad.csv (replay)") == ["replay"]
    assert [name for name, each in kinds.items() if len(each) == 2] == [
        "both.csv",
        "everything.csv",
    ]
    assert {kind for each in kinds.values() for kind in each} == {"load"}
    assert "retracted.csv" not in kinds
    # The same order in which they came.
    assert (
        site.sql(
            "SELECT 1 FROM air.change AS a JOIN air.change AS b ON a.seq < b.seq AND a.at > b.at"
        )
        == []
    )
    # And it goes on from there.
    site.reopen()
    site.load(dust(1, 22, "2017-08-03"), "later.csv")
    assert laws(site) == {}


def test_only_files_whose_months_the_ledger_does_not_tell_are_counted(filled: Site) -> None:
    """That is what lets a database of day files be migrated in seconds."""
    site = filled
    with site.engine.begin() as connection:
        command.downgrade(config_for(connection), "0006")
    site.sql("DELETE FROM air.raw_particulate WHERE file_id = :id", id=file_id(site, "dust.csv"))
    site.sql("DELETE FROM air.raw_particulate WHERE file_id = :id", id=file_id(site, "months.csv"))
    migrate.upgrade(site.engine)
    found = dict(
        site.sql(
            "SELECT name, sum(rows_added) FROM air.change JOIN air.source_file"
            " USING (file_id) GROUP BY name"
        )
    )
    assert (found["dust.csv"], found["months.csv"]) == (1, 0)


def file_id(site: Site, name: str) -> int:
    return int(site.ledger(name)["file_id"])


def test_a_writer_that_is_at_work_is_waited_for(filled: Site, migrated_url: str) -> None:
    """What it commits is counted, too."""
    site = filled
    with site.engine.begin() as connection:
        command.downgrade(config_for(connection), "0006")
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('sofia-air: writer', 0))"
    with psycopg.connect(migrated_url) as writer:
        writer.execute(lock)
        with site.engine.begin() as connection:
            connection.execute(sa.text("SET LOCAL lock_timeout = '200ms'"))
            with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
                command.upgrade(config_for(connection), "head")
    with reader_of(site.engine).snapshot() as connection:
        assert revision(connection) == "0006"
    migrate.upgrade(site.engine)
