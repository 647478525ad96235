"""Doing a known sequence of work on threads, some way ahead of whoever takes the results."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class ReadAhead(Generic[Task, Result]):
    """Iterates over work(task) for each task, in order.

    Going ahead stops at `ahead` results, or once results that weigh `ahead_bytes` wait to be taken; what is being
    worked on then, a task a thread at most, comes on top. Leaving the iteration early begins nothing more.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        work: Callable[[Task], Result],
        *,
        weigh: Callable[[Result], int],
        ahead: int,
        ahead_bytes: int = 256_000_000,
        threads: int,
    ) -> None:
        self._upcoming = iter(tasks)
        self._work = work
        self._weigh = weigh
        self._ahead = max(1, ahead)
        self._ahead_bytes = ahead_bytes
        self._threads = threads
        self._lock = threading.Lock()
        self._waiting: deque[Future[Result]] = deque()
        self._unfinished = 0
        self._weight = 0

    def __iter__(self) -> Iterator[Result]:
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="read")
        try:
            while True:
                with self._lock:
                    self._refill()
                    if not self._waiting and not self._submit():
                        return
                    future = self._waiting.popleft()
                result = future.result()
                with self._lock:
                    self._weight -= self._weigh(result)
                    self._refill()
                yield result
        finally:
            with self._lock:
                self._upcoming = iter(())
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _refill(self) -> None:
        """Submit what the bounds allow. No more at a time than there are threads: weights are not known before."""
        while (
            self._unfinished < self._threads
            and len(self._waiting) < self._ahead
            and self._weight < self._ahead_bytes
            and self._submit()
        ):
            pass

    def _submit(self) -> bool:
        for task in self._upcoming:
            self._unfinished += 1
            self._waiting.append(self._pool.submit(self._run, task))
            return True
        return False

    def _run(self, task: Task) -> Result:
        weight = 0
        try:
            result = self._work(task)
            weight = self._weigh(result)
            return result
        finally:
            # Here and not when it is taken: whoever takes may be busy with a batch for long.
            with self._lock:
                self._unfinished -= 1
                self._weight += weight
                self._refill()
