"""The process that the fault tests kill: the real `sofia-air run`, started quickly, cut exactly.

`python driver.py` imports the package once and then forks a process for each start it is asked
for on its standard input. Such a process runs the command line's own `main`, has a process number
of its own and dies of SIGKILL like any other; only the second that Python needs for its imports
is saved, which makes a thousand kills affordable.

A start may name a crash point, as `point:n`. The function at that point is wrapped, and when it
is reached for the n-th time the process sends itself SIGKILL. Nothing else is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn


def die() -> NoReturn:
    """End this process as `kill -9` does: no cleaning up, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # not reached


class Countdown:
    """Reaches zero at the n-th call."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def wrap(
    owner: Any,
    name: str,
    *,
    before: Callable[..., None] | None = None,
    after: Callable[..., None] | None = None,
) -> None:
    """Call something before or after a function, with its arguments."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args, **kwargs)
        result = original(*args, **kwargs)
        if after is not None:
            after(*args, **kwargs)
        return result

    setattr(owner, name, wrapped)


def _quarantine_half(now: Countdown) -> None:
    # Between the rename of the CSV and that of the reason log.
    wrap(Path, "replace", after=lambda _, to: die() if to.suffix == ".csv" and now() else None)


def _quarantine_written(now: Countdown) -> None:
    from pipeline.files.quarantine import Quarantine

    wrap(Quarantine, "publish", after=lambda output: die() if output._open and now() else None)


def _refusal_written(now: Countdown) -> None:
    from pipeline.files import quarantine

    wrap(quarantine, "refuse", after=lambda *_: die() if now() else None)


def _mid_copy(now: Countdown) -> None:
    from psycopg import Copy

    from pipeline.store import copy, load

    original, write = copy.copy_in, Copy.write

    def cut(stream: Any, data: bytes) -> None:
        if len(data) > 1000 and now():
            write(stream, data[: len(data) // 2])
            stream.connection.pgconn.flush()
            die()
        write(stream, data)

    def copy_in(cursor: Any, table: tuple[str, ...], *args: Any, **kwargs: Any) -> None:
        raw = table[-1].startswith("raw_")
        Copy.write = cut if raw else write  # type: ignore[method-assign, assignment]
        original(cursor, table, *args, **kwargs)

    setattr(load, "copy_in", copy_in)  # noqa: B010  # mypy: it is not load's own


def _ledger_written(now: Countdown) -> None:
    from pipeline.store import ledger

    wrap(ledger, "write", after=lambda *_: die() if now() else None)


def _before_commit(now: Countdown) -> None:
    from pipeline.store.load import Load

    wrap(Load, "finish", after=lambda *_: die() if now() else None)


def _after_commit(now: Countdown) -> None:
    from pipeline.flow import Flow

    wrap(Flow, "_move", before=lambda *_: die() if now() else None)


def _between_files(now: Countdown) -> None:
    from pipeline.files import archive

    wrap(archive, "put_away", after=lambda *_: die() if now() else None)


def _linked(now: Countdown) -> None:
    # The file has both names.
    wrap(os, "link", after=lambda *_, **__: die() if now() else None)


def _aside(now: Countdown) -> None:
    # A source has only its hidden name.
    wrap(Path, "rename", after=lambda _, to: die() if _is_aside(to) and now() else None)


def _aside_newer(now: Countdown) -> None:
    # The same, and just before that a newer file has taken the source's name.
    original = Path.rename

    def rename(path: Path, to: Path) -> Path:
        hit = _is_aside(to) and now()
        if hit:
            original(path.with_name(f"{path.name}.newer"), path)
        renamed = original(path, to)
        if hit:
            die()
        return renamed

    Path.rename = rename  # type: ignore[method-assign, assignment]


def _is_aside(path: Path) -> bool:
    return Path(path).name.endswith(".aside")


def _mid_file_copy(now: Countdown) -> None:
    # Across filesystems: half of the copy is written.
    original = shutil.copyfileobj

    def copyfileobj(source: BinaryIO, target: BinaryIO, *args: Any) -> None:
        if now():
            data = source.read()
            target.write(data[: len(data) // 2])
            target.flush()
            die()
        original(source, target, *args)

    shutil.copyfileobj = copyfileobj  # type: ignore[assignment]


def _rows_repaired(now: Countdown) -> None:
    from pipeline.store.rework import Repair

    wrap(Repair, "repaired", after=lambda *_: die() if now() else None)


def _replay_committed(now: Countdown) -> None:
    # The sheets in quarantine/ are not written anew.
    from pipeline.rework import sheets

    wrap(sheets, "rewrite", before=lambda *_: die() if now() else None)


def _rows_taken(now: Countdown) -> None:
    from pipeline.store.retraction import Retraction

    wrap(Retraction, "take", after=lambda *_: die() if now() else None)


def _rows_retracted(now: Countdown) -> None:
    from pipeline.store.retraction import Retraction

    wrap(Retraction, "finish", after=lambda *_, **__: die() if now() else None)


POINTS: dict[str, Callable[[Countdown], None]] = {
    "quarantine-half": _quarantine_half,
    "quarantine-written": _quarantine_written,
    "refusal-written": _refusal_written,
    "mid-copy": _mid_copy,
    "ledger-written": _ledger_written,
    "before-commit": _before_commit,
    "after-commit": _after_commit,
    "between-files": _between_files,
    "linked": _linked,
    "aside": _aside,
    "aside-newer": _aside_newer,
    "mid-file-copy": _mid_file_copy,
    "rows-repaired": _rows_repaired,
    "replay-committed": _replay_committed,
    "rows-taken": _rows_taken,
    "rows-retracted": _rows_retracted,
}


def run(request: dict[str, Any]) -> NoReturn:
    """Become `sofia-air`, in a process that was just forked."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, file in enumerate((nothing, said, said)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["sofia-air", *request["arguments"]]
    code = 1
    try:
        if point := request["crash"]:
            name, _, n = point.partition(":")
            POINTS[name](Countdown(int(n)))
        from pipeline.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # whatever it was, the parent's code must not run here
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Start and bury processes, as the lines on standard input say."""
    from importlib import import_module

    # The last ones are imported at the first batch otherwise.
    for name in ("commands", "load", "session", "tables", "quarantine", "history"):
        import_module(f"pipeline.cli.{name}")
    for name in ("pyarrow.csv", "pyarrow.compute", "pandera.backends.pandas.register"):
        import_module(name)

    living: set[int] = set()
    # Lines that are read ahead would be read again by every child.
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if pid := request.get("wait"):
            _, status = os.waitpid(pid, 0)
            living.discard(pid)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                run(request)
            living.add(answer)
        print(answer, flush=True)
    # Whoever asked has ended; nothing that was started for it may stay.
    for pid in living:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
