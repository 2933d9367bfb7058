"""Settings: read once, checked at once, frozen afterwards.

In order of precedence: command-line flags, the environment (`SOFIA_AIR_*`), `.env` in the home
folder, `sofia-air.toml` in the home folder, the defaults below. An unknown or invalid key stops
the start (exit code 2) and is named in the message. Values are never echoed: they may be secrets.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from pipeline.contract import Contract
from pipeline.errors import ConfigurationError
from pipeline.foreign import refuse_others_home

ENV_PREFIX = "SOFIA_AIR_"
TOML_NAME = "sofia-air.toml"

Range = tuple[float, float]


class RangeOverride(BaseModel):
    """A site's own ranges for one quantity, in the stored unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accept: Range | None = Field(None, description="lowest and highest accepted value")
    typical: Range | None = Field(None, description="accepted values outside are flagged suspect")


class ContractSettings(BaseModel):
    """What a site changes in the contract, without code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranges: dict[str, RangeOverride] = Field(
        default_factory=dict, description="quantity → its own accepted and typical range"
    )
    models: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="sensor model → its file columns and their quantities"
    )
    partial: Literal["reject", "accept"] = Field(
        "reject",
        description="what becomes of a row that lacks some of its sensor's readings, not all: "
        "rejected, or stored without them and flagged",
    )
    partial_models: tuple[str, ...] = Field(
        (), description="sensor models of which such rows are accepted, whatever partial says"
    )


class Settings(BaseSettings):
    """Everything that can be set. Frozen; build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_file_encoding="utf-8",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Set by `load_settings` for the sources below; not a setting itself.
    toml_path: ClassVar[Path | None] = None

    home: Path = Field(Path(), description="folder that holds data/, quarantine/ and logs/")
    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL to load into, as postgresql://user@host/name; `DATABASE_URL` "
        "counts too; unset: a private PostgreSQL under <home>/.postgres",
    )
    scan_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="longest time between two looks into data/, whatever events say"
    )
    settle_seconds: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="a file without a close event is taken once size and time stood still so long",
    )
    watcher: Literal["native", "polling", "off"] = Field(
        "native",
        description="native file events, polling (network filesystems), or scans only (off)",
    )
    # Each may have two files open in quarantine, and a process usually has 1,024 at most.
    batch_files: Annotated[int, Field(ge=1, le=400)] = Field(
        250, description="most files that share one transaction"
    )
    batch_bytes: Annotated[int, Field(ge=1)] = Field(
        16 * 2**20, description="most bytes of files that share one transaction"
    )
    block_bytes: Annotated[int, Field(ge=64 * 2**10, le=2**28)] = Field(
        4 * 2**20, description="bytes of a file that are in memory at a time"
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="threads that read ahead while the database loads; one keeps a database busy "
        "with clean files, more help with dirty ones where there are cores to spare",
    )
    max_line_bytes: Annotated[int, Field(ge=1024)] = Field(
        2**20, description="a file with a longer line is refused"
    )
    max_inflated_bytes: Annotated[int, Field(ge=1)] = Field(
        20 * 2**30, description="a .gz that inflates to more is refused"
    )
    max_amplification: Annotated[int, Field(ge=1)] = Field(
        200,
        description="how many times its own size a file may inflate to, and leave in quarantine/; "
        "16 MiB are always allowed",
    )
    max_quarantined_rows: Annotated[int, Field(ge=0)] = Field(
        1_000_000,
        description="a file of which more rows are rejected is refused as a whole, if they are "
        "also more than `max_quarantined_share` of it",
    )
    max_quarantined_bytes: Annotated[int, Field(ge=0)] = Field(
        2**30,
        description="a file whose rejected rows take more in quarantine/ is refused, if they also "
        "take more than ten times `max_quarantined_share` of its text",
    )
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="the share of a file, by rows or by bytes, that may be rejected whatever its "
        "size: a large file is not refused for a few bad rows in a hundred",
    )
    max_malformed_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="a file is refused once 10,000 rows or more were read, and more than this "
        "share of them cannot be split into fields, or have neither a sensor nor a time",
    )
    max_places: Annotated[int, Field(ge=1)] = Field(
        50_000,
        description="a file whose valid rows name more sensors, or more places, is refused",
    )
    file_seconds: Annotated[float, Field(gt=0)] = Field(
        5.0, description="processor time that any file may take"
    )
    file_seconds_per_mb: Annotated[float, Field(ge=0)] = Field(
        2.0,
        description="and so much more for each MiB of its text; a file that takes more is refused",
    )
    retry_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="how long a command tries again while the database is away"
    )
    archive_policy: Literal["keep", "gzip", "delete"] = Field(
        "keep",
        description="what becomes of a loaded file: kept as it is, compressed, or deleted",
    )
    archive_keep_days: Annotated[int, Field(ge=1)] | None = Field(
        None, description="days after which archived files are deleted, a share a day; unset: never"
    )
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="port of /metrics, /healthz and /readyz; unset: none is opened"
    )
    metrics_host: str = Field("127.0.0.1", description="address that the metrics port listens on")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    smtp_host: str | None = Field(
        None, description="mail server that sends reports; unset: none is sent"
    )
    smtp_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None,
        description="its port; unset: 587 for starttls, 465 for tls, 25 for none",
    )
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls",
        description="how mail is kept from others on its way to the server; none only where the "
        "server is on this machine",
    )
    smtp_user: str | None = Field(None, description="name to log in with there; unset: no login")
    smtp_password: SecretStr | None = Field(None, description="password to log in with there")
    mail_from: str | None = Field(None, description="address that reports are sent from")
    mail_to: str | None = Field(
        None, description="addresses that reports are sent to, with commas between them"
    )
    contract: ContractSettings = Field(
        default_factory=ContractSettings, description="a site's own ranges and sensor models"
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None or not url.get_secret_value():
            return None
        try:
            scheme = urlsplit(url.get_secret_value()).scheme
        except ValueError:
            scheme = ""
        if scheme not in {"postgresql", "postgres", "postgresql+psycopg"}:
            message = "must look like postgresql://user:password@host:5432/name"
            raise ValueError(message)
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the base class asks
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the TOML file beneath the environment; take from `.env` what is ours."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=cls.toml_path)
        home = cls.toml_path.parent if cls.toml_path else Path.cwd()
        if isinstance(dotenv_settings, DotEnvSettingsSource):
            # Other programs keep their keys there too: those are none of our business.
            ours = {
                name: value
                for name, value in dotenv_settings.env_vars.items()
                if name.upper().startswith(ENV_PREFIX)
            }
            _refuse_unknown(ours, where=" in .env")
            _refuse_elsewhere(
                home, f"{ENV_PREFIX}HOME in .env", ours.get(f"{ENV_PREFIX}HOME".lower())
            )
            dotenv_settings.env_vars = ours
        _refuse_elsewhere(home, f"home in {TOML_NAME}", toml.toml_data.get("home"))
        return init_settings, env_settings, dotenv_settings, toml

    @property
    def data(self) -> Path:
        """The door: files dropped here are taken."""
        return self.home / "data"

    @property
    def archive(self) -> Path:
        """Where taken files go."""
        return self.data / "archive"

    @property
    def quarantine(self) -> Path:
        """Where refused rows and files go."""
        return self.home / "quarantine"

    @property
    def logs(self) -> Path:
        """Where the log files are."""
        return self.home / "logs"

    def site_contract(self) -> Contract:
        """Return the contract in force at this site.

        Raises:
            ConfigurationError: an override makes no sense.
        """
        ranges = {
            name: {key: value for key, value in override if value is not None}
            for name, override in self.contract.ranges.items()
        }
        partial = None if self.contract.partial == "accept" else self.contract.partial_models
        return Contract.with_overrides(ranges, self.contract.models, partial)


def load_settings(home: Path | None = None, **flags: object) -> Settings:
    """Read, check and freeze the settings.

    Args:
        home: from `--home`; None means `SOFIA_AIR_HOME`, else the current folder.
        flags: other settings given on the command line; None values are ignored.

    Raises:
        ConfigurationError: an unknown or invalid key, a file that cannot be read, or we are root
            and the home is another user's.
    """
    root = (home or Path(os.environ.get(f"{ENV_PREFIX}HOME") or ".")).expanduser().absolute()
    # Before anything in it is read: another user's settings must not steer root.
    refuse_others_home(root)
    toml_path = root / TOML_NAME
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    _refuse_unknown(os.environ)
    # A class of its own, since the sources are bound to the class and homes differ.
    bound = type("Settings", (Settings,), {"toml_path": toml_path})
    try:
        settings: Settings = bound(_env_file=root / ".env", **{**given, "home": root})
    except ValidationError as error:
        raise ConfigurationError(_told(error, toml_path)) from None
    except SettingsError as error:
        # Names the setting and the source, not the value.
        message = f"{error}: in the environment and .env it must be JSON"
        raise ConfigurationError(message) from None
    except UnicodeDecodeError as error:
        message = f"{root / '.env'} or {toml_path}: is not UTF-8 text: {error.reason}"
        raise ConfigurationError(message) from None
    except tomllib.TOMLDecodeError as error:
        message = f"{toml_path}: is not valid TOML: {error}"
        raise ConfigurationError(message) from None
    except OSError as error:
        message = f"{error.filename or toml_path}: cannot be read: {error.strerror}"
        raise ConfigurationError(message) from None
    # What many programs share counts too, from the environment or from .env.
    plain = os.environ.get("DATABASE_URL") or dotenv_values(root / ".env").get("DATABASE_URL")
    if settings.database_url is None and plain:
        try:
            settings = bound(
                _env_file=root / ".env", **{**given, "home": root, "database_url": plain}
            )
        except ValidationError as error:
            raise ConfigurationError(_told(error, toml_path, alias="DATABASE_URL")) from None
    settings.site_contract()
    # Where none was, another user may have made one meanwhile: in /tmp, say.
    refuse_others_home(root)
    return settings


def _refuse_unknown(given: Iterable[str], where: str = "") -> None:
    """pydantic-settings ignores unknown variables; a misspelt one would silently do nothing."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for name in map(str.upper, given):
        # Only the contract has settings within it.
        outer = f"{ENV_PREFIX}CONTRACT" if name.startswith(f"{ENV_PREFIX}CONTRACT__") else name
        if name.startswith(ENV_PREFIX) and outer not in known:
            message = f"{name}{where}: no such setting{_hint(name, known)}"
            raise ConfigurationError(message)


def _refuse_elsewhere(home: Path, key: str, given: object) -> None:
    """These files were found in the home folder, so they cannot say that it is another."""
    if given is not None and Path(str(given)).expanduser().absolute() != home:
        message = f"{key}: cannot move the home folder it is in; set {ENV_PREFIX}HOME"
        raise ConfigurationError(message, "home")


def _hint(name: str, known: set[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _told(error: ValidationError, toml_path: Path, alias: str | None = None) -> str:
    told = []
    for problem in error.errors(include_input=False, include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            told.append(f"{key}: no such setting{_hint(key, set(Settings.model_fields))}")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            told.append(f"{alias or key}: {text[:1].lower()}{text[1:]}")
    where = f" (environment, .env or {toml_path})"
    return "; ".join(told) + where
