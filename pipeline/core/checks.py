"""Checks: how long loops over rows ask now and then whether they may go on.

What a file may cost is decided by the caller: its `check` raises when that is spent, or when the
program is to stop, and so ends the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

_EACH_TIME = 1024


class TooManyReasons(Exception):  # a finding, not an error: the block is cut and judged in pieces
    """The rows of a block are rejected for so many different reasons that they fill the memory.

    Args:
        reasons: how many there are, roughly.
    """

    def __init__(self, reasons: int) -> None:
        super().__init__(f"{reasons:,} different reasons")
        self.reasons = reasons


def nothing() -> None:
    """Stand in for a check where a file has no budget."""


def watched(items: Iterable[T], check: Callable[[], None]) -> Iterator[T]:
    """Yield items, and call `check` at every 1,024th: what it raises ends the loop."""
    every = iter(items)
    while some := list(islice(every, _EACH_TIME)):
        check()
        yield from some
