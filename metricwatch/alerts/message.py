"""The words of an alert, the same through every notifier."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from metricwatch.records import Alert, Notice, Notification

Event = Literal["firing", "resolved", "test"]


def compose(
    *, number: int, event: Event, alert: Alert, run_name: str, run_url: str | None, created_at: datetime
) -> Notification:
    """The notification for an event of an alert; number identifies it in the notification log."""
    notice = Notice(
        event="resolved" if event == "resolved" else "firing",
        alert=alert,
        run_name=run_name,
        run_url=run_url,
        title=_title(event, alert, run_name),
        summary=_summary(event, alert),
    )
    return Notification(
        id=number,
        event=event,
        notices=(notice,),
        created_at=created_at,
        title=notice.title,
        summary=notice.summary,
    )


def _title(event: Event, alert: Alert, run_name: str) -> str:
    if event == "resolved":
        return f"[resolved] {run_name}: {alert.metric} ({alert.rule}, was {alert.severity})"
    kind = "test" if event == "test" else alert.severity
    return f"[{kind}] {run_name}: {alert.metric} {alert.what or _moved(alert)} ({alert.rule})"


def _moved(alert: Alert) -> str:
    return f"{'rose' if alert.change > 0 else 'fell'} {abs(alert.change):.1%}"


def _summary(event: Event, alert: Alert) -> str:
    if event == "resolved":
        return _resolution(alert)
    if alert.what:
        text = f"{_happened(alert)} The alert fired at step {alert.fired_step}."
    else:
        text = f"{_movement(alert)} That is {alert.direction}. The rule allows {_percent(alert.threshold)}."
    return f"This is a test; nothing happened. A real alert would say: {text}" if event == "test" else text


def _happened(alert: Alert) -> str:
    """A sentence: fid has no value: collapsed — all 64 images have the same features on 'inception-v3'."""
    detail = f" — {alert.detail}" if alert.detail else ""
    return f"{alert.metric} {alert.what}{detail}."


def _movement(alert: Alert) -> str:
    first = alert.window[0]
    start, end = alert.moved
    of = "" if start.step == first.step else f" of {first.value:.5g}, the first value of the window"
    return (
        f"{alert.metric} {_moved(alert)}{of}: from {start.value:.5g} at step {start.step} "
        f"to {end.value:.5g} at step {end.step}, within {len(alert.window)} evaluations."
    )


def _resolution(alert: Alert) -> str:
    at = "" if alert.resolved_step is None else f" at step {alert.resolved_step}"
    now = "" if alert.resolved_value is None else f" It is {alert.resolved_value:.5g} now."
    if alert.what:
        return (
            f"The alert about {alert.metric} is over{at}: {alert.reason}.{now} "
            f"It had fired at step {alert.fired_step}: {_happened(alert)}"
        )
    return (
        f"The movement of {alert.metric} for the {alert.direction} is over{at}: {alert.reason}.{now} "
        f"It had fired at step {alert.fired_step}, when {alert.metric} {_moved(alert)} to {alert.moved[-1].value:.5g}."
    )


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
