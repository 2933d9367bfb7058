"""What to simulate, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from pipeline.contract.header import Dialect

Outcome = Literal["quarantined", "duplicate", "no row"]

# (column, rule) for each broken cell, in the order of the file's columns. The column is None when
# the row as a whole is meant, and `lat,lon` for the place.
Reasons = tuple[tuple[str | None, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What to simulate.

    Attributes:
        sensors: how many sensors of each model; those of different models share their stations.
        start: the first day, in UTC.
        days: how many days. Does not matter when `rows` is set.
        dialect: `sofia` (a file a month and model) or `archive` (a file a day and sensor).
        models: names of sensor models, as the contract spells them.
        seed: everything random derives from it.
        fault_rate: which fraction of the data lines is faulty, at most a half.
        faults: keys of `FAULT_KINDS` to choose from; empty for all.
        index_column: whether Sofia files start with their unnamed row index.
        gzip: whether to compress the files.
        rows: stop after so many clean rows of each model, however many days that takes. Lines
            that faults put in (repeated ones, say) come on top.
    """

    sensors: int = 20
    start: date = date(2018, 1, 1)
    days: int = 1
    dialect: Dialect = "sofia"
    models: tuple[str, ...] = ("sds011", "bme280")
    seed: int = 1
    fault_rate: float = 0.0
    faults: tuple[str, ...] = ()
    index_column: bool = True
    gzip: bool = False
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A faulty line, and what the pipeline has to make of it.

    Attributes:
        line: its number in the file; the header is line 1.
        kind: a key of `FAULT_KINDS`.
        outcome: `quarantined`, `duplicate` (counted, and otherwise ignored), or `no row` (not
            even counted).
        reasons: what the pipeline has to report.
    """

    line: int
    kind: str
    outcome: Outcome
    reasons: Reasons


@dataclass(frozen=True, slots=True)
class SimulatedFile:
    """A file that was written.

    Attributes:
        path: where it is.
        rows: its data lines, the faulty ones included, but for those that are no rows.
        faults: the faulty lines, from the first to the last.
    """

    path: Path
    rows: int
    faults: list[Fault]
