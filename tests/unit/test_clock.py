"""A system clock is believed as far as its witnesses bear it out, and never blocks for ever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pipeline.clock import MEMORY_NAME, Clock, Memory, Present, Reading, weigh
from pipeline.errors import DatabaseUnavailable, DiskTrouble
from pipeline.store.clock import ServerTime

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
Ask = Callable[[], ServerTime]


class Machine:
    """A machine with a home: its clocks, and a database that may be on another one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.true = NOW
        self.off = timedelta()
        self.uptime = 1000.0
        self.boot = 1
        self.newest: datetime | None = None
        self.away = False
        self.elsewhere: timedelta | None = None  # how far off that machine's clock is
        self.restart()

    def restart(self) -> None:
        """Start a new process."""
        self.clock = Clock(self.home, self._ask, self._read)

    def reboot(self, off: timedelta = timedelta()) -> None:
        """Switch the machine off for a while."""
        self.true += off
        self.uptime, self.boot = 20.0, self.boot + 1
        self.restart()

    def runs(self, span: timedelta, step: timedelta = HOUR) -> Present:
        """Let time go by, and a daemon look at it; return the last present."""
        present = self.clock.present()
        end = self.true + span
        while self.true < end:
            self.true += step
            self.uptime += step.total_seconds()
            present = self.clock.present()
        return present

    def load(self) -> None:
        """Take a file, as the database dates it."""
        self.newest = self._server_clock()

    def _server_clock(self) -> datetime:
        return self.true + (self.off if self.elsewhere is None else self.elsewhere)

    def _ask(self) -> ServerTime:
        if self.away:
            raise DatabaseUnavailable("away")
        return ServerTime(self._server_clock(), self.newest, self.elsewhere is not None)

    def _read(self) -> Reading:
        return Reading((self.true + self.off).timestamp(), self.uptime, str(self.boot))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    one = Machine(tmp_path)
    one.load()
    one.runs(3 * HOUR)
    return one


def test_an_ordinary_clock_is_believed(machine: Machine) -> None:
    for _ in range(40):
        machine.load()
        present = machine.runs(DAY)
        assert present == Present(machine.true)
    machine.reboot(off=31 * DAY)
    assert machine.clock.present().doubt is None
    machine.off = 20 * HOUR  # a wrong time zone is no reason to stop
    assert machine.clock.present().doubt is None


def test_a_new_home_has_nothing_to_compare(tmp_path: Path) -> None:
    assert Machine(tmp_path).clock.present() == Present(NOW)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("rebooted", [False, True])
def test_a_jump_ahead_is_not_believed_and_rows_are_not_held(
    rebooted: bool, restarted: bool, machine: Machine
) -> None:
    machine.off = 400 * DAY
    if rebooted:
        machine.reboot()
    for _ in range(5):
        if restarted:
            machine.restart()
        machine.load()  # dated by the wrong clock: it must confirm nothing
        present = machine.runs(HOUR)
        assert present.doubt is not None
        assert present.certain
        assert present.now == machine.true + machine.off
    machine.off = timedelta()
    assert machine.clock.present() == Present(machine.true)
    machine.load()
    assert machine.runs(DAY).doubt is None


def test_a_small_jump_shows_while_the_machine_runs(machine: Machine) -> None:
    machine.off = 3 * DAY
    assert machine.clock.present().doubt is not None
    machine.restart()
    assert machine.clock.present().doubt is not None


def test_half_a_year_off_is_believed_after_a_day(machine: Machine) -> None:
    machine.reboot(off=180 * DAY)
    machine.load()
    assert machine.runs(23 * HOUR).doubt is not None
    assert machine.runs(2 * HOUR) == Present(machine.true)
    machine.restart()
    assert machine.clock.present().doubt is None


def test_half_a_year_off_is_believed_of_a_machine_that_runs_by_day_only(machine: Machine) -> None:
    machine.reboot(off=180 * DAY)
    for _ in range(2):
        assert machine.runs(8 * HOUR).doubt is not None
        machine.reboot(off=16 * HOUR)
    assert machine.runs(9 * HOUR).doubt is None


def test_restarts_do_not_hasten_it_and_jumps_begin_anew(machine: Machine) -> None:
    machine.reboot(off=180 * DAY)
    for _ in range(50):
        machine.restart()
        assert machine.clock.present().doubt is not None
    machine.runs(20 * HOUR)
    machine.off = 5 * HOUR
    assert machine.runs(20 * HOUR).doubt is not None
    assert machine.runs(5 * HOUR).doubt is None


def test_a_database_elsewhere_confirms_at_once(machine: Machine) -> None:
    machine.elsewhere = timedelta(minutes=2)
    machine.reboot(off=180 * DAY)
    assert machine.clock.present().doubt is None


def test_a_container_has_an_address_of_its_own_and_the_same_clock(machine: Machine) -> None:
    machine.elsewhere = timedelta()
    machine.runs(DAY)
    machine.off = machine.elsewhere = 400 * DAY
    assert machine.runs(20 * HOUR).doubt is not None


@pytest.mark.parametrize("off", [400 * DAY, -400 * DAY, 2 * DAY, -2 * DAY])
def test_a_database_elsewhere_contradicts(off: timedelta, machine: Machine) -> None:
    machine.elsewhere = timedelta()
    machine.load()
    machine.off = off
    for _ in range(2):
        machine.load()
        present = machine.runs(2 * DAY)
        assert present.doubt is not None
        assert "database" in present.doubt
        assert present.certain
        assert present.now == machine.true + max(off, timedelta())
        machine.restart()
    machine.off = timedelta()
    assert machine.clock.present().doubt is None


