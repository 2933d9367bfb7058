"""Every error in one tree, and what the command line makes of each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline import errors
from pipeline.cli.failing import complaint
from pipeline.errors import (
    ConfigurationError,
    EmbeddedDatabaseError,
    InvalidArgument,
    PipelineError,
    Terminal,
    Transient,
)
from pipeline.files.owner import owning

# What each ends with, as docs/operation.md says: 1 failed, 2 wrong usage or configuration.
EXIT_CODES = {
    "PipelineError": 1,
    "Terminal": 1,
    "NotFound": 2,
    "Conflict": 2,
    "InvalidArgument": 2,
    "ConfigurationError": 2,
    "DatabaseMissing": 2,
    "FileRefused": 1,
    "StoreError": 1,
    "Transient": 1,
    "DatabaseUnavailable": 1,
    "Outdated": 1,
    "ClockDoubted": 1,
    "DatabaseTrouble": 1,
    "FileChanged": 1,
    "DiskTrouble": 1,
    "HomeInUse": 1,
    "MailRefused": 1,
    "Stopped": 1,
    "EmbeddedDatabaseError": 1,
    "EmbeddedDatabaseUnavailable": 1,
}
# Python and the package are started once; each call of the command line has a process of its own.
_CALL_EACH = """
import importlib, json, os, sys
from pipeline import cli, errors

for name in sys.argv[1:]:
    importlib.import_module(f"pipeline.cli.{name}")

@cli.app.command()
def fail(name: str) -> None:
    words = ("rule", "said") if name == "FileRefused" else ("said",)
    raise getattr(errors, name)(*words)

for arguments, environment in json.load(sys.stdin):
    said = os.memfd_create("said")
    if not os.fork():
        os.dup2(said, 2)
        os.environ.update(environment)
        sys.argv = ["sofia-air", *arguments]
        try:
            cli.main()
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(json.dumps([code, os.pread(said, 100_000, 0).decode()]), flush=True)
"""

Call = tuple[list[str], dict[str, str]]


def called(calls: Sequence[Call], folder: Path, *modules: str) -> list[tuple[int, str]]:
    """Call the command line in a folder; return each exit code, and what was complained of.

    Args:
        calls: arguments and environment of each.
        folder: where it is called.
        modules: what several of the calls import.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SOFIA_AIR")}
    done = subprocess.run(
        [sys.executable, "-c", _CALL_EACH, *modules],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=kept,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert not any("Traceback" in said for _, said in found)
    return [(code, said) for code, said in found]


def family(of: type[PipelineError] = PipelineError) -> Iterator[type[PipelineError]]:
    yield of
    for each in of.__subclasses__():
        yield from family(each)


def test_the_whole_tree_is_in_one_module_and_ends_with_its_code(tmp_path: Path) -> None:
    assert {each.__name__ for each in family()} == set(EXIT_CODES)
    assert {each.__module__ for each in family()} == {errors.__name__}
    found = called([(["fail", name], {}) for name in EXIT_CODES], tmp_path)
    assert found == [(code, "error: said\n") for code in EXIT_CODES.values()]


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)", line):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    assert drawn == {each.__name__: each.__bases__[0].__name__ for each in family()}


def test_each_says_whether_trying_again_may_help() -> None:
    undecided = {PipelineError, EmbeddedDatabaseError}
    for each in set(family()) - undecided:
        assert issubclass(each, Transient) != issubclass(each, Terminal), each


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InvalidArgument("day: 'x' is not a day", "day"), "--day: 'x' is not a day"),
        (InvalidArgument("too many", "batch_files"), "too many (--batch-files)"),
        (ConfigurationError("workers: at least 1"), "workers: at least 1"),
        (errors.DiskTrouble("/x: cannot be read"), "/x: cannot be read"),
    ],
)
def test_the_command_line_adds_its_options(error: PipelineError, said: str) -> None:
    assert complaint(error) == said
    assert "--" not in str(error)


NOBODY = {"SOFIA_AIR_DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/nothing"}
REAL: list[tuple[list[str], dict[str, str], int, str]] = [
    (["ingest", "nowhere.csv"], {}, 2, "nowhere.csv: there is no such file or folder"),
    (["status"], {}, 2, "nothing was ever loaded here"),
    (["demo", "."], {}, 2, "already exists and is not a demo's"),
    (["report", "--day", "x"], NOBODY, 2, "--day: 'x' is not a day as 2018-01-31"),
    (["report", "--email"], NOBODY, 2, "cannot be mailed without it (--email)"),
    (["quarantine", "export", "-o", "x.csv"], NOBODY, 2, "specify FILE..., --all or --reason"),
    (["simulate", "new", "--fault", "rust"], {}, 2, "--fault: 'rust' is unknown; known are"),
    (["status"], {"SOFIA_AIR_WORKERS": "none"}, 2, "valid integer"),
    (["status"], NOBODY, 1, "127.0.0.1"),
    (["ingest", "some.csv"], {"SOFIA_AIR_HOME": "some.csv/home"}, 1, "cannot be made"),
    # Code 2 would keep a service manager from starting it again.
    (["--home", "home", "run"], NOBODY, 1, "is taken by another daemon (process "),
]


def test_real_errors_end_with_their_code(tmp_path: Path) -> None:
    (tmp_path / "some.csv").touch()
    (tmp_path / "home").mkdir()
    with owning(tmp_path / "home"):
        calls = [(arguments, environment) for arguments, environment, *_ in REAL]
        found = called(calls, tmp_path, "demo", "load", "quarantine", "reporting")
    for (arguments, _, expected, words), (code, said) in zip(REAL, found, strict=True):
        assert (code, words in said) == (expected, True), f"{arguments}: {code}, {said}"
        assert "secret" not in said
