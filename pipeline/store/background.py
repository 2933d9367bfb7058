"""Background: the database works in a thread of its own, so that Python can do what comes next.

Jobs run one after the other, in the order given. After one that failed none runs any more: each
raises what the first one raised, so that nobody is told of a transaction that was broken already.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Self, TypeVar

T = TypeVar("T")

_AGAIN = 0.2  # seconds


class Background:
    """One thread, and what it is to do. Use as `with Background(…) as background`.

    Args:
        cut_short: makes the job at hand end soon; called when something goes wrong elsewhere, and
            again until the job has ended: what it cuts short may be over, and the next begun.

    Attributes:
        last: the job that was given last; None: there was none.
    """

    def __init__(self, cut_short: Callable[[], None]) -> None:
        self._cut_short = cut_short
        self._pool = ThreadPoolExecutor(1, "database")
        self._failed: BaseException | None = None
        self._given: set[Future[Any]] = set()
        self.last: Future[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the job at hand; those that have not begun never will."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        try:
            while kind is not None and (running := [job for job in self._given if not job.done()]):
                self._cut_short()
                wait(running, timeout=_AGAIN)
        finally:
            # Whatever happens: a job that outlived its transaction would write beside it.
            self._pool.shutdown()
            # Its traceback holds whatever the job worked on.
            self._failed = None

    def later(self, job: Callable[[], T]) -> Future[T]:
        """Do something after everything that was given before."""
        self.last = future = self._pool.submit(self._run, job)
        self._given = {given for given in self._given if not given.done()} | {future}
        return future

    def wait(self) -> None:
        """Wait until everything that was given is done. Not from within a job.

        Raises:
            BaseException: what the first job raised that failed.
        """
        self.later(lambda: None).result()

    def _run(self, job: Callable[[], T]) -> T:
        if self._failed is not None:
            raise self._failed
        try:
            return job()
        except BaseException as error:
            self._failed = error
            raise
