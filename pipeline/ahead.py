"""Ahead: blocks are read and worked on in threads, a few ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any, TypeVar

from pipeline.core.records import Block

T = TypeVar("T")


def ahead(
    blocks: Generator[Block],
    work: Callable[[Block], T],
    workers: int,
    together: int,
    busy: Callable[[], Future[Any] | None] = lambda: None,
) -> Generator[list[T]]:
    """Read and work on blocks in threads, a few ahead of whoever takes the results.

    Args:
        blocks: read in one thread, in order; closed at the end.
        work: what to do with each.
        workers: how many threads do it.
        together: how many results may be taken at once, at most. One more than `workers`, and no
            fewer, are in the making or waiting while results are waited for. For those that were
            taken, others are begun when the next are asked for: while the taker is behind, no more
            is held.
        busy: returns what whoever takes the results is busy with, if anything. Until that is done
            there is time to wait for one more.

    Yields:
        One result or more, as many as are ready, in the order of the blocks. What reading or
        working raised is raised here.
    """
    with (
        closing(blocks),
        ThreadPoolExecutor(1, "read") as reading,
        ThreadPoolExecutor(workers, "process") as working,
    ):

        def begin() -> Future[T | None]:
            block = reading.submit(next, blocks, None)
            return working.submit(_worked, block, work)

        waiting = deque(begin() for _ in range(workers + 1))
        try:
            while (result := waiting.popleft().result()) is not None:
                ready = [result]
                while len(ready) < together and waiting:
                    if (job := busy()) is not None:
                        wait((waiting[0], job), return_when=FIRST_COMPLETED)
                    if (more := _if_ready(waiting[0])) is None:
                        break
                    waiting.popleft()
                    ready.append(more)
                yield ready
                waiting += [begin() for _ in ready]
        finally:
            # What nobody will take is neither worked on nor read any more.
            for pool in (reading, working):
                pool.shutdown(wait=False, cancel_futures=True)


def _if_ready(result: Future[T | None]) -> T | None:
    return result.result() if result.done() and result.exception() is None else None


def _worked(block: Future[Block | None], work: Callable[[Block], T]) -> T | None:
    found = block.result()
    return None if found is None else work(found)
