"""Spreadsheet: text that a spreadsheet would take for a formula, made plain and back again.

Excel and LibreOffice calculate a cell of a CSV that begins with `=`, `+`, `-` or `@`, and may cut a
cell in two where it holds the separator of their own language. So an apostrophe goes before each
part of a cell that would begin a formula. What begins with apostrophes and would be one without
them gets one more: `restored` takes exactly one away, and always gives back what was there.
"""

from __future__ import annotations

import re

# Stands in the reasons of a row in which something was made plain: without it, an apostrophe there
# was the file's own, or that of the person who repaired it.
MARK = "cells with ' in front are text"

_BEGIN = "=+-@＝＋－＠"
_CONTROL = "\t\r\n"
_PART = re.compile("([,;\t\r\n])")
# What readers of CSV pass over before they look what a cell is.
_PASSED = "'\"` \xa0\u3000\ufeff\v\f\0\t\r\n" + "".join(map(chr, range(0x2000, 0x200C)))
_NUMBER = re.compile(r"[+-](?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
_ANY = re.compile(f"[{re.escape(_BEGIN + _CONTROL)}]")

# The same for lines of printable ASCII without quotation marks: none that `plain` would change is
# missed, and few others are found. RE2's grammar.
LIVE_LINE = (
    r"(?:^|[,;])[' `]*(?:[=@]|[+-](?:$|[^0-9.]|[0-9.]*[^0-9.,;]|[0-9]*\.[0-9]*\.|\.(?:$|[,;])))"
)


def plain(cell: str) -> str:
    """Return a cell as it goes into a CSV for people; numbers stay as they are."""
    if not _ANY.search(cell):
        return cell
    parts = _parts(cell)
    return "".join(f"'{part}" if live else part for part, live in parts)


def restored(cell: str) -> str:
    """Return the cell of which `plain` made this one."""
    if "'" not in cell or not _ANY.search(cell):
        return cell
    return "".join(part.removeprefix("'") if live else part for part, live in _parts(cell))


def _parts(cell: str) -> list[tuple[str, bool]]:
    """Return a cell in parts, separators included, and whether each could begin a formula.

    Apostrophes in front make no difference: that is what makes `plain` reversible.
    """
    parts = _PART.split(cell)
    # At the start of a cell, white space that a program may cut off counts too.
    first = parts[0].strip("'") == "" and len(parts) > 1 and parts[1] in _CONTROL
    return [
        (part, at % 2 == 0 and (_is_live(part) or (at == 0 and first)))
        for at, part in enumerate(parts)
    ]


def _is_live(part: str) -> bool:
    text = part.lstrip(_PASSED)
    return text[:1] != "" and text[0] in _BEGIN and not _NUMBER.fullmatch(text)
