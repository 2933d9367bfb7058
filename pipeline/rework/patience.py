"""Patience: a whole transaction is tried again while the database is away, and it is said so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from pipeline import logs
from pipeline.config import Settings
from pipeline.errors import DatabaseUnavailable
from pipeline.store.retry import retrying

T = TypeVar("T")

log = logs.get("rework")


def patiently(settings: Settings, attempt: Callable[[], T]) -> T:
    """Try a whole transaction as long as the settings allow while the database is away.

    Raises:
        DatabaseUnavailable: the time is up.
    """

    def tell(error: DatabaseUnavailable, wait: float) -> None:
        log.warning("database.waiting", error=str(error), retry_in=round(wait, 1))

    return retrying(
        attempt, seconds=settings.database.retry_seconds, on_wait=tell, stopping=threading.Event()
    )
