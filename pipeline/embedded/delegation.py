"""Delegation: root's side of a private PostgreSQL. Who does the work, and asking them to.

PostgreSQL refuses to run as root, and what root does in a folder that another user controls, that
user can turn against the machine. So root only decides which account the server belongs to, and has
:mod:`pipeline.embedded.delegate` do everything else as that account.

The decision rests on folders that are open, not on paths: a path may lead elsewhere a moment later.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.embedded import delegate as program
from pipeline.embedded.address import OTHERWISE
from pipeline.embedded.programs import public_copy
from pipeline.embedded.server import PATIENCE, Programs
from pipeline.embedded.way import opened
from pipeline.errors import EmbeddedDatabaseError, EmbeddedDatabaseUnavailable

__all__ = ["Delegate", "Lodging", "lodging"]

# For homes of root's: who the server runs as, whichever is there. The first is nobody else's.
_ACCOUNTS = ("sofia-air", "postgres", "nobody")
_LONGEST_ANSWER = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Lodging:
    """Whose a home's server is.

    Attributes:
        account: the user that the server runs as.
        room: an open descriptor of the room, handed to an account that serves root; None when the
            account has to find the room by itself.
    """

    account: pwd.struct_passwd
    room: int | None = None


def lodging(home: Path, *, make: bool) -> Lodging:
    """Decide whose a home's server is.

    In a home of another user it is that user's, who has to be able to reach it. In one of root's it
    belongs to an account that serves root, and root hands over the room itself: folders above it
    may be closed, and stay closed.

    Args:
        home: the home folder, links resolved.
        make: make the home and the room where they are missing.

    Raises:
        EmbeddedDatabaseError: there is no account, or the room is not as it has to be.
        OSError: the home cannot be opened or made.
    """
    if sys.platform != "linux":
        message = f"As root, the private PostgreSQL works on Linux only: be a user, {OTHERWISE}"
        raise EmbeddedDatabaseError(message)
    at = opened(home, make=make)
    try:
        found = os.fstat(at)
        with suppress(KeyError):  # PostgreSQL does not run as a user without a name
            if found.st_uid != 0:
                return Lodging(pwd.getpwuid(found.st_uid))
        return _in_a_home_of_roots(at, home, make=make)
    finally:
        os.close(at)


def _in_a_home_of_roots(at: int, home: Path, *, make: bool) -> Lodging:
    name, made = ".postgres", False
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, mode=0o700, dir_fd=at)  # pathlib has no dir_fd
            made = True
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        room = os.open(name, flags, dir_fd=at)
    except FileNotFoundError:
        return Lodging(_serving())
    try:
        owner = os.fstat(room).st_uid
        if owner == 0:
            account = _serving()
            _hand_over(room, account, home, made=made)
            return Lodging(account, room)
        account = _named(owner, home)
        if account.pw_name in _ACCOUNTS:
            return Lodging(account, room)
    except BaseException:
        os.close(room)
        raise
    os.close(room)
    return Lodging(account)


def _hand_over(room: int, account: pwd.struct_passwd, home: Path, *, made: bool) -> None:
    """Give a room of root's to the account: a folder just made, or left so by a killed command."""
    # Content that came meanwhile is that of another command, which has handed the room over.
    if not made and os.listdir(room) and os.fstat(room).st_uid == 0:
        message = (
            f"{home}/.postgres belongs to root, and PostgreSQL does not run as root. If it is what "
            f"you think it is: chown -R {account.pw_name} {home}/.postgres; {OTHERWISE}"
        )
        raise EmbeddedDatabaseError(message)
    try:
        os.fchown(room, account.pw_uid, account.pw_gid)
    except PermissionError:
        message = (
            f"The private PostgreSQL under {home}/.postgres needs an ordinary user, and root may "
            f"not change owners here: run the command as an ordinary user, {OTHERWISE}"
        )
        raise EmbeddedDatabaseError(message) from None


def _named(uid: int, home: Path) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        message = (
            f"{home}/.postgres belongs to the user with id {uid}, who has no name here; PostgreSQL "
            f"needs one. Make such a user (useradd -u {uid} …), or chown -R it, {OTHERWISE}"
        )
        raise EmbeddedDatabaseError(message) from None


def _serving() -> pwd.struct_passwd:
    for name in _ACCOUNTS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedDatabaseError(
        "PostgreSQL refuses to run as root, and this system has no user sofia-air, postgres or "
        "nobody to run it as. Run this command as an ordinary user, " + OTHERWISE
    )


