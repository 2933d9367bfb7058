"""The house keeps its order: who may import whom, and who may touch what, read from the code."""

from __future__ import annotations

import ast
import os
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
TEXTS = {"unstored"}
# What the contract needs, and the core with it.
BASE_OF_CORE = {"visible"}
MAY_IMPORT: dict[str, set[str]] = {
    "descriptors": set(),
    "errors": set(),
    "foreign": {"errors"},
    "visible": set(),
    "logs": {"foreign", "files", "visible"},
    "contract": {"errors", "visible"},
    "config": {"contract", "errors", "foreign"},
    "records": set(),
    "metrics": set(),
    "endpoint": {"errors", "metrics"},
    "spreadsheet": set(),
    "notify": {"errors", "logs"},
    "embedded": {"errors", "files", "foreign"},
    "simulate": {"contract", "errors", "files"},
    "core": {"contract", "errors"},
    "ahead": {"core"},
    "budget": {"contract", "errors", "config", "core"},
    "inflate": {"errors"},
    "memory": set(),
    "unstored": {"contract", "errors"},
    "files": {
        *("contract", "errors", "descriptors", "foreign", "config", "spreadsheet"),
        *("records", "core", "budget", "inflate", *TEXTS),
    },
    "store": {*BASE, "config", "descriptors", "core"},
    "clock": {*BASE, "files", "store"},
    "transaction": {
        *(*BASE, "records", "core", "metrics", "budget", "files", "store", "clock"),
    },
    "reading": {
        *(*BASE, "config", "records", "core", "ahead", "metrics", "budget", "files"),
        "transaction",
    },
    "singling": {*BASE, "transaction"},
    "unmoved": set(),
    "flow": {
        *(*BASE, "config", "records", "metrics", "memory", "budget", "files", "store"),
        *("clock", "transaction", "reading", "singling", "unmoved"),
    },
    "rework": {
        *(*BASE, "config", "records", "core", "spreadsheet", "budget"),
        *("files", "store", "clock", "transaction", "reading", "flow"),
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
        *(*BASE, "config", "core", "records", "memory", "metrics", "files", "embedded", "simulate"),
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


@pytest.mark.parametrize("module", MODULES)
def test_only_the_store_talks_to_postgresql(module: str) -> None:
    if room_of(module) != "store":
        assert not outside(module) & {"psycopg", "sqlalchemy", "alembic", "pgpq"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_contract_and_the_validation_know_pandera(module: str) -> None:
    if room_of(module) != "contract" and module != "pipeline.core.validate":
        assert "pandera" not in outside(module)


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) == "contract"])
def test_the_contract_touches_nothing(module: str) -> None:
    assert not outside(module) & {"os", "pathlib", "io", "shutil", "time", "subprocess"}
    assert not calls_in(module) & {"open", "now", "today", "utcnow"}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) == "core"])
def test_processing_is_memory_only(module: str) -> None:
    """No files, threads or clock: the same rows are always processed alike, wherever that is."""
    assert not outside(module) & {"os", "pathlib", "io", "shutil", "time", "tempfile"}
    assert not outside(module) & {"threading", "concurrent", "multiprocessing", "ctypes"}
    assert not calls_in(module) & {"open", "now", "today", "utcnow", "time", "monotonic"}
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree_of(module)))


def test_processing_brings_neither_database_nor_metrics_nor_settings() -> None:
    """In a process of its own: what it imports, and what it leaves as it was."""
    every = [name for name in MODULES if room_of(name) in {"core", "contract"}]
    asked = f"""
import sys
import pyarrow
pool = pyarrow.default_memory_pool().backend_name
import {", ".join(every)}
assert pyarrow.default_memory_pool().backend_name == pool
never = "psycopg sqlalchemy alembic prometheus_client structlog pydantic_settings typer".split()
found = [name for name in never if name in sys.modules]
found += [name for name in sys.modules if name.startswith("pipeline.")
          and name.split(".")[1] not in {sorted(MAY_IMPORT["core"] | {"core", *BASE_OF_CORE})}]
sys.exit(", ".join(found) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", asked], check=False, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr


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


# What a command that only reads has no use for; together, seconds.
HEAVY = {
    *("sqlalchemy", "alembic", "pandas", "pandera", "pyarrow", "numpy", "pgpq", "structlog"),
    *("watchdog", "tenacity", "prometheus_client", "rich.traceback", "matplotlib"),
}
LIGHT = [
    ["--help"],
    ["status"],
    ["doctor"],
    ["quarantine", "list"],
    ["quarantine", "list", "--by", "reason"],
    ["quarantine", "show", "1"],
    ["why", "92", "2018-03-06T00:46:02"],
    ["retract", "1"],
    ["db", "url"],
    ["db", "psql", "-c", "SELECT 1"],
]
_RUN = """
import sys
from pipeline import cli
sys.argv = ["sofia-air", *sys.argv[1:]]
try:
    cli.main()
finally:
    print(*sorted(name for name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("command", LIGHT, ids=" ".join)
def test_commands_that_only_read_load_no_more_than_they_need(
    command: list[str], migrated_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, "--home", str(tmp_path), *command],
        env={**os.environ, "SOFIA_AIR_DATABASE_URL": migrated_url},
        cwd=PACKAGE.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    # There is no file 1 to show or take back.
    assert done.returncode == (2 if "1" in command else 0), done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "pipeline.cli" in loaded
    # Where a line stands in a file is worked out with numpy.
    assert not loaded & (HEAVY - {"numpy"} if "why" in command else HEAVY)


@pytest.mark.parametrize("module", [name for name in MODULES if ".store.read" in name])
def test_questions_need_psycopg_alone(module: str) -> None:
    assert outside(module) - set(sys.stdlib_module_names) <= {"psycopg"}


def test_commands_that_only_look_start_without_pandas() -> None:
    asked = (
        "import sys, importlib\n"
        "for command in ('look', 'doctor', 'reporting', 'changes'):\n"
        "    importlib.import_module(f'pipeline.cli.{command}')\n"
        "    assert 'pandas' not in sys.modules, command\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
