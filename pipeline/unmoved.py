"""Unmoved: refused files that could not be moved out of `data/`, so that only the move is repeated.

What was refused for a limit is read anew when it comes again, since a setting may be another by
then. A file that still lies there, with quarantine/ full, say, would be read and refused at every
scan. Remembered in memory only: a new process reads it once more.
"""

from __future__ import annotations

from collections.abc import Hashable

_MOST = 10_000


class Unmoved:
    """Ledger entries of refused files that are still in `data/`, with what refused them."""

    def __init__(self) -> None:
        self._limits: dict[int, Hashable] = {}

    def remember(self, file_id: int, limits: Hashable) -> None:
        """Note that a refused file could not be moved; the oldest gives way if there are many.

        Args:
            file_id: its number in the ledger.
            limits: what was in force.
        """
        self._limits.pop(file_id, None)
        if len(self._limits) >= _MOST:
            del self._limits[next(iter(self._limits))]
        self._limits[file_id] = limits

    def forget(self, file_id: int) -> None:
        """Note that it was moved: if it comes again, it is read again."""
        self._limits.pop(file_id, None)

    def under(self, limits: Hashable) -> frozenset[int]:
        """Return the numbers of those that these limits refused."""
        return frozenset(number for number, each in self._limits.items() if each == limits)
