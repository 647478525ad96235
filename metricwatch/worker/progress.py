"""What the worker is doing, for heartbeats: written by the job, read by the heartbeat's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from metricwatch.protocol import Heartbeat


class Progress:
    """The job at work, its phase, and how many images of the phase are done. on_change sees new phases at once."""

    def __init__(self, on_change: Callable[[Heartbeat], None] = lambda _: None) -> None:
        self._lock = threading.Lock()
        self._now = Heartbeat()
        self._on_change = on_change

    def begin(self, job: int) -> None:
        with self._lock:
            self._now = Heartbeat(job=job)

    def phase(self, name: str, total: int = 0) -> None:
        with self._lock:
            self._now = now = Heartbeat(job=self._now.job, phase=name, total=total)
        self._on_change(now)

    def advance(self, images: int) -> None:
        with self._lock:
            now = self._now
            self._now = Heartbeat(job=now.job, phase=now.phase, done=now.done + images, total=now.total)

    def end(self) -> None:
        with self._lock:
            self._now = Heartbeat()

    def now(self) -> Heartbeat:
        with self._lock:
            return self._now
