"""Settings: read once, checked at once, frozen afterwards.

In order of precedence: command-line flags, the environment (`SOFIA_AIR_*`), `.env` in the home
folder, `sofia-air.toml` in the home folder, the defaults. An unknown or invalid key stops the start
(exit code 2); the message names it as it was written, and where. Values are never echoed: they may
be secrets.

`sections` declares every setting, `settings` puts the sections together, `sources` knows where
values come from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pipeline.config import sources
from pipeline.config.sections import (
    ENV_PREFIX,
    ArchiveSettings,
    ContractSettings,
    DatabaseSettings,
    LimitSettings,
    LoadSettings,
    LogSettings,
    MetricsSettings,
    Section,
    SmtpSettings,
    WatchSettings,
    about,
)
from pipeline.config.settings import BY_ENV, SECTIONS, Settings, shown
from pipeline.config.sources import DOTENV_NAME, TOML_NAME, Given, Key
from pipeline.errors import ConfigurationError
from pipeline.foreign import refuse_others_home

__all__ = [
    "BY_ENV",
    "ENV_PREFIX",
    "SECTIONS",
    "TOML_NAME",
    "ArchiveSettings",
    "ContractSettings",
    "DatabaseSettings",
    "LimitSettings",
    "LoadSettings",
    "LogSettings",
    "MetricsSettings",
    "Section",
    "Settings",
    "SmtpSettings",
    "WatchSettings",
    "about",
    "load_settings",
    "shown",
]

_URL: Key = ("database", "url")


def load_settings(home: Path | None = None, **flags: object) -> Settings:
    """Read, check and freeze the settings.

    Args:
        home: from `--home`; None means `SOFIA_AIR_HOME`, else the current folder.
        flags: other settings given on the command line, by their names in the environment, without
            the prefix, in small letters; None values are ignored.

    Raises:
        ConfigurationError: an unknown or invalid key, a file that cannot be read, or we are root
            and the home is another user's.
    """
    root = (home or Path(os.environ.get(f"{ENV_PREFIX}HOME") or ".")).expanduser().absolute()
    # Before anything in it is read: another user's settings must not steer root.
    refuse_others_home(root)
    settings = _read(root, flags)
    # Where none was, another user may have made one meanwhile: in /tmp, say.
    refuse_others_home(root)
    return settings


def _read(root: Path, flags: Mapping[str, object]) -> Settings:
    from_environment = sources.environment(os.environ)
    path = root / DOTENV_NAME
    try:
        from_dotenv, shared = sources.dotenv(path)
        path = root / TOML_NAME
        from_toml, renamed = sources.toml(path)
    except UnicodeDecodeError as error:
        message = f"{path}: is not UTF-8 text: {error.reason}"
        raise ConfigurationError(message) from None
    except OSError as error:
        message = f"{error.filename or path}: cannot be read: {error.strerror}"
        raise ConfigurationError(message) from None
    values, origins = sources.merged(
        [from_toml, from_dotenv, from_environment, _from_flags(root, flags)]
    )
    # What many programs share counts too, from the environment or from .env; but ours first.
    shared = os.environ.get("DATABASE_URL") or shared
    if shared and not values.get("database", {}).get("url"):
        values.setdefault("database", {})["url"] = shared
        place = "environment" if os.environ.get("DATABASE_URL") else str(root / DOTENV_NAME)
        origins[_URL] = Given(_URL, shared, "DATABASE_URL", lambda: place)
    try:
        settings = Settings.built(values, renamed)
    except ValidationError as error:
        raise ConfigurationError(_complaints(error, origins)) from None
    try:
        settings.site_contract()
    except ConfigurationError as error:
        raise ConfigurationError(_of_contract(str(error), origins)) from None
    return settings


def _from_flags(root: Path, flags: Mapping[str, object]) -> list[Given]:
    given = [Given(("home",), root, "--home", lambda: "command line")]
    for name, value in flags.items():
        if name not in {*BY_ENV, "contract"}:
            message = f"{name}: no such setting"
            raise ConfigurationError(message)
        if value is not None:
            key = BY_ENV.get(name, (name,))
            given.append(Given(key, value, name, lambda: "command line"))
    return given


def _complaints(error: ValidationError, origins: Mapping[Key, Given]) -> str:
    complaints = []
    for problem in error.errors(include_input=False, include_url=False):
        text = problem["msg"].removeprefix("Value error, ").partition(" or instance of ")[0]
        # Which of the values in a list it is, is not worth a word.
        key = [part for part in problem["loc"] if isinstance(part, str)]
        if problem["type"] == "extra_forbidden":
            text = f"no such setting{sources.meant_in_contract(key[-1])}"
        text = f"{text[:1].lower()}{text[1:]}"
        found = sources.origin(key, origins)
        complaints.append(found[0].complaint(text, found[1]) if found else f"{shown(key)}: {text}")
    return "\n".join(complaints)


def _of_contract(complaint: str, origins: Mapping[Key, Given]) -> str:
    """Name a setting of the contract as it was written; the contract knows its dotted name only."""
    name, _, text = complaint.partition(": ")
    found = sources.origin(name.split("."), origins)
    return found[0].complaint(text, found[1]) if found else complaint
