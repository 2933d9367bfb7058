"""A corpus of hostile files, made by code: the kinds that once took too much, and their kin."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Callable

HEADER = b"sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
ROW = b"92;SDS011;42;42.689;23.341;2017-07-01T00:00:00;9.53;;;2.83;;\n"


def _packed(text: bytes) -> bytes:
    return gzip.compress(text, 6, mtime=0)


def _times(number: int) -> bytes:
    return b"2017-07-%02dT%02d:%02d:%02d" % (
        *(1 + number // 86_400 % 28, number // 3_600 % 24, number // 60 % 60, number % 60),
    )


def _rows(count: int, row: Callable[[int], bytes]) -> bytes:
    return HEADER + b"".join(row(number) for number in range(count))


def _named(length: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile("n" * length, "wb", 1, buffer, mtime=0) as file:
        file.write(HEADER + ROW)
    return buffer.getvalue()


def _garbage(n: int) -> bytes:
    return b"a%d;SDS011;b%d;c%d;d%d;e%d;f%d;;;g%d;;\n" % ((n,) * 7)


def _half_garbage(n: int) -> bytes:
    return b"%d;SDS011;b%d;c%d;d%d;%s;e%d;;;f%d;;\n" % (n % 7 + 1, n, n, n, _times(n), n, n)


def _place(n: int) -> bytes:
    where = b"%d;%.4f;%.4f" % (n, n % 80_000 / 1e3, n % 170_000 / 1e3)
    return b"92;SDS011;%s;%s;1;;;1;;\n" % (where, _times(n))


def _sensor(n: int) -> bytes:
    return b"s%d;SDS011;1;42.6;23.3;%s;9.53;;;2.83;;\n" % (n, _times(n))


def _month(n: int) -> bytes:
    return b"92;SDS011;1;42.6;23.3;%d-%02d-01T00:00:00;1;;;1;;\n" % (2010 + n // 12, n % 12 + 1)


# Name → what makes the file. Those whose names end in .gz are compressed.
CORPUS: dict[str, Callable[[], bytes]] = {
    "a million delimiters.csv.gz": lambda: _packed(b";" * 1_000_000 + b"\n"),
    "a header of delimiters.csv.gz": lambda: _packed(HEADER[:-1] + b";" * 1_000_000 + b"\n" + ROW),
    "a header of names.csv.gz": lambda: _packed(
        HEADER[:-1] + b"".join(b";c%d" % i for i in range(100_000)) + b"\n" + ROW
    ),
    "a header of one name.csv": lambda: HEADER[:-1] + b";" + b"n" * 10_000_000 + b"\n" + ROW,
    "a header of quotes.csv": lambda: b'"' * 900_000 + b"\n" + ROW,
    "two million letters.csv.gz": lambda: _packed(HEADER + b"x\n" * 2_000_000),
    "two million delimiters.csv.gz": lambda: _packed(HEADER + b";\n" * 2_000_000),
    "rows of delimiters.csv.gz": lambda: _packed(HEADER + b";;;;;;;;;;;\n" * 300_000),
    "rows of quotes.csv.gz": lambda: _packed(HEADER + b'"\n' * 2_000_000),
    "rows of NULs.csv.gz": lambda: _packed(HEADER + b"\0\n" * 2_000_000),
    "rows of Latin-1.csv.gz": lambda: _packed(HEADER + b"\xe4\n" * 2_000_000),
    "rows of carriage returns.csv.gz": lambda: _packed(HEADER + b"\r\r\n" * 1_000_000),
    "returns within rows.csv.gz": lambda: _packed(HEADER + (b"\r" * 5_000 + b"x\n") * 1_200),
    "blank lines.csv.gz": lambda: _packed(b"\n" * 30_000_000),
    "blank lines behind.csv.gz": lambda: _packed(HEADER + ROW + b"\n" * 15_000_000),
    "headers.csv.gz": lambda: _packed(HEADER * 150_000),
    "rows with names.csv.gz": lambda: _packed(
        HEADER + b"".join(b"x%d;%s" % (n, HEADER.replace(b"P1;", b"P9;")) for n in range(60_000))
    ),
    "garbage.csv": lambda: _rows(120_000, _garbage),
    "half garbage.csv": lambda: _rows(40_000, _half_garbage),
    "sensor types.csv": lambda: _rows(
        80_000, lambda n: b"1;t%d;;;;2017-07-01T00:00:00;1;;;1;;\n" % n
    ),
    "conflicts.csv.gz": lambda: _packed(HEADER + ROW + ROW.replace(b"9.53", b"9.54") * 150_000),
    "repeats.csv.gz": lambda: _packed(HEADER + ROW * 250_000),
    "places.csv": lambda: _rows(110_000, _place),
    "months.csv": lambda: _rows(190, _month),
    "wide rows.csv": lambda: HEADER + (b";" * 1_000_000 + b"\n") * 5,
    "a wide row.csv.gz": lambda: _packed(HEADER + b";" * 1_000_000 + b"\n" + ROW),
    "quotes in a row.csv": lambda: (
        HEADER + b'"a""' * 250_000 + b"\n" + b'"' * 1_000_000 + b"\n" + ROW
    ),
    "a long field.csv": lambda: HEADER + b"9" * 10_000_000 + b"\n" + ROW,
    "long numbers.csv": lambda: (
        HEADER
        + b"".join(
            ROW.replace(b"9.53", number)
            for number in (b"1e999999999", b"9" * 900_000, b"0." + b"1" * 900_000, b"-" * 900_000)
        )
    ),
    "other digits.csv": lambda: HEADER + ROW.replace(b"9.53", "٣".encode() * 400_000 + b",5"),
    "a bomb.csv.gz": lambda: _packed(HEADER + b"\0" * 100_000_000),
    "a bomb of rows.csv.gz": lambda: _packed(HEADER + ROW * 1_500_000),
    "a bomb in a bomb.csv.gz": lambda: _packed(_packed(HEADER + b"x" * 100_000_000)),
    "empty members.csv.gz": lambda: gzip.compress(b"", mtime=0) * 300_000,
    "members of a byte.csv.gz": lambda: (
        b"".join(gzip.compress(HEADER[i : i + 1], 1, mtime=0) for i in range(len(HEADER)))
        + gzip.compress(b"x", mtime=0) * 100_000
    ),
    "zeros behind.csv.gz": lambda: _packed(HEADER + ROW) + bytes(14_000_000),
    "a long name inside.csv.gz": lambda: _named(10_000_000),
    "cut short.csv.gz": lambda: _packed(HEADER + ROW * 100_000)[:-9],
    "noise.csv": lambda: random.Random(1).randbytes(10_000_000),
    "noise behind.csv": lambda: HEADER + random.Random(2).randbytes(5_000_000),
}

# Those that take longer, in proportion to their size.
LARGE: dict[str, Callable[[], bytes]] = {
    "a million bad sensors.csv": lambda: _rows(1_000_000, _sensor),
}
