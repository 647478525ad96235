"""Sample records for tests: each takes overrides, and two calls with the same arguments give equal records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from metricwatch.api import Alert, AlertEvent, AlertState, Notice, Notification, Point, Run, WindowPoint

RUN_URL = "http://127.0.0.1:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef"
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


def notice(
    event: AlertEvent = "firing",
    *,
    about: Alert | None = None,
    run_name: str = "night-run",
    run_url: str | None = RUN_URL,
    title: str | None = None,
    summary: str = "fid rose by 17.0% over five evaluations, more than the 10% of rule fid-moved.",
    labels: Mapping[str, str] | None = None,
    picture: bytes | None = None,
) -> Notice:
    """What is told of alert(), or of the alert given. Labels are added to those that every alert has."""
    subject = about or alert(resolved=event == "resolved")
    words = {
        "firing": "fid got worse by 17%",
        "resolved": "fid is back within 10%",
        "reminder": "fid is still worse by 17%",
    }
    return Notice(
        event=event,
        alert=subject,
        run_name=run_name,
        run_url=run_url,
        title=f"{words[event]} on {run_name}" if title is None else title,
        summary=summary,
        labels={
            "alertname": subject.rule,
            "run": run_name,
            "metric": subject.metric,
            "severity": subject.severity,
            "direction": subject.direction,
            "kind": subject.kind,
            **(labels or {}),
        },
        picture=picture,
    )


def notification(
    event: Literal["firing", "resolved", "reminder", "digest", "test"] = "firing",
    *,
    notification_id: int = 11,
    about: Alert | None = None,
    run_name: str = "night-run",
    run_url: str | None = RUN_URL,
    title: str | None = None,
    summary: str = "fid rose by 17.0% over five evaluations, more than the 10% of rule fid-moved.",
    created_at: datetime = MOMENT,
    notices: Sequence[Notice] = (),
    note: str = "",
) -> Notification:
    """A message about alert(), or about the alert given, or with the notices given."""
    told: AlertEvent = "firing" if event in {"digest", "test"} else event  # type: ignore[assignment]
    single = notice(told, about=about, run_name=run_name, run_url=run_url, title=title, summary=summary)
    words = f"a test message on {run_name}" if event == "test" else single.title
    return Notification(
        id=notification_id,
        event=event,
        notices=tuple(notices) or (single,),
        created_at=created_at,
        title=words if title is None else title,
        summary=summary,
        receiver="team",
        group={"run": run_name},
        note=note,
    )
