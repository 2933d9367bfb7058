"""The loop itself: a mistake of ours with one file stops neither the others nor the loop."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from pipeline.daemon import Daemon
from pipeline.records import Block, Rows
from pipeline.steps.split import split as really_split
from tests.integration.conftest import Site, pm, sds


def test_a_file_that_breaks_us_does_not_stop_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(block: Block) -> Rows:
        if b"666" in block.text:
            message = "nobody foresaw this"
            raise RuntimeError(message)
        return really_split(block)

    monkeypatch.setattr("pipeline.judge.split", split)
    names = ["a.csv", "breaks.csv", "c.csv"]
    for second, (name, value) in enumerate(zip(names, (1, 666, 3), strict=True)):
        site.drop(name, sds(pm(second, p1=value)))
    daemon = Daemon(site.flow, site.settings)

    # Without settings of ours, structlog draws every variable of every function on the way.
    with capture_logs() as told:
        daemon._look()

    assert [entry["file"] for entry in told if entry["event"] == "file.unexpected"] == [
        "breaks.csv"
    ]
    assert [path.name for path in site.data.glob("*.csv")] == ["breaks.csv"]
    assert site.raw_rows() == 2
    site.check_books()
    # Mended, and the wait over, it is taken like any other.
    monkeypatch.setattr("pipeline.judge.split", really_split)
    daemon._held._until = 0.0
    daemon._look()
    assert site.raw_rows() == 3
    site.check_books()
