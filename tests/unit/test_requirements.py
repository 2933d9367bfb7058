"""The locked versions are in step with what `pyproject.toml` asks for; no network is needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = ("3.11.0", "3.12.0", "3.13.0")
# File → the extras that it covers.
LOCKS: dict[str, tuple[str, ...]] = {
    "core": (),
    "report": ("report",),
    "test": ("report", "test"),
}


def text_of(lock: str) -> str:
    return (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")


def locked(lock: str, python: str) -> dict[str, Requirement]:
    """Return name → what is installed on Linux with that Python."""
    environment = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, Requirement] = {}
    for line in text_of(lock).splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.removesuffix(" \\"))
            if requirement.marker is None or requirement.marker.evaluate(environment):
                name = canonicalize_name(requirement.name)
                assert name not in found, f"{name} is there twice"
                found[name] = requirement
    return found


def asked(lock: str) -> list[Requirement]:
    every = list(PROJECT["dependencies"])
    for extra in LOCKS[lock]:
        every += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in every]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_to_a_version_that_will_do(lock: str, python: str) -> None:
    found = locked(lock, python)
    for requirement in asked(lock):
        name = canonicalize_name(requirement.name)
        assert name in found, f"{name}: run .ci/lock"
        (pin,) = found[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{name}: run .ci/lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_file_has_a_hash(lock: str) -> None:
    for entry in re.split(r"\n(?=[^\s#])", text_of(lock))[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry.partition("\n")[0]


@pytest.mark.parametrize("lock", LOCKS)
def test_locked_versions_do_not_name_an_index(lock: str) -> None:
    assert "://" not in text_of(lock)
    options = r"^\s*-[if]|--index|--extra-index|--find-links"
    assert not re.search(options, text_of(lock), re.MULTILINE)


@pytest.mark.parametrize("python", PYTHONS)
def test_all_locks_have_the_same_versions(python: str) -> None:
    core, report, test = (locked(lock, python) for lock in LOCKS)
    for smaller, larger in ((core, report), (report, test)):
        assert {name: larger[name].specifier for name in smaller} == {
            name: pin.specifier for name, pin in smaller.items()
        }
