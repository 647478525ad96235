"""What a run's curves hold, read back: any run's, whoever wrote it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from metricwatch.api import Point, RunFacts, RunGoneError, TemporaryError

from .server import Server

# What MLflow stores in the place of an infinite value (sanitize_metric_value in its SQL store).
_STANDS_FOR_INFINITE = 1.7976931348623157e308
# The objects that a page takes are some megabytes; a server gives up to 25,000 points at once.
_PAGE = 5000


class History:
    """Reads runs. Methods raise RunGoneError for a run that is not there, but for those on curves for a deleted one."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def name(self, run_id: str) -> str:
        """The run's name; its id where it has none."""
        return str(self.run(run_id).info.run_name or run_id)

    def facts(self, run_id: str) -> RunFacts:
        """All that MLflow's page says at the top of a run, and the tags."""
        run = self.run(run_id)
        info, where = run.info, self._server.where
        page = f"{where}/#/experiments/{info.experiment_id}/runs/{info.run_id}" if self._server.is_web else None
        return RunFacts(
            id=run_id,
            name=str(info.run_name or run_id),
            status=str(info.status),
            url=page,
            started_at=_moment(info.start_time),
            ended_at=_moment(info.end_time),
            tags=dict(run.data.tags),
        )

    def keys(self, run_id: str) -> list[str]:
        """The keys of all metrics, sorted."""
        return sorted(self.run(run_id).data.metrics)

    def read(self, run_id: str, key: str) -> list[Point]:
        """All points of a metric in the order of their timestamps, at one moment in the order of steps."""
        points = chain.from_iterable(self.pages(run_id, key))
        return sorted(points, key=lambda point: (point.timestamp_ms, point.step))

    def pages(self, run_id: str, key: str) -> Iterator[list[Point]]:
        """The points of a metric, some thousands at a time; at once where a server knows no pages."""
        token, empty = None, True
        given: set[str] = set()
        while True:
            with self._server.speaking(f"reading {key!r} of run {run_id}"):
                rows, following = self._page(run_id, key, token)
            empty = empty and not rows
            if rows:
                yield [
                    Point(key=key, value=_value(row.value), timestamp_ms=row.timestamp, step=row.step or 0)
                    for row in rows
                ]
            if following is None:
                break
            if following in given:
                raise TemporaryError(
                    f"mlflow: reading {key!r} of run {run_id} at {self._server.where}: the server gives the same page"
                    " again and again"
                )
            given.add(following)
            token = following
        if empty:
            # The store says the same of a key that is not there and of a run that is not there.
            self.run(run_id)

    def run(self, run_id: str) -> Any:
        """The run as MLflow has it. Raises RunGoneError for one that is not there or deleted."""
        with self._server.speaking(f"looking up run {run_id}"):
            run = self._server.client().get_run(run_id)
        if run.info.lifecycle_stage != "active":
            raise RunGoneError(
                f"mlflow: run {run_id} at {self._server.where} is deleted: `mlflow runs restore --run-id {run_id}`"
                " brings it back"
            )
        return run

    def _page(self, run_id: str, key: str, token: str | None) -> tuple[list[Any], str | None]:
        """A page, and the token of the next one. MlflowClient's own method would gather all pages first."""
        client = self._server.client()
        store = getattr(getattr(client, "_tracking_client", None), "store", None)
        if store is None:
            # Of MLflow's own workings: where it is not, all come at once.
            return client.get_metric_history(run_id, key), None
        rows = store.get_metric_history(run_id, key, max_results=_PAGE, page_token=token)
        # A server of before pages ignores the wish and gives all, without a token.
        return rows, getattr(rows, "token", None) or None


def _value(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) >= _STANDS_FOR_INFINITE else value


def _moment(milliseconds: int | None) -> datetime | None:
    """None where MLflow does not know, or says what is no time."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
    except (OverflowError, OSError, ValueError):
        return None
