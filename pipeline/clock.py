"""Clock: what the present is, and whether the system's clock can be believed.

A clock without a battery starts in 1970, a mistyped date is a year ahead: neither may cost data.
So the system's clock has witnesses: the clock that counts since the machine was started, the time
at which it was last believed (kept in the home), the newest entry of the ledger, and the database's
clock. `weigh` hears them all. While the system's clock is doubted, nothing is deleted for its age,
and no reading is rejected as being in the future that may not be.

A machine that was off for half a year is far ahead of what it remembers, and is right. So a clock
that is ahead is believed again when a database on another machine confirms it, or after it has gone
evenly for a day.

Where nothing is remembered (a new home, or the memory was removed on purpose), the ledger can show
that the clock is ahead, or not set at all, but not that it is behind: entries from the future were
dated by a clock that was ahead. Without the database nothing is believed there.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import logs
from pipeline.errors import DiskTrouble, PipelineError
from pipeline.files import atomic
from pipeline.store.clock import ServerTime

MEMORY_NAME = ".sofia-air.clock"

# This version is younger than that, so the present is too.
_RELEASED = datetime(2025, 1, 1, tzinfo=UTC)
# Two clocks agree when they differ by no more. Files tell the time no better than to a day.
_TOLERANCE = timedelta(days=1)
# How far ahead of the last time it was believed a clock may be without being doubted.
_FAR = timedelta(days=32)
# How long a clock that is ahead has to go evenly before it is believed, and what that means.
_STEADY = timedelta(days=1).total_seconds()
_EVEN = 3600.0
# Seconds that two readings of one clock may seem to be out of order.
_CLOSE = 0.001
# What is remembered may be so old.
_REMEMBER_SECONDS = 600.0

log = logs.get("clock")


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks of the machine, read at one moment.

    Attributes:
        wall: the system's clock, in Unix time.
        uptime: seconds since the machine was started; nobody can set it.
        boot: which start of the machine that was.
    """

    wall: float
    uptime: float
    boot: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered of the clocks.

    Attributes:
        believed: when the system's clock was last believed; None if never.
        doubted: when it was last doubted; None while it is believed.
        steady: for how many seconds of doubt it has gone evenly.
        ledger: the newest entry of the ledger when it was first doubted, in Unix time; only while
            it was never believed.
    """

    believed: Reading | None = None
    doubted: Reading | None = None
    steady: float = 0.0
    ledger: float | None = None


@dataclass(frozen=True, slots=True)
class Present:
    """The present, as far as it is known.

    Attributes:
        now: the latest time that a witness gives, in UTC; readings are judged against it.
        certain: whether the true time is no later than that.
        doubt: why the system's clock is not believed; None when it is.
        ignored: the newest entry of the ledger, when it is later than the system's clock and was
            not heard; None else.
    """

    now: datetime
    certain: bool = True
    doubt: str | None = None
    ignored: datetime | None = None


def read_clocks() -> Reading:
    """Read the clocks of this machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):  # not Linux: only this process can tell
        boot, uptime = f"process {os.getpid()}", time.monotonic()
    return Reading(time.time(), uptime, boot)


def weigh(seen: Reading, memory: Memory, server: ServerTime | None) -> tuple[Present, Memory]:
    """Decide what the present is.

    Args:
        seen: the clocks now.
        memory: what is remembered of them.
        server: what the database says; None when it cannot be asked.

    Returns:
        The present, and what to remember from now on.
    """
    wall = _time(seen.wall)
    last = _time(memory.believed.wall) if memory.believed else None
    ignored = None
    if memory.believed is None:
        if server is None:
            # Nothing to remember either: the database may know better in a moment.
            message = (
                f"the system's clock says {wall:%Y-%m-%d %H:%M} UTC, but it was never believed in "
                "this home yet, and the database cannot be asked"
            )
            return Present(max(wall, _RELEASED), certain=False, doubt=message), memory
        # The first answer counts: files taken meanwhile must not confirm a clock that is wrong.
        if memory.ledger is None and server.newest and server.newest >= _RELEASED:
            memory = replace(memory, ledger=server.newest.timestamp())
        last = None if memory.ledger is None else _time(memory.ledger)
        now = max(wall, server.clock)
        if last and last > now + _TOLERANCE and now >= _RELEASED:
            # Those entries were dated by a clock that was ahead.
            last, ignored = None, last
    due = None
    if memory.believed and memory.believed.boot == seen.boot:
        due = _time(memory.believed.wall + seen.uptime - memory.believed.uptime)
    floor = max(each for each in (_RELEASED, last, due) if each is not None)
    best = max(wall, floor, server.clock) if server else max(wall, floor)
    doubt: str | None = None
    confirmed = server is not None and server.elsewhere
    if server and abs(server.clock - wall) > _TOLERANCE:
        confirmed = False
        doubt = f"the database's clock says {server.clock:%Y-%m-%d %H:%M} UTC"
    elif wall < _RELEASED:
        confirmed = False
        doubt = f"this version was made after {_RELEASED:%Y-%m-%d}"
    elif wall < floor - _TOLERANCE:
        doubt = f"it was {floor:%Y-%m-%d %H:%M} UTC or later already"
    elif last and wall > last + _FAR:
        confirmed = confirmed or _evenly(seen, memory) >= _STEADY
        doubt = f"it was last believed, or a file last taken, at {last:%Y-%m-%d %H:%M} UTC"
    elif due and wall > due + _TOLERANCE:
        confirmed = confirmed or _evenly(seen, memory) >= _STEADY
        doubt = f"it was set ahead: {due:%Y-%m-%d %H:%M} UTC is due"
    if doubt is None or confirmed:
        now = max(wall, server.clock) if server else wall
        return Present(now, ignored=ignored), Memory(believed=seen)
    certain = (max(wall, server.clock) if server else wall) >= floor - _TOLERANCE
    message = f"the system's clock says {wall:%Y-%m-%d %H:%M} UTC, but {doubt}"
    steady = _evenly(seen, memory)
    return Present(best, certain, message), replace(memory, doubted=seen, steady=steady)


