"""Hostile files, drawn by Hypothesis: headers, rows, names and archives that nobody should send.

Hypothesis draws small parts; large files are made by repeating them, since what takes too long or
too much memory shows only there. Every part mixes well-formed pieces with broken ones, so that the
code behind the first check is reached too.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

MOST_TEXT = 6 * 2**20  # bytes: more than a block, so that blocks follow each other

ARCHIVE = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2"
CLIMATE = "sensor_id;sensor_type;location;lat;lon;timestamp;pressure;temperature;humidity"
SOFIA = ",sensor_id,location,lat,lon,timestamp,P1,P2"
_KNOWN = (ARCHIVE, CLIMATE, SOFIA, SOFIA.replace(",", "\t"), ARCHIVE.upper())


@dataclass(frozen=True)
class Hostile:
    """A hostile file.

    Attributes:
        name: its name, as bytes of a POSIX file name.
        raw: its bytes.
    """

    name: bytes
    raw: bytes

    def __repr__(self) -> str:
        """Return little of it: it may be long."""
        return f"Hostile({self.name!r}, {self.raw[:300]!r}, {len(self.raw):,} bytes)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002
        """Show as little in what Hypothesis prints."""
        printer.text(repr(self))

    @property
    def text(self) -> bytes | None:
        """What it inflates to, by Python's own gzip; None when that fails."""
        if not self.raw.startswith(b"\x1f\x8b"):
            return self.raw
        try:
            return gzip.decompress(self.raw)
        except (OSError, EOFError, zlib.error):
            return None

    @property
    def inflates_to(self) -> int:
        """How many bytes come of it before it turns out to be damaged."""
        with gzip.GzipFile(fileobj=io.BytesIO(self.raw)) as file:
            length = 0
            with suppress(OSError, EOFError, zlib.error):
                while some := file.read1(2**20):
                    length += len(some)
        return length


_SPECIAL = st.sampled_from(
    [
        *("\0", "\r", "\r\n", "\ufeff", '"', '""', ";", ",", "\t", " ", "\x0b", "\x1c", "\x85"),
        *(
            "\u2028",
            "٣",
            "１",
            "²",
            "½",
            "−",
            "\u200b",
            "e",
            ".",
            "..",
            "-",
            "+",
            "\\",
            "'",
            "=1+1",
        ),
    ]
)
_NUMBERS = st.sampled_from(
    [
        *("1e999999999", "-1e999999999", "1e-999999999", "1e309", "nan", "inf", "-inf", "0x10"),
        *("1_000", "1,5", "-0", "+", ".", "5.", ".5", "9" * 400, "0" * 400 + "1", "1." + "0" * 400),
        *(
            "2147483647",
            "2147483648",
            "-1",
            "99999999999999999999",
            "1e5",
            "٣",
            "３.５",
            " 7 ",
            "7\x0b",
        ),
    ]
)
_TIMES = st.sampled_from(
    [
        *("2017-07-01T00:02:09", "2017-07-01 00:02:09", "2017-07-01T00:02", "2017-02-30T00:00:00"),
        *("0000-00-00T00:00:00", "9999-12-31T23:59:59", "2017-07-01T24:00:00", "2017-W26-6"),
        *("2017-07-01T00:02:09+99:99", "2017-07-01T00:02:09." + "1" * 300, "20170701T000209"),
        *(
            "01.07.2017 00:02",
            "42917.5",
            "2017-07-01T00:02:60",
            "٢٠١٧-٠٧-٠١T٠٠:٠٢:٠٩",
            "1499999999",
        ),
        *("2017-07-01T00:02:09Z", "2017-07-01T00:02:09+03:60", "-2017-07-01T00:02:09", "now"),
    ]
)
_CELLS = st.one_of(
    _NUMBERS,
    _TIMES,
    _SPECIAL,
    st.text(max_size=12),
    st.sampled_from(["", "92", "SDS011", "BME280", "sds011 ", "42", "42.689", "23.341", "9.53"]),
)


