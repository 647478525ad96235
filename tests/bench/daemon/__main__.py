"""What the daemon itself costs: python -m tests.bench.daemon [--full] [--size S] [--json FILE]"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from tests.bench.daemon.day import Day, Latency, Length, live, starts
from tests.bench.daemon.growth import Queue, Watching, queue, watching
from tests.bench.measuring import Machine, Spread, on_terminal, table, write_json
from tests.support.mlflow_server import mlflow_server

_Measured = TypeVar("_Measured", Queue, Watching)

# What a daemon beside a training job may take.
_MOST_RSS = 180.0
_MOST_SHARE = 0.005
_MOST_READY = 2.0
_MOST_LATENCY = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    steps: int
    files: int
    length: Length
    starts: int
    jobs: int
    runs: int
    idle_seconds: float


_SIZES = {
    "tiny": _Size(
        steps=3,
        files=2,
        length=Length(sets=1, idle_seconds=0.3, rest_seconds=0.3),
        starts=1,
        jobs=0,
        runs=0,
        idle_seconds=0.2,
    ),
    "default": _Size(
        steps=200, files=100, length=Length(sets=12, idle_seconds=20), starts=3, jobs=20, runs=3, idle_seconds=20
    ),
    "full": _Size(
        steps=1_000, files=100, length=Length(sets=60, idle_seconds=60), starts=7, jobs=100, runs=10, idle_seconds=20
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="100,000 files, 10,000 jobs, 1,000 runs")
    parser.add_argument("--size", choices=sorted(_SIZES), default="default")
    parser.add_argument("--json", type=Path, metavar="FILE")
    chosen = parser.parse_args(arguments)
    size = _SIZES["full" if chosen.full else chosen.size]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="metricwatch-bench-", dir=memory))
    try:
        (folder / "mlflow").mkdir()
        with mlflow_server(folder / "mlflow") as server:
            ready = starts(folder, server.uri, times=size.starts)
            day = live(
                folder / "day", server.uri, steps=size.steps, files=size.files, length=size.length, say=on_terminal
            )
            queues = _grown(queue, size.jobs, folder, server.uri, size.idle_seconds)
            watched = _grown(watching, size.runs, folder, server.uri, size.idle_seconds)
    finally:
        shutil.rmtree(folder)
    machine = Machine.here(("metricwatch", "mlflow", "watchdog"))
    print(machine.line())
    print(_of_the_day(ready, day))
    if queues:
        print(_of_queues(queues))
    if watched:
        print(_of_runs(watched))
    if chosen.json:
        limits = {"rss": _MOST_RSS, "share": _MOST_SHARE, "ready_seconds": _MOST_READY, "latency_p95": _MOST_LATENCY}
        results = {"limits": limits, "starts": ready, "day": day, "queues": queues, "watching": watched}
        write_json(chosen.json, machine, results)


def _grown(
    measure: Callable[..., _Measured], least: int, folder: Path, tracking: str, idle_seconds: float
) -> list[_Measured]:
    """At 1, 10 and 100 times the least; nothing for 0."""
    amounts = [least * factor for factor in (1, 10, 100)] if least else []
    return [measure(folder, tracking, amount, idle_seconds=idle_seconds, say=on_terminal) for amount in amounts]


def _of_the_day(ready: Spread, day: Day) -> str:
    rows = [
        _limited("start to ready, nothing watched", "s", ready.median, _MOST_READY),
        _limited(f"start to ready, {day.files:,} files", "s", day.ready_seconds, _MOST_READY),
        _limited("memory at the start", "MB", day.rss_at_start, _MOST_RSS),
        _limited(f"memory after {day.scored} steps", "MB", day.rss_after_work, _MOST_RSS),
        _limited("memory idle", "MB", day.rss_idle, _MOST_RSS),
        ("memory of a bare `import mlflow`", "MB", f"{day.bare_mlflow_rss:.4g}", "", ""),
        _limited(f"of a core idle, {day.files:,} files", "%", 100 * day.idle_share, 100 * _MOST_SHARE),
        ("of a core, a bare watchdog", "%", f"{100 * day.bare_watchdog_share:.3g}", "", ""),
        *_latency("moved in whole", day.renamed),
        *_latency("marker last", day.marked),
        ("noticed, after the quiet time: median", "s", f"{day.quiet.median:.3f}", "", ""),
    ]
    against = day.rss_idle / day.bare_mlflow_rss
    return table(("", "unit", "measured", "limit", "of it"), rows) + f"memory idle / bare mlflow: {against:.2f}\n"


def _latency(name: str, latency: Latency) -> list[tuple[str, str, str, str, str]]:
    return [
        (f"noticed, {name}: median", "s", f"{latency.median:.3f}", "", ""),
        _limited(f"noticed, {name}: p95 of {latency.sets}", "s", latency.p95, _MOST_LATENCY),
    ]


def _limited(name: str, unit: str, value: float, limit: float) -> tuple[str, str, str, str, str]:
    return name, unit, f"{value:.3g}", f"{limit:g}", f"{value / limit:.2f}"


def _of_queues(queues: Sequence[Queue]) -> str:
    first = queues[0]
    head = ("jobs queued", "a job ms", "(ratio)", "health ms", "metrics ms", "ready s", "idle %", "MB")
    rows = [
        (
            f"{each.jobs:,}",
            f"{1000 * each.job_seconds:.2f}",
            f"{each.job_seconds / first.job_seconds:.2f}",
            f"{1000 * each.health_seconds:.1f}",
            f"{1000 * each.metrics_seconds:.1f}",
            f"{each.ready_seconds:.2f}",
            f"{100 * each.idle_share:.2f}",
            f"{each.rss:.0f}",
        )
        for each in queues
    ]
    return table(head, rows)


def _of_runs(watched: Sequence[Watching]) -> str:
    head = ("runs watched", "idle %", "idle % a run", "MB", "ready s")
    rows = [
        (
            f"{each.runs:,}",
            f"{100 * each.idle_share:.2f}",
            f"{100 * each.idle_share / each.runs:.4f}",
            f"{each.rss:.0f}",
            f"{each.ready_seconds:.2f}",
        )
        for each in watched
    ]
    return table(head, rows)


if __name__ == "__main__":
    # A line for each of 100,000 snapshots would be measured too.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    main()
