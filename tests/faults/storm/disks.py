"""Faults of the disk and of what is dropped: full, denied; hostile, again, renamed, in pieces."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.faults.storm.kinds import kind, way
from tests.faults.storm.stream import Delivery
from tests.faults.storm.world import World

DISK = kind("disk", 1.5)
HOSTILE = kind("hostile", 1.5)
REDELIVER = kind("redeliver")
RENAME = kind("rename")
APPEND = kind("append")
SAME_NAME = kind("name")


# --- the disk -------------------------------------------------------------------------------------


def _no_disk(world: World) -> str | None:
    return None if world.on_disk else "no filesystem can be mounted here"


def _root(world: World) -> str | None:
    if os.geteuid() == 0 and not world.starter.prefix:
        return "root is denied nothing, and setpriv is not installed"
    return None


@way(DISK, "the home's disk filled up and freed", "disk", _no_disk)
def fill(world: World) -> Iterator[None]:
    world.feed()
    world.pause(0, 0.2)
    balloon = world.home / "balloon"
    with balloon.open("wb", buffering=0) as file:
        free = os.statvfs(world.home)
        with suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize)
        file.seek(0, os.SEEK_END)
        for piece in (4096, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    world.pause(0.3, 1.2)
    yield
    balloon.unlink()


def _denied(world: World, folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    folder.chmod(0)
    world.feed()
    world.pause(0.3, 1.2)
    yield
    folder.chmod(0o750)


@way(DISK, "quarantine/ denied", "quarantine", _root)
def quarantine_denied(world: World) -> Iterator[None]:
    yield from _denied(world, world.site.quarantine)


@way(DISK, "data/archive/ denied", "archive", _root)
def archive_denied(world: World) -> Iterator[None]:
    yield from _denied(world, world.data / "archive")


# --- what is dropped ------------------------------------------------------------------------------


@way(HOSTILE, "unusable files between good ones")
def hostile(world: World) -> Iterator[None]:
    world.feed()
    if world.may_drop:
        for _ in range(world.rng.randint(1, 2)):
            world.drop(world.stream.hostile())
    world.feed()
    yield


@way(HOSTILE, "lines of rubbish under a good header")
def rubbish(world: World) -> Iterator[None]:
    world.feed()
    if world.may_drop:
        world.drop(world.stream.rubbish())
    world.feed()
    yield


def _some(world: World) -> Delivery | None:
    """Return a file that was delivered; mostly one of the last."""
    every = list(world.delivered.values())
    if not every or not world.may_drop:
        return None
    return world.rng.choice(every[-20:] if world.rng.random() < 0.7 else every)


@way(REDELIVER, "a file delivered again under its name")
def again(world: World) -> Iterator[None]:
    if file := _some(world):
        world.drop(file)
    yield


@way(REDELIVER, "a file delivered again under other names")
def again_otherwise(world: World) -> Iterator[None]:
    if file := _some(world):
        for number in range(world.rng.randint(1, 3)):
            world.drop(file, f"again-{len(world.history)}-{number}-{file.name}")
    yield


@way(RENAME, "a file renamed while it waits")
def rename(world: World) -> Iterator[None]:
    if world.may_drop:
        for _ in range(3):
            file = world.stream.next()
            world.drop(file)
            new = f"renamed-{file.name}"
            with suppress(FileNotFoundError):  # taken already
                (world.data / file.name).rename(world.data / new)
                world.promise(file, new)
    yield


@way(APPEND, "a file written in pieces")
def pieces(world: World) -> Iterator[None]:
    if world.may_drop:
        file = world.stream.next()
        size = max(1, len(file.data) // 6)
        # Promised when it is whole: until then its bytes are nowhere.
        with (world.data / file.name).open("wb", buffering=0) as slow:
            for start in range(0, len(file.data), size):
                slow.write(file.data[start : start + size])
                world.pause(0, 0.05)
        world.promise(file, file.name)
    yield


@way(SAME_NAME, "other bytes under a name that came before")
def same_name(world: World) -> Iterator[None]:
    if file := _some(world):
        for _ in range(2):
            other = replace(world.stream.next(), name=file.name)
            if other.data.startswith(b"\x1f\x8b") == file.name.endswith(".gz"):
                world.wait("the name to be free", lambda: file.name not in world.waiting(), 1.0)
                world.drop(other)
    yield
