"""The reader: it only reads, of one moment, within a time, and says what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from pipeline.errors import ConfigurationError, DatabaseTrouble, DatabaseUnavailable
from pipeline.store.engine import reader_of
from pipeline.store.read import books
from pipeline.store.read.reader import Pool, Reader
from pipeline.store.refusals import guarded

if TYPE_CHECKING:
    from tests.integration.conftest import Site


@pytest.fixture(params=["pool", "engine"])
def reader(
    request: pytest.FixtureRequest, migrated_url: str, engine: sa.Engine
) -> Iterator[Reader]:
    """Both kinds: on connections of its own, and on those of an engine."""
    if request.param == "engine":
        yield reader_of(engine)
        return
    pool = Pool(migrated_url)
    yield Reader(pool.lend)
    pool.close()


def limit_of(reader: Reader, seconds: float | None) -> object:
    with reader.snapshot(seconds) as connection:
        row = connection.execute("SELECT current_setting('statement_timeout')").fetchone()
    assert row is not None
    return row[0]


def test_all_answers_are_of_one_moment(reader: Reader, migrated_url: str) -> None:
    with reader.snapshot() as connection:
        assert books.totals(connection).sensors == 0
        with psycopg.connect(migrated_url) as other:
            other.execute("INSERT INTO air.sensor (sensor_id, model) VALUES (1, 'sds011')")
        assert books.totals(connection).sensors == 0
    with reader.snapshot() as connection:
        assert books.totals(connection).sensors == 1


def test_nothing_can_be_written(reader: Reader) -> None:
    with pytest.raises(DatabaseUnavailable, match="read-only"), reader.snapshot() as connection:
        connection.execute("DELETE FROM air.sensor")


def test_whoever_writes_on_the_same_connection_still_can(engine: sa.Engine) -> None:
    with reader_of(engine).snapshot() as connection:
        pid = connection.info.backend_pid
    with engine.begin() as writing:
        assert writing.scalar(sa.text("SELECT pg_backend_pid()")) == pid
        assert writing.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
        writing.execute(sa.text("INSERT INTO air.sensor (sensor_id, model) VALUES (1, 'x')"))


def test_a_statement_takes_no_longer_than_it_may(reader: Reader) -> None:
    with pytest.raises(DatabaseUnavailable, match="timeout"), reader.snapshot(0.01) as connection:
        connection.execute("SELECT pg_sleep(60)")
    assert limit_of(reader, 600) == "10min"
    assert limit_of(reader, None) == "0"


def test_an_administrator_may_allow_less(migrated_url: str) -> None:
    pool = Pool(
        f"{migrated_url}{'&' if '?' in migrated_url else '?'}options=-cstatement_timeout%3D7s"
    )
    reader = Reader(pool.lend)
    assert limit_of(reader, 600) == "7s"
    assert limit_of(reader, 5) == "5s"
    pool.close()


def test_a_connection_is_used_again_until_it_breaks(migrated_url: str) -> None:
    pool = Pool(migrated_url)
    reader = Reader(pool.lend)
    pids = set()
    for _ in range(2):
        with reader.snapshot() as connection:
            pids.add(connection.info.backend_pid)
    assert len(pids) == 1
    with psycopg.connect(migrated_url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [*pids])
    with pytest.raises(DatabaseUnavailable), reader.snapshot() as connection:
        books.totals(connection)
    with reader.snapshot() as connection:
        assert connection.info.backend_pid not in pids
    pool.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("SELECT * FROM air.nowhere", DatabaseTrouble),
        ("SELECT 1 / 0", DatabaseTrouble),
        ("SELECT pg_terminate_backend(pg_backend_pid())", DatabaseUnavailable),
    ],
)
def test_errors_are_the_same_with_and_without_sqlalchemy(
    text: str, kind: type[Exception], reader: Reader, engine: sa.Engine
) -> None:
    with pytest.raises(kind) as plain, reader.snapshot() as connection:
        connection.execute(text.encode())
    with pytest.raises(kind) as wrapped, guarded(), engine.connect() as other:
        other.execute(sa.text(text))
    assert type(plain.value) is type(wrapped.value)
    assert str(plain.value) == str(wrapped.value)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", DatabaseUnavailable),
        ("nonsense", ConfigurationError),
    ],
)
def test_what_cannot_be_reached_is_said(url: str, kind: type[Exception]) -> None:
    with pytest.raises(kind), Reader(Pool(url).lend).snapshot():
        pass


def test_what_is_read_is_what_was_loaded(site: Site) -> None:
    site.load("sensor_id;nothing\n", "no.csv")
    with site.reader.snapshot() as connection:
        assert books.totals(connection).files_refused == 1
        (file,) = books.recent_files(connection, 10)
    assert (file.name, file.state) == ("no.csv", "refused")
