"""What machines are told of an alert: its identity, whether it lasts, its numbers as texts."""

from __future__ import annotations

import hashlib

from metricwatch.api import Alert, AlertState, Notice, Notification, WindowPoint


def episode(alert: Alert) -> str:
    """32 hexadecimal digits that name this episode of the alert, the same in every message about it.

    Late evaluations may move the step that fired it, so that is no part of its name. The moment is: a ledger made anew
    counts its alerts from 1 again.
    """
    fired = "" if alert.fired_at is None else alert.fired_at.isoformat()
    parts = (alert.run, alert.rule, alert.metric, alert.direction, str(alert.id), fired)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def is_over(notification: Notification, notice: Notice) -> bool:
    """True where the message says that the alert has ended. A digest says so of all that ended while it was held."""
    held = notification.event == "digest" and notice.alert.state is AlertState.RESOLVED
    return notice.event == "resolved" or held


def labels(notice: Notice) -> dict[str, str]:
    """The labels that have a value; as Prometheus does, one that is empty counts as absent. alertname is always one."""
    return {"alertname": notice.alert.rule, **{name: value for name, value in notice.labels.items() if value}}


def numbers(alert: Alert, *, over: bool) -> dict[str, str]:
    """value, step and change in words, those of its end where it is over; what is not known is left out."""
    value = measured(alert.window[-1]) if alert.window else ""
    told = {"value": value, "step": str(alert.fired_step), "change": change(alert)}
    if over:
        told["value"] = "" if alert.resolved_value is None else f"{alert.resolved_value:.6g}"
        told["step"] = "" if alert.resolved_step is None else str(alert.resolved_step)
        told["fired_step"] = str(alert.fired_step)
    return {name: text for name, text in told.items() if text}


def change(alert: Alert) -> str:
    """How the metric moved, or what happened to it."""
    return alert.what or f"{alert.change * 100:+.3g}% (threshold {alert.threshold * 100:.3g}%)"


def measured(point: WindowPoint) -> str:
    """A value with its standard error, where it has one: 20.4 ± 0.21."""
    return f"{point.value:.6g}" + ("" if point.stderr is None else f" ± {point.stderr:.2g}")


def web_link(url: str | None) -> str:
    """The address of the run's page, "" where there is none that a browser could open."""
    return url if url is not None and url.startswith(("http://", "https://")) else ""


__all__ = ["change", "episode", "is_over", "labels", "measured", "numbers", "web_link"]
