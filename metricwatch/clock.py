"""Time, injected: stages ask a Clock and never the operating system."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

# Nothing is put off for longer, whatever a server asks for.
LONGEST_WAIT = timedelta(hours=1)


class Clock(Protocol):
    """now() is wall time in UTC and may jump; monotonic() is seconds that only grow."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class SteadyClock:
    """Another clock, of which now() never goes back, nor below a given moment. Safe from several threads.

    When the wall clock is set back, time goes on from where it was, at the pace of the monotonic clock, until the wall
    clock has caught up: what is recorded stays in order, and what waits does not wait for the lost hour again.
    """

    def __init__(self, clock: Clock, *, not_before: datetime | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last = max(clock.now(), not_before or datetime.min.replace(tzinfo=UTC))
        self._since = clock.monotonic()

    def now(self) -> datetime:
        with self._lock:
            monotonic = self._clock.monotonic()
            self._last = max(self._clock.now(), self._last + timedelta(seconds=monotonic - self._since))
            self._since = monotonic
            return self._last

    def monotonic(self) -> float:
        return self._clock.monotonic()


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970, the unit of every time in the ledger and in MLflow."""
    return round(moment.timestamp() * 1000)


def from_ms(milliseconds: int) -> datetime:
    """The UTC moment of a ledger time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def backoff(attempts: int, *, first: timedelta, most: timedelta) -> timedelta:
    """How long to wait after this many failed attempts (from 1): doubling from first, never above most."""
    doubled: timedelta = first * 2.0 ** min(attempts - 1, 30)
    return min(most, doubled)
