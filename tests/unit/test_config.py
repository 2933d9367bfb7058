"""Settings: where they come from, which wins, and that a wrong one stops the start and is named."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.config import ENV_PREFIX, Settings, load_settings
from pipeline.errors import ConfigurationError

SECRET = "TopSecret"
URL = f"postgresql://me:{SECRET}@db.example:5432/air"


def write(home: Path, *, dotenv: str | None = None, toml: str | None = None) -> None:
    if dotenv is not None:
        (home / ".env").write_text(dotenv, encoding="utf-8")
    if toml is not None:
        (home / "sofia-air.toml").write_text(toml, encoding="utf-8")


def refused(home: Path, **flags: object) -> str:
    with pytest.raises(ConfigurationError) as error:
        load_settings(home, **flags)
    told = str(error.value)
    assert SECRET not in told
    assert SECRET not in repr(error.value.__cause__)
    return told


def env(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"{ENV_PREFIX}{name}", value)


# --- precedence -----------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    assert settings.database_url is None
    assert settings.scan_seconds == Settings.model_fields["scan_seconds"].default
    assert (settings.data, settings.quarantine) == (tmp_path / "data", tmp_path / "quarantine")
    assert settings.archive == tmp_path / "data" / "archive"
    assert settings.logs == tmp_path / "logs"


def test_a_flag_beats_the_environment_beats_dotenv_beats_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, toml="scan_seconds = 2\n")
    assert load_settings(tmp_path).scan_seconds == 2
    write(tmp_path, dotenv="SOFIA_AIR_SCAN_SECONDS=3\n")
    assert load_settings(tmp_path).scan_seconds == 3
    env(monkeypatch, SCAN_SECONDS="4")
    assert load_settings(tmp_path).scan_seconds == 4
    assert load_settings(tmp_path, scan_seconds=5).scan_seconds == 5
    assert load_settings(tmp_path, scan_seconds=None).scan_seconds == 4


def test_each_source_adds_what_the_others_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        toml="[contract.ranges.pm10]\naccept = [0, 500]\n",
        dotenv="SOFIA_AIR_CONTRACT__RANGES__PM25__ACCEPT=[0, 400]\n",
    )
    env(monkeypatch, CONTRACT__MODELS__DUST='{"d": "pm1"}')
    contract = load_settings(tmp_path).site_contract()
    assert contract.quantities["pm10"].accept == (0, 500)
    assert contract.quantities["pm25"].accept == (0, 400)
    assert contract.models["dust"].columns == {"d": "pm1"}


def test_names_in_the_environment_may_be_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("sofia_air_scan_seconds", "4")
    assert load_settings(tmp_path).scan_seconds == 4
    monkeypatch.setenv("sofia_air_scan_secnds", "4")
    assert "SOFIA_AIR_SCAN_SECNDS: no such setting" in refused(tmp_path)


# --- the home folder ------------------------------------------------------------------------------


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    assert load_settings().home == here
    env(monkeypatch, HOME=str(there))
    assert load_settings().home == there
    assert load_settings(here).home == here
    assert load_settings(Path("relative")).home == here / "relative"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(Path("~/mine")).home == tmp_path / "mine"
    env(monkeypatch, HOME="")
    assert load_settings().home == here


def test_files_in_the_home_folder_cannot_move_it(tmp_path: Path) -> None:
    write(tmp_path, toml='home = "/elsewhere"\n')
    assert "home in sofia-air.toml: cannot move the home folder" in refused(tmp_path)
    write(tmp_path, toml="", dotenv="SOFIA_AIR_HOME=/elsewhere\n")
    assert "SOFIA_AIR_HOME in .env: cannot move the home folder" in refused(tmp_path)
    write(tmp_path, dotenv=f"SOFIA_AIR_HOME={tmp_path}\n")
    assert load_settings(tmp_path).home == tmp_path


# --- the database ---------------------------------------------------------------------------------


def address(settings: Settings) -> str | None:
    url = settings.database_url
    return None if url is None else url.get_secret_value()


def test_the_database_has_two_names_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert address(load_settings(tmp_path)) == URL
    write(tmp_path, toml='database_url = "postgresql:///toml"\n')
    assert address(load_settings(tmp_path)) == "postgresql:///toml"
    env(monkeypatch, DATABASE_URL="postgresql:///ours")
    assert address(load_settings(tmp_path)) == "postgresql:///ours"
    assert address(load_settings(tmp_path, database_url="postgres:///flag")) == "postgres:///flag"


def test_the_database_has_two_names_in_the_homes_dotenv(tmp_path: Path) -> None:
    """Ignoring either would load into the private database unnoticed."""
    write(tmp_path, dotenv=f"DATABASE_URL={URL}\n")
    assert address(load_settings(tmp_path)) == URL
    write(tmp_path, dotenv=f"SOFIA_AIR_DATABASE_URL=postgresql:///ours\nDATABASE_URL={URL}\n")
    assert address(load_settings(tmp_path)) == "postgresql:///ours"


def test_empty_means_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    env(monkeypatch, DATABASE_URL="")
    assert load_settings(tmp_path).database_url is None


@pytest.mark.parametrize("where", ["SOFIA_AIR_DATABASE_URL", "DATABASE_URL", ".env", "toml"])
@pytest.mark.parametrize(
    "url", [f"mysql://me:{SECRET}@h/d", f"me:{SECRET}@h", f"http://[{SECRET}", SECRET]
)
def test_a_wrong_address_is_named_and_never_repeated(
    url: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    match where:
        case ".env":
            write(tmp_path, dotenv=f"SOFIA_AIR_DATABASE_URL={url}\n")
        case "toml":
            write(tmp_path, toml=f'database_url = "{url}"\n')
        case _:
            monkeypatch.setenv(where, url)
    told = refused(tmp_path)
    name = "DATABASE_URL" if where == "DATABASE_URL" else "database_url"
    assert told.startswith(f"{name}: must look like postgresql://")


def test_secrets_are_not_shown_by_the_settings_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(monkeypatch, DATABASE_URL=URL)
    settings = load_settings(tmp_path)
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in shown


# --- what is wrong --------------------------------------------------------------------------------

UNKNOWN = {
    "SOFIA_AIR_SCAN_SECNDS": "SOFIA_AIR_SCAN_SECONDS",
    "SOFIA_AIR_DATABSE_URL": "SOFIA_AIR_DATABASE_URL",
    "SOFIA_AIR_CONTRACTS__RANGES": "SOFIA_AIR_CONTRACT",
    "SOFIA_AIR_SCAN_SECONDS__X": "SOFIA_AIR_SCAN_SECONDS",
    "SOFIA_AIR_TOML_PATH": None,
    "SOFIA_AIR_": None,
}


@pytest.mark.parametrize(("name", "meant"), UNKNOWN.items(), ids=UNKNOWN)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_an_unknown_name_stops_the_start_with_a_hint(
    name: str, meant: str | None, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == ".env":
        write(tmp_path, dotenv=f"OTHER=1\n{name}={SECRET}\n")
    else:
        monkeypatch.setenv(name, SECRET)
    told = refused(tmp_path)
    place = " in .env" if where == ".env" else ""
    assert told.startswith(f"{name}{place}: no such setting")
    if meant:
        assert f"did you mean {meant}?" in told


def test_other_programs_keys_in_dotenv_are_none_of_our_business(tmp_path: Path) -> None:
    lines = [f"POSTGRES_PASSWORD={SECRET}", "scan_seconds=x", "SOFIA=1", "# SOFIA_AIR_X=1"]
    write(tmp_path, dotenv="\n".join([*lines, "export SOFIA_AIR_SCAN_SECONDS='8'", ""]))
    assert load_settings(tmp_path).scan_seconds == 8


INVALID = {
    "toml, unknown": ("scan_secnds = 1\n", "scan_secnds: no such setting; did you mean scan_s"),
    "toml, unknown table": ("[contracts]\n", "contracts: no such setting; did you mean contract?"),
    "toml, unknown within": (
        "[contract.ranges.pm10]\nacept = [0, 1]\n",
        "contract.ranges.pm10.acept: no such setting",
    ),
    "toml, text for a number": (f'scan_seconds = "{SECRET}"\n', "scan_seconds: input should be a"),
    "toml, too small": ("scan_seconds = 0\n", "scan_seconds: input should be greater than 0"),
    "toml, two wrong": (
        "scan_seconds = 0\nbatch_files = 0\n",
        "batch_files: input should be greater than or equal to 1",
    ),
    "toml, not one of": (
        'watcher = "sometimes"\n',
        "watcher: input should be 'native', 'polling' or 'off'",
    ),
    "toml, syntax": ("scan_seconds = \n", "sofia-air.toml: is not valid TOML"),
    "toml, unknown quantity": (
        "[contract.ranges.pm100]\naccept = [0, 1]\n",
        "contract.ranges.pm100: 'pm100' is not a quantity; known are pm10, ",
    ),
    "toml, range upside down": (
        "[contract.ranges.pm10]\naccept = [1, 0]\n",
        "contract.ranges.pm10.accept: 1 is not below 0",
    ),
    "toml, range without end": (
        "[contract.ranges.pm10]\naccept = [0, inf]\n",
        "contract.ranges.pm10.accept: 0 is not below inf, or one has no end",
    ),
    "toml, model of nothing": ("[contract.models.dust]\n", "contract.models.dust: names no column"),
}


@pytest.mark.parametrize(("toml", "words"), INVALID.values(), ids=INVALID)
def test_what_is_invalid_is_named(toml: str, words: str, tmp_path: Path) -> None:
    write(tmp_path, toml=toml)
    assert words in refused(tmp_path)


@pytest.mark.parametrize("name", [".env", "sofia-air.toml"])
def test_a_file_that_is_not_utf_8_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b'log_level = "\xff' + SECRET.encode() + b'"\n')
    told = refused(tmp_path)
    assert str(tmp_path / name) in told
    assert "UTF-8" in told


@pytest.mark.parametrize("value", [f"{{{SECRET}", SECRET])
def test_a_setting_with_parts_must_be_json_in_the_environment(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(monkeypatch, CONTRACT=value)
    told = refused(tmp_path)
    assert "contract" in told
    assert "JSON" in told


def test_an_unknown_flag_is_refused(tmp_path: Path) -> None:
    assert "scan_secs: no such setting" in refused(tmp_path, scan_secs=1)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "sofia-air.toml"
    write(tmp_path, toml="scan_seconds = 1\n")
    loop.chmod(0)
    if os.access(loop, os.R_OK):
        pytest.skip("root may read everything")
    assert f"{loop}: cannot be read" in refused(tmp_path)


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    with pytest.raises(ValidationError):
        settings.scan_seconds = 1  # type: ignore[misc]  # the point


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert re.fullmatch(r"[a-z_]+", name)
