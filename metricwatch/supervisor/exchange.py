"""From a job to the worker's request, and from its evaluation to the points of the curves."""

from __future__ import annotations

from metricwatch.config.watching import WatchEntry
from metricwatch.protocol import Evaluate
from metricwatch.records import Evaluation, Job, Point


def points_of(evaluation: Evaluation, *, prefix: str, step: int, timestamp_ms: int) -> list[Point]:
    """The curves' next points: `<prefix>/<key>` and, where there is one, `<prefix>/<key>_stderr`."""
    values = [
        (f"{prefix}/{score.key}{suffix}", value)
        for score in evaluation.scores
        for suffix, value in (("", score.value), ("_stderr", score.stderr))
        if value is not None
    ]
    return [Point(key=key, value=value, timestamp_ms=timestamp_ms, step=step) for key, value in values]


def request_for(job: Job, entry: WatchEntry, metrics: tuple[str, ...]) -> Evaluate:
    """What the worker is asked to do for a job of this watch entry."""
    pairs = entry.pairs
    return Evaluate(
        job=job.id,
        path=job.snapshot.path,
        members=job.snapshot.members,
        digest=job.snapshot.digest,
        metrics=metrics,
        reference=str(entry.reference) if entry.reference else None,
        content=str(pairs.content) if pairs and pairs.content else None,
        style=str(pairs.style) if pairs and pairs.style else None,
    )
