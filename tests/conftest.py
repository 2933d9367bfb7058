"""What all tests share: one PostgreSQL for the whole run, and a database of its own for each test.

The server is the package's own embedded one, in memory where there is room. pytest-postgresql makes
a template, which is migrated once; a migrated database is a copy of its files, which takes a few
hundredths of a second. So no test has to live with what another one left.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pytest_postgresql import factories

from pipeline import embedded as private
from pipeline.embedded import EmbeddedPostgres
from pipeline.store import engine as store_engine
from pipeline.store.migrate import upgrade

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    import sqlalchemy as sa
    from pytest_postgresql.executors import NoopExecutor

# No test cuts the power under this server, so nothing has to reach a disk. Those that kill
# PostgreSQL have a server of their own, set up as users have it.
_HASTY = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_wal_size": "1GB",
    # Starting them costs far more than what there is to count.
    "max_parallel_workers_per_gather": "0",
}
_MEMORY = Path("/dev/shm")
_ROOM = 2 << 30  # bytes: ten times of what the tests need
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
    _given_up: deque[str] = field(default_factory=deque)

    def url(self, dbname: str) -> str:
        """Return the address of one of its databases."""
        place = urlencode({"host": self.host, "port": self.port})
        return f"postgresql://{self.user}@/{dbname}?{place}"

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Make a copy of a database for as long as it is used; give its address."""
        name = f"test_{next(_numbers)}"
        # PostgreSQL's usual way writes every page to its log, and takes ten times as long.
        self._do(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield self.url(name)
        finally:
            # A session that was closed just now still takes a moment to end, and PostgreSQL would
            # wait a tenth of a second for it. So the one before it is dropped, which all have left.
            self._given_up.append(name)
            while len(self._given_up) > 1:
                self._do(f"DROP DATABASE IF EXISTS {self._given_up.popleft()} WITH (FORCE)")

    def _do(self, statement: str) -> None:
        with psycopg.connect(self.url(self.maintenance_dbname), autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what stays anyway: the modules and the tests.

    Without this it looks through all of them again and again, an eighth of the time of the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Commands that run within the tests make this process's umask stricter, for good."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _nobody_elses_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them: above all, their database."""
    for name in os.environ:
        if name == "DATABASE_URL" or name.startswith(("SOFIA_AIR_", "PG")):
            monkeypatch.delenv(name)


def _settings(given: Sequence[str]) -> tuple[str, ...]:
    """Return the server's command line, with the hasty settings in the place of the safe ones."""
    others = [word for word in given if word.removeprefix("-c").partition("=")[0] not in _HASTY]
    return (*others, *(f"-c{name}={value}" for name, value in _HASTY.items()))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The one PostgreSQL server of this run."""
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM
    with tempfile.TemporaryDirectory(
        prefix="sofia-air-tests-", dir=_MEMORY if roomy else None
    ) as home:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(private, "_ALWAYS", _settings(private._ALWAYS))
            embedded = EmbeddedPostgres(Path(home))
            embedded.start()
        with embedded:
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


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    """The address of a fresh, empty database."""
    with server.database() as url:
        yield url


@pytest.fixture
def migrated_url(server: Server, template: NoopExecutor) -> Iterator[str]:
    """The address of a fresh database with all tables and no rows."""
    with server.database(template.template_dbname) as url:
        yield url


@pytest.fixture
def engine(migrated_url: str) -> Iterator[sa.Engine]:
    """An engine for a fresh database with all tables and no rows."""
    engine = store_engine.create(migrated_url)
    yield engine
    engine.dispose()
