"""Work done ahead of its taker, within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from metricwatch.worker.read_ahead import ReadAhead


class Slow:
    """Work that notes what was asked for, and waits while `gate` is closed."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, task: int) -> int:
        self.asked.append(task)
        assert self.gate.wait(10)
        return task


def reader(work: Callable[[int], int], count: int = 64, **bounds: int) -> ReadAhead[int, int]:
    settings = {"ahead": 64, "threads": 2, **bounds}
    return ReadAhead(range(count), work, weigh=lambda _: 100, **settings)


def settled(condition: Callable[[], bool]) -> bool:
    """True when it comes true within two seconds, and is still true a while later."""
    deadline = time.monotonic() + 2
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    return condition()


@pytest.mark.parametrize(("threads", "ahead", "ahead_bytes"), [(1, 1, 1), (1, 64, 1), (3, 2, 150), (8, 64, 10**9)])
def test_results_come_in_order_however_little_may_wait(threads: int, ahead: int, ahead_bytes: int) -> None:
    def work(task: int) -> int:
        time.sleep(0.002 * (task % 3))
        return task * task

    found = reader(work, 40, threads=threads, ahead=ahead, ahead_bytes=ahead_bytes)
    assert list(found) == [task * task for task in range(40)]


def test_no_more_is_begun_than_there_are_threads_while_weights_are_unknown() -> None:
    """64 pictures of 5000 x 5000, submitted at once, are 5 GB by the time that the first is looked at."""
    slow = Slow()
    slow.gate.clear()
    found = iter(reader(slow, ahead_bytes=250))
    taker = threading.Thread(target=next, args=(found,))
    taker.start()
    assert settled(lambda: len(slow.asked) == 2)
    slow.gate.set()
    taker.join()
    # 300 bytes wait: over the bound, and one more may have been begun before the third was there; one is taken.
    assert settled(lambda: 4 <= len(slow.asked) <= 5)
    assert len(list(found)) == 63


def test_reading_ahead_goes_on_while_the_taker_is_busy() -> None:
    slow = Slow()
    found = iter(reader(slow, ahead=20))
    next(found)
    assert settled(lambda: len(slow.asked) == 21)
    next(found)
    assert settled(lambda: len(slow.asked) == 22)


def test_leaving_early_begins_nothing_more() -> None:
    slow = Slow()
    found = iter(reader(slow, ahead=4))
    next(found)
    assert settled(lambda: len(slow.asked) == 5)
    found.close()
    assert settled(lambda: len(slow.asked) == 5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_a_failure_reaches_the_taker() -> None:
    def work(task: int) -> int:
        if task == 3:
            raise ValueError("broken")
        return task

    found = iter(reader(work))
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(found)
