"""Retry: try a whole transaction again while what went wrong may pass.

A transaction that broke cannot resume in its middle, so the attempt is always the whole of it.
Whether a COMMIT whose answer was lost took effect is told by the ledger at the next attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

from pipeline.errors import DatabaseUnavailable, Outdated

T = TypeVar("T")

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 15.0
_AT_ONCE = 10  # tries in a row that need no wait


def retrying(
    attempt: Callable[[], T],
    *,
    seconds: float | None,
    stopping: threading.Event,
    on_wait: Callable[[DatabaseUnavailable, float], None],
) -> T:
    """Run `attempt` until it succeeds, fails for good, or the time is up.

    Args:
        attempt: the whole transaction.
        seconds: how long to go on; None means without end.
        on_wait: told what went wrong and how long the wait will be, before each wait. Not of
            `Outdated`, after which there is none.
        stopping: when set, the wait at hand is cut short and is the last.

    Raises:
        PipelineError: what the last attempt raised, once trying again is of no use.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, DatabaseUnavailable) and not isinstance(error, Outdated):
            on_wait(error, state.upcoming_sleep)

    late = tenacity.stop_never if seconds is None else tenacity.stop_after_delay(seconds)
    usual = tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
    spread = usual + tenacity.wait_random(0, 0.5)

    def at_once(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        return isinstance(error, Outdated) and state.attempt_number < _AT_ONCE

    policy = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DatabaseUnavailable),
        wait=lambda state: 0.0 if at_once(state) else spread(state),
        stop=lambda state: stopping.is_set() or (not at_once(state) and late(state)),
        before_sleep=tell,
        sleep=tenacity.sleep_using_event(stopping),
        reraise=True,
    )
    return policy(attempt)
