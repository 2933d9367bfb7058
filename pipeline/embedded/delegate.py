"""Delegate: what root has done in a home's ``.postgres``, done by the account that owns it.

A program of its own, which root runs by its path (see :mod:`pipeline.embedded.delegation`):
``python -I -S delegate.py ORDER``. It becomes the account for good, enters the room, and only then
does anything. So whatever the account puts in the room (links, FIFOs, files of others), it can
reach nothing by it that it could not reach anyway. It ends when its standard input does.

Requests and answers are JSON objects, one a line. Nothing is imported after the change of user.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

if __name__ == "__main__":  # last, so that it never hides a module of the standard library
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from pipeline.embedded.become import become
from pipeline.embedded.programs import can_run
from pipeline.embedded.room import Place, close_to_others
from pipeline.embedded.server import Programs, Server
from pipeline.errors import EmbeddedDatabaseError, EmbeddedDatabaseUnavailable

_REFUSED = 77  # exit code


class _Interrupts:
    """Ctrl-C, which root passes on, interrupts a start and nothing else."""

    def __init__(self) -> None:
        self.allowed = False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.allowed:
            self.allowed = False
            raise KeyboardInterrupt


def main(order: dict[str, Any]) -> None:
    """Become the account and carry out what is asked.

    Args:
        order: `uid` and `gid` of the account; `shown`, the path of the room; `room`, a descriptor
            of the room, or None when the account has to find its own way there; `make`, whether
            the room is made.
    """
    try:
        become(order["uid"], order["gid"])
    except OSError as error:
        _answer({"error": f"root may not become that user here ({error})"})
        sys.exit(_REFUSED)
    os.umask(0o077)
    os.environ.clear()  # root's; what is started from here on has none of it
    os.environ["PATH"] = os.defpath
    interrupts = _Interrupts()
    shown = Path(order["shown"])
    try:
        _enter(shown, order["room"], make=order["make"])
    except OSError as error:
        _answer({"error": _closed(shown, error)})
        sys.exit(_REFUSED)
    _answer({})
    server, requests = Server(Place(shown, inside=True)), _requests()
    for request in requests:
        number = request["number"]

        def on_last(number: int = number) -> None:
            _answer({"number": number, "last": True})
            next(requests)  # root is done with what only root can do

        answer = _carried_out(server, request, interrupts, on_last)
        _answer({"number": number, **answer})


def _enter(shown: Path, room: int | None, *, make: bool) -> None:
    """Go into the room; from there on, no path above it is used.

    Raises:
        OSError: the account cannot, or the room is not its own.
    """
    if room is None:
        os.chdir(shown.parent)
        if make:
            Path(shown.name).mkdir(mode=0o700, exist_ok=True)
        if not stat.S_ISLNK(os.lstat(shown.name).st_mode):
            Path(shown.name).chmod(0o700)
        room = os.open(shown.name, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(room).st_uid != os.getuid():
        message = f"it does not belong to the user with id {os.getuid()}"
        raise PermissionError(message)
    close_to_others(room)
    os.fchdir(room)
    os.close(room)


def _closed(shown: Path, error: OSError) -> str:
    """Say which folder keeps the account out."""
    for folder in reversed(shown.parents):
        if not os.access(folder, os.X_OK):
            return f"{folder} is closed to it"
    return str(error)


def _requests() -> Iterator[dict[str, Any]]:
    """Yield requests. When root's process ends, so do we, whatever is being done."""
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            waiting.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, name="requests", daemon=True).start()
    while True:
        yield waiting.get()


def _carried_out(
    server: Server,
    request: dict[str, Any],
    interrupts: _Interrupts,
    on_last: Callable[[], None],
) -> dict[str, Any]:
    """Do what is asked; return what there is to say about it."""
    folder = Path(request["programs"])
    try:
        match request["do"]:
            case "start":
                always, at_first = tuple(request["always"]), tuple(request["at_first"])
                interrupts.allowed = True
                server.start(Programs(folder, always, at_first))
            case "stop":
                server.stop(on_last)
            case "is_up":
                return {"is_up": server.is_up(folder)}
            case "can_run":
                return {"can_run": can_run(folder)}
    except EmbeddedDatabaseError as error:
        passing = isinstance(error, EmbeddedDatabaseUnavailable)
        return {"error": str(error), "passing": passing}
    except KeyboardInterrupt:
        return {"error": "interrupted"}
    except Exception as error:  # noqa: BLE001  # root has to hear of it
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        interrupts.allowed = False
    return {}


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
