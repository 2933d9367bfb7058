"""Settings: where they come from, which wins, and that a wrong one stops the start and is named."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from pipeline.config import (
    BY_ENV,
    ENV_PREFIX,
    SECTIONS,
    Settings,
    WatchSettings,
    load_settings,
)
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
    assert settings.database.url is None
    assert settings.watch.scan_seconds == WatchSettings.model_fields["scan_seconds"].default
    assert (settings.data, settings.quarantine) == (tmp_path / "data", tmp_path / "quarantine")
    assert settings.archive_folder == tmp_path / "data" / "archive"
    assert settings.logs == tmp_path / "logs"


def test_a_flag_beats_the_environment_beats_dotenv_beats_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, toml="[watch]\nscan_seconds = 2\n")
    assert load_settings(tmp_path).watch.scan_seconds == 2
    write(tmp_path, dotenv="SOFIA_AIR_SCAN_SECONDS=3\n")
    assert load_settings(tmp_path).watch.scan_seconds == 3
    env(monkeypatch, SCAN_SECONDS="4")
    assert load_settings(tmp_path).watch.scan_seconds == 4
    assert load_settings(tmp_path, scan_seconds=5).watch.scan_seconds == 5
    assert load_settings(tmp_path, scan_seconds=None).watch.scan_seconds == 4


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
    assert load_settings(tmp_path).watch.scan_seconds == 4
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
    url = settings.database.url
    return None if url is None else url.get_secret_value()


def test_the_database_has_two_names_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    assert address(load_settings(tmp_path)) == URL
    write(tmp_path, toml='[database]\nurl = "postgresql:///toml"\n')
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
    assert load_settings(tmp_path).database.url is None


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
            write(tmp_path, toml=f'[database]\nurl = "{url}"\n')
        case _:
            monkeypatch.setenv(where, url)
    told = refused(tmp_path)
    name = {".env": "SOFIA_AIR_DATABASE_URL", "toml": "[database] url"}.get(where, where)
    place = {".env": f"{tmp_path}/.env, line 1", "toml": f"{tmp_path}/sofia-air.toml, line 2"}
    assert told.startswith(f"{name}: must look like postgresql://")
    assert told.endswith(f" ({place.get(where, 'environment')})")


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
    place = f"{tmp_path}/.env, line 2" if where == ".env" else "environment"
    assert told.startswith(f"{name}: no such setting")
    assert told.endswith(f" ({place})")
    if meant:
        assert f"did you mean {meant}?" in told


def test_other_programs_keys_in_dotenv_are_none_of_our_business(tmp_path: Path) -> None:
    lines = [f"POSTGRES_PASSWORD={SECRET}", "scan_seconds=x", "SOFIA=1", "# SOFIA_AIR_X=1"]
    write(tmp_path, dotenv="\n".join([*lines, "export SOFIA_AIR_SCAN_SECONDS='8'", ""]))
    assert load_settings(tmp_path).watch.scan_seconds == 8


# What stands in sofia-air.toml → what is said of it, and the line that is named.
INVALID = {
    "unknown": (
        "[smtp]\n\nprot = 1\n",
        "[smtp] prot: no such setting; did you mean [smtp] port?",
        3,
    ),
    "unknown, not near": ("[smtp]\nxyzzy = 1\n", "[smtp] xyzzy: no such setting (", 2),
    "in another section": (
        "[watch]\nbatch_files = 1\n",
        "[watch] batch_files: no such setting; did you mean [load] batch_files?",
        2,
    ),
    "old name in a section": (
        "[archive]\narchive_policy = 1\n",
        "[archive] archive_policy: no such setting; did you mean [archive] policy?",
        2,
    ),
    "unknown at the top": (
        "scan_secnds = 1\n",
        "scan_secnds: no such setting; did you mean [watch] scan_seconds?",
        1,
    ),
    "new name at the top": (
        "keep_days = 1\n",
        "keep_days: no such setting; did you mean [archive] keep_days?",
        1,
    ),
    "unknown table": ("[contracts]\n", "[contracts]: no such setting; did you mean [contract]?", 1),
    "unknown within": (
        "[contract.ranges.pm10]\nacept = [0, 1]\n",
        "[contract.ranges.pm10] acept: no such setting; did you mean accept?",
        2,
    ),
    "not a section": ("smtp = 1\n", "smtp: is a section: write [smtp], and its keys below", 1),
    "a list of sections": ("[[smtp]]\nport = 1\n", "smtp: is a section: write [smtp]", 1),
    "text for a number": (
        f'[watch]\nscan_seconds = "{SECRET}"\n',
        "[watch] scan_seconds: input should be a valid number",
        2,
    ),
    "too small": (
        "# scan_seconds = 1\n[watch] # scan_seconds\nscan_seconds = 0\n",
        "[watch] scan_seconds: input should be greater than 0",
        3,
    ),
    "dotted": ("watch.scan_seconds = 0\n", "[watch] scan_seconds: input should be greater", 1),
    "old name": ("scan_seconds = 0\n", "scan_seconds: input should be greater than 0", 1),
    "two wrong": (
        "[watch]\nscan_seconds = 0\n[load]\nbatch_files = 0\n",
        "[load] batch_files: input should be greater than or equal to 1",
        4,
    ),
    "not one of": (
        '[watch]\nevents = "sometimes"\n',
        "[watch] events: input should be 'native', 'polling' or 'off'",
        2,
    ),
    "syntax": ("scan_seconds = \n", "sofia-air.toml: is not valid TOML", None),
    "unknown quantity": (
        "[contract.ranges.pm100]\naccept = [0, 1]\n",
        "[contract.ranges.pm100]: 'pm100' is not a quantity; known are pm10, ",
        2,
    ),
    "range upside down": (
        "[contract.ranges.pm10]\naccept = [\n  1,\n  0,\n]\n",
        "[contract.ranges.pm10] accept: 1 is not below 0",
        2,
    ),
    "range without end": (
        "[contract.ranges.pm10]\naccept = [0, inf]\n",
        "[contract.ranges.pm10] accept: 0 is not below inf, or one has no end",
        2,
    ),
    "range of text": (
        f'[contract.ranges.pm10]\naccept = [0, "{SECRET}"]\n',
        "[contract.ranges.pm10] accept: input should be a valid number",
        2,
    ),
    "model of nothing": (
        "[contract.models.dust]\n",
        "[contract.models.dust]: names no column",
        1,
    ),
    "old and new": (
        "smtp_port = 1\n\n[smtp]\nport = 1\n",
        "smtp_port: is the old name of [smtp] port; give only that one",
        1,
    ),
}


@pytest.mark.parametrize(("toml", "words", "line"), INVALID.values(), ids=INVALID)
def test_what_is_invalid_is_named(toml: str, words: str, line: int | None, tmp_path: Path) -> None:
    write(tmp_path, toml=toml)
    told = refused(tmp_path)
    assert words in told
    if line:
        assert f"({tmp_path / 'sofia-air.toml'}, line {line})" in told


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, toml="x = 1\n[smtp]\nprot = 1\n[stmp]\n")
    assert len(refused(tmp_path).splitlines()) == 3
    write(tmp_path, toml="[smtp]\nport = 0\nhost = 1\n", dotenv="SOFIA_AIR_WORKERS=0")
    told = refused(tmp_path).splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "SOFIA_AIR_WORKERS",
        "[smtp] host",
        "[smtp] port",
    ]
    assert f"({tmp_path / '.env'}, line 1)" in told[0]


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
    assert told == "SOFIA_AIR_CONTRACT: must be JSON (environment)"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"ranges": {"pm10": {"acept": [0, 1]}}}', "ranges.pm10.acept: no such setting"),
        ('{"ranges": {"pm10": {"accept": [1, 0]}}}', "ranges.pm10.accept: 1 is not below 0"),
        (f'{{"partial": "{SECRET}"}}', "partial: input should be 'reject' or 'accept'"),
        (f'["{SECRET}"]', "input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_within_json_is_named(
    value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env(monkeypatch, CONTRACT=value)
    assert refused(tmp_path).startswith(f"SOFIA_AIR_CONTRACT: {words}")


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
        settings.home = tmp_path  # type: ignore[misc]  # the point
    with pytest.raises(ValidationError):
        settings.watch.scan_seconds = 1  # type: ignore[misc]  # the point


def test_a_copy_has_other_values_and_is_checked(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, smtp_host="a", smtp_port=1)
    other = settings.changed(smtp_port=2, batch_files=3)
    assert (other.smtp.host, other.smtp.port, other.load.batch_files) == ("a", 2, 3)
    assert (settings.smtp.port, other.home) == (1, tmp_path)
    with pytest.raises(ValidationError):
        settings.changed(smtp_port=0)
    with pytest.raises(KeyError):
        settings.changed(smtp_prot=0)


def test_every_setting_is_described() -> None:
    for section, model in SECTIONS.items():
        assert model.__doc__, section
        for name, field in model.model_fields.items():
            assert field.description, name
            assert re.fullmatch(r"[a-z_]+", name)


# --- names ----------------------------------------------------------------------------------------

# Name before there were sections, in the environment and in sofia-air.toml → where it is now, and a
# value that is not the default. Nobody's environment changes: this list only grows.
NAMES = {
    "database_url": ("database", "url", "postgresql:///other"),
    "retry_seconds": ("database", "retry_seconds", 7),
    "scan_seconds": ("watch", "scan_seconds", 7),
    "settle_seconds": ("watch", "settle_seconds", 7),
    "watcher": ("watch", "events", "polling"),
    "batch_files": ("load", "batch_files", 7),
    "batch_bytes": ("load", "batch_bytes", 7),
    "block_bytes": ("load", "block_bytes", 70_000),
    "workers": ("load", "workers", 7),
    "max_line_bytes": ("limits", "max_line_bytes", 7000),
    "max_inflated_bytes": ("limits", "max_inflated_bytes", 7),
    "max_amplification": ("limits", "max_amplification", 7),
    "max_quarantined_rows": ("limits", "max_quarantined_rows", 7),
    "max_quarantined_bytes": ("limits", "max_quarantined_bytes", 7),
    "max_quarantined_share": ("limits", "max_quarantined_share", 0.7),
    "max_malformed_share": ("limits", "max_malformed_share", 0.7),
    "max_places": ("limits", "max_places", 7),
    "file_seconds": ("limits", "file_seconds", 7),
    "file_seconds_per_mb": ("limits", "file_seconds_per_mb", 7),
    "archive_policy": ("archive", "policy", "gzip"),
    "archive_keep_days": ("archive", "keep_days", 7),
    "metrics_port": ("metrics", "port", 7),
    "metrics_host": ("metrics", "host", "::1"),
    "log_level": ("log", "level", "debug"),
    "smtp_host": ("smtp", "host", "mail.example.org"),
    "smtp_port": ("smtp", "port", 7),
    "smtp_security": ("smtp", "security", "tls"),
    "smtp_user": ("smtp", "user", "me"),
    "smtp_password": ("smtp", "password", SECRET),
    "mail_from": ("smtp", "sender", "air@example.org"),
    "mail_to": ("smtp", "recipients", "one@example.org"),
}


def test_the_list_of_names_is_complete() -> None:
    assert {name: where[:2] for name, where in NAMES.items()}.items() <= BY_ENV.items()
    declared = {(s, k) for s in SECTIONS if s != "contract" for k in SECTIONS[s].model_fields}
    assert declared == set(BY_ENV.values())


def as_toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize("source", ["environment", ".env", "new", "old", "flag"])
@pytest.mark.parametrize("name", NAMES)
def test_each_name_works_in_each_source(
    name: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, key, value = NAMES[name]
    flags = {}
    match source:
        case "environment":
            env(monkeypatch, **{name.upper(): str(value)})
        case ".env":
            write(tmp_path, dotenv=f"SOFIA_AIR_{name.upper()}={value}\n")
        case "new":
            write(tmp_path, toml=f"[{section}]\n{key} = {as_toml(value)}\n")
        case "old":
            write(tmp_path, toml=f"{name} = {as_toml(value)}\n")
        case "flag":
            flags[name] = value
    settings = load_settings(tmp_path, **flags)
    found = getattr(getattr(settings, section), key)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value
    assert found != getattr(SECTIONS[section](), key)
    assert bool(settings.renamed) == (source == "old")
    assert SECRET not in settings.renamed


def test_old_names_are_named_with_their_new_ones_on_one_line(tmp_path: Path) -> None:
    write(tmp_path, toml=f'smtp_password = "{SECRET}"\nwatcher = "off"\n[smtp]\nport = 25\n')
    settings = load_settings(tmp_path)
    assert settings.renamed == (
        f"{tmp_path}/sofia-air.toml: old names of settings: "
        "smtp_password is now [smtp] password; watcher is now [watch] events"
    )
    assert (settings.smtp.port, settings.watch.events) == (25, "off")


def test_an_old_name_has_the_same_rank_as_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, toml="smtp_port = 25\n")
    env(monkeypatch, SMTP_PORT="26")
    assert load_settings(tmp_path).smtp.port == 26


MAIN = "from pipeline.cli import main; main()"


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line without a database."""
    command = [sys.executable, "-c", MAIN, "--home", str(home), *arguments]
    kept = {k: v for k, v in os.environ.items() if not k.startswith((ENV_PREFIX, "DATABASE_URL"))}
    return subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, check=False
    )


