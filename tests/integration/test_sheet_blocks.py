"""Sheets that stand as they were written are compared by the block, whatever their cells hold."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.rework import sheets
from pipeline.store import rejected
from pipeline.store.rework import Workbench
from tests.integration.conftest import MakeSite, sds
from tests.integration.test_rework import FORMULAS, Workshop, bad, read, write
from tests.integration.test_rework import _file_of as file_of


@pytest.fixture
def shop(make_site: MakeSite) -> Workshop:
    return Workshop(make_site())


def exported(shop: Workshop, path: Path, delimiter: str) -> sheets.Exported:
    return sheets.export(
        shop.site.settings,
        shop.bench,
        shop.contract,
        shop.bench.with_open_rows(None),
        rule=None,
        path=path,
        delimiter=delimiter,
    )


@pytest.mark.parametrize("way", ["in place", ";", ","])
def test_formulas_do_not_make_a_sheet_slow(
    way: str, shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = file_of(FORMULAS).replace(";durP1;", ";=cmd();")
    assert shop.site.load(text, "=1.csv").state == "loaded"
    path = shop.sheet("=1.csv")
    if way != "in place":
        path = tmp_path / "out.csv"
        exported(shop, path, way)
    asked: list[int] = []
    real = Workbench.rows_at

    def rows_at(self: Workbench, file_id: int, lines: list[int]) -> object:
        asked.extend(lines)
        return real(self, file_id, lines)

    monkeypatch.setattr(Workbench, "rows_at", rows_at)
    done = shop.replay("=1.csv" if way == "in place" else str(path), dry=True)
    assert (done.problems, asked) == ([], [])
    assert [v.edited for v in done.verdicts] == [False] * len(FORMULAS)

    # One that was changed is found, and the others are as they were.
    header, *rows = read(path)
    rows[3][header.index("P2")] = "=7"
    shop.site.edited = True
    write(path, [header, *rows], delimiter=";" if way == "in place" else way)
    done = shop.replay("=1.csv" if way == "in place" else str(path), dry=True)
    assert [v.line_no for v in done.verdicts if v.edited] == [5]
    assert asked


def test_a_row_of_very_many_fields_does_not_widen_an_export(shop: Workshop, tmp_path: Path) -> None:
    wide = bad(20) + ";x" * 5_000
    quoted = bad(30) + ';"' + ";x" * 5_000 + '"'
    shop.site.load(sds(bad(10), wide, quoted, bad(40) + ";1;2;3"))
    done = exported(shop, tmp_path / "out.csv", ";")
    assert (done.rows, done.files) == (3, {"some.csv": 3})
    assert done.skipped["some.csv"].startswith("1 of its rows have over 200 fields too many")
    header, *rows = read(tmp_path / "out.csv")
    assert [name for name in header if name.startswith("extra_")] == [
        "extra_1",
        "extra_2",
        "extra_3",
    ]
    assert {len(row) for row in rows} == {len(header)}
    assert [row[header.index("line_no")] for row in rows] == ["2", "4", "5"]


def test_long_rows_are_read_in_smaller_pages(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = ["1,5", "ü", "x" * 500, "\0", "z"]
    bad_lines = [bad(second, cell) for second, cell in enumerate(cells)]
    assert shop.site.load(sds(*bad_lines)).state == "loaded"
    entry = shop.entry()
    (whole,) = shop.bench.open_rows(entry.file_id)
    numbers = whole.line_no.tolist()
    assert numbers == [2, 3, 4, 5, 6]
    assert whole.exact.to_pylist() == [line.encode() for line in bad_lines]

    monkeypatch.setattr(rejected, "BYTES", 300)
    pages = list(shop.bench.open_rows(entry.file_id))
    assert len(pages) > 1
    assert pa.concat_tables([page.table for page in pages]).equals(whole.table)
    some = shop.bench.rows_at(entry.file_id, [*numbers[::-1], 99])
    assert some.line_no.tolist() == numbers
    assert [row.exact for row in some.rows] == whole.exact.to_pylist()
    assert some.told.to_pylist() == whole.told.to_pylist()
    assert shop.bench.rows_at(entry.file_id, []).rows == []


def test_a_replay_page_by_page_is_as_one_at_once(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop.site.load(sds(*[bad(row // 3) for row in range(1_200)])).state == "loaded"
    # More than are named one by one. Of three: one, its duplicate, and one that contradicts them
    # or is left as it was.
    lines = range(2, 1_202)
    cells = {line: {"P1": "9" if (line - 2) % 3 < 2 else "8"} for line in lines}
    shop.site.edited = True
    shop.repair({line: cell for line, cell in cells.items() if line % 6 != 4})
    one = shop.replay(dry=True)

    monkeypatch.setattr(rejected, "BYTES", 5_000)
    assert len(list(shop.bench.open_rows(shop.entry().file_id))) > 5
    many = shop.replay(dry=True)
    told = [
        [(v.line_no, v.became, v.row, [reason.rule for reason in v.reasons]) for v in done.verdicts]
        for done in (one, many)
    ]
    assert told[0] == told[1]
    done = shop.replay()
    assert done.lines("loaded") == list(lines[::3])
    assert done.lines("duplicate") == list(lines[1::3])
    assert done.lines("failing") == list(lines[2::3])
    assert [line for line, state in shop.states().items() if state == "open"] == list(lines[2::3])
    header, *rows = read(shop.sheet())
    number, why = header.index("line_no"), header.index("reasons")
    assert [int(row[number]) for row in rows] == list(lines[2::3])
    assert ["same sensor and time" in row[why] for row in rows] == [False, True] * 200
