"""Time, injected: stages ask a Clock and never the operating system."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


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
