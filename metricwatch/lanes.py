"""The threads that turn the stages, and the timer that wakes them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType, TracebackType
from typing import Self

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from metricwatch.clock import backoff
from metricwatch.errors import LedgerUnavailableError

log = structlog.get_logger(__name__)

# A lane that has not turned for this long hangs in a stage: the health endpoint says so.
_STUCK_SECONDS = 120.0
_JOIN_SECONDS = 15.0
# Of a lane that wants to turn again soon.
_SHORTEST_SECONDS = 0.01
_FIRST_RETRY = timedelta(seconds=1)
_MOST_RETRY = timedelta(seconds=30)

Tick = Callable[[], int]


class _Trouble:
    """The lanes that cannot write the ledger: said once when the first of them meets it, and when all are over it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: dict[str, int] = {}
        self.reason = ""
        self.since = 0.0

    def met(self, lane: str, error: LedgerUnavailableError) -> float:
        """How many seconds to wait before the lane tries again."""
        with self._lock:
            if not self._attempts:
                self.since = time.monotonic()
                log.error("ledger.unavailable", reason=str(error), consequence="everything waits for it")
            self._attempts[lane] = self._attempts.get(lane, 0) + 1
            self.reason = str(error)
            return backoff(self._attempts[lane], first=_FIRST_RETRY, most=_MOST_RETRY).total_seconds()

    def over(self, lane: str) -> None:
        with self._lock:
            if self._attempts.pop(lane, None) and not self._attempts:
                self.reason = ""
                log.info("ledger.available", consequence="everything goes on where it was")


class _Lane:
    """One thread: ticks its stages while they find work, then sleeps until woken."""

    def __init__(
        self,
        name: str,
        ticks: Sequence[Tick],
        stop: threading.Event,
        trouble: _Trouble,
        period: float,
        until: Callable[[], float],
    ) -> None:
        self._period = period
        self._until = until
        self._ticks = ticks
        self._stop = stop
        self._trouble = trouble
        self._woken = threading.Event()
        self.failure: BaseException | None = None
        self.turned = time.monotonic()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def wake(self) -> None:
        self._woken.set()

    def _run(self) -> None:
        try:
            while True:
                # Cleared before the look at stop and before the work: what happens meanwhile wakes the next turn.
                self._woken.clear()
                if self._stop.is_set():
                    return
                self.turned = time.monotonic()
                try:
                    idle = sum(tick() for tick in self._ticks) == 0
                except LedgerUnavailableError as error:
                    self._stop.wait(self._trouble.met(self.thread.name, error))
                    continue
                self._trouble.over(self.thread.name)
                if idle:
                    # With a limit: the scheduler's timer is the wall clock's, which may be set back.
                    self._woken.wait(max(_SHORTEST_SECONDS, min(self._period, self._until())))
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.failure = error
            self._stop.set()


class Lanes:
    """Stages grouped into threads, so that a slow receiver delays neither scoring nor the others.

    Each lane is woken every `period` seconds by APScheduler, and by wake(). The scheduler carries no work: a run
    that it skips is made up for by the next. A context manager: leaving it stops and joins the threads.
    """

    def __init__(
        self,
        lanes: Mapping[str, Sequence[Tick]],
        *,
        period: float,
        stop: threading.Event,
        until: Mapping[str, Callable[[], float]] = MappingProxyType({}),
    ) -> None:
        """By lane, until says after how many seconds it wants to turn again where that is before the period's end."""
        self._stop = stop
        self._trouble = _Trouble()
        self._lanes = [
            _Lane(name, ticks, stop, self._trouble, period, until.get(name, lambda: period))
            for name, ticks in lanes.items()
        ]
        self._scheduler = BackgroundScheduler(
            timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )
        self._scheduler.add_job(self.wake, "interval", seconds=period, id="wake")
        # It says at INFO that each job was executed, twice a second.
        logging.getLogger("apscheduler").setLevel(logging.WARNING)

    def wake(self, name: str | None = None) -> None:
        """Turn a lane now, or all of them: something happened."""
        for lane in self._lanes:
            if name in {None, lane.thread.name}:
                lane.wake()

    def turning(self) -> bool:
        """True while every lane has come round lately."""
        oldest = time.monotonic() - _STUCK_SECONDS
        return all(lane.failure is None and lane.turned > oldest for lane in self._lanes)

    @property
    def trouble(self) -> str:
        """Why the ledger cannot be written at the moment, or ""."""
        return self._trouble.reason

    def trouble_seconds(self) -> float:
        """For how long the ledger could not be written, 0 when it can."""
        return time.monotonic() - self._trouble.since if self._trouble.reason else 0.0

    def __enter__(self) -> Self:
        for lane in self._lanes:
            lane.thread.start()
        self._scheduler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the threads; raises what one of them could not handle, unless something else is being raised."""
        self._stop.set()
        self._scheduler.shutdown(wait=False)
        self.wake()
        # For all of them together: who asks for the end (Kubernetes, systemd) kills what takes long over it.
        limit = time.monotonic() + _JOIN_SECONDS
        for lane in self._lanes:
            lane.thread.join(max(0.0, limit - time.monotonic()))
        failures = [lane.failure for lane in self._lanes if lane.failure is not None]
        if failures and error is None:
            raise failures[0]
