"""Runs: where, in columns that are sorted together, one value ends and the next begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records import Ints


def run_starts(*keys: npt.NDArray[Any]) -> Ints:
    """Return where each run of rows with equal keys starts, of columns of the same length.

    Rows belong together when they are neighbours, so sorted columns give each value once.
    """
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changed = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.concatenate([[0], np.flatnonzero(changed) + 1])


def run_sizes(starts: Ints, total: int) -> Ints:
    """Return how many rows each run has, of `total` rows."""
    return np.diff(np.append(starts, total))
