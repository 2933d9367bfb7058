"""Repeatable randomness: every random number is a pure function of what it is for.

There is no generator whose state is carried along. A number is hashed from the seed, a stream name
and keys such as a station and a time; so a file's content does not depend on how much is made at
a time, a day is the same alone and within a year, and a million numbers are one array expression.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# SplitMix64 (Steele, Lea & Flood 2014): the step, and its mixing function's multipliers.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Noise:
    """The source of all numbers of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def uniform(self, stream: str, *keys: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return a number in [0, 1) for each combination of (broadcast) keys."""
        bits = self._bits(stream, keys)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, stream: str, *keys: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return a standard normal number for each combination of (broadcast) keys."""
        bits = self._bits(stream, keys)
        # Box-Muller, from the upper and the lower half of the bits. The logarithm needs (0, 1].
        radius = ((bits >> np.uint64(32)).astype(np.float64) + 1.0) * 2.0**-32
        angle = (bits & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * np.pi * 2.0**-32)
        return np.sqrt(-2.0 * np.log(radius)) * np.cos(angle)

    def smooth(
        self, stream: str, period: float, seconds: Ints, station: Ints | None = None
    ) -> Floats:
        """Return standard normal noise that wanders: values `period` apart are independent.

        Args:
            stream: what it is for.
            period: in seconds; values much closer than this are nearly equal.
            seconds: the times.
            station: whose noise, for each time; None for noise that all share.
        """
        if not len(seconds):
            return np.zeros(0)
        position = seconds / period
        first = int(np.floor(position.min()))
        knots = np.arange(first, int(np.floor(position.max())) + 2)
        if station is None:
            station = np.zeros(1, np.int64)
        table = self.normal(stream, np.arange(int(station.max()) + 1)[:, None], knots[None, :])
        whole = np.floor(position)
        at = whole.astype(np.int64) - first
        weight = position - whole
        weight = weight * weight * (3.0 - 2.0 * weight)
        rest = 1.0 - weight
        # A mean of two is less spread than one: divided by its own, the spread is 1 everywhere.
        spread = np.sqrt(rest * rest + weight * weight)
        mixed: Floats = (table[station, at] * rest + table[station, at + 1] * weight) / spread
        return mixed

    def _bits(
        self, stream: str, keys: tuple[npt.NDArray[np.integer[Any]], ...]
    ) -> npt.NDArray[np.uint64]:
        digest = hashlib.blake2b(f"{self._seed}/{stream}".encode(), digest_size=8).digest()
        bits = np.array([int.from_bytes(digest, "little")], np.uint64)
        for key in keys:
            # Arrays, unlike scalars, wrap around without a warning: that is meant.
            bits = bits + key.astype(np.uint64) * _STEP + _STEP
            bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
            bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
            bits = bits ^ (bits >> np.uint64(31))
        return bits
