"""What is read and judged ahead gives way: to a stop, to the database, to what it finds itself."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from pipeline.errors import DatabaseUnavailable, FileRefused, Stopped, StoreError
from pipeline.store.load import Store
from pipeline.transaction import Transaction
from tests.integration.conftest import MakeSite, Site, pm, sds

_LONG = 30.0


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
