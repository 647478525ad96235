"""The daemon's handle on a worker: what is left of one that has gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from metricwatch.errors import WorkerError
from metricwatch.protocol import Configure, Evaluate, Ready
from metricwatch.supervisor.process import WorkerProcess
from tests.support.job import wait_until


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def until_gone(worker: WorkerProcess) -> str:
    def gone() -> str:
        try:
            worker.poll()
        except WorkerError as error:
            return str(error)
        return ""

    return str(wait_until(gone, what="the worker's end"))


def test_a_worker_that_cannot_start_says_why_and_leaves_no_open_file(tmp_path: Path) -> None:
    before = open_files()
    for _ in range(3):
        worker = WorkerProcess(Configure(device="cuda:77"), log_file=tmp_path / "worker.log")
        reason = until_gone(worker)
        assert "status 78" in reason
        assert "cuda:77" in reason
        worker.kill()
    wait_until(lambda: open_files() <= before, seconds=5, what="all pipes closed")


def test_a_worker_that_does_not_read_keeps_nobody_waiting(tmp_path: Path) -> None:
    worker = WorkerProcess(Configure(device="cpu"), log_file=tmp_path / "worker.log")
    try:
        wait_until(lambda: any(isinstance(reply, Ready) for reply in worker.poll()), what="a ready worker")
        os.kill(worker.pid, signal.SIGSTOP)
        started = time.monotonic()
        worker.send(Evaluate(job=1, path="/p", members=tuple(f"{n:060}.png" for n in range(20_000))))
        assert time.monotonic() - started < 1
    finally:
        worker.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
