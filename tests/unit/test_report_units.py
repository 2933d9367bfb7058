"""The units that send the report every morning: systemd takes them, and they say what we do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import commands

FOLDER = Path(__file__).parents[2] / "systemd"
SERVICE = FOLDER / "sofia-air-report.service"
TIMER = FOLDER / "sofia-air-report.timer"

analyze = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(analyze is None, reason="systemd-analyze is not installed")


def _unit(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def _analyze(*arguments: str) -> Any:
    assert analyze
    return subprocess.run([analyze, *arguments], capture_output=True, text=True, check=False)


def test_the_service_asks_for_what_the_command_knows() -> None:
    (line,) = _unit(SERVICE)["ExecStart"]
    program, *arguments = line.split()
    daemon = _unit(FOLDER / "sofia-air.service")
    assert program == daemon["ExecStart"][0].split()[0]
    assert arguments == ["report", "--last", "day", "--email"]
    app = typer.Typer()
    commands.register(app)
    told = CliRunner().invoke(app, ["report", "--help"], env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert told.exit_code == 0
    assert "--last" in told.output
    assert "--email" in told.output


def test_the_service_is_the_daemons_neighbour() -> None:
    unit, daemon = _unit(SERVICE), _unit(FOLDER / "sofia-air.service")
    for key in ("User", "Group", "WorkingDirectory", "EnvironmentFile", "StateDirectory", "UMask"):
        assert unit[key] == daemon[key], key
    assert daemon["Environment"][0] in unit["Environment"]
    assert unit["Type"] == ["oneshot"]
    assert unit["RestartPreventExitStatus"] == ["2"]


def test_the_timer_sends_it_when_the_day_is_over() -> None:
    timer = _unit(TIMER)
    assert timer["OnCalendar"] == ["*-*-* 05:30:00 UTC"]
    assert timer["Persistent"] == ["true"]
    assert timer["WantedBy"] == ["timers.target"]


@needs_analyze
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = tmp_path / "sofia-air"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    installed = _unit(SERVICE)["ExecStart"][0].split()[0]
    for unit in (SERVICE, TIMER):
        text = unit.read_text(encoding="utf-8").replace(installed, str(program))
        (tmp_path / unit.name).write_text(text)
    done = _analyze("verify", "--man=no", *(str(tmp_path / u.name) for u in (SERVICE, TIMER)))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_analyze
def test_the_service_is_locked_down() -> None:
    done = _analyze("security", "--offline=true", "--threshold=15", str(SERVICE))
    assert done.returncode == 0, done.stdout + done.stderr