def _good_row(header: str, number: int) -> str:
    """Return a good row of a known header, told apart by its number."""
    climate, sofia = "pressure" in header.lower(), "sensor_type" not in header.lower()
    delimiter = "\t" if "\t" in header else "," if sofia else ";"
    time = f"2017-07-{1 + number // 86400 % 28:02}T{number // 3600 % 24:02}:{number // 60 % 60:02}"
    time += f":{number % 60:02}"
    keys = [
        "92",
        *([] if sofia else ["BME280" if climate else "SDS011"]),
        "42",
        "42.7",
        "23.3",
        time,
    ]
    values = ["95270.27", "23.46", "62.48"] if climate else ["9.53", "2.83"]
    if not climate and not sofia:
        values = ["9.53", "", "", "2.83", "", ""]
    return delimiter.join([*([str(number)] if sofia else []), *keys, *values])


@st.composite
def headers(draw: st.DrawFn) -> str:
    """Draw a header line: known, changed in places, or of nothing but noise."""
    known = draw(st.sampled_from(_KNOWN))
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return known
    if kind == 6:
        return draw(st.lists(_CELLS, max_size=6).map(";".join)) * draw(
            st.sampled_from([1, 50, 20_000])
        )
    names = known.split(";" if ";" in known else "\t" if "\t" in known else ",")
    if kind == 7:
        names.insert(draw(st.integers(0, len(names))), draw(_CELLS))
    elif kind == 8:
        names += [f"extra{i}" for i in range(draw(st.sampled_from([1, 100, 600, 20_000])))]
    else:
        names[draw(st.integers(0, len(names) - 1))] += draw(_CELLS) * draw(
            st.sampled_from([1, 300])
        )
    return ";".join(names)


@st.composite
def lines(draw: st.DrawFn, header: str) -> bytes:
    """Draw one line, or the few that are to be repeated."""
    kind = draw(st.integers(0, 11))
    number = draw(st.integers(0, 2_000_000))
    good = _good_row(header, number)
    if kind < 3:
        return good.encode(errors="surrogatepass")
    cells = good.split(";" if ";" in good else "\t" if "\t" in good else ",")
    delimiter = ";" if ";" in good else "\t" if "\t" in good else ","
    if kind < 7:
        cells[draw(st.integers(0, len(cells) - 1))] = draw(_CELLS)
        return delimiter.join(cells).encode(errors="surrogatepass")
    if kind == 7:
        return (draw(_CELLS) * draw(st.sampled_from([1, 30, 5_000, 200_000]))).encode(
            errors="surrogatepass"
        )
    if kind == 8:
        return delimiter.encode() * draw(st.sampled_from([1, 11, 12, 1_000, 1_000_000]))
    if kind == 9:
        return draw(st.binary(max_size=40))
    if kind == 10:
        return header.encode(errors="surrogatepass")
    cells = [draw(_CELLS) for _ in cells]
    return delimiter.join(cells).encode(errors="surrogatepass")


