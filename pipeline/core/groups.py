"""Groups: where one value ends and the next begins in sorted columns; statistics joined by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.records import Columns, Ints


def group_starts(*keys: npt.NDArray[Any]) -> Ints:
    """Return where each group of rows with equal keys starts, of columns of the same length.

    Rows belong together when they are neighbours, so sorted columns give each value once.
    """
    if not len(keys[0]):
        return np.zeros(0, np.int64)
    changed = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return np.concatenate([[0], np.flatnonzero(changed) + 1])


def group_sizes(starts: Ints, total: int) -> Ints:
    """Return how many rows each group has, of `total` rows."""
    return np.diff(np.append(starts, total))


def join_groups(statistics: Columns, starts: Ints) -> Columns:
    """Join statistics of disjoint readings: one row for each group.

    Args:
        statistics: `n`, `min`, `max`, `mean` and `m2` of each, as `core.aggregate` has them.
        starts: where each group starts.
    """
    n, mean = statistics["n"], statistics["mean"]
    total = np.add.reduceat(n, starts)
    centre = np.add.reduceat(n * mean, starts) / total
    drift = mean - np.repeat(centre, group_sizes(starts, len(n)))
    return {
        "n": total,
        "min": np.minimum.reduceat(statistics["min"], starts),
        "max": np.maximum.reduceat(statistics["max"], starts),
        "mean": centre,
        "m2": np.add.reduceat(statistics["m2"] + n * drift * drift, starts),
    }
