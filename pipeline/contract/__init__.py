"""The contract: what a valid reading is, declared once.

Quantities (unit, accepted and typical range) and sensor models (file columns → quantities) are
declared here and nowhere else. The pandera schemas, the normalisation, the raw tables' columns,
the documentation's table and the simulator all derive from this room. A site may override ranges
and add models in its settings; `Contract.version` is a hash of what is in force, and every ledger
row names it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from math import isfinite
from typing import Any

from pipeline.contract.models import MODELS, Model
from pipeline.contract.quantities import QUANTITIES, Quantity, Table
from pipeline.contract.rules import FILE_RULES, ROW_RULES, Reason
from pipeline.errors import ConfigurationError

__all__ = [
    "EARLIEST",
    "FILE_RULES",
    "KEY_COLUMNS",
    "LATEST_AHEAD_DAYS",
    "MAX_ID",
    "PARTIAL",
    "PLACE_UNKNOWN",
    "ROW_RULES",
    "Contract",
    "Model",
    "Quantity",
    "Reason",
    "Table",
    "flag_bits",
]

# Every file of either dialect carries these; `sensor_type` comes with the archive's only.
KEY_COLUMNS = ("sensor_id", "location", "lat", "lon", "timestamp")

# A reading is known by (sensor_id, ts). Its time must lie between these, both in UTC.
EARLIEST = datetime(2010, 1, 1, tzinfo=UTC)
LATEST_AHEAD_DAYS = 1

# Sensor and location ids are PostgreSQL integers.
MAX_ID = 2**31 - 1

# Bit 0 of a raw row's `flags`: the file gave no coordinates. The other bits follow, one a quantity.
PLACE_UNKNOWN = 1

# The highest bit that a smallint has: a reading that the sensor model has is empty.
PARTIAL = 1 << 14

# Raise this when the meaning of a rule changes without a change of the declarations.
_RULES_REVISION = 2


def flag_bits(table: Table) -> dict[str, int]:
    """Return quantity → the bit of `flags` that marks its value as suspect, for one raw table."""
    names = [quantity.name for quantity in QUANTITIES if quantity.table == table]
    return {name: 1 << (position + 1) for position, name in enumerate(names)}


@dataclass(frozen=True)
class Contract:
    """The quantities and models in force.

    Attributes:
        quantities: name → quantity.
        models: name (lower case) → sensor model, in order of precedence.
        partial: the models of which a row is accepted that lacks some core readings, not all.
    """

    quantities: Mapping[str, Quantity]
    models: Mapping[str, Model]
    partial: frozenset[str] = frozenset()

    @classmethod
    def default(cls) -> Contract:
        """Return the contract as published, without any site's overrides."""
        return cls(
            {quantity.name: quantity for quantity in QUANTITIES},
            {model.name: model for model in MODELS},
        )

    @classmethod
    def with_overrides(
        cls,
        ranges: Mapping[str, Mapping[str, tuple[float, float]]],
        models: Mapping[str, Mapping[str, str]],
        partial: Iterable[str] | None = (),
    ) -> Contract:
        """Return the published contract changed by a site's settings.

        Args:
            ranges: quantity → {"accept": (low, high), "typical": (low, high)}, either or both, in
                the stored unit.
            models: new or changed sensor model → {file column: quantity}.
            partial: the models of which rows without some core readings are accepted; None for all.

        Raises:
            ConfigurationError: an unknown quantity or model, an empty range or a model without a
                quantity.
        """
        base = cls.default()
        quantities = dict(base.quantities)
        for name, change in ranges.items():
            key = f"contract.ranges.{name}"
            quantities[name] = _changed(_known(quantities, name, key), change, key)
        known = dict(base.models)
        for name, columns in models.items():
            key = f"contract.models.{name}"
            known[name.lower()] = _own_model(name.lower(), columns, quantities, known, key)
        if partial is None:
            return cls(quantities, known, frozenset(known))
        chosen = frozenset(name.lower() for name in partial)
        if unknown := sorted(chosen - known.keys()):
            message = f"contract.partial_models: '{unknown[0]}' is not a known sensor model"
            raise ConfigurationError(message)
        return cls(quantities, known, chosen)

    def __hash__(self) -> int:
        return hash(self.version)

    @cached_property
    def version(self) -> str:
        """First 12 hex digits of the SHA-256 of everything that decides what is accepted."""
        declared: dict[str, Any] = {
            "revision": _RULES_REVISION,
            "earliest": EARLIEST.isoformat(),
            "latest_ahead_days": LATEST_AHEAD_DAYS,
            "quantities": [asdict(self.quantities[name]) for name in sorted(self.quantities)],
            "models": [
                [
                    *(m.name, dict(m.columns), {c: list(v) for c, v in m.sentinels.items()}),
                    list(m.optional),
                ]
                for m in self.models.values()
            ],
            "partial": sorted(self.partial),
        }
        text = json.dumps(declared, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def table_of(self, model: Model) -> Table:
        """Return the raw table that the model's readings go to."""
        return self.quantities[next(iter(model.columns.values()))].table

    def sentinels_of(self, model: Model, column: str) -> tuple[float, ...]:
        """Return the numbers that mean "no reading" in a column of a model, in the file's unit."""
        quantity = self.quantities[model.columns[column]]
        return quantity.sentinels + tuple(model.sentinels.get(column, ()))


def _changed(quantity: Quantity, change: Mapping[str, tuple[float, float]], key: str) -> Quantity:
    for name, (low, high) in change.items():
        # Infinity marks what is not a number, so no range may reach it.
        if not (low < high and isfinite(low) and isfinite(high)):
            message = f"{key}.{name}: {low:g} is not below {high:g}, or one has no end"
            raise ConfigurationError(message)
    least, most = accept = change.get("accept", quantity.accept)
    low, high = change.get("typical", quantity.typical)
    if "typical" in change and not least <= low < high <= most:
        message = f"{key}.typical: must lie within accept, {least:g} to {most:g}"
        raise ConfigurationError(message)
    # What is typical, but no longer accepted, could not be met.
    low, high = max(low, least), min(high, most)
    return replace(quantity, accept=accept, typical=(low, high) if low < high else accept)


def _own_model(
    name: str,
    columns: Mapping[str, str],
    quantities: Mapping[str, Quantity],
    known: Mapping[str, Model],
    key: str,
) -> Model:
    if not columns:
        message = f"{key}: names no column"
        raise ConfigurationError(message)
    # Headers are read whatever their case, so a column has one spelling for all models.
    spelling = {c.lower(): c for model in known.values() for c in (*model.columns, *model.other)}
    own: dict[str, str] = {}
    for column, target in columns.items():
        _known(quantities, target, f"{key}.{column}")
        if column.lower() in {*KEY_COLUMNS, "sensor_type"}:
            message = f"{key}.{column}: every file has this column for something else"
            raise ConfigurationError(message)
        own[spelling.get(column.lower(), column)] = target
    if len({quantities[target].table for target in own.values()}) > 1:
        message = f"{key}: a model is either particulate or climate, and these columns are of both"
        raise ConfigurationError(message)
    if len({column.lower() for column in own}) < len(columns):
        message = f"{key}: two columns differ only in their case"
        raise ConfigurationError(message)
    if len(set(own.values())) < len(own):
        message = f"{key}: two columns carry the same quantity"
        raise ConfigurationError(message)
    before = known.get(name, Model(name, own))
    codes = {column: codes for column, codes in before.sentinels.items() if column in own}
    return Model(name, own, before.other, codes)


def _known(quantities: Mapping[str, Quantity], name: str, key: str) -> Quantity:
    try:
        return quantities[name]
    except KeyError:
        known = ", ".join(quantities)
        message = f"{key}: '{name}' is not a quantity; known are {known}"
        raise ConfigurationError(message) from None
