"""The kinds of fault, by name, and what each needs.

A fault is a generator: what stands before its `yield` strikes, what stands after undoes it. One
that does not last has nothing after it. A kind has one fault or several, each as likely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.faults.storm.world import Pending, World

Fault = Callable[[World], Iterator[None]]


@dataclass(frozen=True)
class Way:
    """One way to do a fault.

    Attributes:
        what: in words.
        fault: what it does.
        group: what it disturbs while it lasts; two of a group are not at work at a time.
        lasts: whether it is undone later, and other faults come meanwhile.
        needs: returns why it cannot be done here, or None.
    """

    what: str
    fault: Fault
    group: str = ""
    lasts: bool = False
    needs: Callable[[World], str | None] = lambda _: None


@dataclass
class Kind:
    """A kind of fault.

    Attributes:
        name: its name.
        weight: how often it comes, compared with the others.
        ways: the ways to do it.
        done: how often each was done.
        broken: in how many rounds with it a law was broken.
        skipped: ways that could not be done, and why.
    """

    name: str
    weight: float = 1.0
    ways: list[Way] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def times(self) -> int:
        """How often it was done."""
        return sum(self.done.values())

    def strike(self, world: World) -> bool:
        """Do one of its ways; return False if none can be done here."""
        ways = []
        for way in self.ways:
            if reason := way.needs(world):
                self.skipped[way.what] = reason
            else:
                ways.append(way)
        if not ways:
            return False
        # The rarest first, so that each has its turn in a short run too.
        least = min(self.done.get(way.what, 0) for way in ways)
        way = world.rng.choice([way for way in ways if self.done.get(way.what, 0) == least])
        if way.group:
            world.undo(way.group)
        world.note(f"{self.name}: {way.what}")
        self.done[way.what] = self.done.get(way.what, 0) + 1
        rest = way.fault(world)
        next(rest)
        if way.lasts:
            world.pending.append(Pending(self.name, way.group, rest))
        else:
            next(rest, None)
        return True


KINDS: dict[str, Kind] = {}


def kind(name: str, weight: float = 1.0) -> Kind:
    """Declare a kind."""
    return KINDS.setdefault(name, Kind(name, weight))


def way(
    of: Kind,
    what: str,
    group: str = "",
    needs: Callable[[World], str | None] = lambda _: None,
    *,
    lasts: bool | None = None,
) -> Callable[[Fault], Fault]:
    """Add a way to a kind; it lasts if it is of a group, unless told otherwise."""

    def add(fault: Fault) -> Fault:
        of.ways.append(Way(what, fault, group, bool(group) if lasts is None else lasts, needs))
        return fault

    return add
