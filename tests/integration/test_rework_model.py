"""Load, reload, retract, replay and discard in any order, against a model in plain Python.

The model keeps a dictionary of readings and a list of files, and does one row after the other.
Whatever the order, the database must hold the same readings from the same files, and each row
must have had the same fate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.rework import discard
from pipeline.store.load import Store
from tests.integration.conftest import Site, clock, sds
from tests.integration.test_retract import Desk
from tests.integration.test_rework import BY

Value = int | None  # None: the cell is empty, and the row is bad
Row = tuple[int, Value]  # when, and what
Fate = Literal["loaded", "duplicate", "open", "repaired", "discarded"]

# Small on purpose, so that rows meet: three moments, two values.
CONTENTS: tuple[tuple[Row, ...], ...] = (
    ((0, 1), (1, None), (1, 1)),
    ((0, 1), (1, 2), (2, None), (2, 1)),
    ((2, 1), (2, 2), (0, None), (0, 1), (0, 2)),
    ((1, None), (1, 1), (2, 1)),
)


@dataclass
class File:
    """A file, or a replay, as the model has it."""

    content: int
    parent: File | None = None
    live: bool = True
    fates: dict[int, Fate] = field(default_factory=dict)
    texts: dict[int, Row] = field(default_factory=dict)
    replays: dict[int, File] = field(default_factory=dict)  # line → what brought it back

    def books(self) -> tuple[int, ...]:
        fates = list(self.fates.values())
        bad = sum(fate not in {"loaded", "duplicate"} for fate in fates)
        return len(fates), fates.count("loaded"), fates.count("duplicate"), bad


@dataclass
class Model:
    files: list[File] = field(default_factory=list)
    readings: dict[int, tuple[int, File]] = field(default_factory=dict)

    def live(self) -> list[File]:
        return [file for file in self.files if file.live and file.parent is None]

    def load(self, content: int) -> None:
        if any(file.content == content for file in self.live()):
            return
        file = File(content)
        self.files.append(file)
        for line, row in enumerate(CONTENTS[content], start=2):
            file.texts[line] = row
            file.fates[line] = self._fate(row, file)

    def _fate(self, row: Row, file: File) -> Fate:
        when, what = row
        if what is None:
            return "open"
        known, _ = self.readings.setdefault(when, (what, file))
        if known != what:
            return "open"
        return (
            "loaded"
            if self.readings[when][1] is file and not self._again(when, file)
            else ("duplicate")
        )

    @staticmethod
    def _again(when: int, file: File) -> bool:
        return any(
            fate == "loaded" and file.texts[line][0] == when for line, fate in file.fates.items()
        )

    def replay(self, file: File, edits: dict[int, Row]) -> None:
        replay = File(-1, parent=file)
        for line in sorted(line for line, fate in file.fates.items() if fate == "open"):
            file.texts[line] = edits.get(line, file.texts[line])
            fate = self._fate(file.texts[line], replay)
            if fate != "open":
                file.fates[line] = "repaired"
                file.replays[line] = replay
                replay.texts[line] = file.texts[line]
                replay.fates[line] = fate
        if replay.fates:
            self.files.append(replay)

    def retract(self, file: File) -> None:
        gone = [file, *(each for each in self.files if each.parent is file and each.live)]
        for each in gone:
            each.live = False
        taken = {when: what for when, (what, owner) in self.readings.items() if owner in gone}
        for when in taken:
            del self.readings[when]
        for other in self.files:
            for line in sorted(other.fates) if other.live else []:
                when, what = other.texts[line]
                if other.fates[line] == "duplicate" and taken.get(when) == what:
                    other.fates[line] = "duplicate" if when in self.readings else "loaded"
                    self.readings.setdefault(when, (taken[when], other))
        for line, fate in file.fates.items():
            if fate == "open":
                file.fates[line] = "discarded"
        if file.parent is not None and file.parent.live:
            for line, replay in file.parent.replays.items():
                if replay is file and file.parent.fates[line] == "repaired":
                    file.parent.fates[line] = "open"

    def discard(self, file: File, line: int) -> None:
        if file.fates.get(line) == "open":
            file.fates[line] = "discarded"


# --- the same in the real thing -------------------------------------------------------------------


def text(row: Row) -> str:
    when, what = row
    return f"7;SDS011;42;42.689;23.341;{clock(when)};{'' if what is None else what};;;5;;"


@dataclass
class Real:
    desk: Desk

    def ids(self) -> list[int]:
        rows = self.desk.site.sql("SELECT file_id FROM air.source_file ORDER BY file_id")
        return [number for (number,) in rows]

    def load(self, content: int) -> None:
        self.desk.site.load(sds(*map(text, CONTENTS[content])), f"file {content}.csv")

    def replay(self, file_id: int, edits: dict[int, Row]) -> None:
        entry = self.desk.bench.entry(file_id)
        assert entry is not None
        if self.desk.bench.rows(file_id):
            cells = {
                line: {"timestamp": clock(when), "P1": "" if what is None else str(what)}
                for line, (when, what) in edits.items()
            }
            self.desk.repair(cells, self.desk.sheet(str(file_id)))
        self.desk.worker().run(entry, dry=False)

    def retract(self, file_id: int) -> None:
        self.desk.retract(str(file_id))

    def discard(self, file_id: int, line: int) -> None:
        entry = self.desk.bench.entry(file_id)
        assert entry is not None
        store = Store(self.desk.site.engine)
        settings_, contract = self.desk.site.settings, self.desk.contract
        discard.rows(
            settings_, store, contract, entry, rule=None, lines=[line], by=BY, note="a model"
        )


Step = tuple[str, int, int, tuple[int, Value]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "load", "replay", "replay", "retract", "discard"]),
        st.integers(0, 3),
        st.integers(2, 6),
        st.tuples(st.integers(0, 2), st.sampled_from([1, 2, None])),
    ),
    min_size=3,
    max_size=9,
)


def follow(site: Site, steps: Sequence[Step]) -> None:
    """Take the same steps in the model and in the real thing, and compare after each."""
    for table in ("quarantined_row", "file_aggregate", "hourly", "daily", "sensor_place"):
        site.sql(f"DELETE FROM air.{table}")
    for table in ("raw_particulate", "source_file", "change"):
        site.sql(f"DELETE FROM air.{table}")
    for path in site.quarantine.glob("*") if site.quarantine.is_dir() else []:
        path.unlink()
    site.edited = True
    model, real = Model(), Real(Desk(site))
    for name, pick, line, row in steps:
        if name == "load":
            model.load(pick)
            real.load(pick)
        else:
            everyone = [file for file in model.files if file.live]
            if name != "retract":
                everyone = model.live()
            if not everyone:
                continue
            file = everyone[pick % len(everyone)]
            file_id = real.ids()[model.files.index(file)]
            if name == "replay":
                edits = {line: row} if file.fates.get(line) == "open" else {}
                model.replay(file, edits)
                real.replay(file_id, edits)
            elif name == "retract":
                model.retract(file)
                real.retract(file_id)
            else:
                model.discard(file, line)
                real.discard(file_id, line)
        compare(site, model, real.ids())


def compare(site: Site, model: Model, ids: list[int]) -> None:
    number = {id(file): file_id for file, file_id in zip(model.files, ids, strict=True)}
    due: list[tuple[Any, ...]] = sorted(
        (clock(when), float(what), number[id(owner)])
        for when, (what, owner) in model.readings.items()
    )
    got = site.sql("SELECT ts, pm10, file_id FROM air.raw_particulate ORDER BY ts")
    assert [(f"{ts:%FT%T}", what, owner) for ts, what, owner in got] == due
    for file in model.files:
        where = {"f": number[id(file)]}
        books = site.sql(
            "SELECT state, rows_read, rows_loaded, rows_duplicate, rows_quarantined,"
            " parent_file_id FROM air.source_file WHERE file_id = :f",
            **where,
        )
        parent = None if file.parent is None else number[id(file.parent)]
        assert books == [("loaded" if file.live else "retracted", *file.books(), parent)]
        rows = site.sql(
            "SELECT line_no, state, replay_file_id FROM air.quarantined_row"
            " WHERE file_id = :f ORDER BY line_no",
            **where,
        )
        assert rows == [
            (line, fate, number[id(file.replays[line])] if fate == "repaired" else None)
            for line, fate in sorted(file.fates.items())
            if fate not in {"loaded", "duplicate"} and file.parent is None
        ]
    site.check_books()


@settings(max_examples=4)
@example(
    steps=[
        ("load", 0, 2, (0, 1)),
        ("load", 1, 2, (0, 1)),
        ("replay", 1, 4, (1, 1)),
        ("retract", 0, 2, (0, 1)),
        ("load", 0, 2, (0, 1)),
        ("retract", 1, 2, (0, 1)),
        ("discard", 0, 3, (0, 1)),
    ]
)
@given(steps=STEPS)
def test_any_order_of_steps_does_what_the_model_does(site: Site, steps: Sequence[Step]) -> None:
    follow(site, steps)


@pytest.mark.slow
@settings(max_examples=300)
@given(steps=STEPS)
def test_many_orders_of_steps_do_what_the_model_does(site: Site, steps: Sequence[Step]) -> None:
    follow(site, steps)
