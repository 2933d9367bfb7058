"""What a header line says: which dialect, which columns, which sensor models.

A file is dispatched on its header, never on its name. Two dialects exist: the archive's
(`sensor_type` is a column) and Sofia's (it is not; an unnamed row index may come first). Either
may be separated by comma, semicolon or tab, since people save files again.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from pipeline.contract import KEY_COLUMNS, Contract, Model, Reason
from pipeline.contract.models import NOT_STORED
from pipeline.errors import FileRefused

Dialect = Literal["archive", "sofia"]

_DELIMITERS = (";", ",", "\t")


@dataclass(frozen=True)
class Header:
    """A recognised header.

    Attributes:
        line: the header line as it stands in the file, without its line end.
        delimiter: the character between fields.
        dialect: `archive` or `sofia`.
        names: every column in file order, spelled as the contract spells it; unnamed or unknown
            columns keep the file's name, made unique.
        models: the sensor models whose core columns are all there. For the Sofia dialect exactly
            one: the model that explains the header best.
    """

    line: str
    delimiter: str
    dialect: Dialect
    names: tuple[str, ...]
    models: tuple[Model, ...]

    @cached_property
    def readings(self) -> frozenset[str]:
        """The columns that carry readings, of whatever model."""
        return frozenset(name for model in self.models for name in model.columns)


# Thousands of files share a header.
@lru_cache(maxsize=256)
def recognise(line: str, contract: Contract) -> Header:
    """Read a header line.

    Args:
        line: the first line of a file, decoded, without byte order mark and line end.
        contract: the models in force.

    Raises:
        FileRefused: rule `unknown_header` or `not_stored`, with what is missing.
    """
    delimiter = max(_DELIMITERS, key=line.count)
    try:
        found = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        found = line.split(delimiter)
    names = _canonical([name.strip() for name in found], contract)
    present = set(names)
    missing_keys = [name for name in KEY_COLUMNS if name not in present]
    matching = [model for model in contract.models.values() if present.issuperset(model.columns)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if missing_keys or not matching or repeated:
        _refuse_if_not_stored(names)
        raise FileRefused("unknown_header", _unknown(line, names, missing_keys, repeated, contract))
    if "sensor_type" in present:
        return Header(line, delimiter, "archive", names, tuple(matching))
    # `max` takes the first of equals, and the contract lists the most widespread model first.
    best = max(matching, key=lambda model: len(present.intersection(model.columns)))
    return Header(line, delimiter, "sofia", names, (best,))


def header_again(line: bytes) -> Reason | None:
    """Return the reason if a line is a header in the middle of a file, else None."""
    lower = line.lower()
    if b"sensor_id" in lower and b"timestamp" in lower:
        message = "the line is a header in the middle of the file: two files were joined"
        return Reason("repeated_header", message)
    return None


def _canonical(found: list[str], contract: Contract) -> tuple[str, ...]:
    spelling = {name.lower(): name for name in (*KEY_COLUMNS, "sensor_type", *NOT_STORED)}
    for model in contract.models.values():
        spelling.update({name.lower(): name for name in (*model.columns, *model.other)})
    # Unnamed columns (Sofia's row index is one) need distinct names to be told apart.
    return tuple(
        spelling.get(name.lower(), name) or f"unnamed_{position}"
        for position, name in enumerate(found, start=1)
    )


def _refuse_if_not_stored(names: tuple[str, ...]) -> None:
    for name in names:
        if kind := NOT_STORED.get(name):
            message = (
                f"this is a file of {kind} measurements (column '{name}'); "
                "only particulate matter, temperature, humidity and pressure are stored"
            )
            raise FileRefused("not_stored", message)


def _unknown(
    line: str,
    names: tuple[str, ...],
    missing_keys: list[str],
    repeated: list[str],
    contract: Contract,
) -> str:
    shown = line if len(line) <= 200 else line[:200] + "…"
    if repeated:
        columns = ", ".join(f"'{name}'" for name in repeated)
        return f"the header names a column twice: {columns}; found: {shown!r}"
    present = set(names)

    def distance(model: Model) -> tuple[int, int]:
        wanted = set(model.columns)
        return len(wanted - present), -len(wanted & present)

    nearest = min(contract.models.values(), key=distance)
    missing = missing_keys + [name for name in nearest.columns if name not in present]
    if len(missing) == len(KEY_COLUMNS) + len(nearest.columns):
        return (
            "the first line is not a header of air-quality readings; found: "
            f"{shown!r}; expected columns such as {', '.join(KEY_COLUMNS)}, P1, P2"
        )
    columns = ", ".join(f"'{name}'" for name in missing)
    return (
        f"no known sensor model has this header; the nearest is {nearest.name.upper()}, "
        f"for which {columns} is missing; found: {shown!r}"
    )
