"""How many sensors and places one file may name.

Counted by file, in its valid rows, before anything of them reaches the database: whether they are
new to it, and which files share a block with this one, makes no difference.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.core.groups import group_starts
from pipeline.core.records import Ints
from pipeline.errors import FileRefused

if TYPE_CHECKING:
    import pandas as pd

Hashes = npt.NDArray[np.uint64]


class Named:
    """The sensors and places that files name.

    Args:
        most: how many of each one file may name.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # By what they are and file. Eight bytes each, where the values would take a hundred.
        self._found: dict[str, dict[int, Hashes]] = {
            what: defaultdict(lambda: np.zeros(0, np.uint64)) for what in ("sensors", "places")
        }

    def add(self, frame: pd.DataFrame) -> dict[int, FileRefused]:
        """Count what rows name, in any order; return the files that name too many, and why.

        Args:
            frame: `file`, `sensor_id`, `location_id`, `lat` and `lon` of each row.
        """
        file = frame["file"].to_numpy()
        lat, lon = (frame[name].to_numpy().view(np.int64) for name in ("lat", "lon"))
        return self._count("sensors", file, frame["sensor_id"].to_numpy()) | self._count(
            "places", file, frame["location_id"].to_numpy(), lat, lon
        )

    def _count(self, what: str, file: Ints, *keys: npt.NDArray[np.int_]) -> dict[int, FileRefused]:
        refused: dict[int, FileRefused] = {}
        # Rows are sorted by sensor, and sensors seldom move: few differ from the one before.
        starts = group_starts(file, *keys)
        files, values = file[starts], _hashed([key[starts] for key in keys])
        order = np.argsort(files, kind="stable")
        files, values = files[order], values[order]
        bounds = group_starts(files).tolist()
        found = self._found[what]
        for start, end in pairwise([*bounds, len(files)]):
            each = int(files[start])
            found[each] = np.union1d(found[each], values[start:end])
            if len(found[each]) > self._most:
                message = f"names more than {self._most:,} {what} (setting limits.max_places)"
                refused[each] = FileRefused("over_budget", message)
        return refused


def _hashed(keys: list[npt.NDArray[np.int_]]) -> Hashes:
    """Return one number for each combination: of a million, hardly any two share one."""
    import pandas as pd

    total: Hashes = np.zeros(len(keys[0]), np.uint64)
    for key in keys:
        total = pd.util.hash_array(total + key.astype(np.int64).view(np.uint64))
    return total
