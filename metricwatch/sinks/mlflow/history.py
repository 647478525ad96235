"""What a run's curves hold, read back: any run's, whoever wrote it."""

from __future__ import annotations

import math
from typing import Any

from metricwatch.api import Point, RunGoneError

from .server import Server

# What MLflow stores in the place of an infinite value (sanitize_metric_value in its SQL store).
_STANDS_FOR_INFINITE = 1.7976931348623157e308


class History:
    """Reads runs. Every method raises RunGoneError for a run that is not there, name() and keys() for a deleted one."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def name(self, run_id: str) -> str:
        """The run's name; its id where it has none."""
        return str(self._run(run_id).info.run_name or run_id)

    def keys(self, run_id: str) -> list[str]:
        """The keys of all metrics, sorted."""
        return sorted(self._run(run_id).data.metrics)

    def read(self, run_id: str, key: str) -> list[Point]:
        """All points of a metric in the order of their timestamps, at one moment in the order of steps.

        The client asks for 25,000 points at a time, as many as a server gives in one answer.
        """
        with self._server.speaking(f"reading {key!r} of run {run_id}"):
            rows = self._server.client().get_metric_history(run_id, key)
        if not rows:
            # The store says the same of a key that is not there and of a run that is not there.
            self._run(run_id)
        points = [
            Point(key=key, value=_value(row.value), timestamp_ms=row.timestamp, step=row.step or 0) for row in rows
        ]
        return sorted(points, key=lambda point: (point.timestamp_ms, point.step))

    def _run(self, run_id: str) -> Any:
        with self._server.speaking(f"looking up run {run_id}"):
            run = self._server.client().get_run(run_id)
        if run.info.lifecycle_stage != "active":
            raise RunGoneError(
                f"mlflow: run {run_id} at {self._server.where} is deleted: `mlflow runs restore --run-id {run_id}`"
                " brings it back"
            )
        return run


def _value(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= _STANDS_FOR_INFINITE else value