@pytest.mark.parametrize("wrong", [datetime(1970, 1, 1, tzinfo=UTC), NOW - 100 * DAY])
def test_a_clock_that_is_behind_is_never_believed(wrong: datetime, machine: Machine) -> None:
    last = machine.true
    machine.reboot(off=5 * DAY)
    machine.off = wrong - machine.true
    for _ in range(4):
        machine.load()
        present = machine.runs(DAY)
        assert present.doubt is not None
        assert not present.certain
        assert present.now == last
        machine.restart()
    machine.off = timedelta()  # the network has set it
    assert machine.clock.present() == Present(machine.true)


def test_what_a_new_home_sees_in_1970_is_not_believed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.off = datetime(1970, 1, 1, tzinfo=UTC) - NOW
    machine.load()
    present = machine.runs(3 * DAY)
    assert present.doubt is not None
    assert not present.certain
    machine.off = timedelta()
    assert machine.clock.present().doubt is None


def test_without_a_memory_the_ledger_is_the_witness(machine: Machine) -> None:
    for off, believed in ((400 * DAY, False), (20 * DAY, True)):
        (machine.home / MEMORY_NAME).unlink()
        machine.newest = machine.true
        machine.off = off
        machine.restart()
        for _ in range(2):
            assert (machine.clock.present().doubt is None) == believed
            machine.load()
            if not believed:
                machine.restart()


def test_without_a_memory_the_ledger_gives_the_time_to_a_clock_that_is_not_set(
    machine: Machine,
) -> None:
    (machine.home / MEMORY_NAME).unlink()
    newest = machine.newest
    machine.off = datetime(1970, 1, 1, tzinfo=UTC) - machine.true
    for _ in range(3):
        machine.restart()
        present = machine.clock.present()
        assert (present.now, present.certain) == (newest, False)
        machine.load()
    machine.off = timedelta()
    assert machine.clock.present() == Present(machine.true)


def test_the_memory_can_be_removed_to_confirm_a_clock(machine: Machine) -> None:
    machine.off = 400 * DAY
    machine.load()
    machine.runs(30 * HOUR)  # so long that it was believed
    machine.off = timedelta()
    assert machine.clock.present().doubt is not None
    machine.load()
    (machine.home / MEMORY_NAME).unlink()
    assert machine.clock.present().doubt is None


@pytest.mark.parametrize("elsewhere", [None, timedelta()])
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_first_boot_in_the_future_can_be_put_right(
    stopped: bool, loaded: bool, elsewhere: timedelta | None, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    machine.off = 1300 * DAY
    assert machine.clock.present().doubt is None  # there is nothing to compare it with
    machine.load()
    future = machine.newest
    machine.runs(2 * HOUR)
    machine.off = timedelta()
    machine.elsewhere = elsewhere
    assert machine.runs(2 * DAY).doubt is not None
    if loaded:
        machine.load()
    (tmp_path / MEMORY_NAME).unlink()
    if stopped:
        machine.restart()
    with capture_logs() as logged:
        assert machine.clock.look().doubt is None
        present = machine.clock.present()
        assert (present.doubt, present.now) == (None, machine.true)
        # From then on, whatever the ledger says.
        machine.newest = future
        assert machine.runs(2 * DAY) == Present(machine.true)
        machine.restart()
        assert machine.runs(2 * HOUR) == Present(machine.true)
    ignored = [entry for entry in logged if entry["event"] == "clock.ledger_ignored"]
    assert len(ignored) == (not loaded)


@pytest.mark.parametrize("off", [400 * DAY, timedelta(), -400 * DAY, -20_000 * DAY])
def test_a_first_start_without_a_database_believes_nothing(off: timedelta, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.load()
    machine.away, machine.off = True, off
    for _ in range(3):
        present = machine.runs(2 * DAY)
        assert present.doubt is not None
        assert not present.certain
        assert not (tmp_path / MEMORY_NAME).exists()
        machine.restart()
    machine.away = False
    machine.newest = machine.true
    assert (machine.clock.present().doubt is None) == (off in {timedelta(), -400 * DAY})
    machine.off = timedelta()
    assert machine.runs(2 * DAY).doubt is None


def test_the_memory_alone_does_while_the_database_is_away(machine: Machine) -> None:
    machine.away = True
    machine.restart()
    assert machine.clock.present().doubt is None
    machine.off = 400 * DAY
    assert machine.clock.present().doubt is not None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"believed": 3}', b"\xff\0"])
def test_a_damaged_memory_is_none(damage: bytes, machine: Machine) -> None:
    (machine.home / MEMORY_NAME).write_bytes(damage)
    assert machine.clock.present().doubt is None


def test_a_full_disk_does_not_stop_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskTrouble("No space left on device")

    monkeypatch.setattr("pipeline.clock.atomic.write", full)
    machine.off = 400 * DAY
    assert machine.runs(HOUR).doubt is not None


def test_it_is_logged_once_and_looking_changes_nothing(machine: Machine) -> None:
    before = (machine.home / MEMORY_NAME).read_bytes()
    machine.off = 400 * DAY
    with capture_logs() as logged:
        machine.clock.look()
        assert (machine.home / MEMORY_NAME).read_bytes() == before
        machine.runs(5 * HOUR)
        machine.off = timedelta()
        machine.runs(5 * HOUR)
    assert [entry["event"] for entry in logged] == ["clock.doubted", "clock.believed"]


def test_weighing_is_pure() -> None:
    seen = Reading(NOW.timestamp(), 5.0, "a")
    server = ServerTime(NOW, None, elsewhere=False)
    assert weigh(seen, Memory(), server) == (Present(NOW), Memory(believed=seen))