def _counted(lines_: list[bytes], times: int) -> bytes:
    """Repeat lines; `%d` in one of them, if any, counts, so that no two are the same."""
    unit = b"\n".join(lines_) + b"\n"
    times = max(1, min(times, MOST_TEXT // max(1, len(unit))))
    if b"%d" not in unit:
        return unit * times
    return b"".join(unit.replace(b"%d", b"%d" % number) for number in range(times))


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Draw the text of a file."""
    header = draw(headers())
    start = draw(st.sampled_from([*[""] * 20, "\ufeff", "\n\r\n", " ", "\0", "\n" * 3_000_000]))
    body = b""
    for _ in range(draw(st.integers(0, 3))):
        some = draw(st.lists(lines(header), min_size=1, max_size=4))
        if draw(st.integers(0, 3)) == 0:
            some = [line + draw(st.sampled_from([b"%d", b";%d", b'"%d"'])) for line in some]
            some += [_different(header)]
        body += _counted(some, draw(st.sampled_from([1, 1, 1, 20, 3_000, 200_000])))
    text = (start + header + draw(st.sampled_from([*["\n"] * 8, "\r\n", "\r\n", "\r", ""]))).encode(
        errors="surrogatepass"
    ) + body
    if draw(st.integers(0, 9)) == 0:
        text = text.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r\n", b"\n\n", b"\r"])))
    if draw(st.booleans()):
        text = text.removesuffix(b"\n")
    return text[: MOST_TEXT * 2]


def _different(header: str) -> bytes:
    """Return a row of which every cell differs from that of every other such row."""
    good = _good_row(header, 7)
    delimiter = ";" if ";" in good else "\t" if "\t" in good else ","
    return delimiter.join(f"{cell}x%d" for cell in good.split(delimiter)).encode()


def _members(parts: list[bytes]) -> bytes:
    return b"".join(gzip.compress(part, 1, mtime=0) for part in parts)


def _named(text: bytes, length: int) -> bytes:
    """Return a gzip file whose header carries a name of this length."""
    buffer = io.BytesIO()
    with gzip.GzipFile("n" * length, "wb", 1, buffer, mtime=0) as file:
        file.write(text)
    return buffer.getvalue()


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Draw a compressed file, whole or damaged."""
    text = draw(texts())
    packed = gzip.compress(text, 1, mtime=0)
    match draw(st.integers(0, 11)):
        case 0:
            return packed[: draw(st.integers(0, len(packed)))]
        case 1:
            at = draw(st.integers(0, len(packed) - 1))
            return packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :]
        case 2:
            return packed + draw(
                st.sampled_from([b"\0" * 2_000_000, b"junk", b"\x1f", b"\x1f\x8b"])
            )
        case 3:
            half = len(text) // 2
            return _members([text[:half], text[half:]])
        case 4:
            return gzip.compress(b"") * draw(st.sampled_from([1, 999, 100_000])) + packed
        case 5:
            return _members([text[i : i + 1] for i in range(min(20_000, len(text)))])
        case 6:
            return gzip.compress(packed, 1, mtime=0)
        case 7:
            return _named(text, draw(st.sampled_from([1, 100_000, 2_000_000])))
        case 8:
            bomb = draw(st.sampled_from([b"x\n", b"\n", b"\0", b";", b";;;;;;;;;;;\n"]))
            return gzip.compress(text + bomb * (30_000_000 // len(bomb)), 9, mtime=0)
        case _:
            return packed


def _is_name(name: bytes) -> bool:
    return 0 < len(name) <= 255 and not {0, ord("/")} & set(name) and name not in {b".", b".."}


@st.composite
def names(draw: st.DrawFn) -> bytes:
    """Draw a file name that the daemon takes: any bytes that a file system takes."""
    ending = draw(st.sampled_from([b".csv", b".csv.gz", b".CSV"]))
    stem = draw(
        st.one_of(
            st.binary(min_size=1, max_size=40),
            st.text(min_size=1, max_size=40).map(lambda name: name.encode(errors="surrogatepass")),
            st.sampled_from(
                [b"a" * 300, "д".encode() * 150, b"\xff" * 300, b"a\nb", b"\x1b[31m", b"-rf"]
            ),
        )
    )
    name = stem.replace(b"/", b"_").replace(b"\0", b"0").lstrip(b".")[: 255 - len(ending)] + ending
    return name if _is_name(name) and name != ending else b"some" + ending


def files() -> st.SearchStrategy[Hostile]:
    """Draw a hostile file."""
    return st.builds(Hostile, names(), st.one_of(texts(), texts(), archives()))


def path_name(name: bytes) -> str:
    """Return a name of bytes as Python's functions take it."""
    return os.fsdecode(name)
