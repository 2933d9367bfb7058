"""What is read and processed ahead gives way: to a stop, to the database, to what it finds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from pipeline import reading
from pipeline.errors import DatabaseUnavailable, FileRefused, Stopped, StoreError
from pipeline.files.watch import Found
from pipeline.flow import Flow, Outcome
from pipeline.store.load import Store
from pipeline.transaction import Batch, Transaction
from tests.integration.conftest import ARCHIVE_SDS, MakeSite, Site, pm, sds

_LONG = 120.0


def test_a_large_file_of_blank_lines_does_not_delay_a_stop(make_site: MakeSite) -> None:
    site = make_site(batch_bytes=1, block_bytes=2**16)
    path = site.drop("blank.csv", "\n" * 2**20)
    signs = 0

    def on_progress() -> None:
        nonlocal signs
        signs += 1
        if signs == 3:  # one while it is hashed, the others while its header is looked for
            site.flow.stopping.set()

    site.flow.on_progress = on_progress
    with pytest.raises(Stopped):
        site.run()
    assert signs == 3
    assert path.exists()
    assert site.quarantined_files() == []


def test_a_file_unusable_for_us_and_for_the_database_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads ahead may know first, though the database is first to be asked."""
    real = Transaction.run
    told = FileRefused("line_too_long", "line 9 is too long")

    def run(transaction: Transaction) -> None:
        if not transaction._batch.refused:
            transaction._batch.refused[0] = told
            message = "not these rows"
            raise StoreError(message)
        real(transaction)

    monkeypatch.setattr(Transaction, "run", run)
    outcome = site.load(sds(pm(1)))
    assert (outcome.state, outcome.message) == ("refused", str(told))
    assert site.ledger()["rule"] == "line_too_long"


def test_looking_up_what_is_known_can_be_cancelled(site: Site, shared_engine: sa.Engine) -> None:
    store = Store(shared_engine)
    failed: list[DatabaseUnavailable] = []

    def look_up() -> None:
        with pytest.raises(DatabaseUnavailable) as caught:
            store.known(["0" * 64], "some contract")
        failed.append(caught.value)

    looking = threading.Thread(target=look_up, daemon=True)
    with shared_engine.begin() as connection:
        connection.execute(sa.text("LOCK air.source_file"))  # as a migration does
        looking.start()
        waiting = sa.text(
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
            " AND relation = 'air.source_file'::regclass"
        )
        while not connection.execute(waiting).scalar_one():
            looking.join(0.01)
            assert looking.is_alive()
        store.cancel()
        looking.join(_LONG)
        assert not looking.is_alive()
    assert len(failed) == 1


def garbage(number: int, rows: int) -> str:
    """Return a small file with a header of its own, of which every cell is wrong in its own way."""
    header = ARCHIVE_SDS.rstrip("\n") + f";extra{number}\n"
    return header + "".join(
        f"a{n};SDS011;b{n};c{n};d{n};e{n};f{n};;;g{n};;;\n" for n in range(rows)
    )


def seen(site: Site, monkeypatch: pytest.MonkeyPatch, *batches: dict[str, str]) -> list[str]:
    """Load batches; return in which order they were read, processed and loaded."""
    done: list[str] = []
    reads = [threading.Event() for _ in batches]
    flow = type(site.flow)
    real = {name: getattr(flow, name) for name in ("_read", "_process_small", "_finish")}

    def read(self: Flow, found: Sequence[Found]) -> Batch:
        done.append(f"read {found[0].path.stem}")
        batch: Batch = real["_read"](self, found)
        return batch

    def process(self: Flow, batch: Batch) -> None:
        if not batch.is_processed:
            done.append(f"process {batch.files[0].path.stem}")
        real["_process_small"](self, batch)
        if batch.files[0].path.stem == "second":
            reads[0].set()

    def finish(self: Flow, found: Sequence[Found], batch: Batch) -> list[Outcome]:
        if found[0].path.stem == "first":
            # Time for whoever would read ahead of a heavy batch to be seen doing it.
            assert reads[0].wait(_LONG if waits else 0.5) or not waits
        done.append(f"load {found[0].path.stem}")
        outcomes: list[Outcome] = real["_finish"](self, found, batch)
        return outcomes

    waits = "first" in batches[0] and batches[0]["first"] == GOOD
    monkeypatch.setattr(flow, "_read", read)
    monkeypatch.setattr(flow, "_process_small", process)
    monkeypatch.setattr(flow, "_finish", finish)
    found = []
    for batch in batches:
        for name, content in batch.items():
            site.drop(f"{name}.csv", content)
        every = {file.path.stem: file for file in site.scan()}
        found.append([every[name] for name in batch])
    for pending in site.flow.ahead(found):
        assert {outcome.state for outcome in pending.finish()} == {"loaded"}
    return done


GOOD = sds(pm(1))
OTHER = sds(pm(2))
READ, PROCESSED = ["read second"], ["read second", "process second"]


def test_a_batch_is_read_and_processed_ahead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    done = seen(site, monkeypatch, {"first": GOOD}, {"second": OTHER})
    assert done == ["read first", "process first", *PROCESSED, "load first", "load second"]


@pytest.mark.parametrize(
    "heavy",
    [
        {"first": garbage(0, 500)},
        {("first", "b", "c", "d", "e")[n]: garbage(n, 90) for n in range(5)},
    ],
    ids=["one file", "several files"],
)
def test_nothing_is_read_ahead_of_a_heavy_batch(
    heavy: dict[str, str], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the first are rejected for very many reasons."""
    monkeypatch.setattr(reading, "_MOST_REASONS", 1_000)
    monkeypatch.setattr(reading, "_MOST_HELD", 2**20)
    done = seen(site, monkeypatch, heavy, {"second": OTHER})
    assert done == ["read first", "process first", "load first", *PROCESSED, "load second"]
    assert site.one("SELECT count(*) FROM air.quarantined_row") == sum(
        content.count("\n") - 1 for content in heavy.values()
    )


def test_what_is_held_of_a_batch_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MOST_HELD", 2**20)
    for number in range(12):
        site.drop(f"{number}.csv", garbage(number, 60))
    batch = site.flow._prepare(site.scan())
    reasons = sum(
        len(each) for processed in batch.processed.values() for each in processed.rejected_rows.told
    )
    assert 0 < reasons <= 2**20 // 512
    assert len(batch.unheld) > 5
    outcomes = site.run()
    assert [outcome.state for outcome in outcomes] == ["loaded"] * 12
    assert site.one("SELECT count(*) FROM air.quarantined_row") == 720
