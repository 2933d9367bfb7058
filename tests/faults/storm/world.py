"""The world of a storm: a home, a database on a server of our own, and the daemon between them."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.faults.daemon import free_port
from tests.faults.harness import Postgres, Site, Starter, wait_for
from tests.faults.proxy import Proxy
from tests.faults.storm.stream import Delivery, Stream
from tests.oracle import Oracle

_DISK = "256m"
_QUICKLY = "STRATEGY file_copy"  # the files are copied, not logged page by page
_OLD = 1_700_000_000
_SETTINGS: dict[str, object] = {
    "scan_seconds": 0.5,
    "settle_seconds": 1.0,
    "batch_files": 8,
    "max_inflated_bytes": 32 << 20,
}
_numbers = count(1)


class Violation(Exception):
    """A law was broken."""


@dataclass
class Pending:
    """A fault that lasts.

    Attributes:
        kind: its kind.
        group: what it disturbs, or an empty text.
        rest: what is left of it: how it is undone.
    """

    kind: str
    group: str
    rest: Iterator[None]


@dataclass
class World:
    """All that a fault can reach.

    Attributes:
        room: its folder; the home is in it.
        postgres: the server.
        starter: starts daemons.
        rng: decides everything random.
        stream: makes files.
        on_disk: whether the home has a filesystem of its own.
        history: what was done, in order.
        delivered: SHA-256 → what was delivered.
        pending: faults that last.
        restored: whether an older database was put back since the last calm.
        oracle: the files that it was given, and what it says of them.
    """

    room: Path
    postgres: Postgres
    starter: Starter
    rng: random.Random
    stream: Stream
    on_disk: bool
    history: list[str] = field(default_factory=list)
    delivered: dict[str, Delivery] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    restored: bool = False
    snapshot: str | None = None
    oracle: tuple[list[tuple[str, str]], Oracle] = field(
        default_factory=lambda: ([], Oracle(datetime.now(UTC)))
    )
    hashed: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _dropped: int = 0

    # --- its life

    @contextmanager
    def open(self) -> Iterator[World]:
        """Make the database and the home, and start the daemon; take all of it away again."""
        home = self.room / "home"
        home.mkdir(parents=True)
        if self.on_disk:
            tmpfs = [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"size={_DISK},mode=0755",
                "sofia-air-storm",
                str(home),
            ]
            subprocess.run(tmpfs, check=True)
        try:
            self.url = self.postgres.database()
            self.dbname = str(conninfo_to_dict(self.url)["dbname"])
            with Proxy(self.url) as self.proxy:
                self.port = free_port()
                settings = _SETTINGS | {"metrics_port": self.port}
                self.site = Site(home, self.url, self.starter, settings, self.proxy.url)
                try:
                    self.site.start()
                    yield self
                finally:
                    self.site.abandon()
        finally:
            if self.on_disk:
                # What a law was broken on stays, to be looked at.
                self._keep(home)

    def _keep(self, home: Path) -> None:
        kept = self.room / "kept"
        with suppress(OSError):
            (home / "balloon").unlink(missing_ok=True)
        shutil.copytree(home, kept, symlinks=True)
        subprocess.run(["umount", "-l", str(home)], check=True)
        shutil.rmtree(home)
        kept.rename(home)

    @property
    def home(self) -> Path:
        """The home folder."""
        return self.site.home

    @property
    def data(self) -> Path:
        """Where files are dropped."""
        return self.site.data

    def note(self, what: str) -> None:
        """Write down what was done."""
        self.history.append(what)

    # --- files

    @property
    def may_drop(self) -> bool:
        """Whether there is room for files."""
        return not any(each.group == "disk" for each in self.pending)

    def feed(self) -> None:
        """Deliver a few files."""
        if self.may_drop:
            for _ in range(self.rng.randint(1, 3)):
                self.drop(self.stream.next())

    def drop(self, file: Delivery, name: str | None = None) -> bool:
        """Deliver a file, whole; return whether its name was free."""
        name = name or file.name
        self._dropped += 1
        part = self.data / f".{self._dropped}.part"
        part.write_bytes(file.data)
        os.utime(part, (_OLD + self._dropped, _OLD + self._dropped))
        # Never in the place of one that waits: that would be our loss, not the daemon's.
        if os.path.lexists(self.data / name):
            part.unlink()
            return False
        part.rename(self.data / name)
        self.promise(file, name)
        return True

    def promise(self, file: Delivery, name: str) -> None:
        """Remember that a file has to be accounted for."""
        self.delivered.setdefault(file.sha256, file)
        self.names.setdefault(file.sha256, set()).add(name)

    def waiting(self) -> list[str]:
        """Return the names of what waits in data/."""
        every = [path.name for path in self.data.iterdir()]
        return [name for name in every if name.endswith((".csv", ".csv.gz"))]

    # --- the database

    def sql(self, *statements: str, dbname: str = "") -> list[tuple[Any, ...]]:
        """Run statements, each by itself; return the last one's rows. The server must be up."""
        with self.connect(dbname) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self, dbname: str = "") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect to the database, past the proxy; wait for a server that is recovering."""
        url = self.postgres.url(dbname) if dbname else self.url
        deadline = time.monotonic() + 120
        while True:
            try:
                # A statement of ours that waits for the daemon must not wait for ever.
                options = "-c lock_timeout=20s -c statement_timeout=60s -c jit=off -c TimeZone=UTC"
                return psycopg.connect(
                    url, autocommit=True, options=options, application_name="storm"
                )
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def take_snapshot(self) -> None:
        """Copy the database aside; the daemon is cut off for that moment."""
        self.undo("schema")
        name = f"{self.dbname}_snapshot"
        self._alone(
            f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} TEMPLATE {{}} {_QUICKLY}"
        )
        self.snapshot = name
        self.note("snapshot")

    def restore(self, *, swap: bool) -> None:
        """Put the snapshot in the database's place.

        Args:
            swap: by renaming, so that a database of that name is missing for a moment only.
        """
        if self.snapshot is None:
            raise RuntimeError
        name, old = self.dbname, f"{self.dbname}_old"
        if swap:
            self._alone(
                f"CREATE DATABASE {name}_new TEMPLATE {self.snapshot} {_QUICKLY}",
                f"ALTER DATABASE {name} RENAME TO {old}",
                f"ALTER DATABASE {name}_new RENAME TO {name}",
                f"DROP DATABASE {old} WITH (FORCE)",
            )
        else:
            self.sql(
                f"DROP DATABASE {name} WITH (FORCE)",
                f"CREATE DATABASE {name} TEMPLATE {self.snapshot} {_QUICKLY}",
                dbname="postgres",
            )
        self.restored = True

    def _alone(self, *statements: str) -> None:
        name = self.dbname
        with self.connect("postgres") as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
            try:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (name,),
                )
                for statement in statements:
                    _patiently(connection, statement.format(name))
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())

    # --- faults that last

    def undo(self, group: str = "") -> None:
        """End the lasting faults of a group, or all of them."""
        ended = [each for each in self.pending if not group or each.group == group]
        self.pending = [each for each in self.pending if each not in ended]
        for each in reversed(ended):
            for _ in each.rest:
                message = f"{each.kind} yields twice"
                raise RuntimeError(message)
            self.note(f"{each.kind} undone")

    def disturbed(self, group: str) -> bool:
        """Whether a fault of that group lasts."""
        return any(each.group == group for each in self.pending)

    # --- processes

    @property
    def pid(self) -> int:
        """The daemon's process number."""
        if self.site.pid is None:
            raise RuntimeError
        return self.site.pid

    def restart(
        self, by_exec: bool | None = None, environment: dict[str, str] | None = None
    ) -> None:
        """Start the daemon again, after it ended."""
        if by_exec is None:
            by_exec = self.rng.random() < 0.04
        self.site.start(by_exec=by_exec or bool(environment), environment=environment or {})

    def stop(self) -> None:
        """Stop the daemon politely.

        Raises:
            Violation: it does not end as it should.
        """
        os.kill(self.pid, signal.SIGTERM)
        # The second: it was not far enough to have heard of signals.
        if (code := self.site.buried()) not in {0, -signal.SIGTERM}:
            message = f"SIGTERM ended the daemon with {code}:\n{self.site.output()}"
            raise Violation(message)

    def children_of_server(self) -> list[int]:
        """Return the process numbers of the server and all that serve it."""
        pid = self.postgres.pid
        found = [pid]
        for task in Path("/proc").iterdir():
            if task.name.isdigit():
                with suppress(OSError):
                    parent = (task / "stat").read_text().rpartition(")")[2].split()[1]
                    if int(parent) == pid:
                        found.append(int(task.name))
        return found

    def limit_descriptors(self, soft: int) -> tuple[int, int]:
        """Set how many descriptors the daemon may have open; return what it was."""
        before = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (soft, before[1]))
        return before

    def pause(self, shortest: float, longest: float) -> None:
        """Let things happen for a random time."""
        time.sleep(self.rng.uniform(shortest, longest))

    def wait(self, what: str, true: Callable[[], object], patience: float) -> bool:
        """Wait for something that may not happen; return whether it did."""
        try:
            wait_for(what, true, patience)
        except AssertionError:
            return False
        return True


def _patiently(connection: psycopg.Connection[Any], statement: str) -> None:
    """Run a statement that fails while somebody is still connected; a few times."""
    for attempt in range(50):
        try:
            connection.execute(statement.encode())
        except psycopg.errors.ObjectInUse:
            if attempt == 49:
                raise
            time.sleep(0.1)
        else:
            return
