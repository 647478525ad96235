"""A daemon that is going to be killed, and the worker it has at the moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.job import Job, wait_until

_LOOK_SECONDS = 0.02


class Victim:
    """Looks at its processes every few milliseconds, so that it knows a worker even after the daemon has gone."""

    def __init__(self, job: Job, fault: str = "") -> None:
        self._log_file = job.folder / "daemon.log"
        self._log_start = self._log_file.stat().st_size if self._log_file.exists() else 0
        self.workers: set[int] = set()
        self.process = job.start(**({"METRICWATCH_FAULT": fault} if fault else {})).process

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """What it has said, without what daemons before it said."""
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode()

    def worker(self) -> int | None:
        """The process id of the living worker, or None."""
        found = [child for child in _children(self.process.pid) if _is_worker(child)]
        self.workers.update(found)
        return found[-1] if found else None

    def watch(self, until: Callable[[], bool], *, seconds: float) -> bool:
        """Wait for a condition; False when the time is up or the daemon has gone first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.worker()
            if not self.alive:
                return False
            if until():
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def wait(self, seconds: float) -> None:
        """Let time go by, unless it ends before."""
        self.watch(lambda: False, seconds=seconds)

    def kill(self) -> None:
        """Send it SIGKILL and wait for its end; a second call does nothing."""
        self.worker()
        self.process.kill()
        self.process.wait()

    def signal_worker(self, sign: signal.Signals) -> bool:
        """Send the worker a signal; False when there is none."""
        worker = self.worker()
        if worker is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(worker, sign)
        return True

    def wait_for_orphans(self) -> None:
        """Raises AssertionError when a worker outlives its daemon."""
        wait_until(lambda: not any(map(_is_worker, self.workers)), seconds=10, what="the orphaned worker's end")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def _is_worker(pid: int) -> bool:
    # Empty for one that has ended and is not reaped.
    try:
        return b"metricwatch.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
