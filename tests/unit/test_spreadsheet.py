"""Spreadsheets: no cell begins a formula, numbers stay, and every text comes back."""

from __future__ import annotations

import csv
import io
import re
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.spreadsheet import LIVE_LINE, plain, restored

PIECES = [
    *("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n", " ", "'", '"', ",", ";", "`"),
    *("1", ".5", "e5", "-5", "+3.5e1", "x", "cmd|' /C calc'!A0", "=1+1", "\xa0", "\ufeff", "\0"),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join)
# Split by a separator that is not the file's own, a number has its neighbours behind it.
NUMBER = re.compile(
    r"[+-](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*([,;\t\r\n\"].*)?", re.ASCII | re.DOTALL
)


def is_live(cell: str) -> bool:
    """Whether some program could take a cell for a formula."""
    seen = cell.lstrip(' \t\r\n\v\f\0\xa0\u3000\ufeff"`')
    return seen[:1] in tuple("=+-@＝＋－＠") and not NUMBER.fullmatch(seen)


@given(texts)
@example("'=1")
@example("''=1")
@example("\t=1")
@example("'\r\n'-x")
def test_every_text_comes_back(text: str) -> None:
    assert restored(plain(text)) == text


@settings(deadline=None)
@given(texts)
def test_no_cell_is_live_whatever_the_separator(text: str) -> None:
    row = io.StringIO()
    csv.writer(row, delimiter=";").writerow([plain(text), "x"])
    assert plain(text)[:1] not in tuple("\t\r\n")
    for separator in (",", ";", "\t"):
        # As other programs split it: with quotation marks, and without any regard to them.
        for cells in (
            list(chain(*csv.reader(io.StringIO(row.getvalue()), delimiter=separator))),
            re.split(f"[{separator}\r\n]", row.getvalue()),
        ):
            assert not any(map(is_live, cells)), cells


@pytest.mark.parametrize(
    "text",
    ["-5", "+3.5e1", "-0.01", "-.5", "-5.", " -5 ", "1", "", "2018-01-01T00:00:00", "'-5", "x"],
)
def test_numbers_and_words_stay(text: str) -> None:
    assert plain(text) == restored(text) == text


@settings(deadline=None)
@given(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"')) | texts
)
def test_no_live_line_is_missed(text: str) -> None:
    line = "".join(c for c in text if " " <= c <= "~" and c != '"')
    found = pc.match_substring_regex(pa.array([line]), LIVE_LINE)[0].as_py()
    for separator in (",", ";"):
        assert found or all(plain(cell) == cell for cell in line.split(separator))


def test_good_lines_are_not_suspected() -> None:
    lines = ["92;SDS011;42;-42.689;-23.341;2017-07-01T00:00:00;-5;;;+2.5;;-", "1,-5.5,+.5,-7"]
    lines = [line.removesuffix("-") for line in lines]
    assert not pc.any(pc.match_substring_regex(pa.array(lines), LIVE_LINE)).as_py()
