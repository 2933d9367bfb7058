"""Copy: Arrow columns in by binary COPY (encoded by pgpq), fixed-width results out by the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
from pgpq import ArrowToPostgresBinaryEncoder
from pgpq.encoders import StringEncoderBuilder
from pgpq.schema import Jsonb
from psycopg import sql
from psycopg.pq import TransactionStatus

from pipeline.errors import DatabaseUnavailable

Cursor = psycopg.Cursor[tuple[Any, ...]]

# What a binary COPY starts with: signature, flags, header extension length.
_PREAMBLE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_SLICE_ROWS = 8192


@contextmanager
def savepoint(cursor: Cursor) -> Iterator[None]:
    """Take back what the block does, and nothing else of the transaction, if it raises.

    Raises:
        DatabaseUnavailable: there is no transaction. The block would commit by itself.
    """
    connection = cursor.connection
    if connection.info.transaction_status is not TransactionStatus.INTRANS:
        message = "database: the transaction has ended; nothing was written"
        raise DatabaseUnavailable(message)
    with connection.transaction():
        yield


def copy_in(
    cursor: Cursor,
    table: tuple[str, ...],
    columns: Mapping[str, pa.Array],
    jsonb: Collection[str] = (),
) -> None:
    """Copy columns into a table, in the caller's transaction.

    Args:
        cursor: where to copy.
        table: schema and name, or the name alone.
        columns: column → values, of Arrow types that match the table's.
        jsonb: those columns of strings that go into jsonb.
    """
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    encoder = _encoder(batch.schema, jsonb)
    with cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        # In slices: while the server works on one, the next is encoded.
        for start in range(0, len(batch), _SLICE_ROWS):
            copy.write(encoder.write_batch(batch.slice(start, _SLICE_ROWS)))
        copy.write(encoder.finish())


def _encoder(schema: pa.Schema, jsonb: Collection[str]) -> ArrowToPostgresBinaryEncoder:
    if not jsonb:
        return ArrowToPostgresBinaryEncoder(schema)
    infer = ArrowToPostgresBinaryEncoder.infer_encoder
    return ArrowToPostgresBinaryEncoder.new_with_encoders(
        schema,
        {
            field.name: StringEncoderBuilder.new_with_output(field, Jsonb())
            if field.name in jsonb
            else infer(field)
            for field in schema
        },
    )


def copy_out(
    cursor: Cursor, statement: str, columns: Mapping[str, str]
) -> dict[str, npt.NDArray[Any]]:
    """Copy a result of fixed-width, never-null columns out, without a Python object per row.

    Args:
        cursor: where to copy.
        statement: a `COPY (…) TO STDOUT (FORMAT binary)`.
        columns: column → its NumPy type in network order, for example `>i4`.
    """
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in columns.items():
        layout += [(f"length of {name}", ">i4"), (name, kind)]
    with cursor.copy(statement.encode()) as copy:
        received = b"".join(bytes(part) for part in copy)
    tuples = np.frombuffer(
        received.removeprefix(_PREAMBLE).removesuffix(_TRAILER), np.dtype(layout)
    )
    return {name: tuples[name] for name in columns}
