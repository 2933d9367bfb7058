"""The page of benchmarks says what was measured, all of it."""

from __future__ import annotations

import pytest

from benchmarks import page
from benchmarks.comparisons import COMPARISONS
from benchmarks.figures import Figure, load

KEPT = load()
PAGE = page.PAGE.read_text(encoding="utf-8")


def test_every_comparison_was_measured_or_is_named_as_missing() -> None:
    assert set(KEPT) <= set(COMPARISONS)
    missing = [name for name in COMPARISONS if name not in KEPT]
    told = PAGE.partition("Not measured yet: ")[2].partition(".\n")[0]
    assert told == ", ".join(f"`{name}`" for name in missing)


@pytest.mark.parametrize("figure", KEPT.values(), ids=KEPT)
def test_every_figure_is_on_the_page(figure: Figure) -> None:
    (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| {figure.what} |"))
    assert f"**{page.shown(figure)}**" in row
    assert ("missed" in row) == (figure.reached is False)
    assert figure.reached is not False or figure.what in PAGE.partition("![")[0]


@pytest.mark.parametrize(
    ("value", "target", "at_least", "reached"),
    [(0.7, 0.75, False, True), (0.8, 0.75, False, False), (0.95, 0.9, True, True)],
)
def test_a_target_is_a_bound(value: float, target: float, at_least: bool, reached: bool) -> None:
    assert Figure("x", "x", value, target, at_least).reached is reached
