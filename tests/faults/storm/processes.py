"""Faults of processes: killed, halted, stopped politely; another clock, too few descriptors."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.faults.daemon import get
from tests.faults.storm.kinds import kind, way
from tests.faults.storm.world import World

_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
_FLOOD = 240  # connections

KILL = kind("kill", 2.0)
STOP = kind("stop")
TERMINATE = kind("term")
CLOCK = kind("clock", 0.5)
DESCRIPTORS = kind("descriptors")


@way(KILL, "the daemon killed")
def kill_daemon(world: World) -> Iterator[None]:
    world.pause(0, 0.4)
    world.site.kill()
    world.restart()
    yield


@way(KILL, "the daemon killed while it starts")
def kill_starting(world: World) -> Iterator[None]:
    world.site.kill()
    world.restart()
    world.pause(0, 0.15)
    world.site.kill()
    world.restart()
    yield


@way(KILL, "the server killed")
def kill_server(world: World) -> Iterator[None]:
    world.pause(0, 0.3)
    world.postgres.kill()
    world.pause(0, 0.5)
    world.postgres.start()
    yield


@way(KILL, "a server process killed")
def kill_backend(world: World) -> Iterator[None]:
    world.pause(0, 0.3)
    with world.connect() as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'sofia-air' ORDER BY random() LIMIT 1"
        ).fetchone()
    if found:
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)
    yield


@way(KILL, "both killed")
def kill_both(world: World) -> Iterator[None]:
    world.pause(0, 0.3)
    world.postgres.kill()
    world.site.kill()
    world.restart()
    world.pause(0, 0.5)
    world.postgres.start()
    yield


@way(STOP, "the daemon halted and continued")
def halt_daemon(world: World) -> Iterator[None]:
    world.pause(0, 0.2)
    os.kill(world.pid, signal.SIGSTOP)
    world.feed()
    world.pause(0.3, 1.2)
    os.kill(world.pid, signal.SIGCONT)
    yield


@way(STOP, "the server halted and continued")
def halt_server(world: World) -> Iterator[None]:
    world.pause(0, 0.2)
    halted = world.children_of_server()
    for pid in halted:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    world.feed()
    world.pause(0.3, 1.2)
    for pid in halted:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    yield


@way(STOP, "the server stopped at once and started")
def stop_server(world: World) -> Iterator[None]:
    world.postgres.stop_immediately()
    world.pause(0, 0.5)
    world.postgres.start()
    yield


@way(TERMINATE, "the daemon stopped politely and started")
def restart_daemon(world: World) -> Iterator[None]:
    # Not while a lock of ours is held: that would only take five seconds longer.
    if world.disturbed("schema"):
        world.undo("schema")
    world.pause(0, 0.3)
    world.stop()
    world.feed()
    world.restart()
    yield


# --- another clock --------------------------------------------------------------------------------


def _no_faketime(_: World) -> str | None:
    return None if _FAKETIME.exists() else "libfaketime is not installed (apt-get install faketime)"


def _under_clock(world: World, shift: str) -> Iterator[None]:
    """Run the daemon under another clock for a while; files and the server keep the right one."""
    world.undo("schema")
    world.stop()
    environment = {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME": shift,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    before = len(world.site.events("daemon.started"))
    world.restart(environment=environment)
    world.wait("the start", lambda: len(world.site.events("daemon.started")) > before, 20)
    world.feed()
    world.wait("files to be taken", lambda: not world.waiting(), 2.0)
    yield
    # It may have ended because of its clock: that it says so is all that is asked of it then.
    if world.site.alive:
        world.stop()
    else:
        world.site.buried()
    world.restart()


@way(CLOCK, "a clock years behind", "clock", _no_faketime)
def clock_behind(world: World) -> Iterator[None]:
    yield from _under_clock(world, "-4000d")


@way(CLOCK, "a clock a year ahead", "clock", _no_faketime)
def clock_ahead(world: World) -> Iterator[None]:
    yield from _under_clock(world, "+400d")


# --- descriptors ----------------------------------------------------------------------------------


def _has_started(world: World) -> bool:
    """Whether the daemon is past its imports: a process that cannot read its own code just ends."""
    with suppress(OSError):
        return get(world.port, "/healthz")[0] == 200
    return False


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@way(DESCRIPTORS, "hardly any descriptor left", "descriptors")
def few_descriptors(world: World) -> Iterator[None]:
    world.wait("the daemon to answer", lambda: _has_started(world), 20)
    pid = world.pid
    before = world.limit_descriptors(_open_files(pid) + world.rng.randint(0, 3))
    world.feed()
    world.pause(0.3, 1.0)
    yield
    if world.site.pid == pid:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@way(DESCRIPTORS, "idle connections to the metrics port", "descriptors")
def flood(world: World) -> Iterator[None]:
    world.wait("the daemon to answer", lambda: _has_started(world), 20)
    pid = world.pid
    before = world.limit_descriptors(128)
    with ExitStack() as connections:
        for _ in range(_FLOOD):
            with suppress(OSError):
                one = socket.create_connection(("127.0.0.1", world.port), timeout=0.5)
                connections.enter_context(one)
        world.feed()
        world.pause(0.5, 1.5)
        yield
    if world.site.pid == pid:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
