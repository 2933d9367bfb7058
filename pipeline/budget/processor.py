"""Processor time that one file may take, in proportion to its text.

It is what the threads of this process spend on the file, never the time on the clock: a busy
machine or a slow database does not count. Long loops ask `Budget.check` now and then; what is done
in one step by a library is bounded by the size of a block.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.budget.bounds import MIB, Bounds
from pipeline.errors import FileRefused


class Budget:
    """Processor time that one file may take, in whichever threads work on it.

    Args:
        bounds: what a file may cost.
        text: bytes of its text that are known already.
    """

    def __init__(self, bounds: Bounds, text: int = 0) -> None:
        self._bounds = bounds
        self._text = text
        self._spent = 0.0
        self._began: dict[int, float] = {}
        self._over = False
        self._lock = threading.Lock()

    def grow(self, text: int) -> None:
        """Allow for so many more bytes of text."""
        with self._lock:
            self._text += text

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Charge what this thread does in the block.

        Raises:
            FileRefused: the file took more than it may (only when the block raised nothing).
        """
        thread = threading.get_ident()
        self._began[thread] = time.thread_time()
        try:
            yield
            self.check()
        finally:
            spent = time.thread_time() - self._began.pop(thread)
            with self._lock:
                self._spent += spent

    def check(self) -> None:
        """Refuse the file when it took more than it may, in a thread that is `at_work`.

        Raises:
            FileRefused: rule `over_budget`. Once only: what is still done about it is free.
        """
        now = time.thread_time()
        spent = self._spent + now - self._began.get(threading.get_ident(), now)
        bounds = self._bounds
        allowed = bounds.file_seconds + bounds.file_seconds_per_mb * self._text / MIB
        if spent > allowed and not self._over:
            self._over = True
            text = f"{self._text / MIB:,.1f} MiB of text"
            message = (
                f"took more than {allowed:,.1f} s of processor time for {text} "
                "(settings limits.file_seconds and limits.file_seconds_per_mb)"
            )
            raise FileRefused("over_budget", message)
