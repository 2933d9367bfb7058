"""What all tests share: one PostgreSQL for the whole run, and a database of its own for each test.

The server is the package's own embedded one. pytest-postgresql makes the databases: a migrated one
is a copy of a template that was migrated once, which takes a few hundredths of a second.
"""

from __future__ import annotations

import os
import signal
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict
from pytest_postgresql import factories
from pytest_postgresql.janitor import DatabaseJanitor

from pipeline.embedded import EmbeddedPostgres
from pipeline.store import engine as store_engine
from pipeline.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa
    from pytest_postgresql.executors import NoopExecutor

_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """The running server, with the names that pytest-postgresql's factories look for."""

    host: str
    port: int
    user: str
    password: None = None
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: None = None

    def url(self, dbname: str) -> str:
        """Return the address of one of its databases."""
        place = urlencode({"host": self.host, "port": self.port})
        return f"postgresql://{self.user}@/{dbname}?{place}"


@pytest.fixture(autouse=True)
def _nobody_elses_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them: above all, their database."""
    for name in os.environ:
        if name == "DATABASE_URL" or name.startswith(("SOFIA_AIR_", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The one PostgreSQL server of this run."""
    with (
        tempfile.TemporaryDirectory(prefix="sofia-air-tests-") as home,
        EmbeddedPostgres(Path(home)) as embedded,
    ):
        place = conninfo_to_dict(embedded.url)
        yield Server(str(place["host"]), int(place.get("port") or 5432), str(place["user"]))
        # Nothing in it is worth the seconds of an orderly stop.
        postmaster = Path(str(place["host"])) / "data" / "postmaster.pid"
        os.kill(int(postmaster.read_text().split()[0]), signal.SIGQUIT)


def _migrate(*, host: str, port: int, user: str, dbname: str, **_: object) -> None:
    engine = store_engine.create(Server(host, port, user).url(dbname))
    try:
        upgrade(engine)
    finally:
        engine.dispose()


template = factories.postgresql_noproc(depends_on="server", dbname="migrated", load=[_migrate])


@contextmanager
def _database(server: Server, template_dbname: str | None = None) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with DatabaseJanitor(
        user=server.user,
        host=server.host,
        port=server.port,
        dbname=name,
        template_dbname=template_dbname,
    ):
        yield server.url(name)


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    """The address of a fresh, empty database."""
    with _database(server) as url:
        yield url


@pytest.fixture
def migrated_url(server: Server, template: NoopExecutor) -> Iterator[str]:
    """The address of a fresh database with all tables and no rows."""
    with _database(server, template.template_dbname) as url:
        yield url


@pytest.fixture
def engine(migrated_url: str) -> Iterator[sa.Engine]:
    """An engine for a fresh database with all tables and no rows."""
    engine = store_engine.create(migrated_url)
    yield engine
    engine.dispose()
