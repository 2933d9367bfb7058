"""The house keeps its order: who may import whom, and who may touch what, read from the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import pipeline

PACKAGE = Path(pipeline.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_bundled" not in path.parts
}

# Room → the rooms it may import; everybody may import from their own room. What is not listed may
# be imported by nobody but those who name it.
BASE = {"contract", "errors", "logs"}
TEXTS = {"sections", "unstored"}
MAY_IMPORT: dict[str, set[str]] = {
    "descriptors": set(),
    "errors": {"descriptors"},
    "foreign": {"errors"},
    "visible": set(),
    "logs": {"foreign", "files", "visible"},
    "contract": {"errors", "visible"},
    "config": {"contract", "errors", "foreign"},
    "records": {"contract"},
    "metrics": set(),
    "endpoint": {"errors", "metrics"},
    "spreadsheet": set(),
    "notify": {"errors", "logs"},
    "embedded": {"errors", "files", "foreign"},
    "simulate": {"contract", "errors", "files"},
    "runs": {"records"},
    "odd": {"records"},
    "rejects": {"contract", "records"},
    "budget": {"contract", "errors", "config", "records", "runs", "rejects"},
    "inflate": {"errors"},
    "memory": set(),
    "sections": {"contract", "errors", "records"},
    "unstored": {"contract", "errors"},
    "files": {
        *("contract", "errors", "descriptors", "foreign", "config", "spreadsheet"),
        *("records", "rejects", "budget", "inflate", *TEXTS),
    },
    "steps": {*BASE, "records", "runs", "odd", "rejects", "budget", *TEXTS},
    "store": {*BASE, "config", "descriptors", "records", "runs", "rejects"},
    "clock": {*BASE, "files", "store"},
    "judge": {*BASE, "records", "rejects", "metrics", "memory", "budget", "steps"},
    "transaction": {
        *(*BASE, "records", "rejects", "metrics", "budget", "files", "steps", "judge", "store"),
        "clock",
    },
    "reading": {
        *(*BASE, "config", "records", "rejects", "budget", "files", "judge", "transaction"),
    },
    "singling": {*BASE, "transaction"},
    "unmoved": set(),
    "flow": {
        *(*BASE, "config", "records", "metrics", "memory", "budget", "files", "judge", "store"),
        *("clock", "transaction", "reading", "singling", "unmoved"),
    },
    "rework": {
        *(*BASE, "config", "records", "rejects", "spreadsheet", "budget"),
        *("files", "steps", "judge", "store", "clock", "transaction", "reading", "flow"),
    },
    "feeders": {*BASE, "config", "files", "metrics"},
    "outputs": {*BASE, "config", "files", "store"},
    "holding": {*BASE, "files", "flow"},
    "trouble": set(BASE),
    "daemon": {
        *(*BASE, "config", "descriptors", "records", "metrics", "notify", "files"),
        *("flow", "holding", "trouble"),
    },
    "cli": {
        *(*BASE, "config", "records", "metrics", "files", "embedded", "simulate"),
        *("visible", "endpoint", "descriptors", "foreign"),
        *("store", "clock", "flow", "daemon", "rework", "feeders", "outputs"),
    },
}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@cache
def tree_of(module: str) -> ast.Module:
    """Return a module's code, to be looked at only."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str, *, typing: bool = False) -> frozenset[str]:
    """Return the modules that a module imports, lazily or not; for type checkers if asked."""
    tree = tree_of(module)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            skipped.update(each for inner in node.body for each in ast.walk(inner))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return frozenset(found)


def outside(module: str) -> set[str]:
    """Return the top-level packages from elsewhere that a module imports."""
    return {name.partition(".")[0] for name in imports_of(module)} - {"pipeline"}


def calls_in(module: str) -> set[str]:
    """Return the last names of everything that is called: `open`, `now`, `unlink`, …"""
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call):
            target = node.func
            if isinstance(target, ast.Attribute):
                found.add(target.attr)
            elif isinstance(target, ast.Name):
                found.add(target.id)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    room = room_of(module)
    ours = {name for name in imports_of(module, typing=True) if name.startswith("pipeline")}
    rooms = {room_of(name) for name in ours} - {room, ""}
    if not room:
        assert not ours
        return
    assert room in MAY_IMPORT, f"{module} belongs to no room of the house"
    assert rooms <= MAY_IMPORT[room], f"{module} may not import {rooms - MAY_IMPORT[room]}"


