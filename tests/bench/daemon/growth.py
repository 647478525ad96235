"""What more of everything costs: jobs that wait, and runs that are watched."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metricwatch.clock import SystemClock
from metricwatch.config.watching import Backlog
from metricwatch.store.db import Database
from metricwatch.store.waiting import pass_over
from tests.bench.daemon.process import daemon
from tests.bench.daemon.site import Site, recorder_of, score_next, wait_for_delivery

_PICKED = 15
_ANSWERS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """With so many jobs queued. job_seconds: to claim one and write its score down, median.

    health_seconds and metrics_seconds: for an answer of /-/healthy and /metrics, median. ready_seconds: from the start
    of the process over such a ledger. idle_share: of one core, while the queue waits.
    """

    jobs: int
    job_seconds: float
    health_seconds: float
    metrics_seconds: float
    ready_seconds: float
    idle_share: float
    rss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """With so many runs watched, all scored. idle_share: of one core, rescans included. rss in MB."""

    runs: int
    ready_seconds: float
    idle_share: float
    rss: float


def queue(folder: Path, tracking: str, jobs: int, *, idle_seconds: float, say: Callable[[str], None]) -> Queue:
    """Measure with so many jobs queued, and as many done."""
    site = Site(folder=folder / f"queue-{jobs}", tracking=tracking, steps=2 * jobs, files=1, queued=jobs)
    say(f"queueing {jobs} jobs")
    site.write()
    site.prepare()
    with daemon(site.folder, port=site.port) as running:
        health, metrics = (
            statistics.median(running.answer_seconds(path) for _ in range(_ANSWERS))
            for path in ("/-/healthy", "/metrics")
        )
        time.sleep(5.0)
        wait_for_delivery(site)
        share, rss = running.process.share(idle_seconds), running.process.rss()
    return Queue(
        jobs=jobs,
        job_seconds=_job_seconds(site),
        health_seconds=health,
        metrics_seconds=metrics,
        ready_seconds=running.ready_seconds,
        idle_share=share,
        rss=rss,
    )


def watching(folder: Path, tracking: str, runs: int, *, idle_seconds: float, say: Callable[[str], None]) -> Watching:
    """Measure with so many runs of five steps."""
    site = Site(folder=folder / f"runs-{runs}", tracking=tracking, runs=runs, steps=5, files=4)
    say(f"watching {runs} runs")
    site.write()
    site.prepare()
    with daemon(site.folder, port=site.port) as running:
        # What rules say of all of them, and to find their runs at the tracking server, is no idleness.
        time.sleep(5.0)
        wait_for_delivery(site)
        time.sleep(3.0)
        share, rss = running.process.share(idle_seconds), running.process.rss()
    return Watching(runs=runs, ready_seconds=running.ready_seconds, idle_share=share, rss=rss)


def _job_seconds(site: Site) -> float:
    db = Database.open(site.state)
    try:
        with db.transaction("bench") as tx:
            tx.execute("UPDATE jobs SET not_before_ms = 0 WHERE state = 'queued'")
        sources = {row["source"]: Backlog() for row in db.read("SELECT DISTINCT source FROM snapshots")}
        recorder, clock = recorder_of(db, site.config(), site.state), SystemClock()
        seconds = []
        for _ in range(_PICKED):
            began = time.perf_counter()
            pass_over(db, sources, clock.now())
            score_next(db, recorder, clock.now(), set(sources))
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)
    finally:
        db.close()
