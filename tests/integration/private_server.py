"""What the tests of the private PostgreSQL share: commands that use it, and homes."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pipeline.embedded import EmbeddedPostgres, running_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]

# A command: uses the server until its standard input ends.
# (A shell's background job hands down a deaf ear for Ctrl-C; a terminal does not.)
COMMAND = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from pipeline.embedded import EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1])) as database:
    print(database.url, flush=True)
    sys.stdin.read()
"""


class Command:
    """Another process that uses the home's server."""

    def __init__(self, home: Path, *prefix: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", COMMAND, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def url(self) -> str:
        """Wait until it has the server."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def leave(self) -> int:
        """Let it end; return its exit code."""
        with self.process:
            assert self.process.stdin
            self.process.stdin.close()
            return self.process.wait(120)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        with self.process:
            self.process.kill()


@contextmanager
def commands(home: Path, count: int = 1, *prefix: str) -> Iterator[list[Command]]:
    started = [Command(home, *prefix) for _ in range(count)]
    try:
        yield started
    finally:
        for command in started:
            if command.process.returncode is None:
                command.kill()


def until(happened: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def postmaster(home: Path) -> int:
    return int((home / ".postgres/data/postmaster.pid").read_text().split()[0])


def alive(pid: int) -> bool:
    """Not even a zombie is left."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ask(url: str, question: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(question).fetchone()
        return row and row[0]


def connection_host(url: str) -> str:
    return str(conninfo_to_dict(url)["host"])


def give(folder: Path, account: pwd.struct_passwd) -> None:
    """Let everything be the account's, as if it had made it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def as_owner(process: Path, *command: str | Path) -> bytes:
    """Look at a process as its user: in a container, root may not."""
    found = process.stat()
    who = {"user": found.st_uid, "group": found.st_gid, "extra_groups": []}
    given = who if os.geteuid() == 0 else {}
    done = subprocess.run(command, capture_output=True, check=True, **given)  # type: ignore[call-overload]
    return bytes(done.stdout)


def modes(path: Path) -> list[tuple[int, int, int]]:
    return [(s.st_mode, s.st_uid, s.st_gid) for s in (p.stat() for p in (path, *path.parents))]


@contextmanager
def home_at(path: Path, prepared: Path | None = None) -> Iterator[Path]:
    """A home at this path: a new one, or the prepared one, lent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if prepared:
        prepared.rename(path)
    else:
        path.mkdir()
    left_behind = None
    try:
        yield path
        left_behind = running_url(path)
    finally:
        if running_url(path):
            with EmbeddedPostgres(path):
                pass
        if prepared:
            path.rename(prepared)
        else:
            shutil.rmtree(path)
    assert not left_behind, "the test left a server running"
