"""Hundreds of random faults in one run, with the laws checked after each.

    python -m tests.faults.storm --faults 500 --seed 1

A real daemon loads a stream of small files into a real PostgreSQL while one fault after the other
strikes: several, some of them lasting, until it is let become calm. What holds at any moment is
checked after each fault, everything whenever it is calm. When a law is broken the seed and the
history are printed, the home folder is kept, and the storm goes on with a new home; the exit code
is 1 then. The table on standard output is Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from pipeline import __version__
from tests.faults.harness import Postgres, Starter
from tests.faults.storm import databases, disks, processes
from tests.faults.storm.kinds import KINDS, Kind
from tests.faults.storm.laws import become_calm, check_all, check_quickly
from tests.faults.storm.machine import mounts, rights_to_take
from tests.faults.storm.stream import Stream
from tests.faults.storm.world import Violation, World

__all__ = ["databases", "disks", "processes"]  # each declares its kinds


@dataclass
class Storm:
    """One run.

    Attributes:
        faults: how many.
        seed: decides everything random.
        kinds: those that strike.
        most_broken: give up after so many rounds in which a law was broken.
        room: where homes are; made and, unless a law was broken, removed.
        spent: seconds until it was calm, and of checking, in the last round.
    """

    faults: int
    seed: int
    kinds: Sequence[Kind]
    most_broken: int
    room: Path
    done: int = 0
    rounds: int = 0
    files: int = 0
    rows: int = 0
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0
    spent: tuple[float, float] = (0.0, 0.0)
    postgres: str = ""

    def run(self) -> None:
        """Let it strike."""
        started = time.monotonic()
        rng = random.Random(self.seed)
        on_disk = mounts(self.room / "disk")
        with ExitStack() as opened:
            server = opened.enter_context(
                tempfile.TemporaryDirectory(prefix="sofia-air-storm-server-")
            )
            starter = opened.enter_context(Starter(rights_to_take()))
            postgres = opened.enter_context(Postgres(Path(server)))
            for number in count(1):
                if self.done >= self.faults or len(self.broken) >= self.most_broken:
                    break
                room = self.room / f"world-{number}"
                stream = Stream(room / "simulated", rng)
                world = World(room, postgres, starter, rng, stream, on_disk)
                with world.open():
                    self._rage(world)
                    self.postgres = world.sql("SHOW server_version")[0][0]
        self.seconds = time.monotonic() - started

    def _rage(self, world: World) -> None:
        """Strike until enough is done, or a law is broken in this world."""
        while self.done < self.faults:
            struck: list[Kind] = []
            began = len(world.history)
            try:
                self._round(world, struck)
            except Exception:  # noqa: BLE001  # whatever it was, it goes into the report
                text = traceback.format_exc()
                if isinstance(sys.exc_info()[1], Violation):
                    text = str(sys.exc_info()[1])
                self._tell(world, began, text)
                for kind in {kind.name: kind for kind in struck}.values():
                    kind.broken += 1
                self.files += len(world.delivered)
                return
            self.rounds += 1
            print(
                f"{datetime.now(UTC):%T} {self.done} faults, {len(world.delivered)} files: "
                f"{', '.join(kind.name for kind in struck)}; calm after {self.spent[0]:.1f} s, "
                f"checked in {self.spent[1]:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        self.files += len(world.delivered)
        self.rows += world.sql("SELECT sum(rows_read)::bigint FROM air.source_file")[0][0] or 0

    def _round(self, world: World, struck: list[Kind]) -> None:
        weights = [kind.weight for kind in self.kinds]
        for _ in range(min(world.rng.randint(3, 7), self.faults - self.done)):
            world.feed()
            (kind,) = world.rng.choices(self.kinds, weights)
            # What strikes may break down when a law is broken already: it counts all the same.
            struck.append(kind)
            if not kind.strike(world):
                struck.pop()
                continue
            self.done += 1
            check_quickly(world)
            if world.rng.random() < 0.4:
                world.undo()
        struck_at = time.monotonic()
        become_calm(world)
        calm_at = time.monotonic()
        check_all(world, thorough=self.rounds % 8 == 0 or self.done >= self.faults)
        self.spent = (calm_at - struck_at, time.monotonic() - calm_at)
        if world.rng.random() < 0.5:
            world.take_snapshot()

    def _tell(self, world: World, began: int, text: str) -> None:
        lines = [
            f"A law was broken (seed {self.seed}, after {self.done} faults): {text}",
            f"home, kept: {world.home}",
            "history: " + "; ".join(world.history[-60:]),
            "this round: " + "; ".join(world.history[began:]),
        ]
        self.broken.append("\n".join(lines))
        print(self.broken[-1], file=sys.stderr, flush=True)

    def table(self) -> str:
        """Return the figures as Markdown."""
        about = (
            f"Run of {datetime.now(UTC):%Y-%m-%d}, {self.seconds / 60:.0f} minutes, seed "
            f"{self.seed}: {self.done:,} faults in {self.rounds + len(self.broken)} rounds, "
            f"{self.files:,} files, {self.rows:,} rows; sofia-air {__version__}, Python "
            f"{platform.python_version()}, PostgreSQL {self.postgres}, {platform.system()}, "
            f"{os.cpu_count()} CPUs."
        )
        head = "| kind | faults | times | rounds with a broken law |"
        lines = [about, "", head, "|---|---|--:|--:|"]
        for kind in self.kinds:
            ways = ", ".join(f"{what} ({times})" for what, times in sorted(kind.done.items()))
            lines.append(f"| {kind.name} | {ways or '–'} | {kind.times} | {kind.broken} |")
        lines.append(f"| all | | {self.done} | {len(self.broken)} |")
        skipped = {what: why for kind in self.kinds for what, why in kind.skipped.items()}
        lines += ["", *(f"Not done: {what}: {why}." for what, why in skipped.items())]
        return "\n".join(lines).rstrip()


def storm(faults: int, seed: int, names: Sequence[str] = (), most_broken: int = 10) -> Storm:
    """Run a storm; its home folders are removed unless a law was broken.

    Args:
        faults: how many.
        seed: decides everything random.
        names: the kinds that strike; all if there are none.
        most_broken: give up after so many rounds in which a law was broken.
    """
    kinds = [KINDS[name] for name in names or KINDS]
    for kind in kinds:
        kind.done, kind.broken, kind.skipped = {}, 0, {}
    room = Path(tempfile.mkdtemp(prefix="sofia-air-storm-"))
    run = Storm(faults, seed, kinds, most_broken, room)
    try:
        run.run()
    finally:
        if not run.broken:
            shutil.rmtree(room)
    return run


def main() -> int:
    """Run it; return 1 when a law was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help=f"with commas between: {', '.join(KINDS)}")
    parser.add_argument("--without", default="", help="kinds to leave out")
    parser.add_argument("--most-broken", type=int, default=10, help="give up after so many")
    given = parser.parse_args()
    chosen = [name for name in given.kinds.split(",") if name] or list(KINDS)
    left_out = {name for name in given.without.split(",") if name}
    if unknown := (set(chosen) | left_out) - KINDS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    names = [name for name in chosen if name not in left_out]
    # Stopped from outside, it leaves neither processes nor filesystems behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    run = storm(given.faults, given.seed, names, given.most_broken)
    print(run.table())
    return 1 if run.broken else 0


if __name__ == "__main__":
    sys.exit(main())
