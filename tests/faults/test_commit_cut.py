"""The line to PostgreSQL is cut at a COMMIT: sent or not, done or not, it counts exactly once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.faults.harness import Contents, File, Site, invariants
from tests.faults.proxy import Cut, Proxy

# Real processes, real outages: minutes, not seconds.
pytestmark = pytest.mark.slow

CUTS: tuple[Cut, ...] = ("after", "before", "at once")


class Cutting:
    """Cuts every other COMMIT, in each way in turn, until the number is reached."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self.left = number
        self._rng = rng
        self._done = 0

    def __call__(self) -> Cut | None:
        if not self.left or self._rng.random() < 0.4:
            return None
        self.left -= 1
        self._done += 1
        return CUTS[self._done % len(CUTS)]


def drain_through(proxy: Proxy, there: Site) -> None:
    """Load everything through a proxy, and see that each outage was told once."""
    there.via = proxy.url
    there.start()
    pid = there.pid
    there.drain()
    assert len(there.events("daemon.started")) == 1, f"{pid} did not stay"
    told = [event["event"] for event in there.events("database.down", "database.up")]
    assert told == ["database.down", "database.up"] * (len(told) // 2)


@pytest.mark.parametrize("cut", CUTS)
def test_the_line_is_cut_at_a_commit(
    make_site: Callable[..., Site], small: list[File], expected: Contents, cut: Cut
) -> None:
    there = make_site(batch_files=6)
    there.deliver(small)
    commits = iter((None, cut, None))
    with Proxy(there.url, lambda: next(commits, None)) as proxy:
        drain_through(proxy, there)
        assert proxy.cuts[cut] == 1
    invariants(there, expected)
    assert len(there.events("database.down")) == 1
    # What was committed behind the cut is found in the ledger; what was not is loaded again.
    if cut == "after":
        assert there.events("file.known")


def test_the_line_is_cut_at_several_commits(
    make_site: Callable[..., Site], small: list[File], expected: Contents
) -> None:
    there = make_site(batch_files=3)
    there.deliver(small)
    with Proxy(there.url, Cutting(4, random.Random(1))) as proxy:
        drain_through(proxy, there)
        assert sum(proxy.cuts.values()) >= 3
    invariants(there, expected)


@pytest.mark.slow
def test_the_line_is_cut_at_twenty_commits_of_300_000_rows(
    make_site: Callable[..., Site], big: list[File], expected_of_big: Contents
) -> None:
    there = make_site(batch_files=8, block_bytes=2**20)
    there.deliver(big)
    with Proxy(there.url, Cutting(20, random.Random(2))) as proxy:
        drain_through(proxy, there)
        assert sum(proxy.cuts.values()) == 20
    invariants(there, expected_of_big)
