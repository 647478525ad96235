"""The words of an alert, the same through every notifier."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from metricwatch.records import Alert, Notification

Event = Literal["firing", "resolved", "test"]


def compose(
    *, number: int, event: Event, alert: Alert, run_name: str, run_url: str | None, created_at: datetime
) -> Notification:
    """The notification for an event of an alert; number identifies it in the notification log."""
    return Notification(
        id=number,
        event=event,
        alert=alert,
        run_name=run_name,
        run_url=run_url,
        created_at=created_at,
        title=_title(event, alert, run_name),
        summary=_summary(event, alert),
    )


def _title(event: Event, alert: Alert, run_name: str) -> str:
    if event == "resolved":
        return f"[resolved] {run_name}: {alert.metric} ({alert.rule})"
    kind = "test" if event == "test" else alert.severity
    return f"[{kind}] {run_name}: {alert.metric} {_moved(alert)} ({alert.rule})"


def _moved(alert: Alert) -> str:
    return f"{'rose' if alert.change > 0 else 'fell'} {abs(alert.change):.1%}"


def _summary(event: Event, alert: Alert) -> str:
    if event == "resolved":
        at = "" if alert.resolved_step is None else f" at step {alert.resolved_step}"
        end = f"{alert.metric} no longer breaks {alert.rule}{at}: {alert.reason}."
        return f"{end} It had fired at step {alert.fired_step}."
    first, last = alert.window[0], alert.window[-1]
    text = (
        f"{alert.metric} {_moved(alert)} between steps {first.step} and {last.step}, "
        f"over {len(alert.window)} evaluations: {alert.direction}. The rule allows {alert.threshold:.0%}."
    )
    return f"This is a test; nothing happened. A real alert would say: {text}" if event == "test" else text
