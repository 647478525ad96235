"""Sample records for tests: each takes overrides, and two calls with the same arguments give equal records."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from metricwatch.api import Alert, AlertState, Notification, Point, Run, WindowPoint

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def run(key: str = "samples", name: str = "night-run", *, id: str | None = None, id_file: str | None = None) -> Run:  # noqa: A002
    """A run known by name, or by id or id_file where one is given."""
    return Run(key=key, name=name, id=id, id_file=id_file, total_steps=200_000)


def points(count: int = 5, *, key: str = "quality/fid", first_step: int = 1000) -> tuple[Point, ...]:
    """A falling curve, with values that need all 17 digits."""
    start = int(MOMENT.timestamp() * 1000)
    return tuple(
        Point(key=key, value=40.1 / (index + 3) + 0.1, timestamp_ms=start + 250 * index, step=first_step * (index + 1))
        for index in range(count)
    )


def window(count: int = 5) -> tuple[WindowPoint, ...]:
    """Consecutive evaluations that rise by 4% each."""
    return tuple(
        WindowPoint(step=1000 * (index + 1), value=round(20 * 1.04**index, 4), stderr=0.21) for index in range(count)
    )


def alert(
    *,
    alert_id: int = 7,
    metric: str = "fid",
    rule: str = "fid-moved",
    resolved: bool = False,
    points_seen: Sequence[WindowPoint] | None = None,
) -> Alert:
    """A critical alert: the metric rose by 17% where 10% was the bound; resolved 2,000 steps later if asked."""
    seen = window() if points_seen is None else tuple(points_seen)
    return Alert(
        id=alert_id,
        run="samples",
        rule=rule,
        metric=metric,
        direction="worse",
        severity="critical",
        state=AlertState.RESOLVED if resolved else AlertState.FIRING,
        fired_step=5000,
        change=0.1699,
        threshold=0.1,
        window=seen,
        moved=(seen[0], seen[-1]) if seen else (),
        resolved_step=7000 if resolved else None,
    )


def notification(
    event: Literal["firing", "resolved", "test"] = "firing",
    *,
    notification_id: int = 11,
    about: Alert | None = None,
    run_name: str = "night-run",
    run_url: str | None = "http://127.0.0.1:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef",
    title: str | None = None,
    summary: str = "fid rose by 17.0% over five evaluations, more than the 10% of rule fid-moved.",
    created_at: datetime = MOMENT,
) -> Notification:
    """A message about alert(), or about the alert given."""
    subject = about or alert(resolved=event == "resolved")
    words = {"firing": "fid got worse by 17%", "resolved": "fid is back within 10%", "test": "a test message"}
    return Notification(
        id=notification_id,
        event=event,
        alert=subject,
        run_name=run_name,
        run_url=run_url,
        created_at=created_at,
        title=f"{words[event]} on {run_name}" if title is None else title,
        summary=summary,
    )
