"""What a replay found, for people and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from metricwatch.cli import console
from metricwatch.records import Alert, ScoreState, WindowPoint
from metricwatch.replaying.judging import happened
from metricwatch.replaying.replay import Look, Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A replay. where is the tracking server without credentials; ours: a daemon logged to this run."""

    run_id: str
    run: Recorded
    where: str
    looks: Sequence[Look]
    ours: bool
    pictures: Sequence[Path] = ()


def show(report: Report) -> None:
    """A table of alerts and a line for each rule on stdout, what else to know on stderr."""
    screen = console.results()
    alerts = [alert for look in report.looks for alert in look.alerts]
    if alerts:
        console.print_table(
            ["rule", "metric", "direction", "severity", "fired", "resolved", "what happened"],
            [_row(alert) for alert in alerts],
            styles={"critical": "bold red", "warning": "yellow"},
            console=screen,
        )
    for look in report.looks:
        screen.print(_line(look), soft_wrap=True)
    messages = console.messages()
    for picture in report.pictures:
        messages.print(f"drawn: {picture}", soft_wrap=True)
    for note in _notes(report):
        messages.print(f"note: {note}", soft_wrap=True)


def print_document(report: Report) -> None:
    """One JSON document on stdout."""
    console.print_json(
        {
            "run": {"id": report.run_id, "name": report.run.name, "ended": report.run.ended},
            "tracking": report.where,
            "rules": [_document(look) for look in report.looks],
            "alerts": [_alert(alert, look) for look in report.looks for alert in look.alerts],
            "notes": list(_notes(report)),
            "pictures": [str(picture) for picture in report.pictures],
        }
    )


def _row(alert: Alert) -> list[str]:
    resolved = "not yet" if alert.resolved_step is None else _when(alert.resolved_step, alert.resolved_at)
    fired = _when(alert.fired_step, alert.fired_at)
    return [alert.rule, alert.metric or "-", alert.direction, alert.severity, fired, resolved, happened(alert)]


def _when(step: int, moment: datetime | None) -> str:
    return f"{step} ({moment:%Y-%m-%d %H:%M} UTC)" if moment else str(step)


def _line(look: Look) -> str:
    start = f"rule {look.rule.name} on {look.metric or 'the run'}"
    if look.reason:
        return f"{start}: not looked at: {look.reason}"
    if look.rise is not None:
        start += f" ({look.key}, {'higher' if look.rise.better else 'lower'} is better)"
    share = f", firing at {look.firing / look.evaluations:.1%} of them" if look.firing is not None else ""
    critical = f", {look.critical} critical" if look.alerts else ""
    evaluations = _count(look.evaluations, "evaluation")
    return f"{start}: {_count(len(look.alerts), 'alert')}{critical}; {evaluations} looked at{share}"


def _count(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _notes(report: Report) -> Iterator[str]:
    """What a replay cannot know."""
    if not any(look.evaluations for look in report.looks):
        return
    if report.ours:
        yield (
            "image counts and what else a score depends on are not in MLflow: where they changed, the daemon began a"
            " new window and this replay does not"
        )
    else:
        yield "metricwatch has not logged to this run: every value counts as comparable with every other"
    assumed = sorted({look.metric for look in report.looks if look.rise is not None and look.rise.assumed})
    if assumed:
        better = next(look.rise.better for look in report.looks if look.rise is not None and look.rise.assumed)
        hint = "" if better else "; --higher-is-better says otherwise"
        yield f"assumed that {'higher' if better else 'lower'} is better: {', '.join(assumed)}{hint}"
    missing = {
        look.metric: count
        for look in report.looks
        if (count := sum(item.state is ScoreState.FAILED for item in look.series))
    }
    for metric, count in missing.items():
        evaluations = _count(count, "evaluation")
        yield f"{metric}: {evaluations} left no value in MLflow, and no reason: to rules on states that is `failed`"
    if any(look.rule.kind == "stale" and look.evaluations for look in report.looks):
        yield "stale goes by the times of points in MLflow: a daemon that was off for a while did not watch then"


def _document(look: Look) -> dict[str, Any]:
    return {
        "rule": look.rule.name,
        "kind": look.rule.kind,
        "metric": look.metric,
        "key": look.key or None,
        "higher_is_better": look.rise.better if look.rise else None,
        "assumed": look.rise.assumed if look.rise else None,
        "evaluations": look.evaluations,
        "firing_evaluations": look.firing,
        "alerts": len(look.alerts),
        "critical": look.critical,
        "not_looked_at": look.reason or None,
    }


def _alert(alert: Alert, look: Look) -> dict[str, Any]:
    return {
        "rule": alert.rule,
        "kind": alert.kind,
        "metric": alert.metric,
        "key": look.key or None,
        "direction": alert.direction,
        "severity": alert.severity,
        "labels": dict(alert.labels),
        "state": alert.state.value,
        "fired_step": alert.fired_step,
        "fired_at": alert.fired_at.isoformat() if alert.fired_at else None,
        "resolved_step": alert.resolved_step,
        "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at else None,
        "resolved_value": alert.resolved_value,
        "change": _finite(alert.change),
        "threshold": _finite(alert.threshold),
        "what": happened(alert),
        "reason": alert.reason,
        "window": [_point(point) for point in alert.window],
    }


def _point(point: WindowPoint) -> dict[str, Any]:
    return {"step": point.step, "value": point.value, "stderr": point.stderr}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
