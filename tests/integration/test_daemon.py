"""The loop itself: a mistake of ours with one file stops neither the others nor the loop."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
import pytest
from structlog.testing import capture_logs

from pipeline.cli.session import Database, prepare_tables
from pipeline.config import load_settings
from pipeline.core.parse import parse as really_split
from pipeline.core.records import Block, Rows
from pipeline.daemon import Daemon
from pipeline.errors import ConfigurationError, FileChanged, PipelineError
from pipeline.files import archive, hashes, read
from pipeline.files.atomic import Draft
from pipeline.files.retention import Swept
from pipeline.flow import Flow
from pipeline.records import Content
from pipeline.store import engine as store_engine
from pipeline.store.load import Store
from tests.integration.conftest import Site, pm, sds

if TYPE_CHECKING:
    from pytest_postgresql.executors import NoopExecutor

    from tests.conftest import Server

Hook = Callable[[], None]


def test_asked_to_stop_the_server_is_asked_to_cancel_until_we_have_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel that comes between two statements is lost."""
    thrice = threading.Event()
    cancels: list[int] = []

    def cancel() -> None:
        cancels.append(len(cancels))
        if len(cancels) == 3:
            thrice.set()

    monkeypatch.setattr("pipeline.daemon._GRACE", 0.01)
    monkeypatch.setattr(site.flow.store, "cancel", cancel)
    daemon = Daemon(site.flow, site.settings)

    def busy() -> float:
        daemon.stop()
        assert thrice.wait(120)
        return 0.0

    monkeypatch.setattr(daemon, "_look", busy)
    daemon.run(lambda: None)
    assert len(cancels) >= 3


def test_a_file_that_breaks_us_does_not_stop_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def split(block: Block, check: Callable[[], None]) -> Rows:
        if b"666" in block.text:
            message = "nobody foresaw this"
            raise RuntimeError(message)
        return really_split(block, check)

    monkeypatch.setattr("pipeline.core.process.parse", split)
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
    monkeypatch.setattr("pipeline.core.process.parse", really_split)
    daemon._held._until = 0.0
    daemon._look()
    assert site.raw_rows() == 3
    site.check_books()


