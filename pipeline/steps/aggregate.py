"""Aggregate: count, minimum, maximum, mean and spread of readings, in a form that merges exactly.

Everything is computed from the 32-bit values as they are stored, in 64-bit arithmetic, so that it
equals a recompute from the raw tables. The spread is kept as `m2`, the sum of squared deviations
from the mean: two groups merge without their rows (Chan, Golub and LeVeque 1979), and the sample
standard deviation is sqrt(m2 / (n − 1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.contract.quantities import QUANTITIES
from pipeline.records import Floats, Ints, Readings
from pipeline.runs import run_sizes, run_starts

HOUR = 3_600_000_000  # µs
STATISTICS = ("n", "min", "max", "mean", "m2")
# Numbers instead of words while they are compared.
_QUANTITIES = pd.CategoricalDtype(sorted(quantity.name for quantity in QUANTITIES))


def hourly(readings: Readings) -> pd.DataFrame:
    """Return one row for each sensor, quantity and UTC hour.

    Columns: `sensor_id` (int32), `quantity` (categorical), `hour` (datetime64[us], UTC), `n`
    (int64), `min`, `max` (float32), `mean`, `m2` (float64).
    """
    frame = readings.frame
    hour = frame["ts"].to_numpy().view(np.int64) // HOUR
    found = _grouped(readings, [frame["sensor_id"].to_numpy(), hour])
    found["hour"] = (found.pop("key_1") * HOUR).astype("datetime64[us]")
    return found.rename(columns={"key_0": "sensor_id"})


def by_file(readings: Readings) -> pd.DataFrame:
    """Return one row for each file, sensor and quantity.

    Columns: `file` (int64), `sensor_id` (int32), `quantity` (categorical) and as in `hourly` from
    `n` on.
    """
    frame = readings.frame
    found = _grouped(readings, [frame["file"].to_numpy(), frame["sensor_id"].to_numpy()])
    return found.rename(columns={"key_0": "file", "key_1": "sensor_id"})


@dataclass(frozen=True, slots=True)
class Span:
    """What a file brought.

    Attributes:
        file: the file's position in the batch.
        rows: how many readings.
        first: the earliest time of a reading, in UTC.
        last: the latest.
        models: the sensors' models.
    """

    file: int
    rows: int
    first: datetime
    last: datetime
    models: frozenset[str]


def spans(readings: Readings) -> list[Span]:
    """Return what each file brought."""
    file, sensor, ts = (readings.frame[name].to_numpy() for name in ("file", "sensor_id", "ts"))
    if not len(file):
        return []
    if (file[1:] < file[:-1]).any():
        order = np.argsort(file, kind="stable")
        file, sensor, ts = file[order], sensor[order], ts[order]
    # Of a file's readings, those of a sensor are neighbours, by time.
    starts = run_starts(file, sensor)
    ends = starts + run_sizes(starts, len(file)) - 1
    found: dict[int, Span] = {}
    for of, number, rows, first, last in zip(
        file[starts].tolist(),
        sensor[starts].tolist(),
        (ends - starts + 1).tolist(),
        ts[starts].tolist(),
        ts[ends].tolist(),
        strict=True,
    ):
        first, last = first.replace(tzinfo=UTC), last.replace(tzinfo=UTC)
        span = Span(of, rows, first, last, frozenset([readings.models[number]]))
        found[of] = _both(found[of], span) if of in found else span
    return list(found.values())


def _both(one: Span, other: Span) -> Span:
    return Span(
        one.file,
        one.rows + other.rows,
        min(one.first, other.first),
        max(one.last, other.last),
        one.models | other.models,
    )


def merge(parts: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Merge statistics of disjoint rows: one row for each value of `keys`."""
    every = pd.concat(parts, ignore_index=True)
    by = [_as_integers(every[key]) for key in keys]
    order = np.lexsort(by[::-1])
    starts = run_starts(*(key[order] for key in by))
    if len(starts) == len(every):
        return every
    merged = every.loc[order[starts], [*keys]].reset_index(drop=True)
    n, low, high, mean, m2 = (every[name].to_numpy()[order] for name in STATISTICS)
    merged["n"] = np.add.reduceat(n, starts)
    merged["min"] = np.minimum.reduceat(low, starts)
    merged["max"] = np.maximum.reduceat(high, starts)
    merged["mean"] = np.add.reduceat(n * mean, starts) / merged["n"].to_numpy()
    sizes = run_sizes(starts, len(every))
    drift = mean - np.repeat(merged["mean"].to_numpy(), sizes)
    merged["m2"] = np.add.reduceat(m2 + n * drift * drift, starts)
    return merged


