"""One daemon and its one worker over thousands of evaluations, looked at all the while."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from mlflow import MlflowClient

from tests.chaos.soak.sets import SmallSets
from tests.chaos.soak.usage import Usage, usage
from tests.support.job import Daemon, Job, wait_until
from tests.support.ports import free_port

# So many sets wait at most: the writer must be ahead of the worker, not of the disk.
_AHEAD = 20
_FIRST = 5
# The last daemon scores so many only: it shows what one holds that has the history but did not live through it.
AFTERWARDS = 10
EXTRACTOR = "fd_efficientnet_lite0"


@dataclass(slots=True)
class Phase:
    """What one daemon process did with one list of metrics."""

    metrics: list[str]
    daemon: list[Usage] = field(default_factory=list)
    worker: list[Usage] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def evaluations(self) -> int:
        return self.daemon[-1].evaluations - self.daemon[0].evaluations

    def cpu(self, first: float, last: float) -> float:
        """CPU seconds of the daemon for each evaluation between two shares of the phase."""
        count = len(self.daemon) - 1
        start, end = self.daemon[round(first * count)], self.daemon[round(last * count)]
        return (end.cpu_seconds - start.cpu_seconds) / (end.evaluations - start.evaluations)


@dataclass(slots=True)
class Soak:
    """A whole soak; bytes are those of the ledger for each evaluation."""

    phases: list[Phase]
    ledger_bytes: float
    evaluations: int
    rows: int
    repeated: int


def soak(
    folder: Path,
    tracking_uri: str,
    evaluations: int,
    *,
    seed: int = 0,
    environ: dict[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Soak:
    """Score half of the evaluations with ssim alone, the others with a network as well, by three daemons on one ledger.

    The last of them scores AFTERWARDS only.

    Raises AssertionError when a worker is replaced, an evaluation fails or the outbox does not drain.
    """
    port = free_port()
    job = Job(
        folder,
        tracking_uri,
        f"soak-{seed}-{time.time_ns()}",
        rules=[
            {"name": "ssim-moved", "metric": "ssim", "moves": "10%", "across": 5},
            {"name": "ssim-failed", "metric": "ssim", "state": "any"},
        ],
        worker={"recycle_after": 10_000_000, "threads": 1},
        telemetry={"port": port},
    )
    sets = SmallSets(folder, seed)
    phases = []
    half, last = evaluations // 2, evaluations - AFTERWARDS
    both = ["ssim", EXTRACTOR]
    for metrics, first, count in ((["ssim"], 0, half), (both, half, last - half), (both, last, AFTERWARDS)):
        job.config["metrics"] = metrics
        job.write_config()
        (folder / "daemon.log").write_text("")
        daemon = job.start(**(environ or {}))
        try:
            phases.append(_phase(job, daemon, sets, port, metrics, first, count, say))
        finally:
            daemon.end()
    with sqlite3.connect(folder / "state" / "ledger.sqlite3") as ledger:
        (pages,), (size,) = ledger.execute("PRAGMA page_count"), ledger.execute("PRAGMA page_size")
        (done,) = ledger.execute("SELECT count(*) FROM evaluations").fetchone()
    rows = _rows(job)
    return Soak(
        phases=phases,
        ledger_bytes=pages[0] * size[0] / evaluations,
        evaluations=done,
        rows=len(rows),
        repeated=len(rows) - len(set(rows)),
    )


def _phase(
    job: Job,
    daemon: Daemon,
    sets: SmallSets,
    port: int,
    metrics: list[str],
    first: int,
    count: int,
    say: Callable[[str], None],
) -> Phase:
    phase = Phase(metrics=metrics)
    daemon.wait_for("daemon.started")
    # A few sets before the first sample: the worker has loaded its network, the daemon MLflow's client.
    for number in range(_FIRST):
        sets.write(10 * (first + number))
    wait_until(lambda: _done(port, daemon) == first + _FIRST, what="the first evaluations")
    wait_until(lambda: not _health(port)["backlog"], what="the first deliveries")
    (worker,) = _children(daemon.process.pid)
    start = time.monotonic()
    written = first + _FIRST
    every = max(5, count // 100)
    due = first + _FIRST
    while (done := _done(port, daemon)) < first + count:
        # Looked at only at rest: within an evaluation the worker holds what it gives back after it.
        if done == written and done >= due:
            _look(phase, daemon, worker, done)
            due = done + every
            say(f"{done} evaluations, {time.monotonic() - start:.0f} s")
        while written < min(first + count, done + _AHEAD, max(due, done + 1)):
            sets.write(10 * written)
            written += 1
        time.sleep(0.1)
    phase.seconds = time.monotonic() - start
    _look(phase, daemon, worker, done)
    wait_until(lambda: not _health(port)["backlog"], what="an empty outbox")
    assert _children(daemon.process.pid) == [worker], "the worker was replaced: its memory tells nothing"
    assert daemon.stop() == 0
    return phase


def _look(phase: Phase, daemon: Daemon, worker: int, done: int) -> None:
    phase.daemon.append(usage(daemon.process.pid, done))
    phase.worker.append(usage(worker, done))


def _done(port: int, daemon: Daemon) -> int:
    assert daemon.process.poll() is None, f"the daemon ended:\n{daemon.log[-3000:]}"
    counts = _health(port)["jobs"]
    assert not counts["failed"] + counts["quarantined"], f"evaluations failed:\n{daemon.log[-3000:]}"
    return int(counts["done"])


def _health(port: int) -> dict[str, Any]:
    with urlopen(f"http://127.0.0.1:{port}/-/healthy", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _rows(job: Job) -> list[tuple[str, int]]:
    """Key and step of every row of the curves of scores that MLflow holds."""
    client = MlflowClient(job.config["tracking"]["uri"])
    experiment = client.get_experiment_by_name(job.config["tracking"]["experiment"])
    (run,) = client.search_runs([experiment.experiment_id])
    return [
        (key, row.step)
        for key in run.data.metrics
        if key.startswith("quality/")
        for row in client.get_metric_history(run.info.run_id, key)
    ]
