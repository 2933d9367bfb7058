"""The documentation says what the code does: generated parts, links, names and examples."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer
from _pytest.mark import ParameterSet

from pipeline.cli import app, commands
from pipeline.config import ENV_PREFIX, SECTIONS, TOML_NAME, about, load_settings
from pipeline.contract import FILE_RULES, ROW_RULES
from pipeline.contract.models import MODELS
from pipeline.contract.quantities import QUANTITIES
from pipeline.store.tables import metadata

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sample_data/*.md"))
    if path.name != "verification.md"
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[ParameterSet]:
    return list(_blocks(languages))


def _blocks(languages: Sequence[str]) -> Iterator[ParameterSet]:
    for page in PAGES:
        found = BLOCK.findall(page.read_text(encoding="utf-8"))
        for number, (language, code) in enumerate(found, start=1):
            if language in languages:
                yield pytest.param(code, id=f"{named(page)}-{number}")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    wanted = re.findall(r"`((?:tests|pipeline)/[\w/.]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in wanted if not (ROOT / name).exists()] == []


def test_generated_parts_are_what_the_code_says_today() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "line", ["pip install -e . && sofia-air demo", "pip install -e '.[test]' && pytest"]
)
def test_the_readme_begins_with_the_two_commands(line: str) -> None:
    readme = text_of("README.md").split("\n")
    assert readme.index(line) < 40  # on the first screen
    assert readme[readme.index(line) - 1] == "```sh"
    assert readme[readme.index(line) + 1] == "```"


def anchors(page: Path) -> set[str]:
    """The names by which GitHub knows a page's headings."""
    prose = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


def paths_of_commands() -> Iterator[str]:
    fresh = typer.Typer()
    commands.register(fresh)
    for of, prefix in (
        (fresh, ""),
        *((g.typer_instance, f"{g.name} ") for g in fresh.registered_groups),
    ):
        assert of is not None
        for command in of.registered_commands:
            assert command.callback is not None
            yield prefix + (command.name or command.callback.__name__)


@pytest.mark.parametrize("path", list(paths_of_commands()))
def test_every_command_is_documented(path: str) -> None:
    assert f"`sofia-air {path}`" in text_of("docs/commands.md")


def test_the_options_of_all_commands_are_documented() -> None:
    assert app.registered_callback is not None
    assert "--home PATH" in text_of("docs/commands.md")


SETTINGS = [(section, key) for section in SECTIONS for key in SECTIONS[section].model_fields]


@pytest.mark.parametrize(("section", "key"), SETTINGS)
def test_every_setting_is_documented(section: str, key: str) -> None:
    """With its key, name in the environment, default, unit and meaning; and in the sample."""
    _, _, rest = text_of("docs/configuration.md").partition(f"\n### `[{section}]`\n")
    part, _, _ = rest.partition("\n### ")
    field = SECTIONS[section].model_fields[key]
    env = about(field).get("env", f"contract__{key}").upper()
    rows = [row for row in part.split("\n") if row.startswith(f"| `{key}") and env in row]
    assert rows, f"[{section}] {key}"
    for row in rows:
        name, written, default, unit, meaning = (cell.strip() for cell in row.split("|")[1:-1])
        assert name.startswith(f"`{key}")
        assert f"{ENV_PREFIX}{env}" in written
        assert default
        assert unit == about(field).get("unit", "")
        assert len(meaning) > len("Its port.")
    _, _, rest = text_of("docs/sofia-air.example.toml").partition(f"\n[{section}]\n")
    sample, _, _ = rest.partition("\n[")
    assert f"\n#{key} = " in sample or f"\n#[{section}.{key}." in sample


def test_numbers_say_what_they_count() -> None:
    for section, key in SETTINGS:
        field = SECTIONS[section].model_fields[key]
        if field.annotation in {int, float}:
            assert about(field)["unit"], f"[{section}] {key}"


@pytest.mark.parametrize("name", [TOML_NAME, ".env", f"{ENV_PREFIX}HOME", "--home", "DATABASE_URL"])
def test_where_settings_come_from_is_documented(name: str) -> None:
    _, _, rest = text_of("docs/configuration.md").partition("\n## Where settings come from\n")
    part, _, _ = rest.partition("\n## ")
    assert f"`{name}`" in part


@pytest.mark.parametrize("rule", [*ROW_RULES, *FILE_RULES])
def test_every_rule_is_documented(rule: str) -> None:
    assert f"| `{rule}` |" in text_of("docs/contract.md")
    meaning = ROW_RULES.get(rule) or FILE_RULES[rule]
    assert meaning in text_of("docs/contract.md")


@pytest.mark.parametrize("rule", [*FILE_RULES])
def test_every_way_to_be_refused_is_in_the_table_of_what_is_dropped(rule: str) -> None:
    assert f"(`{rule}`)" in text_of("docs/operation.md")


def test_every_quantity_and_sensor_model_is_documented() -> None:
    page = text_of("docs/contract.md")
    assert [q.name for q in QUANTITIES if f"| `{q.name}` |" not in page] == []
    assert [m.name for m in MODELS if not re.search(rf"\b{m.name.upper()}\b", page)] == []


def test_every_table_and_column_is_documented() -> None:
    page = text_of("docs/schema.md")
    for table in metadata.sorted_tables:
        _, _, rest = page.partition(f"### `{table.schema}.{table.name}`")
        section, _, _ = rest.partition("\n### ")
        for column in table.columns:
            assert column.comment
            assert f"| `{column.name}` |" in section
            assert column.comment in section


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_documentation_parses(code: str) -> None:
    ast.parse(code)


@pytest.mark.parametrize("code", blocks("sh", "bash"))
def test_shell_in_the_documentation_parses(code: str) -> None:
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", blocks("toml"))
def test_settings_in_the_documentation_are_accepted(code: str, tmp_path: Path) -> None:
    tomllib.loads(code)
    (tmp_path / "sofia-air.toml").write_text(code, encoding="utf-8")
    assert not load_settings(tmp_path).renamed


def test_the_sample_configuration_shows_the_defaults(tmp_path: Path) -> None:
    sample = text_of("docs/sofia-air.example.toml")
    (tmp_path / "sofia-air.toml").write_text(sample, encoding="utf-8")
    defaults = load_settings(tmp_path)

    shown = re.sub(r"^#(?=[\w\[])", "", sample, flags=re.MULTILINE)
    (tmp_path / "sofia-air.toml").write_text(shown, encoding="utf-8")
    told = load_settings(tmp_path)

    for section in SECTIONS:
        for key, value in getattr(told, section):
            default = getattr(getattr(defaults, section), key)
            assert value is not None, f"[{section}] {key}"
            if default is not None and section != "contract":
                assert value == default, f"[{section}] {key}"


def test_the_unit_file_names_what_the_documentation_does() -> None:
    unit = text_of("systemd/sofia-air.service")
    page = text_of("docs/operation.md")
    for place in ("/opt/sofia-air/bin/", "/var/lib/sofia-air", "/etc/sofia-air/env"):
        assert place in unit
        assert place in page
