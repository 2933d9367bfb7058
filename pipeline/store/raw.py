"""The raw tables by name, for statements that are made for each of them."""

from __future__ import annotations

from typing import get_args

from pipeline.contract.quantities import QUANTITIES, Table

RAW_TABLES: tuple[Table, ...] = get_args(Table)


def cells(table: Table) -> str:
    """Return the names and values of a raw table's quantities, for `VALUES` beside `… AS raw`."""
    names = [quantity.name for quantity in QUANTITIES if quantity.table == table]
    return ", ".join(f"('{name}', raw.{name})" for name in names)
