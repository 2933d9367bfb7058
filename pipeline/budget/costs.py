"""Costs: what the files of one transaction bring and leave behind, each held to its bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.budget.bounds import Bounds
from pipeline.budget.named import Named
from pipeline.budget.rejected import Tally, rejected_of
from pipeline.core.rejected import Rejected
from pipeline.errors import FileRefused

if TYPE_CHECKING:
    import pandas as pd


class Costs:
    """What the files of one transaction bring and leave behind, counted as it grows.

    Args:
        bounds: what one file may cost.
        sizes: the bytes of each file, by its position.
        refused: file → why it is refused; added to before a refusal is raised.
    """

    def __init__(
        self, bounds: Bounds, sizes: Sequence[int], refused: dict[int, FileRefused]
    ) -> None:
        self._refused = refused
        self._tallies = [Tally(bounds, size) for size in sizes]
        self._named = Named(bounds.max_places)

    def rejected(self, read: Mapping[int, int], rejected: Rejected, text: int = 0) -> None:
        """Count the rows of a block.

        Args:
            read: file → how many of its rows were read.
            rejected: those that are rejected, by file and line.
            text: bytes of the block. Files that share one are small: of those it is not needed.

        Raises:
            FileRefused: one of the files leaves more in quarantine than it may.
        """
        own_text = text if len(read) == 1 else 0
        for file, own in rejected_of(rejected, read):
            try:
                self._tallies[file].add(read[file], own, own_text)
            except FileRefused as refusal:
                self._refused[file] = refusal
                raise

    def named(self, frame: pd.DataFrame) -> None:
        """Count the sensors and places of valid rows, repeated ones too.

        Args:
            frame: the rows, as in `Readings`.

        Raises:
            FileRefused: one file names more than it may.
        """
        if refused := self._named.add(frame):
            self._refused |= refused
            raise next(iter(refused.values()))
