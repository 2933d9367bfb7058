"""What the steps hand on to each other, from a file's bytes to readings and rejected rows.

The steps import these and not one another. Positions: `file` is always a file's position in its
batch, `line_no` counts a file's lines from 1 with the header as line 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.contract import Model, Reason, Table
from pipeline.contract.header import Header

if TYPE_CHECKING:  # what only reads a file for a line of it takes half the time without these
    import pandas as pd
    import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.datetime64]
# Columns of one length, by name: a data frame takes longer to make than these take to fill.
Columns = dict[str, npt.NDArray[Any]]


def frame_of(columns: Mapping[str, object]) -> pd.DataFrame:
    """Return columns as a frame, without copying them."""
    import pandas as pd

    frame = pd.DataFrame(columns, copy=False)
    # Of pandas' own strings each look-up takes twice as long, and pandera looks up a lot.
    frame.columns = frame.columns.astype(object)
    return frame


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of lines of one file within a block.

    Attributes:
        file: the file's position in the batch.
        first_line: number of its first line in the file.
        lines: how many lines.
        opens: whether they are the first lines of the file below another header than the one
            before it.
        source: what the file is known by, wherever it is: the SHA-256 of its bytes, for example.
    """

    file: int
    first_line: int
    lines: int
    opens: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines under one header, each ended by a newline, from one file or several.

    Attributes:
        header: what their first line said.
        text: the lines, headers left out.
        segments: whose lines they are, in order.
    """

    header: Header
    text: bytes
    segments: tuple[Segment, ...]


class RejectedRow(NamedTuple):
    """A row that goes to quarantine.

    Attributes:
        file: the file's position in the batch.
        line_no: the line's number in the file.
        line: its bytes, verbatim, without the line end.
        reasons: what is wrong with it, in the order of the columns.
    """

    file: int
    line_no: int
    line: bytes
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """Where the rows of a block stand.

    Attributes:
        file: each row's file, as its position in the batch.
        line_no: each row's line number in its file.
        text: the block's bytes.
        starts: where each row's line starts in `text`.
        ends: where it ends, its line end left out.
    """

    file: Ints
    line_no: Ints
    text: bytes
    starts: Ints
    ends: Ints

    def line(self, row: int) -> bytes:
        """Return the verbatim line of a row."""
        return self.text[self.starts[row] : self.ends[row]]


NO_LINES = Lines(*(np.zeros(0, np.int64),) * 2, b"", *(np.zeros(0, np.int64),) * 2)


@dataclass(frozen=True, slots=True)
class Rows(Lines):
    """The rows of a block.

    Attributes:
        header: what names the columns.
        table: the columns that matter, as strings; an empty field is null.
        rejected: the lines that could not be split.
        read: file → how many rows it had here, rejected ones included.
    """

    header: Header
    table: pa.Table
    rejected: list[RejectedRow]
    read: dict[int, int]


@dataclass(frozen=True, slots=True)
class Valid:
    """The valid rows of one kind of sensor model, as numbers in the file's columns and units.

    Attributes:
        model: whose columns they have.
        frame: `sensor_id`, `location` (int64; −1 for none), `lat`, `lon` (float64; NaN for none),
            `timestamp` (datetime64[us], UTC) and the model's columns (float64).
        rows: the position of each in the `Rows` they come from.
        models: sensor_id → name of its model.
    """

    model: Model
    frame: pd.DataFrame
    rows: Ints
    models: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings as they are stored, sorted by sensor and time, each key once.

    Attributes:
        table: the raw table they go to.
        quantities: the columns of `frame` that hold values.
        frame: `sensor_id` (int32), `ts` (datetime64[us], UTC), `location_id` (int64; −1 for none),
            `lat`, `lon` (float64; NaN for none), the quantities (float32, stored units), `flags`
            (int16), `file` (int64), `row` (int64: position in the `Rows` they come from).
        models: sensor_id → name of its model.
    """

    table: Table
    quantities: tuple[str, ...]
    frame: pd.DataFrame
    models: dict[int, str]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows whose sensor and time an earlier row of the same block has.

    Attributes:
        frame: these rows, as in `Readings`.
        firsts: for each of them the earlier row, as in `Readings`.
    """

    frame: pd.DataFrame
    firsts: pd.DataFrame


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
