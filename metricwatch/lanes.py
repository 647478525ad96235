"""The threads that turn the stages, and the timer that wakes them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from apscheduler.schedulers.background import BackgroundScheduler

# A lane that has not turned for this long hangs in a stage: the health endpoint says so.
_STUCK_SECONDS = 120.0
_JOIN_SECONDS = 15.0

Tick = Callable[[], int]


class _Lane:
    """One thread: ticks its stages while they find work, then sleeps until woken."""

    def __init__(self, name: str, ticks: Sequence[Tick], stop: threading.Event) -> None:
        self._ticks = ticks
        self._stop = stop
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
                if sum(tick() for tick in self._ticks) == 0:
                    self._woken.wait()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self.failure = error
            self._stop.set()


class Lanes:
    """Stages grouped into threads, so that a slow receiver delays neither scoring nor the others.

    Each lane is woken every `period` seconds by APScheduler, and by wake(). The scheduler carries no work: a run
    that it skips is made up for by the next. A context manager: leaving it stops and joins the threads.
    """

    def __init__(self, lanes: Mapping[str, Sequence[Tick]], *, period: float, stop: threading.Event) -> None:
        self._stop = stop
        self._lanes = [_Lane(name, ticks, stop) for name, ticks in lanes.items()]
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
        for lane in self._lanes:
            lane.thread.join(_JOIN_SECONDS)
        failures = [lane.failure for lane in self._lanes if lane.failure is not None]
        if failures and error is None:
            raise failures[0]
