"""Retry: try a whole transaction again while what went wrong may pass.

A transaction that broke cannot resume in its middle, so the attempt is always the whole of it.
Whether a COMMIT whose answer was lost took effect is told by the ledger at the next attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import tenacity

from pipeline.errors import DatabaseUnavailable

T = TypeVar("T")

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 15.0


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
        on_wait: told what went wrong and how long the wait will be, before each wait.
        stopping: when set, the wait at hand is cut short and is the last.

    Raises:
        PipelineError: what the last attempt raised, once trying again is of no use.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, DatabaseUnavailable):
            on_wait(error, state.upcoming_sleep)

    stop: tenacity.stop.stop_base = tenacity.stop_when_event_set(stopping)
    if seconds is not None:
        stop = tenacity.stop_any(stop, tenacity.stop_after_delay(seconds))
    policy = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(DatabaseUnavailable),
        wait=tenacity.wait_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT)
        + tenacity.wait_random(0, 0.5),
        stop=stop,
        before_sleep=tell,
        sleep=tenacity.sleep_using_event(stopping),
        reraise=True,
    )
    return policy(attempt)