def _evenly(seen: Reading, memory: Memory) -> float:
    """Return for how many seconds of doubt the system's clock has gone evenly."""
    before = memory.doubted
    if before is None:
        return 0.0
    went = seen.wall - before.wall
    if before.boot != seen.boot:
        # A restart is no jump, however long the machine was off.
        return memory.steady if -_EVEN <= went <= _FAR.total_seconds() else 0.0
    passed = seen.uptime - before.uptime
    return memory.steady + passed if passed >= 0 and abs(went - passed) <= _EVEN else 0.0


class Clock:
    """The present, for whatever deletes or rejects because of it. May be asked by any thread.

    Args:
        home: the home folder, where it remembers.
        ask: asks the database for the time.
        read: reads the clocks of the machine.
    """

    def __init__(
        self,
        home: Path,
        ask: Callable[[], ServerTime],
        read: Callable[[], Reading] = read_clocks,
    ) -> None:
        self._path = home / MEMORY_NAME
        self._ask = ask
        self._read = read
        self._lock = threading.Lock()
        self._server: ServerTime | None = None
        self._memory = Memory()
        self._written: Memory | None = None
        self._doubting = False
        self._other = False

    def present(self) -> Present:
        """Return the present; log when the system's clock begins or ceases to be doubted."""
        try:
            server: ServerTime | None = self._asked()
        except PipelineError:
            server = None
        with self._lock:
            present, self._memory = self._weigh(server)
            self._remember()
            if (present.doubt is not None) != self._doubting:
                self._doubting = present.doubt is not None
                if present.doubt is not None:
                    log.warning("clock.doubted", reason=present.doubt)
                else:
                    log.warning("clock.believed", now=f"{present.now:%Y-%m-%d %H:%M} UTC")
            if present.ignored is not None:
                log.warning("clock.ledger_ignored", newest=f"{present.ignored:%Y-%m-%d %H:%M} UTC")
            return present

    def look(self) -> Present:
        """Return the present; change nothing.

        Raises:
            PipelineError: the database cannot be asked.
        """
        server = self._asked()
        with self._lock:
            return self._weigh(server)[0]

    def _asked(self) -> ServerTime:
        before = self._read()
        server = self._ask()
        after = self._read()
        # A container on this machine has an address of its own, and this machine's clock. Only what
        # is outside of the time that the answer took is certain to come from another clock.
        took, passed = after.wall - before.wall, after.uptime - before.uptime
        clock = server.clock.timestamp()
        outside = clock < before.wall - _CLOSE or clock > after.wall + _CLOSE
        if server.elsewhere and outside and abs(took - passed) < _CLOSE:
            self._other = True
        return replace(server, elsewhere=server.elsewhere and self._other)

    def _weigh(self, server: ServerTime | None) -> tuple[Present, Memory]:
        stored = _recalled(self._path)
        # What another process has written, or a person removed, counts more than what is remembered
        # here; what this one has written is older than that.
        if stored != self._written:
            self._memory, self._written = stored or Memory(), stored
        return weigh(self._read(), self._memory, server)

    def _remember(self) -> None:
        if self._memory == Memory():
            return
        if self._written is not None and not _changed(self._written, self._memory):
            return
        with suppress(DiskTrouble):  # on a full disk it is remembered in memory alone
            atomic.write(self._path, json.dumps(asdict(self._memory)).encode())
            self._written = self._memory


def _changed(before: Memory, now: Memory) -> bool:
    if (before.doubted is None) != (now.doubted is None):
        return True
    old, new = before.doubted or before.believed, now.doubted or now.believed
    if old is None or new is None or old.boot != new.boot:
        return old != new
    return abs(new.uptime - old.uptime) > _REMEMBER_SECONDS or (
        abs(new.wall - old.wall) > _REMEMBER_SECONDS
    )


def _recalled(path: Path) -> Memory | None:
    """Return what was written; None when nothing was, or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        believed, doubted = (
            None if found[name] is None else Reading(**found[name])
            for name in ("believed", "doubted")
        )
        ledger = found.get("ledger")
        return Memory(
            believed, doubted, float(found["steady"]), None if ledger is None else float(ledger)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
