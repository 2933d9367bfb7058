"""Bounds: what one file may cost, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pipeline.config import LimitSettings

MIB = 2**20
# However small a file is, it may inflate to this much, and leave this much in quarantine.
ALWAYS_ALLOWED = 16 * MIB


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one file may cost. The settings of the same names in `[limits]` say what each is for."""

    file_seconds: float = 5.0
    file_seconds_per_mb: float = 2.0
    max_amplification: int = 200
    max_malformed_share: float = 0.5
    max_quarantined_rows: int = 1_000_000
    max_quarantined_bytes: int = 2**30
    max_quarantined_share: float = 0.1
    max_places: int = 50_000

    @classmethod
    def of(cls, settings: LimitSettings) -> Self:
        """Return those of a site."""
        return cls(**{name: getattr(settings, name) for name in cls.__slots__})