class Running:
    """Statistics that grow block by block and stay small.

    Args:
        keys: the columns that tell one group from another.
        enough: how many rows may be held before they are merged.
    """

    def __init__(self, keys: Sequence[str], enough: int = 100_000) -> None:
        self._keys = keys
        self._enough = enough
        self._parts: list[pd.DataFrame] = []
        self._held = 0

    def add(self, part: pd.DataFrame) -> None:
        """Add the statistics of further rows."""
        if not len(part):
            return
        self._parts.append(part)
        self._held += len(part)
        if self._held > self._enough:
            self._parts = [merge(self._parts, self._keys)]
            self._held = len(self._parts[0])

    @property
    def full(self) -> bool:
        """Whether merging was of no help: there are more groups than `enough`."""
        return self._held > self._enough

    def take(self) -> pd.DataFrame:
        """Return what was added, merged, and start anew."""
        parts, self._parts, self._held = self._parts, [], 0
        return merge(parts, self._keys) if parts else pd.DataFrame()


def _grouped(readings: Readings, keys: list[npt.NDArray[np.integer]]) -> pd.DataFrame:
    if not len(readings.frame):
        none = pd.Categorical([], dtype=_QUANTITIES)
        empty = {"key_0": keys[0], "key_1": keys[1], "quantity": none}
        return pd.DataFrame({**empty, **{name: [] for name in STATISTICS}})
    order: Ints | None = None
    if _unsorted(keys):
        order = np.lexsort(keys[::-1])
        keys = [key[order] for key in keys]
    starts = run_starts(*keys)
    sizes = run_sizes(starts, len(keys[0]))
    parts = []
    for name in readings.quantities:
        values = readings.frame[name].to_numpy()
        statistics = _statistics(values if order is None else values[order], starts, sizes)
        some = statistics["n"].astype(bool)
        columns = {"key_0": keys[0][starts], "key_1": keys[1][starts], **statistics}
        part = pd.DataFrame({key: column[some] for key, column in columns.items()})
        codes = np.full(len(part), _QUANTITIES.categories.get_loc(name))
        named = pd.Categorical.from_codes(codes, dtype=_QUANTITIES)
        part.insert(2, "quantity", pd.Series(named))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _as_integers(column: pd.Series) -> npt.NDArray[np.integer]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes: npt.NDArray[np.integer] = column.cat.codes.to_numpy()
        return codes
    values = column.to_numpy()
    return values.view(np.int64) if values.dtype.kind == "M" else values


def _unsorted(keys: list[npt.NDArray[np.integer]]) -> bool:
    first, second = keys
    return bool(
        np.any((first[1:] < first[:-1]) | ((first[1:] == first[:-1]) & (second[1:] < second[:-1])))
    )


def _statistics(
    values: npt.NDArray[np.float32], starts: Ints, sizes: Ints
) -> dict[str, npt.NDArray[np.generic]]:
    wide: Floats = values.astype(np.float64)
    present = ~np.isnan(wide)
    n = np.add.reduceat(present.astype(np.int64), starts)
    # An empty value adds nothing to a sum, and fmin and fmax pass it over.
    total = np.add.reduceat(np.where(present, wide, 0.0), starts)
    mean = total / np.maximum(n, 1)
    deviation = np.where(present, wide - np.repeat(mean, sizes), 0.0)
    return {
        "n": n,
        "min": np.fmin.reduceat(values, starts),
        "max": np.fmax.reduceat(values, starts),
        "mean": mean,
        "m2": np.add.reduceat(deviation * deviation, starts),
    }
