"""Figures: what a comparison found, kept in a file, so that parts can be measured anew alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

KEPT = Path(__file__).parents[1] / "docs" / "benchmarks.json"


@dataclass(slots=True)
class Figure:
    """What one comparison found.

    Attributes:
        name: of the comparison.
        what: what was compared, in words.
        value: the figure.
        target: what it should be at most, or at least.
        at_least: whether the target is a lower bound.
        unit: of the figure: `×` for a ratio, else for example `s` or `MiB`.
        ours: our seconds, run by run.
        theirs: the seconds of what ours was compared with, run by run.
        note: what else is worth knowing.
        when: the day it was measured.
        load: the machine's load average when it began.
        stages: seconds a stage, of our median run.
    """

    name: str
    what: str
    value: float
    target: float | None
    at_least: bool = False
    unit: str = "×"
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    note: str = ""
    when: str = ""
    load: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Return our median over theirs."""
    return median(ours) / median(theirs)


def load() -> dict[str, Figure]:
    """Return the figures kept so far, by name."""
    if not KEPT.exists():
        return {}
    kept: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8"))
    return {entry["name"]: Figure(**entry) for entry in kept}


def keep(figures: dict[str, Figure]) -> None:
    """Keep figures for the page."""
    text = json.dumps([asdict(figure) for figure in figures.values()], indent=1, ensure_ascii=False)
    KEPT.write_text(text + "\n", encoding="utf-8")
