"""What a command takes to start: processor time of those that only look.

Makes a home with a private PostgreSQL and the sample files, and runs each command as a user does,
in a process of its own, by turns with an empty one and with one that imports SQLAlchemy, which
tells how fast the machine is just then. First while a daemon holds the server up, then without
one, where each command starts the server and stops it. Prints a table: the least user time of some
runs, in seconds, with what the command's own child processes took.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "sample_data"
PROGRAM = [sys.executable, "-c", "from pipeline.cli import main; main()"]
COMMANDS = {
    "--help": ["--help"],
    "status": ["status"],
    "doctor": ["doctor"],
    "quarantine list": ["quarantine", "list"],
    "quarantine show FILE": ["quarantine", "show", "3"],
    "why SENSOR TIME": ["why", "1634", "2018-03-06T00:46:02"],
    "retract FILE (asks)": ["retract", "1"],
    "db url": ["db", "url"],
    "db psql": ["db", "psql", "-c", "SELECT 1"],
}
BESIDE = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import sqlalchemy": [sys.executable, "-c", "import sqlalchemy"],
}


def user_seconds(command: Sequence[str]) -> float:
    """Run a command and return the user time that it took, with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


@contextmanager
def daemon(home: Path) -> Iterator[None]:
    """Have a daemon run meanwhile."""
    with subprocess.Popen(
        [*PROGRAM, "--home", str(home), "run"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None  # it is a pipe
            for line in process.stderr:
                if "daemon.started" in line:
                    break
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def measure(home: Path, repeats: int) -> dict[str, float]:
    """Return the least user time of each command, all of them by turns."""
    commands = dict(BESIDE)
    commands |= {name: [*PROGRAM, "--home", str(home), *words] for name, words in COMMANDS.items()}
    found: dict[str, float] = {}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name] = min(found.get(name, float("inf")), user_seconds(command))
    return found


def main() -> None:
    """Make the home and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each command")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sofia-air-commands-"))
    try:
        words = ["--home", str(folder), "ingest", str(SAMPLES)]
        subprocess.run([*PROGRAM, *words], stdout=subprocess.DEVNULL, check=False)
        with daemon(folder):
            beside = measure(folder, given.repeats)
        alone = measure(folder, given.repeats)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("| command | beside a daemon | without one |")
    print("| --- | --- | --- |")
    for name in beside:
        print(f"| `{name}` | {beside[name]:.2f} | {alone[name]:.2f} |")


if __name__ == "__main__":
    main()