def test_the_table_itself_has_no_circles() -> None:
    settled: set[str] = set()
    while left := set(MAY_IMPORT) - settled:
        ready = {room for room in left if MAY_IMPORT[room] <= settled}
        assert ready, f"these import each other: {left}"
        settled |= ready


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) == "steps"])
def test_no_step_imports_another(module: str) -> None:
    others = {name for name in imports_of(module, typing=True) if name.startswith("pipeline.steps")}
    assert not others


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_talks_to_postgresql(module: str) -> None:
    if room_of(module) != "store":
        assert not outside(module) & {"psycopg", "sqlalchemy", "alembic", "pgpq"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_contract_and_the_validation_know_pandera(module: str) -> None:
    if room_of(module) != "contract" and module != "pipeline.steps.validate":
        assert "pandera" not in outside(module)


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) == "contract"])
def test_the_contract_touches_nothing(module: str) -> None:
    assert not outside(module) & {"os", "pathlib", "io", "shutil", "time", "subprocess"}
    assert not calls_in(module) & {"open", "now", "today", "utcnow"}


@pytest.mark.parametrize("name", ["split", "validate", "normalise", "aggregate"])
def test_judging_is_memory_only(name: str) -> None:
    """No files, no database, no clock: the same rows are always judged the same."""
    module = f"pipeline.steps.{name}"
    assert not outside(module) & {"os", "pathlib", "io", "shutil", "time", "tempfile"}
    assert not calls_in(module) & {"open", "now", "today", "utcnow", "time", "monotonic"}


def test_watching_opens_nothing() -> None:
    for module in ("pipeline.files.watch", "pipeline.files.wake"):
        assert not calls_in(module) & {"open", "fdopen", "read_bytes", "read_text", "read"}
        assert not calls_in(module) & {"unlink", "rename", "replace", "link", "rmtree", "mkdir"}


def test_reading_moves_and_writes_nothing() -> None:
    calls = calls_in("pipeline.files.read")
    assert not calls & {"unlink", "rename", "replace", "link", "mkdir", "write", "write_bytes"}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"pipeline.files.permissions"}))
def test_what_is_created_has_its_mode_from_one_place(module: str) -> None:
    assert not calls_in(module) & {"mkdir", "makedirs", "write_text", "write_bytes"} or (
        room_of(module) == "embedded"  # its folders are for one user only
    )


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) == "store"])
def test_the_store_knows_no_data_folders(module: str) -> None:
    """Only the migrations' own folder, and the SQL beside the code."""
    if module not in {"pipeline.store.migrate", "pipeline.store.sql"}:
        assert not outside(module) & {"os", "pathlib", "shutil", "io"}
    names = {name for name in imports_of(module) if name.startswith("pipeline.config")}
    assert not names


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module: str) -> None:
    tree = tree_of(module)
    docstring = ast.get_docstring(tree)
    assert docstring, f"{module} has no docstring"
    first = docstring.splitlines()[0]
    assert first.endswith((".", ":")) or "." in first, f"{module}: {first!r} is not a sentence"


@pytest.mark.parametrize("module", MODULES)
def test_no_room_for_odds_and_ends(module: str) -> None:
    last = module.rpartition(".")[2]
    assert last not in {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def test_every_sql_statement_says_what_it_is_for() -> None:
    statements = list((PACKAGE / "store" / "sql").glob("*.sql"))
    assert statements
    for path in statements:
        assert path.read_text(encoding="utf-8").startswith("-- "), path.name


@pytest.mark.parametrize("command", ["look", "doctor", "reporting"])
def test_commands_that_only_look_start_without_pandas(command: str) -> None:
    asked = f"import sys, pipeline.cli.{command}; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


@pytest.mark.parametrize("module", MODULES)
def test_files_are_written_whole_in_one_place(module: str) -> None:
    # A copy of the private PostgreSQL's programs is a folder, renamed when all of it is there.
    if module not in {"pipeline.files.atomic", "pipeline.embedded.programs"}:
        assert "fsync" not in calls_in(module)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_knows_its_options(module: str) -> None:
    if room_of(module) == "cli" or module == "pipeline.simulate.samples":  # its README for people
        return
    tree = tree_of(module)
    sentences = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    }
    named = [text for text in sentences if text not in docstrings and re.search(r"\B--[a-z]", text)]
    assert not named
