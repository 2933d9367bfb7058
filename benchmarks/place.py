"""Place: where a run happens: its folder, its server, its input files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from pipeline import simulate
from pipeline.embedded import EmbeddedPostgres
from pipeline.store import engine as engines
from pipeline.store import migrate

SENSORS = 140
_ROWS_A_MONTH = 17_500  # of a sensor, in the shorter months too


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a private PostgreSQL.

    Attributes:
        folder: everything made here is in it.
        server: the address of the server.
    """

    folder: Path
    server: str

    def url(self, name: str) -> str:
        """Return the address of one of the server's databases."""
        return make_conninfo(self.server, dbname=name)

    def sqlalchemy_url(self, name: str) -> str:
        """Return the same as a URL."""
        return self.server.replace("/sofia_air?", f"/{name}?")

    def run(self, name: str, *statements: str) -> None:
        """Run statements in a database, each on its own."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def ask(self, name: str, query: str) -> tuple[object, ...]:
        """Return the one row of a query."""
        with psycopg.connect(self.url(name)) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row

    def fresh(self, name: str, *, ours: bool) -> None:
        """Make an empty database, ours with its tables; whatever had the name is gone."""
        self.run("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.run("postgres", f"CREATE DATABASE {name}")
        if ours:
            engine = engines.create(self.sqlalchemy_url(name))
            migrate.upgrade(engine)
            engine.dispose()

    def settle(self, name: str) -> None:
        """Let a run in a database not pay for what another wrote: its checkpoint, its vacuum."""
        for other in {"ours", "theirs"} - {name}:
            self.run("postgres", f"DROP DATABASE IF EXISTS {other} WITH (FORCE)")
        self.run("postgres", "CHECKPOINT")

    def made(self, name: str, simulation: simulate.Simulation) -> list[Path]:
        """Return simulated files, made once."""
        folder = self.folder / "input" / name
        if not folder.is_dir():
            simulate.write(simulation, folder)
        return sorted(folder.iterdir())

    def sofia(self, rows: int, *, faults: float = 0.0) -> Path:
        """Return one file of the Sofia set's kind: as many sensors as fill it within a month."""
        name = f"sofia-{rows}-{faults:g}"
        (path,) = self.made(
            name,
            simulate.Simulation(
                sensors=max(SENSORS, rows // _ROWS_A_MONTH + 1),
                start=date(2018, 1, 1),
                models=("sds011",),
                rows=rows,
                fault_rate=faults,
            ),
        )
        return path

    def archive(self, sensors: int, days: int) -> list[Path]:
        """Return files of the archive's kind: one a sensor and day, about 550 rows each."""
        simulation = simulate.Simulation(
            sensors=sensors, days=days, dialect="archive", models=("sds011",)
        )
        return self.made(f"archive-{sensors}-{days}", simulation)

    def home(self, files: Sequence[Path]) -> Path:
        """Return a fresh home whose `data/` holds copies of files."""
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        (home / "data").mkdir(parents=True)
        for path in files:
            shutil.copy2(path, home / "data")
        return home


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Start the server in a folder, and stop it in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedPostgres(folder / "server") as server:
        yield Place(folder, server.url)
