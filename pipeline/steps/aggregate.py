"""Aggregate: count, minimum, maximum, mean and spread of readings, in a form that merges exactly.

Everything is computed from the 32-bit values as they are stored, in 64-bit arithmetic, so that it
equals a recompute from the raw tables. The spread is kept as `m2`, the sum of squared deviations
from the mean: two groups merge without their rows (Chan, Golub and LeVeque 1979), and the sample
standard deviation is sqrt(m2 / (n − 1)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.contract.quantities import QUANTITIES
from pipeline.records import Floats, Ints, Readings, Span
from pipeline.runs import run_sizes, run_starts

HOUR = 3_600_000_000  # µs
BY_FILE = ("file", "sensor_id", "quantity")
HOURLY = ("sensor_id", "quantity", "hour")
STATISTICS = ("n", "min", "max", "mean", "m2")
# Numbers instead of words while they are compared.
_QUANTITIES = pd.CategoricalDtype(sorted(quantity.name for quantity in QUANTITIES))


@dataclass(frozen=True, slots=True)
class Summary:
    """What readings amount to.

    Attributes:
        spans: what each file brought.
        by_file: one row for each file, sensor and quantity: `file` (int64), `sensor_id` (int32),
            `quantity` (categorical), `n` (int64), `min`, `max` (float32), `mean`, `m2` (float64).
        hourly: one row for each sensor, quantity and UTC hour: `sensor_id`, `quantity`, `hour`
            (datetime64[us], UTC), and from `n` on as in `by_file`.
    """

    spans: list[Span]
    by_file: pd.DataFrame
    hourly: pd.DataFrame


def summarise(readings: Readings) -> Summary:
    """Summarise readings."""
    frame = readings.frame
    if (np.diff(frame["file"].to_numpy()) < 0).any():
        frame = frame.sort_values("file", kind="stable")
    groups = _grouped(frame, readings.quantities)
    return Summary(
        _spans(frame, readings.models),
        *(merge([groups[[*keys, *STATISTICS]]], keys) for keys in (BY_FILE, HOURLY)),
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


def _grouped(frame: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Return statistics of each file, sensor, hour and quantity; both kinds merge from them."""
    keys = {name: frame[name].to_numpy() for name in ("file", "sensor_id")}
    hour = frame["ts"].to_numpy().view(np.int64) // HOUR
    starts = run_starts(*keys.values(), hour)
    sizes = run_sizes(starts, len(frame))
    alike = {name: key[starts] for name, key in keys.items()}
    alike["hour"] = (hour[starts] * HOUR).astype("datetime64[us]")
    parts = []
    for name in quantities:
        columns = alike | _statistics(frame[name].to_numpy(), starts, sizes)
        some = columns["n"] > 0
        part = pd.DataFrame({key: column[some] for key, column in columns.items()})
        codes = np.full(len(part), _QUANTITIES.categories.get_loc(name))
        part["quantity"] = pd.Categorical.from_codes(codes, dtype=_QUANTITIES)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _spans(frame: pd.DataFrame, models: Mapping[int, str]) -> list[Span]:
    if not len(frame):
        return []
    file, sensor, ts = (frame[name].to_numpy() for name in ("file", "sensor_id", "ts"))
    # Of a file's readings, those of a sensor are neighbours, by time.
    starts = run_starts(file, sensor)
    sizes = run_sizes(starts, len(file))
    first, last = ts[starts], ts[starts + sizes - 1]
    of_file = run_starts(file[starts])
    spans = zip(
        file[starts][of_file].tolist(),
        np.add.reduceat(sizes, of_file).tolist(),
        np.minimum.reduceat(first, of_file).tolist(),
        np.maximum.reduceat(last, of_file).tolist(),
        np.split(sensor[starts], of_file[1:]),
        strict=True,
    )
    return [
        Span(
            number,
            rows,
            earliest.replace(tzinfo=UTC),
            latest.replace(tzinfo=UTC),
            frozenset(models[sensor_id] for sensor_id in sensors.tolist()),
        )
        for number, rows, earliest, latest, sensors in spans
    ]


def _as_integers(column: pd.Series) -> npt.NDArray[np.integer]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes: npt.NDArray[np.integer] = column.cat.codes.to_numpy()
        return codes
    values = column.to_numpy()
    return values.view(np.int64) if values.dtype.kind == "M" else values


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