class Delegate:
    """The process that works for root as an account.

    Args:
        home: the home folder, links resolved.
        make: make the home and the room where they are missing.

    Raises:
        EmbeddedDatabaseError: the account cannot do it; says what to do.
        OSError: the home cannot be opened or made.
    """

    def __init__(self, home: Path, *, make: bool) -> None:
        self._shown = home / ".postgres"
        self._home = home
        self._asked = 0
        self._unread = b""
        lodged = lodging(home, make=make)
        self.account = lodged.account
        order = {
            "uid": self.account.pw_uid,
            "gid": self.account.pw_gid,
            "shown": str(self._shown),
            "room": lodged.room,
            "make": make,
        }
        command = [sys.executable, "-I", "-S", program.__file__, json.dumps(order)]
        try:
            # A session of its own: a terminal of root's is not for the account to type into.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                pass_fds=() if lodged.room is None else (lodged.room,),
                start_new_session=True,
            )
        finally:
            if lodged.room is not None:
                os.close(lodged.room)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        name = self.account.pw_name
        answer = self._answer(PATIENCE)
        if "error" in answer:
            message = (
                f"The private PostgreSQL of {self._home} belongs to the user {name}, who cannot "
                f"use {self._shown}: {answer['error']}. Let {name} in, choose a home that {name} "
                f"can reach, {OTHERWISE}"
            )
            raise EmbeddedDatabaseError(message)

    @property
    def alive(self) -> bool:
        """Whether the process is there; its account may have ended it."""
        return self._process.poll() is None

    def start(self, programs: Programs) -> None:
        """Have the server started; see `Server.start`."""
        folder = self._runnable(programs.folder)
        options = {"always": programs.always, "at_first": programs.at_first}
        # A data folder may have to be waited for, made, started and recovered.
        self._have("start", folder, 5 * PATIENCE, **options)

    def stop(self, folder: Path, on_last: Callable[[], None]) -> None:
        """Have the server stopped if nobody else uses it; see `Server.stop`."""
        folder = self._runnable(folder)
        if self._have("stop", folder, 5 * PATIENCE).get("last"):
            try:
                on_last()
            finally:
                self._send({"do": "done"})
                self._answer(PATIENCE)

    def abandon(self, folder: Path, on_last: Callable[[], None]) -> None:
        """Interrupt a start, and have stopped what it began."""
        self._process.send_signal(signal.SIGINT)
        self.stop(folder, on_last)

    def is_up(self, folder: Path) -> bool:
        """Have the server asked whether it is up."""
        return bool(self._have("is_up", self._runnable(folder), PATIENCE).get("is_up"))

    def close(self) -> None:
        """End the process; what it holds, its locks too, is let go."""
        process = self._process
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe is not None  # noqa: S101
            with suppress(OSError):
                pipe.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # stopped by its account, perhaps
            process.kill()
            process.wait()

    def _runnable(self, folder: Path) -> Path:
        """Return the programs, or a copy of them where the account can run them."""
        if self._have("can_run", folder, PATIENCE).get("can_run"):
            return folder
        try:
            copy = public_copy(folder)
        except OSError as error:
            raise self._unrunnable(folder, str(error)) from error
        if not self._have("can_run", copy, PATIENCE).get("can_run"):
            raise self._unrunnable(folder, f"neither can it run the copy of them in {copy}")
        return copy

    def _unrunnable(self, folder: Path, why: str) -> EmbeddedDatabaseError:
        return EmbeddedDatabaseError(
            f"The user {self.account.pw_name} cannot run PostgreSQL's programs in {folder}, and a "
            f"copy of them does not help: {why}. Install sofia-air where that user can reach it, "
            f"for example under /opt, {OTHERWISE}"
        )

    def _have(self, what: str, folder: Path, seconds: float, **details: Any) -> dict[str, Any]:
        """Ask for something; return the answer, or raise the error that it tells of."""
        self._asked += 1
        self._send({"number": self._asked, "do": what, "programs": str(folder), **details})
        answer = self._answer(seconds)
        while answer.get("number") != self._asked:  # to a question whose asker was interrupted
            answer = self._answer(seconds)
        if "error" in answer:
            kind = EmbeddedDatabaseUnavailable if answer.get("passing") else EmbeddedDatabaseError
            raise kind(_printable(str(answer["error"])))
        return answer

    def _send(self, request: dict[str, Any]) -> None:
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101
        with suppress(BrokenPipeError):  # `_answer` finds out why
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()

    def _answer(self, seconds: float) -> dict[str, Any]:
        """Read one answer. The account can end or stop the process, but not write in its place."""
        pipe = self._process.stdout
        assert pipe is not None  # noqa: S101
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([pipe], [], [], left)
            piece = os.read(pipe.fileno(), 1 << 16) if ready else b""
            if not piece or len(self._unread) > _LONGEST_ANSWER:
                raise self._silent(timed_out=not ready)
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        answer = json.loads(line)
        return answer if isinstance(answer, dict) else {}

    def _silent(self, *, timed_out: bool) -> EmbeddedDatabaseError:
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None  # noqa: S101
        last = self._process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
        why = "did not answer" if timed_out else "ended"
        return EmbeddedDatabaseError(
            f"The private PostgreSQL under {self._shown}: the process that works on it as the user "
            f"{self.account.pw_name} {why}{_printable(': '.join(['', *last]))}. "
            f"Run the command again, {OTHERWISE}"
        )


def _printable(text: str) -> str:
    """Return text without what a terminal would take for a command."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