def test_what_is_archived_is_what_was_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewritten between the load and the move, with as many bytes and its time set back."""
    first, second = sds(pm(1, p1=11.5)), sds(pm(2, p1=22.5))
    assert len(first) == len(second)
    path = site.drop("a.csv", first)
    really_put_away = archive.put_away

    def put_away(content: Content, folder: Path, policy: str, *hooks: Hook) -> Path | None:
        monkeypatch.setattr(archive, "put_away", really_put_away)
        before = path.stat()
        path.write_text(second)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return really_put_away(content, folder, policy, *hooks)

    monkeypatch.setattr(archive, "put_away", put_away)
    # `run --once` sees that it is another file now, too.
    assert [outcome.state for outcome in Daemon(site.flow, site.settings).drain()] == [
        "loaded",
        "loaded",
    ]
    assert site.raw_rows() == 2
    assert list(site.data.glob("*.csv")) == []
    # Whoever rewrote it has destroyed the first; the second must not pass for it.
    assert [p.read_text() for p in site.settings.archive_folder.rglob("*.csv")] == [second]
    site.check_books()


class Awaited:
    """A daemon whose database does not exist when it starts."""

    def __init__(self, site: Site, url: str, seconds: float) -> None:
        self._url = url
        self.engine = store_engine.create(url)
        settings = load_settings(site.settings.home, retry_seconds=seconds)
        flow = Flow(settings, Store(self.engine), settings.site_contract(), retry_seconds=None)
        self.daemon = Daemon(flow, settings)
        self.ended: PipelineError | None = None
        self._thread = threading.Thread(target=self._run)

    def _check(self) -> None:
        opened = Database(self._url, embedded=False)
        try:
            prepare_tables(opened)
        finally:
            opened.close()

    def _run(self) -> None:
        try:
            self.daemon.run(self._check)
        except PipelineError as error:
            self.ended = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.daemon.stop()
        self._thread.join(120)
        self.engine.dispose()

    def wait_for(self, happened: Callable[[], bool]) -> None:
        for _ in range(6000):
            if happened() or not self._thread.is_alive():
                break
            self._thread.join(0.02)
        assert happened()


def test_a_database_that_is_being_restored_at_the_start_is_waited_for(
    site: Site, server: Server, template: NoopExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.daemon._MISSING_SECONDS", 0.01)
    admin = server.url("postgres")
    with capture_logs() as told, Awaited(site, server.url("awaited"), 3600.0) as awaited:

        def said(event: str) -> int:
            return [entry["event"] for entry in told].count(event)

        try:
            awaited.wait_for(lambda: said("database.still_down") > 2)
            with psycopg.connect(admin, autocommit=True) as connection:
                # There, and without tables at first, as pg_restore has it.
                connection.execute("CREATE DATABASE awaited")
                awaited.wait_for(lambda: "no tables yet" in str(told[-1].get("error")))
                connection.execute("DROP DATABASE awaited WITH (FORCE)")
                connection.execute(
                    f"CREATE DATABASE awaited TEMPLATE {template.template_dbname}".encode()
                )
            awaited.wait_for(lambda: awaited.daemon.database_up and said("database.up") == 1)
        finally:
            awaited.daemon.stop()
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute("DROP DATABASE IF EXISTS awaited WITH (FORCE)")
    assert awaited.ended is None
    assert [entry["event"] for entry in told].count("database.down") == 1


@pytest.mark.parametrize("stopped", [True, False], ids=["until it is stopped", "not for ever"])
def test_a_database_that_never_comes(
    stopped: bool, site: Site, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.daemon._MISSING_SECONDS", 0.01)
    with (
        capture_logs() as told,
        Awaited(site, server.url("never"), 3600.0 if stopped else 0.1) as awaited,
    ):
        awaited.wait_for(lambda: bool(stopped or awaited.ended))
        awaited.wait_for(lambda: "database.down" in [entry["event"] for entry in told])
    assert (awaited.ended is None) is stopped
    if not stopped:
        assert isinstance(awaited.ended, ConfigurationError)
        assert "never" in str(awaited.ended)


@pytest.mark.parametrize("hold", [True, False], ids=["held", "streamed"])
def test_a_file_rewritten_while_it_is_hashed_is_left(
    hold: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(sds(pm(1, p1=11.5)))
    before = path.stat()
    real = hashlib.sha256

    def hashed(*data: bytes) -> object:
        path.write_text(sds(pm(2, p1=22.5)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return real(*data)

    monkeypatch.setattr("pipeline.files.read.hashlib.sha256", hashed)
    if hold:
        # What is held is whole, and is found to be another file when it is moved.
        held = read.content(path, 1 << 20)
        assert held.sha256 == real(held.held or b"").hexdigest()
        with pytest.raises(FileChanged):
            archive.move(held, tmp_path / "archive")
    else:
        with pytest.raises(FileChanged):
            read.content(path, 0)


@pytest.mark.parametrize("policy", ["keep", "gzip", "delete"])
def test_asked_to_stop_in_the_middle_of_a_move(
    policy: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settings = site.settings.changed(archive_policy=policy)
    site.reopen()
    for second in range(3):
        site.drop(f"{second}.csv", sds(pm(second)))
    real = hashes.sha256_of

    def hashed(path: Path, alive: Hook, size: int) -> str | None:
        site.flow.stopping.set()
        return real(path, alive, size)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.files.asides.sha256_of", hashed)
        with capture_logs() as logged:
            Daemon(site.flow, site.settings)._look()
    assert [entry["files"] for entry in logged if entry["event"] == "batch.not_moved"] == [3]
    assert [e["file"] for e in logged if e["event"] == "file.loaded"] == ["0.csv", "1.csv", "2.csv"]
    assert sorted(p.name for p in site.data.iterdir() if p.is_file()) == ["0.csv", "1.csv", "2.csv"]
    assert site.raw_rows() == 3

    site.reopen()
    assert {outcome.state for outcome in Daemon(site.flow, site.settings).drain()} == {"known"}
    assert [p.name for p in site.data.iterdir() if p.is_file()] == []
    site.check_books()


def test_asked_to_stop_a_sweep_ends(site: Site) -> None:
    site.settings = site.settings.changed(archive_keep_days=30)
    site.reopen()
    old = site.settings.archive_folder / "2020-01-01" / "a.csv"
    old.parent.mkdir(parents=True)
    old.write_text(sds(pm(1)))
    os.utime(old, (0, 0))
    daemon = Daemon(site.flow, site.settings)
    assert daemon._retention is not None
    site.flow.stopping.set()
    assert daemon._retention.sweep(datetime.now(UTC)) == Swept()
    site.flow.stopping.clear()
    assert daemon._retention.sweep(datetime.now(UTC)) == Swept(unknown=1)


@pytest.mark.parametrize("once", [True, False])
def test_drafts_that_a_crash_left_are_gone_at_the_start(once: bool, site: Site) -> None:
    day = site.settings.archive_folder / "2020-01-01"
    folders = [site.settings.home, site.data, site.settings.quarantine, day]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".sofia-air.{'0' * 16}.part").touch()
    daemon = Daemon(site.flow, site.settings)
    with Draft(site.data) as draft, capture_logs() as logged:
        if once:
            assert list(daemon.drain()) == []
        else:
            daemon.run(daemon.stop)
        assert draft.path.exists()
    removed = [Path(entry["path"]).parent for entry in logged if entry["event"] == "draft.removed"]
    assert removed == folders


@pytest.mark.parametrize("once", [True, False])
def test_what_a_crash_left_aside_is_loaded(once: bool, site: Site) -> None:
    aside = site.drop("a.csv", sds(pm(1)))
    aside.rename(aside.with_name(f".a.csv.{'0' * 16}.aside"))
    daemon = Daemon(site.flow, site.settings)
    with capture_logs() as logged:
        if once:
            assert [outcome.state for outcome in daemon.drain()] == ["loaded"]
        else:
            daemon.run(daemon.stop)
    assert [entry["file"] for entry in logged if entry["event"] == "aside.returned"] == ["a.csv"]
    assert once or (site.data / "a.csv").exists()


def test_a_file_that_cannot_be_read_is_told_and_the_sweep_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settings = site.settings.changed(archive_keep_days=30)
    site.reopen()
    site.load(sds(pm(1)))
    (path,) = site.settings.archive_folder.rglob("*.csv")
    old = site.settings.archive_folder / "2020-01-02" / "a.csv"
    old.parent.mkdir()
    path.rename(old)
    os.utime(old, (0, 0))
    site.sql("UPDATE air.source_file SET loaded_at = '2020-01-02'")
    bad = site.settings.archive_folder / "2020-01-01" / "bad.csv"
    bad.parent.mkdir()
    bad.touch()
    os.utime(bad, (0, 0))
    real = hashes.sha256_of

    def hashed(path: Path, alive: Hook) -> str | None:
        if path == bad:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, alive)

    monkeypatch.setattr("pipeline.files.retention.sha256_of", hashed)
    daemon = Daemon(site.flow, site.settings)
    with capture_logs() as logged:
        for _ in range(2):
            daemon._clock_at = daemon._swept_at = float("-inf")
            daemon._look()
    told = [entry for entry in logged if entry["event"].startswith("archive.")]
    assert [entry["event"] for entry in told] == ["archive.swept", "archive.failed"]
    assert (told[1]["files"], told[1]["reason"]) == (1, f"{bad}: Input/output error")
    assert not old.exists()
