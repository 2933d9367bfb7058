"""The real daemon, started and watched from outside: what the tests of the service share.

`python daemon.py` imports the package once and forks a process for each start it is asked for on
standard input. Such a process runs the command line's own `main` and is a daemon like any other;
only the imports are saved. A start may ask for hooks: places where the process is to pause, or to
fail, that cannot be reached from outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

PATIENCE = 120.0  # seconds until something that must happen counts as not happening


# --- files --------------------------------------------------------------------------------------

HEADER = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
_START = datetime(2017, 7, 1, tzinfo=UTC)


def rows(number: int, sensor: int = 92, start: int = 0) -> list[str]:
    """Return good rows of an archive file, told apart by sensor and time."""
    return [
        f"{sensor};SDS011;42;42.689;23.341;{_START + timedelta(seconds=i):%FT%T};"
        f"{5 + (sensor * 7 + i) % 900 / 100:.2f};;;{2 + (sensor * 3 + i) % 200 / 100:.2f};;\n"
        for i in range(start, start + number)
    ]


def text(number: int, sensor: int = 92, start: int = 0, bad: int = 0) -> str:
    """Return an archive file: a header, good rows, and bad ones (a location without a number)."""
    wrong = [row.replace(";SDS011;42;", ";SDS011;oops;") for row in rows(bad, sensor, 500_000)]
    return HEADER + "".join(rows(number, sensor, start) + wrong)


# --- in the daemon's process ---------------------------------------------------------------------


def _pause(home: Path, point: str) -> None:
    """Say that a place is reached, and stay there until the test takes the sign away."""
    sign = home / f"paused-{point}"
    sign.touch()
    while sign.exists():
        time.sleep(0.005)


def _before(owner: Any, name: str, home: Path, point: str, only: str = "") -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not (home / f"passed-{point}").exists() and only in repr(args):
            (home / f"passed-{point}").touch()
            _pause(home, point)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _dies(owner: Any, name: str) -> None:
    """Let a method raise at its next call after SIGUSR1, once."""
    original = getattr(owner, name)
    armed: list[bool] = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if armed:
            armed.clear()
            message = "shot by the test"
            raise RuntimeError(message)
        return original(*args, **kwargs)

    signal.signal(signal.SIGUSR1, lambda *_: armed.append(True))
    setattr(owner, name, wrapped)


def _hook(name: str, home: Path) -> None:
    from watchdog.observers import inotify, inotify_c

    from pipeline import daemon
    from pipeline.files import archive, read
    from pipeline.flow import Flow
    from pipeline.store.load import Load

    match name.partition(":"):
        case ("before-read", _, only):
            _before(read, "content", home, "before-read", only)
        case ("before-commit", *_):
            _before(Load, "finish", home, "before-commit")
        case ("before-process", _, only):
            _before(Flow, "_finish", home, "before-process", only)
        case ("before-move", *_):
            _before(archive, "put_away", home, "before-move")
        case ("shoot-emitter", *_):
            _dies(inotify.InotifyFullEmitter, "build_and_queue_event")
        case ("shoot-reader", *_):
            _dies(inotify_c.InotifyFD, "handle_event")
        case ("ask-often", *_):
            daemon._ASK_SECONDS = 0.1
            daemon._BEAT_SECONDS = 0.1
        case _:
            raise ValueError(name)


def _become(request: dict[str, Any]) -> NoReturn:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, file in enumerate((nothing, said, said)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.umask(request["umask"])
    sys.argv = ["sofia-air", *request["arguments"]]
    code = 1
    try:
        for name in request["hooks"]:
            _hook(name, Path(request["home"]))
        from pipeline.cli import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # told, and the process ends
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _warm_up() -> None:
    """Take a few rows through the steps: the first time, much more is imported."""
    from pipeline.contract import Contract
    from pipeline.core.normalise import normalise
    from pipeline.core.parse import parse
    from pipeline.core.validate import validate
    from pipeline.files import read

    contract = Contract.with_overrides({}, {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.csv"
        path.write_text(text(3, bad=1))
        limits = read.Limits(1 << 20, 1 << 20, 1 << 20)
        for block in read.blocks(read.content(path, 1 << 20), 0, contract, limits):
            rows_ = parse(block)
            valid, _ = validate(rows_, contract, datetime.now(UTC))
            for group in valid:
                normalise(group, rows_, contract)


def serve() -> None:
    """Start processes, and tell how they ended, as the lines on standard input say."""
    from pipeline import flow, metrics  # noqa: F401
    from pipeline.cli import commands, doctor, load, look, session, tables  # noqa: F401

    _warm_up()
    # Lines that are read ahead would be read again by every child.
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        answer: int | None
        if pid := request.get("poll"):
            found, status = os.waitpid(pid, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if found else None
        else:
            answer = os.fork()
            if not answer:
                _become(request)
        print(json.dumps(answer), flush=True)


# --- in the test ---------------------------------------------------------------------------------

if __name__ == "__main__":
    serve()
    sys.exit()

import psycopg  # noqa: E402  # the daemon's process does without
import pytest  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402


def wait_for(what: str, found: Callable[[], T], patience: float = PATIENCE) -> T:
    """Look again and again until something is true; return it."""
    deadline = time.monotonic() + patience
    pause = 0.01
    while not (answer := found()):
        assert time.monotonic() < deadline, f"still waiting for {what} after {patience:.0f} s"
        time.sleep(pause)
        pause = min(pause * 1.1, patience / 300)  # often at first, then without much ado
    return answer


class Zygote:
    """The process that the others are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def ask(self, **request: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@dataclass
class Process:
    """A running `sofia-air`."""

    zygote: Zygote
    pid: int
    output: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self.code is None:
            self.code = self.zygote.ask(poll=self.pid)
        return self.code

    def wait(self, patience: float = PATIENCE) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        wait_for("the end of the process", lambda: self.poll() is not None, patience)
        assert self.code is not None
        return self.code

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, patience: float = PATIENCE) -> int:
        """Ask it politely to end."""
        self.send(signal.SIGTERM)
        return self.wait(patience)

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    @property
    def rss(self) -> int:
        """Bytes of memory that it holds."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024


@dataclass
class House:
    """A home folder with its database, and the processes that work there."""

    zygote: Zygote
    home: Path
    url: str
    settings: dict[str, object] = field(default_factory=dict)
    started: list[Process] = field(default_factory=list)
    _connection: psycopg.Connection[tuple[Any, ...]] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def archive(self) -> Path:
        return self.data / "archive"

    @property
    def quarantine(self) -> Path:
        return self.home / "quarantine"

    # --- processes

    def environment(self, **settings: object) -> dict[str, str]:
        found = {
            name: value
            for name, value in os.environ.items()
            if name in {"PATH", "LANG", "TMPDIR", "COLUMNS"}
        }
        chosen = {"database_url": self.url, **self.settings, **settings}
        for name, value in chosen.items():
            found[name if name.isupper() else f"SOFIA_AIR_{name.upper()}"] = str(value)
        return found

    def command(
        self, *arguments: str, hooks: Sequence[str] = (), umask: int = 0o022, **settings: object
    ) -> Process:
        """Start any command. A setting in capitals is an environment variable as it stands."""
        output = self.home.parent / f"{self.home.name}-output-{next(self._numbers)}"
        pid = self.zygote.ask(
            arguments=["--home", str(self.home), *arguments],
            environment=self.environment(**settings),
            output=str(output),
            home=str(self.home),
            hooks=list(hooks),
            umask=umask,
        )
        process = Process(self.zygote, pid, output)
        self.started.append(process)
        return process

    def daemon(self, hooks: Sequence[str] = (), umask: int = 0o022, **settings: object) -> Process:
        """Start the daemon and wait until it watches."""
        before = len(self.events("daemon.started"))
        process = self.command("run", hooks=hooks, umask=umask, **settings)

        def watches() -> bool:
            assert process.poll() is None, process.said
            return len(self.events("daemon.started")) > before

        wait_for("daemon.started", watches)
        return process

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send(signal.SIGCONT)
                    process.send(signal.SIGKILL)
                process.wait()
        if self._connection is not None:
            self._connection.close()

    # --- what they say

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every whole line of the log."""
        path = self.home / "logs" / "sofia-air.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name]

    def wait_for_event(self, name: str, number: int = 1, patience: float = PATIENCE) -> None:
        wait_for(f"{number} {name}", lambda: len(self.events(name)) >= number, patience)

    def wait_for_pause(self, point: str) -> Path:
        """Wait until a hooked place is reached; taking the returned sign away lets it go on."""
        sign = self.home / f"paused-{point}"
        wait_for(f"the pause {point}", sign.exists)
        return sign

    # --- files

    def drop(self, name: str, content: str | bytes) -> Path:
        """Put a file into data/ under a temporary name, then rename it."""
        path = self.data / name
        part = self.data / f".{name}.part"
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        return part.rename(path)

    def waiting(self) -> list[str]:
        """Return the names of the files in data/."""
        return sorted(p.name for p in self.data.iterdir() if p.is_file())

    def archived(self) -> dict[str, str]:
        """Return name → SHA-256 of the files in the archive."""
        return {p.name: sha256(p.read_bytes()) for p in self.archive.rglob("*") if p.is_file()}

    # --- database

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        for _ in range(2):
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self.url, autocommit=True)
            with suppress(psycopg.OperationalError):  # the server was away meanwhile
                return self._connection.execute(query.encode()).fetchall()
            self._connection.close()
        message = "the database is away"
        raise AssertionError(message)

    def one(self, query: str) -> Any:
        ((value,),) = self.sql(query)
        return value

    def loaded(self) -> int:
        """How many readings of fine dust there are."""
        return int(self.one("SELECT count(*) FROM air.raw_particulate"))

    def files(self) -> int:
        """How many files the ledger has."""
        return int(self.one("SELECT count(*) FROM air.source_file"))

    def wait_for_rows(self, number: int, patience: float = PATIENCE) -> None:
        def enough() -> bool:
            found = self.loaded()
            assert found <= number, f"{found} rows, {number} are due"
            return found == number

        wait_for(f"{number} rows", enough, patience)

    def wait_until_quiet(self, patience: float = PATIENCE) -> None:
        """Wait until data/ is empty."""
        wait_for("an empty data/", lambda: not self.waiting(), patience)

    def check_books(self) -> None:
        """Every number in the ledger is what is really there; the rollup is what was loaded."""
        wrong = self.sql(
            "SELECT name FROM air.source_file AS f WHERE"
            " rows_read <> rows_loaded + rows_duplicate + rows_quarantined OR rows_loaded <>"
            " (SELECT count(*) FROM air.raw_particulate AS r WHERE r.file_id = f.file_id)"
            " OR rows_quarantined <>"
            " (SELECT count(*) FROM air.quarantined_row AS q WHERE q.file_id = f.file_id)"
        )
        assert wrong == []
        hours = self.one("SELECT coalesce(sum(n), 0) FROM air.hourly WHERE quantity = 'pm10'")
        assert hours == self.loaded()


def sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def get(port: int, path: str) -> tuple[int, str]:
    """Ask the daemon over HTTP; return the code and the text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(port: int) -> dict[str, float]:
    """Return every sample of /metrics: name and labels → value."""
    found = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def free_port() -> int:
    """Return a port that nobody listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    one = Zygote()
    yield one
    one.close()


@pytest.fixture
def house(zygote: Zygote, tmp_path: Path, migrated_url: str) -> Iterator[House]:
    """A home with an empty, migrated database."""
    one = House(zygote, tmp_path / "home", migrated_url)
    yield one
    one.close()
