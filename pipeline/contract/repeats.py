"""Repeats: which of several readings with the same sensor and time is kept. The one rule.

A raw table holds one reading for each key: sensor and time. Of all rows that ever come with a key,
in the order of files, and of lines within a file:

1. What is stored already is kept, whatever comes. Where nothing is stored, the first row is kept.
2. A later row that says the same as what is kept is a duplicate: it is counted, and no more.
3. A later row that says otherwise is a conflict: it is rejected, and named in quarantine.

Two rows say the same when each quantity that the later row's sensor model measures has the same
value in both, as it is stored (a 32-bit float), or is empty in both. A model says nothing of
quantities that it does not measure; what the kept row has of these is not looked at. A value that
the kept row's model does not measure counts as empty there. Place and flags are not compared.

What is kept depends on nothing but what came first, so later rows may be looked at in any order,
and what repeats a conflict is compared with what is kept, not with the conflict.

This module is the specification. It is applied by `core.normalise` to the rows of a block (NumPy),
and by `store.load` to what is stored (SQL); tests hold both, and the tests' oracle, to it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Quantity → its value; None where it is empty. What a model does not measure is left out.
Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What becomes of rows with the same key, by their positions.

    Attributes:
        kept: the row that is stored; None when the key is stored already.
        duplicates: those that say the same as what is kept.
        conflicts: those that say otherwise.
    """

    kept: int | None
    duplicates: tuple[int, ...]
    conflicts: tuple[int, ...]


def resolve(rows: Sequence[Values], stored: Values | None = None) -> Resolved:
    """Apply the rule to rows with the same key.

    Args:
        rows: the rows in their order; at least one, unless something is stored.
        stored: what is stored under the key; None if nothing is.
    """
    kept = 0 if stored is None and rows else None
    stays = rows[0] if stored is None and rows else stored
    duplicates: list[int] = []
    conflicts: list[int] = []
    for position, row in enumerate(rows):
        if position == kept or stays is None:
            continue
        (duplicates if says_the_same(row, stays) else conflicts).append(position)
    return Resolved(kept, tuple(duplicates), tuple(conflicts))


def says_the_same(row: Values, kept: Values) -> bool:
    """Return whether a row repeats what is kept, in all that its sensor model measures."""
    return all(as_stored(value) == as_stored(kept.get(name)) for name, value in row.items())


def as_stored(value: float | None) -> float | None:
    """Return a value as the database holds it: as a 32-bit float; NaN is no value."""
    if value is None or value != value:  # NaN alone differs from itself
        return None
    single: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return single
