"""Reading ahead keeps the order, passes on what goes wrong, and ends when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from itertools import chain

import pytest

from pipeline.ahead import ahead
from pipeline.contract import Contract
from pipeline.contract.header import recognise
from pipeline.core.records import Block, Segment

HEADER = recognise(",sensor_id,location,lat,lon,timestamp,P1,P2", Contract.default())
_LONG = 120.0  # nothing here waits so long unless it hangs


def blocks(count: int, taken: list[int] | None = None) -> Generator[Block]:
    for number in range(count):
        if taken is not None:
            taken.append(number)
        yield Block(HEADER, b"", (Segment(number, 2, 0),))


def number(block: Block) -> int:
    return block.segments[0].file


def within_time(work: Callable[[], object]) -> None:
    """Fail, rather than hang, when something does not come to its end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_LONG)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_results_come_in_the_order_of_the_blocks(workers: int, count: int) -> None:
    second_is_done = threading.Event()

    def work(block: Block) -> int:
        # With threads to spare, the first is done after the second.
        if number(block) == 0 and workers > 1 and count > 1:
            assert second_is_done.wait(_LONG)
        if number(block) == 1:
            second_is_done.set()
        return number(block)

    assert list(chain.from_iterable(ahead(blocks(count), work, workers, 3))) == list(range(count))


def test_what_is_ready_is_taken_together() -> None:
    longest = 0
    for _ in range(100):
        third = threading.Event()

        def work(block: Block, begun: threading.Event = third) -> int:
            # Of two threads, one is done with the second or about to be.
            if number(block) == 2:
                begun.set()
            return number(block)

        results = ahead(blocks(5), work, workers=2, together=2)
        taken = [next(results)]
        assert third.wait(_LONG)
        taken += results
        assert list(chain.from_iterable(taken)) == [0, 1, 2, 3, 4]
        longest = max(longest, *(len(several) for several in taken))
        # They are done a moment after they began: nearly always before they are asked for.
        if longest > 1:
            break
    assert longest == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_what_working_raises_comes_after_the_results_before_it(workers: int) -> None:
    def work(block: Block) -> int:
        if number(block) == 3:
            raise ValueError("the fourth")
        return number(block)

    seen: list[int] = []
    with pytest.raises(ValueError, match="the fourth"):
        within_time(lambda: seen.extend(chain.from_iterable(ahead(blocks(9), work, workers, 2))))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_reading_raises_comes_after_the_results_before_it(workers: int) -> None:
    def broken() -> Generator[Block]:
        yield from blocks(3)
        raise ValueError("unreadable")

    seen: list[int] = []
    with pytest.raises(ValueError, match="unreadable"):
        within_time(lambda: seen.extend(chain.from_iterable(ahead(broken(), number, workers, 2))))
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_it_reads_only_so_far_ahead(workers: int) -> None:
    taken: list[int] = []
    results = ahead(blocks(50, taken), number, workers, 2)
    done = 0
    for _ in range(10):
        done += len(next(results))
        # Those that were handed over, and `workers + 1` in the making or waiting.
        assert len(taken) <= done + workers + 1
    results.close()
    assert len(taken) < 50


@pytest.mark.parametrize(("done", "due"), [(False, [0, 1]), (True, [0])])
def test_one_more_is_waited_for_only_while_there_is_time(done: bool, due: list[int]) -> None:
    job: Future[None] = Future()
    if done:
        job.set_result(None)
    asked, go_on = threading.Event(), threading.Event()

    def second_is_late(block: Block) -> int:
        if number(block) == 1:
            assert asked.wait(_LONG)
            assert done is False or go_on.wait(_LONG)
        return number(block)

    def busy() -> Future[None]:
        asked.set()
        return job

    results = ahead(blocks(4), second_is_late, 1, 2, busy)
    assert next(results) == due
    go_on.set()
    results.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_closing_ends_its_threads_and_closes_what_it_reads(workers: int) -> None:
    closed: list[bool] = []

    def endless() -> Generator[Block]:
        try:
            while True:
                yield from blocks(1)
        finally:
            closed.append(True)

    before = set(threading.enumerate())
    results = ahead(endless(), number, workers, 1)
    assert next(results) == [0]
    within_time(results.close)
    assert closed == [True]
    assert set(threading.enumerate()) <= before


def test_closing_does_not_read_what_nobody_asked_for_yet() -> None:
    reading, go_on = threading.Event(), threading.Event()
    taken: list[int] = []

    def slow() -> Generator[Block]:
        for block in blocks(9, taken):
            if number(block) == 1:
                reading.set()
                assert go_on.wait(_LONG)
            yield block

    results = ahead(slow(), number, 4, 1)
    assert next(results) == [0]
    assert reading.wait(_LONG)
    judges = [each for each in threading.enumerate() if each.name.startswith("process")]
    closing = threading.Thread(target=results.close)
    closing.start()
    # All end that wait for later blocks, while the second is still being read.
    until = time.monotonic() + _LONG
    while sum(each.is_alive() for each in judges) > 1:
        assert time.monotonic() < until
        closing.join(0.01)
    go_on.set()
    closing.join(_LONG)
    assert not closing.is_alive()
    assert taken == [0, 1]
