"""One evaluation by a worker of its own."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import structlog

from metricwatch.cli.progress import bars
from metricwatch.errors import PermanentError, WorkerError
from metricwatch.protocol import Configure, Evaluate, Failure, Heartbeat, Log, Result
from metricwatch.records import Evaluation
from metricwatch.supervisor.process import WorkerProcess

# A worker that says nothing for this long hangs.
_SILENCE_SECONDS = 180.0


def evaluate(settings: Configure, request: Evaluate) -> Evaluation:
    """Start a worker, have it evaluate one request, and end it. Shows how far it is."""
    # As Ctrl-C does: what is open is closed, and nothing stays behind.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    said = threading.Event()
    error = ""
    with tempfile.TemporaryDirectory(prefix="metricwatch-") as folder, bars() as show:
        worker = WorkerProcess(settings, log_file=Path(folder) / "worker.log", wake=said.set)
        heard = time.monotonic()
        try:
            worker.send(request)
            while True:
                said.wait(1.0)
                said.clear()
                try:
                    replies = worker.poll()
                except WorkerError as death:
                    raise WorkerError(f"{death}{f'; {error}' if error else ''}") from death
                heard = time.monotonic() if replies else heard
                if time.monotonic() - heard > _SILENCE_SECONDS:
                    raise WorkerError(f"the worker gave no sign of life for {_SILENCE_SECONDS:.0f} s")
                for reply in replies:
                    match reply:
                        case Heartbeat():
                            show(reply.phase or "starting", reply.done, reply.total)
                        case Log(level="error"):
                            # Told once, with the failure that follows from it.
                            error = " ".join((reply.event, *reply.fields.values()))
                        case Log(level="warning"):
                            structlog.get_logger(__name__).warning(reply.event, **reply.fields)
                        case Result():
                            return reply.evaluation
                        case Failure():
                            raise PermanentError(reply.reason)
        finally:
            worker.kill()