NOWHERE = {"SOFIA_AIR_DATABASE_URL": "postgresql://me@localhost:1/air"}


def test_a_wrong_key_ends_a_command_with_exit_code_2(tmp_path: Path) -> None:
    write(tmp_path, toml="[smtp]\nprot = 25\n")
    done = run(tmp_path, "db", "url", **NOWHERE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: [smtp] prot: no such setting; did you mean [smtp] port? "
        f"({tmp_path}/sofia-air.toml, line 2)\n"
    )


def test_a_command_warns_once_of_old_names(tmp_path: Path) -> None:
    write(tmp_path, toml="smtp_port = 25\nretry_seconds = 0\n")
    told = (
        f"warning: {tmp_path}/sofia-air.toml: old names of settings: "
        "smtp_port is now [smtp] port; retry_seconds is now [database] retry_seconds\n"
    )
    looked = run(tmp_path, "db", "url", "--json", **NOWHERE)
    assert (looked.returncode, looked.stderr) == (0, told)
    assert json.loads(looked.stdout)["embedded"] is False
    loading = run(tmp_path, "run", "--once", **NOWHERE)
    assert loading.returncode == 1
    assert loading.stderr.startswith(told)
    assert loading.stderr.count("old names") == 1
    (event,) = logged(tmp_path)
    assert (event["level"], event["keys"]) == ("warning", told[len("warning: ") :].rstrip())


def test_the_daemon_warns_once_of_old_names(tmp_path: Path) -> None:
    """Its log is on the terminal, too."""
    write(tmp_path, toml="metrics_port = 1\nmetrics_host = '192.0.2.1'\n")
    done = run(tmp_path, "run", **NOWHERE)
    assert done.returncode == 2
    assert "[metrics] port: cannot listen" in done.stderr
    assert done.stderr.count("old names") == 1
    assert len(logged(tmp_path)) == 1


def logged(home: Path) -> list[dict[str, str]]:
    lines = (home / "logs" / "sofia-air.jsonl").read_text("utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "settings.renamed"]


def test_reading_settings_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    asked = (
        "import sys, pathlib; from pipeline.config import load_settings; "
        "load_settings(pathlib.Path(sys.argv[1])); "
        "sys.exit(str(sorted({'dotenv', 'tomllib', 'asyncio', 'pandas'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "[]"
