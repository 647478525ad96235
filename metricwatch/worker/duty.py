"""Pauses between batches, so that whoever shares the device has it for the rest of the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")

# Shorter pauses end when the system's timer likes: what is owed is kept until it is worth a sleep.
_SHORTEST_SECONDS = 0.005
_STEP_SECONDS = 1.0


class Duty:
    """Keeps work on a device to a share of the time: busy / (busy + pause) <= share, where 0 < share <= 1.

    A share of 1 never pauses. One pause lasts at most `longest` seconds; what is owed beyond that follows after later
    batches. finish() waits until the device has done what it was given, which counts as busy. Not for several threads.
    """

    def __init__(
        self,
        share: float = 1.0,
        *,
        longest: float = 900.0,
        finish: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ratio = 1 / share - 1
        self._longest = longest
        self._finish = finish
        self._clock = clock
        self._sleep = sleep
        self._owed = 0.0
        self._accounted = 0.0

    def paced(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, with pauses. Making one is work, and so is what the caller does until it asks for more."""
        return self._turns(batches, used=True) if self._ratio else iter(batches)

    def making(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same, where what the caller does with them is no work, or is paced for itself."""
        return self._turns(batches, used=False) if self._ratio else iter(batches)

    def _turns(self, batches: Iterable[Batch], *, used: bool) -> Iterator[Batch]:
        remaining = iter(batches)
        while True:
            started, accounted = self._clock(), self._accounted
            try:
                batch = next(remaining)
            except StopIteration:
                self._rest(started, accounted)
                return
            if used:
                yield batch
            self._rest(started, accounted)
            if not used:
                yield batch

    def _rest(self, started: float, accounted: float) -> None:
        """Pause for the work since `started`, save what turns within it have paused for, and their pauses themselves.

        accounted: the seconds of work and pauses that were done with when it started.
        """
        self._finish()
        now = self._clock()
        work = max(0.0, now - started - (self._accounted - accounted))
        self._accounted += work
        self._owed += work * self._ratio
        if self._owed < _SHORTEST_SECONDS:
            return
        began, end = now, now + min(self._owed, self._longest)
        # In steps: a clock that stands still while the machine sleeps would double the rest of a long one.
        while now < end:
            self._sleep(min(_STEP_SECONDS, end - now))
            now = self._clock()
        self._accounted += now - began
        self._owed = max(0.0, self._owed - (now - began))
