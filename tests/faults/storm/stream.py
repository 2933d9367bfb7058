"""The files of a storm: a steady stream of small ones, good rows and bad, and hostile ones.

The rows come from `pipeline.simulate`, damaged ones among them. They are cut into small files, and
new sensors, places and months keep appearing, since what a process remembers about these is what
can be wrong after a fault. Files also repeat and contradict each other: the ledger says in which
order they were taken, and the oracle is given them in that order.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

from pipeline.simulate import Simulation, write
from tests.faults.harness import contradicting, in_sofia_dialect

_MONTHS = [f"{year}-{month:02}" for year in (2016, 2017, 2019) for month in range(1, 13)]
_FAR_FROM_READINGS = b"\x1b[2J\x07\x00\xff\xfe;;\"',=@+-"


@dataclass(frozen=True)
class Delivery:
    """A file that was delivered.

    Attributes:
        name: the name under which it came first.
        data: its bytes.
        good: whether it can be loaded; else it has to be refused as a whole.
    """

    name: str
    data: bytes
    good: bool = True

    @cached_property
    def sha256(self) -> str:
        """The hash by which the ledger knows it."""
        return hashlib.sha256(self.data).hexdigest()


class Stream:
    """Makes files, each different from all others.

    Args:
        room: a folder for what is simulated.
        rng: decides everything random.
    """

    def __init__(self, room: Path, rng: random.Random) -> None:
        room.mkdir(parents=True)
        self._rng = rng
        self._number = 0
        simulation = Simulation(
            sensors=6,
            start=date(2018, 3, 22),
            days=20,
            dialect="archive",
            seed=rng.randrange(1 << 30),
            fault_rate=0.03,
        )
        self._days = [
            (made.path.name, made.path.read_bytes().splitlines(keepends=True))
            for made in write(simulation, room)
        ]
        self._slices = self._sliced()
        self._before: list[bytes] = []

    def next(self) -> Delivery:
        """Return the next good file; one in ten is large."""
        large = self._rng.random() < 0.02
        pieces = [next(self._slices) for _ in range(10 if large else 1)]
        origin, header, _ = pieces[0]
        lines = [
            line
            for name, other, piece in pieces
            if other == header
            for line in self._renewed(name, piece)
        ]
        if self._rng.random() < 0.5:
            # What came before, and what contradicts it.
            again = [line for line in self._before if line.count(b";") == header.count(b";")]
            lines += again[:6] + [contradicting(line) for line in again[6:8]]
        self._before = lines[:10]
        name = self._name()
        if "sds011" in origin and self._rng.random() < 0.15:
            whole = [line for line in lines if line.count(b";") == header.count(b";")]
            return Delivery(name, in_sofia_dialect(name, origin, whole).data)
        data = header + b"".join(lines)
        if self._rng.random() < 0.1:
            return Delivery(f"{name}.gz", gzip.compress(data, mtime=0))
        return Delivery(name, data)

    def hostile(self) -> Delivery:
        """Return a file that has to be refused."""
        return Delivery(self._name(), self._rng.choice(_HOSTILE)(self._rng), good=False)

    def rubbish(self) -> Delivery:
        """Return a file with a good header and lines that are no rows."""
        header, *_ = next(lines for name, lines in self._days if "sds011" in name)
        lines = []
        for _ in range(self._rng.randint(1, 400)):
            line = bytes(self._rng.choices(_FAR_FROM_READINGS, k=self._rng.randint(1, 60)))
            lines.append(line.replace(b"\n", b"") + b"\n")
        return Delivery(self._name(), header + b"".join(lines))

    def _name(self) -> str:
        self._number += 1
        odd = self._rng.choice(["", "", "", "", "", " (copy)", " ż\u202e", "$(id);'", "\x1b[31m\n"])
        return f"storm-{self._number:05}{odd}.csv"

    def _sliced(self) -> Iterator[tuple[str, bytes, list[bytes]]]:
        """Yield file, header and some of its lines, for ever; the third time round is renewed."""
        while True:
            self._rng.shuffle(self._days)
            for name, (header, *lines) in self._days:
                start = self._rng.randrange(max(1, len(lines) - 100))
                yield name, header, lines[start : start + self._rng.randint(5, 90)]

    def _renewed(self, name: str, lines: list[bytes]) -> list[bytes]:
        """Let rows be of a sensor, a place or a month that was not there before."""
        sensor = name.removesuffix(".csv").rpartition("_")[2].encode()
        number = self._number
        new_sensor = str(100_000 + number).encode() if number % 5 == 0 else sensor
        month = self._rng.choice(_MONTHS).encode() if number % 7 == 0 else None
        renewed = []
        for line in lines:
            fields = line.split(b";")
            if len(fields) > 6 and fields[0] == sensor:
                fields[0] = new_sensor
                if number % 3 == 0:
                    fields[2:5] = b"%d" % (5000 + number), b"42.%06d" % number, b"23.3"
                if month and fields[5].startswith(b"2018-"):
                    fields[5] = month + fields[5][7:]
            renewed.append(b";".join(fields))
        return renewed


# --- hostile ------------------------------------------------------------------------------------


def _bomb(rng: random.Random) -> bytes:
    """A file of a few kilobytes that inflates to 64 MiB; one is a single line, one is many."""
    packer = zlib.compressobj(9, wbits=31)
    text = b"0" * (1 << 20) if rng.random() < 0.5 else b"0" * 63 + b"\n"
    piece = text * ((1 << 20) // len(text))
    return b"".join(packer.compress(piece) for _ in range(64)) + packer.flush()


def _bomb_of_rows(rng: random.Random) -> bytes:
    """A good header, and rows without end."""
    header = b"sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
    row = b"1;SDS011;%d;1;1;2018-01-01T00:00:00;1;;;1;;\n" % rng.randint(1, 99)
    packer = zlib.compressobj(9, wbits=31)
    piece = row * ((1 << 20) // len(row))
    text = packer.compress(header)
    return text + b"".join(packer.compress(piece) for _ in range(64)) + packer.flush()


def _wide_header(rng: random.Random) -> bytes:
    """A header of very many columns."""
    mark = rng.choice([b";", b",", b"\t"])
    start = b"sensor_id" + mark + b"timestamp" if rng.random() < 0.5 else b""
    return start + mark * rng.choice([20_000, 300_000, 1_000_000]) + b"\n1\n"


def _long_line(rng: random.Random) -> bytes:
    header = b"sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
    return header + b"9" * (rng.randint(2, 5) << 20) + b"\n"


def _noise(rng: random.Random) -> bytes:
    return b"\x00" + rng.randbytes(rng.randint(10, 200_000))


def _cut_short(rng: random.Random) -> bytes:
    packed = gzip.compress(rng.randbytes(5000), mtime=0)
    return packed[: rng.randint(20, len(packed) - 9)]


def _other(rng: random.Random) -> bytes:
    tail = os.fsencode(str(rng.random()))
    return rng.choice([b"PK\x03\x04", b"%PDF-1.7", b"who;goes;there\n1;2;", b"<html>"]) + tail


_HOSTILE = [
    _bomb,
    _bomb_of_rows,
    _wide_header,
    _wide_header,
    _long_line,
    _noise,
    _cut_short,
    _other,
]
