"""Server: prepares, starts and stops the private PostgreSQL, as the user that this process is.

How commands share it: every command that uses the server holds a shared lock on ``users.lock`` for
as long as it lives. Preparing, starting and stopping happen under an exclusive lock on
``start.lock``. Whoever leaves tries to turn its shared lock into an exclusive one; only the last
can, and it stops the server. The kernel drops the locks of a killed process, so a killed command
leaves at worst a running server, which the next command finds, uses, and stops.

Never run by root: see :mod:`pipeline.embedded.delegate`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.embedded.address import NAME, OTHERWISE, SOCKET
from pipeline.embedded.programs import MAJOR
from pipeline.embedded.room import INSIDE, Place, content
from pipeline.errors import EmbeddedDatabaseError
from pipeline.files.atomic import sync_folder

__all__ = ["PATIENCE", "Programs", "Server"]

PATIENCE = 60.0  # seconds for a start (crash recovery included), and for a stop
_LOG_LIMIT = 8 << 20  # bytes; a longer log is set aside at the next start


@dataclass(frozen=True, slots=True)
class Programs:
    """PostgreSQL's programs, and what they are told.

    Attributes:
        folder: where they are.
        always: options of every start of the server.
        at_first: options that a new data folder keeps.
    """

    folder: Path
    always: tuple[str, ...]
    at_first: tuple[str, ...]


class Server:
    """A home's private server, for as long as this object is used.

    Args:
        place: where its files are.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._room = place.room
        self._data = self._room / "data"
        self._log = self._room / "postgres.log"
        self._programs: Programs | None = None
        self._users: int | None = None

    def start(self, programs: Programs) -> None:
        """Make sure that the server is up, and stays up until `stop`.

        It may be called again at any time: it brings back a server that has died.

        Raises:
            EmbeddedDatabaseUnavailable: it cannot be prepared or started now.
            EmbeddedDatabaseError: it cannot be prepared or started.
        """
        self._programs = programs
        try:
            if not self._place.inside:
                self._place.make()
            with self._start_lock() as lock:
                if self._users is None:
                    self._users = self._place.open("users.lock")
                    fcntl.flock(self._users, fcntl.LOCK_SH)
                self._ensure_running(lock)
        except EmbeddedDatabaseError:
            # A server that is still recovering is left to it: stopping it would only mean
            # recovering from the beginning next time.
            self._forget()
            raise
        except OSError as error:
            self._forget()
            raise self._place.trouble("could not be prepared", error) from error
        except BaseException:  # Ctrl-C: leave nothing running that nobody asked for
            self.stop()
            raise

    def stop(self, on_last: Callable[[], None] | None = None) -> None:
        """Stop using the server; the last user of all stops the server itself.

        Args:
            on_last: called once nobody uses the server, before anybody can start it again.

        Raises:
            EmbeddedDatabaseError: the server does not stop.
        """
        if self._users is None:
            return
        try:
            with self._start_lock():
                try:
                    fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # others still use it
                    return
                if self._lives():
                    how = ("-m", "fast", "-w", "-t", f"{PATIENCE:.0f}")
                    try:
                        self._run("could not be stopped", self._data, "pg_ctl", "stop", *how)
                    except EmbeddedDatabaseError:
                        if self._lives():  # and did not just die by itself
                            raise
                if on_last:
                    on_last()
        except OSError as error:
            raise self._place.trouble("could not be stopped", error) from error
        finally:
            self._forget()

    def is_up(self, folder: Path) -> bool:
        """Ask the server itself, if its pid file says that asking makes sense (asking is logged).

        Args:
            folder: where PostgreSQL's programs are.
        """
        try:
            if not content(self._data / "postmaster.pid").rstrip().endswith(b"\nready"):
                return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        command = [str(folder / "pg_isready"), "-q", "-t", "5", "-d", self._place.url]
        return subprocess.run(command, env=_environment(), check=False).returncode == 0

    def _forget(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    @contextmanager
    def _start_lock(self) -> Iterator[int]:
        lock = self._place.open("start.lock")
        deadline = time.monotonic() + 3 * PATIENCE
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        what = "is being started or stopped by another command, without end"
                        raise self._place.trouble(what) from None
                time.sleep(0.03)
            yield lock
        finally:
            os.close(lock)

    def _ensure_running(self, lock: int) -> None:
        if not self._data.exists():
            self._create(lock)
        made_by = content(self._data / "PG_VERSION").decode(errors="replace").strip()
        if made_by != MAJOR:
            message = (
                f"{self._place.shown}/data was made by PostgreSQL {made_by}, and this release runs "
                f"PostgreSQL {MAJOR}. Carry the data over with the pg_dump of PostgreSQL {made_by};"
                f" or move {self._place.shown} away, to begin with an empty database; {OTHERWISE}"
            )
            raise EmbeddedDatabaseError(message)
        server: subprocess.Popen[bytes] | None = None
        said = 0
        deadline = time.monotonic() + PATIENCE
        while not self.is_up(self._given.folder):
            # A server may live and not answer: one is still starting, though its starter was
            # killed, another still stopping. It is waited for.
            if not self._lives() and (server is None or server.returncode is not None):
                # What is left of a killed server may refuse us for a moment.
                if server and not re.search(
                    "still in use|already exists", self._place.said_since(said)
                ):
                    raise self._place.trouble("stopped while it was starting", said=said)
                server, said = self._spawn()
            if time.monotonic() > deadline:
                what = "does not answer yet; try again later"
                raise self._place.trouble(what, said=said, passing=True)
            time.sleep(0.03)

    @property
    def _given(self) -> Programs:
        assert self._programs is not None  # noqa: S101  # `start` comes first
        return self._programs

    def _create(self, lock: int) -> None:
        """Make the data folder under another name, whole; only then does it get its own.

        The programs inherit the start lock: if we are killed, the next command waits for them.
        """
        what, draft = "could not be prepared", self._room / "data.new"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        # PostgreSQL's own C.UTF-8 sorts and folds the same everywhere, whatever the system's libc.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-EUTF8")
        access = ("-U", NAME, "--auth-local=trust", "--auth-host=reject", "--no-instructions")
        options = (*locale, *access, *self._given.at_first)
        self._run(what, draft, "initdb", *options, keep=(lock,))
        alone = ("--single", "-cexit_on_error=on")
        create = f"CREATE DATABASE {NAME};\n"
        self._run(what, draft, "postgres", *alone, last=("template1",), keep=(lock,), text=create)
        draft.rename(self._data)
        sync_folder(self._room)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        """Start the server; return it, and where in the log its words begin."""
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > _LOG_LIMIT:
                self._log.replace(self._log.with_suffix(".log.old"))
        environment = _environment()
        # The number in a pid file may by now belong to another process, and PostgreSQL would take
        # that for a server and refuse. It ignores its own grandparent, so that is what we call it:
        # unlike removing the file, this leaves its other safeguards in place. A file without a
        # number (a power cut tore it) says nothing, and goes; shared memory is guarded besides.
        for file in (self._room / f"{SOCKET}.lock", self._data / "postmaster.pid"):
            if stale := _recorded_pid(file):
                environment["PG_GRANDPARENT_PID"] = str(stale)
            else:
                file.unlink(missing_ok=True)
        # A session of its own: Ctrl-C in our terminal must not reach it.
        server, said = self._launch(
            self._data,
            "postgres",
            *self._given.always,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        # It may outlive our use of it, and must not become a zombie, which looks alive.
        threading.Thread(target=server.wait, name="postgres-reaper", daemon=True).start()
        return server, said

    def _run(
        self,
        failure: str,
        folder: Path,
        program: str,
        *args: str,
        last: tuple[str, ...] = (),
        keep: tuple[int, ...] = (),
        text: str = "",
    ) -> None:
        """Run one of PostgreSQL's programs on a data folder, to its end."""
        how: dict[str, Any] = {"env": _environment(), "stdin": subprocess.PIPE, "pass_fds": keep}
        process, said = self._launch(folder, program, *args, last=last, **how)
        with process:
            process.communicate(text.encode())
        if process.returncode:
            raise self._place.trouble(failure, said=said)

    def _launch(
        self, folder: Path, name: str, *args: str, last: tuple[str, ...] = (), **how: Any
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start one of PostgreSQL's programs on a data folder, its words going to the log."""
        where, at = (INSIDE, folder) if self._place.inside else (str(folder), Path("/"))
        program = [str(self._given.folder / name), *args, "-D", where, *last]
        log = self._place.open("postgres.log", os.O_WRONLY | os.O_APPEND)
        try:  # never our own stdout: whoever reads that to its end would wait for the server's
            said = os.fstat(log).st_size
            process = subprocess.Popen(program, stdout=log, stderr=log, cwd=at, umask=0o077, **how)
        finally:
            os.close(log)
        return process, said

    def _lives(self) -> bool:
        """Tell whether the recorded process is the server of this very data folder."""
        pid = _recorded_pid(self._data / "postmaster.pid")
        if pid is None:
            return False
        if sys.platform != "linux":
            ps = ("ps", "-p", str(pid), "-o", "comm=")
            return b"postgres" in subprocess.run(ps, capture_output=True, check=False).stdout
        process = Path(f"/proc/{pid}")
        try:  # a server's working directory is its data folder; a zombie has none
            return (process / "cwd").samefile(self._data)
        except FileNotFoundError:
            return False
        except PermissionError:  # an earlier release's, with a capability: its name must do
            return (process / "comm").read_text() == "postgres\n"


def _recorded_pid(file: Path) -> int | None:
    try:
        return abs(int(content(file).split()[0])) or None
    except (FileNotFoundError, ValueError, IndexError):  # torn by a power cut
        return None


def _environment() -> dict[str, str]:
    """Return our environment without what would change how PostgreSQL's programs behave."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    return kept | {"LC_ALL": "C"}
