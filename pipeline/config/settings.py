"""Settings: all sections together, frozen; and what each setting is called, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr

from pipeline.config.sections import (
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
from pipeline.contract import Contract


class Settings(Section):
    """Everything that can be set. Frozen; build it with `load_settings`."""

    home: Path = Field(Path(), description="folder that holds data/, quarantine/ and logs/")
    database: DatabaseSettings = DatabaseSettings()
    watch: WatchSettings = WatchSettings()
    load: LoadSettings = LoadSettings()
    limits: LimitSettings = LimitSettings()
    archive: ArchiveSettings = ArchiveSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    smtp: SmtpSettings = SmtpSettings()
    contract: ContractSettings = ContractSettings()

    _renamed: str = PrivateAttr("")

    @classmethod
    def built(cls, values: Mapping[str, Any], renamed: str = "") -> Self:
        """Return the settings that values make.

        Args:
            values: section → name → value.
            renamed: what `renamed` shall be.

        Raises:
            ValidationError: a value is invalid.
        """
        settings = cls.model_validate(values)
        settings._renamed = renamed
        return settings

    @property
    def renamed(self) -> str:
        """Which keys of `sofia-air.toml` have an old name, and their new ones; empty if none."""
        return self._renamed

    @property
    def data(self) -> Path:
        """The door: files dropped here are taken."""
        return self.home / "data"

    @property
    def archive_folder(self) -> Path:
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

    def changed(self, **settings: Any) -> Self:
        """Return a copy with other values.

        Args:
            settings: by their names in the environment, without the prefix, in small letters.

        Raises:
            KeyError: there is no such setting.
            ValidationError: a value is invalid.
        """
        sections: dict[str, dict[str, Any]] = {}
        for env, value in settings.items():
            section, name = BY_ENV[env]
            sections.setdefault(section, dict(getattr(self, section)))[name] = value
        update = {name: SECTIONS[name](**values) for name, values in sections.items()}
        return self.model_copy(update=update)


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}

# Name in the environment (without the prefix, in small letters) → section and key. The contract has
# deeper parts, each with a name of its own: CONTRACT__RANGES__PM10__ACCEPT.
BY_ENV: dict[str, tuple[str, str]] = {
    env: (section, name)
    for section, model in SECTIONS.items()
    for name, field in model.model_fields.items()
    if (env := about(field).get("env"))
}


def shown(path: Sequence[str]) -> str:
    """Return a setting's name as it stands in `sofia-air.toml`: `[smtp] host`."""
    *tables, key = path
    return f"{table(tables)} {key}" if tables else key


def table(path: Iterable[str]) -> str:
    """Return a table's name as it stands in `sofia-air.toml`: `[contract.models]`."""
    return f"[{'.'.join(path)}]"
