r"""Visible: text from outside, escaped so that a terminal shows it and never obeys it.

File names, rows, header lines, notes and messages of other programs may hold control characters:
a terminal would move its cursor, hide text, or write the clipboard. Characters that are invisible,
or that change the order of others, can make a name look like another. All of them are shown as
escapes (`\x1b`, `\u202e`), everything else as it is. Only what is shown changes: files and the
database keep the text verbatim.
"""

from __future__ import annotations

import io
import re
import sys
from typing import Any, TextIO
from unicodedata import category

# Printable by category, yet nothing to see: fillers, joiners, selectors of rare variants. The
# selectors of emoji (U+FE0F) stay.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\uffa0\U000e0100-\U000e01ef]"
)
_STYLE = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z])")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, *, keep: str = "") -> str:
    """Return text with every character escaped that a terminal would obey, or not show.

    Args:
        text: anything.
        keep: control characters that stay as they are, for example line ends of our own.
    """
    if text.isprintable() and not _BLANK.search(text):
        return text
    return "".join(c if _is_plain(c) or c in keep else _escaped(c) for c in text)


def visible_json(text: str) -> str:
    r"""Return a JSON document with such characters as `\uXXXX`: to a reader of JSON, the same."""
    if text.isprintable() and not _BLANK.search(text):
        return text
    # Below a space, only the line ends between values are left unescaped.
    return "".join(c if _is_plain(c) or c < " " else _json_escaped(c) for c in text)


def _is_plain(character: str) -> bool:
    # Wide, narrow and unbreakable spaces count as unprintable, and are as harmless as the usual.
    printable = character.isprintable() or category(character) == "Zs"
    return printable and not _BLANK.match(character)


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _json_escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


class _Visible(io.TextIOWrapper):
    """A standard stream that escapes whatever is written to it, tracebacks included."""

    def write(self, text: str, /) -> int:
        super().write(visible(text, keep="\n\t"))
        return len(text)

    def write_styled(self, text: str) -> int:
        """Write text whose control characters are the program's own."""
        return super().write(text)


class Styled:
    """The way around the escaping, for those who escape values before they add colours.

    Colours and movements of the cursor pass. What else a terminal would obey does not.

    Args:
        stream: standard output or error, escaping or not.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._write = getattr(stream, "write_styled", stream.write)

    def write(self, text: str, /) -> int:
        """Write colours as they are, and the rest escaped."""
        parts = _STYLE.split(text)
        parts[::2] = [visible(part, keep="\n\t\r") for part in parts[::2]]
        self._write("".join(parts))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """Be like the stream beneath in everything else."""
        return getattr(self._stream, name)


def escape_standard_streams() -> None:
    """Let nothing reach standard output and error unescaped, whoever writes it."""
    sys.stdout = _escaping(sys.stdout)
    sys.stderr = _escaping(sys.stderr)


def _escaping(stream: Any) -> Any:
    if isinstance(stream, _Visible) or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    # Where only ASCII can be written, what is not would be an error in the middle of a sentence.
    ascii_only = stream.encoding.lower() in {"ascii", "us-ascii", "ansi_x3.4-1968", "646"}
    return _Visible(
        stream.buffer,
        encoding="utf-8" if ascii_only else stream.encoding,
        errors="backslashreplace",
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
