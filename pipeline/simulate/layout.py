"""Layout: the columns of a simulated file, and the text of its lines.

Columns, units and the ranges that a clean value must keep to come from the contract. Lines are
made column by column: no Python runs per row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.contract import KEY_COLUMNS, Contract, Model, Quantity
from pipeline.contract.header import Dialect, recognise
from pipeline.errors import FileRefused, InvalidArgument
from pipeline.simulate.network import Network
from pipeline.simulate.noise import Floats, Ints

# Where the archive puts a model's other columns in between its readings. Models whose columns are
# not one of these have their readings first.
_INTERLEAVED = {
    frozenset(columns): columns
    for columns in (
        ("P1", "durP1", "ratioP1", "P2", "durP2", "ratioP2"),
        ("P1", "P4", "P2", "P0", "N10", "N4", "N25", "N1", "N05", "TS"),
        ("pressure", "altitude", "pressure_sealevel", "temperature"),
        ("pressure", "altitude", "pressure_sealevel", "temperature", "humidity"),
    )
}

_DECIMALS = 2
_CENTS = 10**_DECIMALS


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a file.

    Attributes:
        dialect: whose they are.
        model: the sensor model that the file is of.
        delimiter: the character between fields.
        columns: their names, as the header has them.
    """

    dialect: Dialect
    model: Model
    delimiter: str
    columns: tuple[str, ...]

    @property
    def header(self) -> str:
        """The header line, without its line end."""
        return self.delimiter.join(self.columns)

    @classmethod
    def of(cls, dialect: Dialect, model: Model, contract: Contract, *, index: bool) -> Layout:
        """Return the layout of a model's files.

        Args:
            dialect: the dialect.
            model: the sensor model.
            contract: the models in force.
            index: whether Sofia files have their row index.

        Raises:
            InvalidArgument: a Sofia file does not name its sensor's model, and would be taken
                for one of another.
        """
        if dialect == "archive":
            place = KEY_COLUMNS[1:]
            columns = ("sensor_id", "sensor_type", *place, *_archive_order(model))
            return cls(dialect, model, ";", columns)
        columns = ("",) * index + (*KEY_COLUMNS, *model.columns)
        layout = cls(dialect, model, ",", columns)
        try:
            taken_for = recognise(layout.header, contract).models[0].name
        except FileRefused as refusal:  # pragma: no cover  # a model always has its own columns
            raise InvalidArgument(refusal.message) from refusal
        if taken_for != model.name:
            message = (
                f"models: a Sofia file of {model.name} has the columns of {taken_for} and would be "
                "taken for one; choose the archive dialect"
            )
            raise InvalidArgument(message)
        return layout


def _archive_order(model: Model) -> tuple[str, ...]:
    columns = (*model.columns, *model.other)
    return _INTERLEAVED.get(frozenset(columns), columns)


def clean_range(quantity: Quantity) -> tuple[float, float]:
    """Return the range of clean values in a file: accepted, and not even suspect if possible."""
    low = max(quantity.accept[0], quantity.typical[0])
    high = min(quantity.accept[1], quantity.typical[1])
    if low >= high:
        # A site accepts only what is suspect elsewhere.
        low, high = quantity.accept
    return low * quantity.file_scale, high * quantity.file_scale


def lines(
    layout: Layout,
    contract: Contract,
    network: Network,
    *,
    position: int,
    station: Ints,
    seconds: Ints,
    readings: dict[str, Floats],
    first_index: int,
) -> bytes:
    """Return the lines of a file, each with its line end.

    Args:
        layout: the file's columns.
        contract: the quantities in force.
        network: the stations.
        position: which of a station's sensors reports.
        station: each line's station.
        seconds: each line's time.
        readings: quantity → its values, in the stored unit.
        first_index: the first line's row index, for layouts that have one.
    """
    total = len(seconds)
    stations = pa.array(station)
    times = pc.cast(pa.array(seconds.astype("datetime64[s]")), pa.string())
    columns: dict[str, pa.Array] = {
        "": pa.array(np.arange(first_index, first_index + total)),
        "sensor_id": pa.array(network.sensor_id[station] + position),
        "sensor_type": pa.repeat(pa.scalar(layout.model.name.upper()), total),
        "location": pa.array(network.location[station]),
        "lat": pa.array(network.lat).take(stations),
        "lon": pa.array(network.lon).take(stations),
        "timestamp": pc.utf8_replace_slice(times, 10, 11, "T"),
    }
    for column, name in layout.model.columns.items():
        columns[column] = _decimals(layout.model, column, contract, readings[name])
    empty = pa.nulls(total, pa.string())
    table = pa.table([columns.get(name, empty) for name in layout.columns], names=layout.columns)
    sink = pa.BufferOutputStream()
    options = pa.csv.WriteOptions(
        include_header=False, delimiter=layout.delimiter, quoting_style="none"
    )
    pa.csv.write_csv(table, sink, options)
    text: bytes = sink.getvalue().to_pybytes()
    return text


def _decimals(model: Model, column: str, contract: Contract, values: Floats) -> pa.Array:
    """Return readings as the decimals that a file carries."""
    quantity = contract.quantities[model.columns[column]]
    low, high = clean_range(quantity)
    cents = np.rint(values * (quantity.file_scale * _CENTS))
    # Rounded inwards: the bounds themselves may have more decimals than the file.
    cents = np.clip(cents, np.ceil(low * _CENTS - 1e-6), np.floor(high * _CENTS + 1e-6))
    for code in contract.sentinels_of(model, column):
        # Only a site's wider range can hold one.
        cents[cents == code * _CENTS] += 1 if code < high else -1
    return pc.cast(pa.array(cents / _CENTS), pa.decimal128(12, _DECIMALS))
