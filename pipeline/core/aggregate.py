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

from pipeline.contract.quantities import SORTED_NAMES
from pipeline.core.groups import group_sizes, group_starts, join_groups
from pipeline.core.records import Columns, Floats, Ints, Readings, Span

HOUR = 3_600_000_000  # µs
BY_FILE = ("file", "sensor_id", "quantity")
HOURLY = ("sensor_id", "quantity", "hour")
STATISTICS = ("n", "min", "max", "mean", "m2")


@dataclass(frozen=True, slots=True)
class Summary:
    """What readings amount to.

    Attributes:
        spans: what each file brought.
        by_file: one row for each file, sensor and quantity: `file` (int64), `sensor_id` (int32),
            `quantity` (int8: position in `SORTED_NAMES`), `n` (int64), `min`, `max` (float32),
            `mean`, `m2` (float64).
        hourly: one row for each sensor, quantity and UTC hour: `sensor_id`, `quantity`, `hour`
            (int64: µs since 1970), and from `n` on as in `by_file`.
    """

    spans: list[Span]
    by_file: Columns
    hourly: Columns


def summarise(readings: Readings) -> Summary:
    """Summarise readings."""
    frame = readings.frame
    if (np.diff(frame["file"].to_numpy()) < 0).any():
        frame = frame.sort_values("file", kind="stable")
    groups = _grouped(frame, readings.quantities)
    by_file, hourly = (
        merge([{name: groups[name] for name in (*keys, *STATISTICS)}], keys)
        for keys in (BY_FILE, HOURLY)
    )
    return Summary(_spans(frame, readings.models), by_file, hourly)


def merge(parts: Sequence[Columns], keys: Sequence[str]) -> Columns:
    """Merge statistics of disjoint rows: one row for each value of `keys`, sorted by these."""
    every = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort([every[key] for key in keys[::-1]])
    every = {name: column[order] for name, column in every.items()}
    starts = group_starts(*(every[key] for key in keys))
    if len(starts) == len(order):
        return every
    return {key: every[key][starts] for key in keys} | join_groups(every, starts)


def day_reached(hourly: Columns) -> int:
    """Return the start of the day, in µs since 1970, that most of some readings have reached.

    Files have their readings more or less in the order of time. So nothing more comes, as a rule,
    for the days before.
    """
    hours = np.sort(hourly["hour"])
    early = int(hours[len(hours) // 20])
    return early - early % (24 * HOUR)


class Running:
    """Statistics that grow block by block and stay small.

    Args:
        keys: the columns that tell one group from another.
        enough: how many rows may be held before they are merged.
    """

    def __init__(self, keys: Sequence[str], enough: int = 100_000) -> None:
        self._keys = keys
        self._enough = enough
        self._parts: list[Columns] = []
        self._held = 0

    def add(self, part: Columns) -> None:
        """Add the statistics of further rows."""
        if not len(part["n"]):
            return
        self._parts.append(part)
        self._held += len(part["n"])
        if self._held > self._enough:
            self.settle()

    def settle(self) -> None:
        """Merge what was added, so that the rest takes less time."""
        if len(self._parts) > 1:
            self._parts = [merge(self._parts, self._keys)]
            self._held = len(self._parts[0]["n"])

    @property
    def full(self) -> bool:
        """Whether merging was of no help: there are more groups than `enough`."""
        return self._held > self._enough

    def take(self) -> Columns | None:
        """Return what was added, merged, and start anew; None when there was nothing."""
        self.settle()
        parts, self._parts, self._held = self._parts, [], 0
        return parts[0] if parts else None

    def take_before(self, hour: int) -> Columns | None:
        """Return the groups of earlier hours, merged, and keep the others, unless they are many.

        Args:
            hour: the start of the first hour to keep, in µs since 1970.
        """
        every = self.take()
        if every is None or np.count_nonzero(later := every["hour"] >= hour) > self._enough // 2:
            return every
        self.add({name: column[later] for name, column in every.items()})
        return {name: column[~later] for name, column in every.items()}


def _grouped(frame: pd.DataFrame, quantities: Sequence[str]) -> Columns:
    """Return statistics of each file, sensor, hour and quantity; both kinds merge from them."""
    keys = {name: frame[name].to_numpy() for name in ("file", "sensor_id")}
    hour = frame["ts"].to_numpy().view(np.int64) // HOUR
    starts = group_starts(*keys.values(), hour)
    sizes = group_sizes(starts, len(frame))
    alike = {name: key[starts] for name, key in keys.items()}
    alike["hour"] = hour[starts] * HOUR
    parts = []
    for name in quantities:
        code = SORTED_NAMES.index(name)
        columns = alike | _statistics(frame[name].to_numpy(), starts, sizes)
        columns["quantity"] = np.full(len(starts), code, np.int8)
        some = columns["n"] > 0
        if not some.all():
            columns = {key: column[some] for key, column in columns.items()}
        parts.append(columns)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _spans(frame: pd.DataFrame, models: Mapping[int, str]) -> list[Span]:
    if not len(frame):
        return []
    file, sensor, ts = (frame[name].to_numpy() for name in ("file", "sensor_id", "ts"))
    # Of a file's readings, those of a sensor are neighbours, by time.
    starts = group_starts(file, sensor)
    sizes = group_sizes(starts, len(file))
    first, last = ts[starts], ts[starts + sizes - 1]
    of_file = group_starts(file[starts])
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


def _statistics(values: npt.NDArray[np.float32], starts: Ints, sizes: Ints) -> Columns:
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
