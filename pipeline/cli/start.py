"""The start of a command: what is loaded stays, so nobody looks for garbage in it meanwhile."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_AT_START = 100_000  # objects; a start makes about as many, and would be searched hundreds of times


def hurry() -> None:
    """Look for garbage hardly ever, while a command loads what it needs."""
    gc.set_threshold(_AT_START)


def settle() -> None:
    """Look for garbage as usual: the work begins, and its garbage may be large."""
    gc.freeze()  # what is loaded by now is none, and need not be looked through
    gc.set_threshold(*_USUAL)
