"""Sections: every setting, declared once, grouped by what it is about.

A section is a table of `sofia-air.toml` and an attribute of the settings. Each setting says what it
is called in the environment, too: `[smtp] host` is `SOFIA_AIR_SMTP_HOST`. The reference page, the
sample file and every message about a setting derive from here.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

ENV_PREFIX = "SOFIA_AIR_"

Range = tuple[float, float]


def _setting(
    default: Any, meaning: str, *, env: str, unit: str = "", example: str = "", **limits: Any
) -> Any:
    """Declare a setting.

    Args:
        default: the value without anything said.
        meaning: what it is for, in a few words.
        env: its name in the environment, without the prefix, in small letters. It was its name in
            `sofia-air.toml`, too, before there were sections.
        unit: what its number counts.
        example: what it may look like in `sofia-air.toml`, where the default is that it is unset.
        limits: what `pydantic.Field` knows: gt, ge, le.
    """
    extra: JsonDict = {"env": env, "unit": unit, "example": example}
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


def about(field: FieldInfo) -> dict[str, str]:
    """Return what a setting says of itself besides its meaning: `env`, `unit`, `example`."""
    extra = field.json_schema_extra
    return {k: str(v) for k, v in extra.items()} if isinstance(extra, dict) else {}


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DatabaseSettings(Section):
    """Which PostgreSQL, and how patient commands are with it."""

    url: SecretStr | None = _setting(
        None,
        "PostgreSQL to load into, as postgresql://user@host/name; `DATABASE_URL` counts too; "
        "unset: a private PostgreSQL under <home>/.postgres",
        env="database_url",
        example='"postgresql://me@localhost/air"',
    )
    retry_seconds: float = _setting(
        60.0,
        "how long a command tries again while the database is away",
        env="retry_seconds",
        unit="seconds",
        ge=0,
    )

    @field_validator("url")
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


class WatchSettings(Section):
    """How files in `data/` are found, and when they are complete."""

    events: Literal["native", "polling", "off"] = _setting(
        "native",
        "native file events, polling (network filesystems), or scans only (off)",
        env="watcher",
    )
    scan_seconds: float = _setting(
        5.0,
        "longest time between two looks into data/, whatever events say",
        env="scan_seconds",
        unit="seconds",
        gt=0,
    )
    settle_seconds: float = _setting(
        1.0,
        "a file without a close event is taken once size and time stood still so long",
        env="settle_seconds",
        unit="seconds",
        ge=0,
    )


class LoadSettings(Section):
    """How much is loaded at a time, and how much of it is in memory."""

    # Each may have two files open in quarantine, and a process usually has 1,024 at most.
    batch_files: int = _setting(
        250,
        "most files that share one transaction",
        env="batch_files",
        unit="files",
        ge=1,
        le=400,
    )
    batch_bytes: int = _setting(
        16 * 2**20,
        "most bytes of files that share one transaction",
        env="batch_bytes",
        unit="bytes",
        ge=1,
    )
    block_bytes: int = _setting(
        4 * 2**20,
        "bytes of a file that are in memory at a time",
        env="block_bytes",
        unit="bytes",
        ge=64 * 2**10,
        le=2**28,
    )
    workers: int = _setting(
        1,
        "threads that read ahead while the database loads; one keeps a database busy with clean "
        "files, more help with dirty ones where there are cores to spare",
        env="workers",
        unit="threads",
        ge=1,
        le=64,
    )


class LimitSettings(Section):
    """What one file may cost. A file that costs more is refused as a whole."""

    max_line_bytes: int = _setting(
        2**20,
        "a file with a longer line is refused",
        env="max_line_bytes",
        unit="bytes",
        ge=1024,
    )
    max_inflated_bytes: int = _setting(
        20 * 2**30,
        "a .gz that inflates to more is refused",
        env="max_inflated_bytes",
        unit="bytes",
        ge=1,
    )
    max_amplification: int = _setting(
        200,
        "how many times its own size a file may inflate to, and leave in quarantine/; 16 MiB are "
        "always allowed",
        env="max_amplification",
        unit="times",
        ge=1,
    )
    max_quarantined_rows: int = _setting(
        1_000_000,
        "a file of which more rows are rejected is refused as a whole, if they are also more than "
        "`max_quarantined_share` of it",
        env="max_quarantined_rows",
        unit="rows",
        ge=0,
    )
    max_quarantined_bytes: int = _setting(
        2**30,
        "a file whose rejected rows take more in quarantine/ is refused, if they also take more "
        "than ten times `max_quarantined_share` of its text",
        env="max_quarantined_bytes",
        unit="bytes",
        ge=0,
    )
    max_quarantined_share: float = _setting(
        0.1,
        "the share of a file, by rows or by bytes, that may be rejected whatever its size: a large "
        "file is not refused for a few bad rows in a hundred",
        env="max_quarantined_share",
        unit="share",
        ge=0,
        le=1,
    )
    max_malformed_share: float = _setting(
        0.5,
        "a file is refused once 10,000 rows or more were read, and more than this share of them "
        "cannot be split into fields, or have neither a sensor nor a time",
        env="max_malformed_share",
        unit="share",
        ge=0,
        le=1,
    )
    max_places: int = _setting(
        50_000,
        "a file whose valid rows name more sensors, or more places, is refused",
        env="max_places",
        unit="places",
        ge=1,
    )
    file_seconds: float = _setting(
        5.0,
        "processor time that any file may take",
        env="file_seconds",
        unit="seconds",
        gt=0,
    )
    file_seconds_per_mb: float = _setting(
        2.0,
        "and so much more for each MiB of its text; a file that takes more is refused",
        env="file_seconds_per_mb",
        unit="seconds",
        ge=0,
    )


class ArchiveSettings(Section):
    """What becomes of files once their rows are committed."""

    policy: Literal["keep", "gzip", "delete"] = _setting(
        "keep",
        "what becomes of a loaded file: kept as it is, compressed, or deleted",
        env="archive_policy",
    )
    keep_days: int | None = _setting(
        None,
        "days after which archived files are deleted, a share a day; unset: never",
        env="archive_keep_days",
        unit="days",
        example="365",
        ge=1,
    )


class MetricsSettings(Section):
    """The port by which a monitoring system watches the daemon."""

    port: int | None = _setting(
        None,
        "port of /metrics, /healthz and /readyz; unset: none is opened",
        env="metrics_port",
        example="9464",
        ge=1,
        le=65535,
    )
    host: str = _setting(
        "127.0.0.1", "address that the metrics port listens on", env="metrics_host"
    )


class LogSettings(Section):
    """What is written to `logs/`."""

    level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "least level that is logged", env="log_level"
    )


class SmtpSettings(Section):
    """The mail server that sends reports, and from whom to whom."""

    host: str | None = _setting(
        None,
        "mail server that sends reports; unset: none is sent",
        env="smtp_host",
        example='"mail.example.org"',
    )
    port: int | None = _setting(
        None,
        "its port; unset: 587 for starttls, 465 for tls, 25 for none",
        env="smtp_port",
        example="587",
        ge=1,
        le=65535,
    )
    security: Literal["starttls", "tls", "none"] = _setting(
        "starttls",
        "how mail is kept from others on its way to the server; none only where the server is on "
        "this machine",
        env="smtp_security",
    )
    user: str | None = _setting(
        None,
        "name to log in with there; unset: no login",
        env="smtp_user",
        example='"air@example.org"',
    )
    password: SecretStr | None = _setting(
        None, "password to log in with there", env="smtp_password", example='"secret"'
    )
    sender: str | None = _setting(
        None,
        "address that reports are sent from",
        env="mail_from",
        example='"air@example.org"',
    )
    recipients: str | None = _setting(
        None,
        "addresses that reports are sent to, with commas between them",
        env="mail_to",
        example='"one@example.org, two@example.org"',
    )


class RangeOverride(Section):
    """A site's own ranges for one quantity, in the stored unit."""

    accept: Range | None = Field(None, description="lowest and highest accepted value")
    typical: Range | None = Field(None, description="accepted values outside are flagged suspect")


class ContractSettings(Section):
    """What a site changes in the contract, without code."""

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
