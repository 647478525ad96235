"""The part of `metricwatch status` that is about rules, alerts and who was told, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metricwatch.config.schema import Config
    from metricwatch.records import Alert, Run
    from metricwatch.store.db import Database

# What needs attention comes first.
_ORDER = {"firing": 0, "pending": 1, "inactive": 2}
_WIDE = 100


def rules(config: Config, db: Database, run: Run) -> dict[str, dict[str, Any]]:
    """Where each rule that is for this run stands, those that fire first."""
    from metricwatch.store.alerts import Alerts

    alerts = Alerts(db)
    found = {
        rule.name: {"state": state.state, "step": state.step, "direction": state.direction, "note": state.note}
        for rule in config.rules
        if rule.for_run(run.name) is not None and (state := alerts.latest_state(run.key, rule.name))
    }
    return dict(sorted(found.items(), key=lambda item: _ORDER.get(str(item[1]["state"]), len(_ORDER))))


def alerts(db: Database, now: datetime) -> list[dict[str, Any]]:
    """Everything that fires, the oldest first, and the newest of what is resolved."""
    from metricwatch.records import AlertState
    from metricwatch.store.alerts import Alerts
    from metricwatch.store.ledger import Ledger

    log = Alerts(db)
    resolved = [
        alert for run in Ledger(db).runs() for alert in log.recent(run.key) if alert.state is not AlertState.FIRING
    ]
    return [_alert(alert, now) for alert in (*log.firing(), *resolved)]


def messages(db: Database, now: datetime) -> dict[str, Any]:
    """Silences that hold now, what is held back, and what waits for receivers or failed."""
    from metricwatch.store.attention import Attention
    from metricwatch.store.notifications import NotificationLog
    from metricwatch.store.silences import Silences

    log = NotificationLog(db)
    return {
        "silences": [
            {
                "id": silence.id,
                "matchers": list(silence.matchers),
                "author": silence.author,
                "comment": silence.comment,
                "ends_at": silence.ends_at.isoformat(),
                "ends_in_seconds": (silence.ends_at - now).total_seconds(),
            }
            for silence in Silences(db).active(now)
        ],
        "held": [
            {"run": run, "rule": rule, "receiver": receiver, "reason": reason}
            for run, rule, receiver, reason in log.held()
        ],
        "receivers": [
            {
                "receiver": item.receiver,
                "pending": item.pending,
                "oldest_pending_seconds": max(0.0, (now - item.oldest).total_seconds()) if item.oldest else 0.0,
                "reason": item.reason,
                "failed": item.failed,
                "last_failure": item.last_failure,
            }
            for item in Attention(db).receivers()
        ],
        "notifications": log.rows(),
    }


def pages(db: Database) -> list[dict[str, Any]]:
    """The pages beside runs that are not as they should be."""
    from metricwatch.store.pages import Pages

    if not db.has("pages"):
        return []
    return [
        {
            "sink": page.sink,
            "run": page.run,
            "page": page.name,
            "reason": page.reason,
            "sent_at": page.sent_at.isoformat() if page.sent_at else None,
            "tried_again": page.tried_again,
        }
        for page in Pages(db).troubles()
    ]


def figures(db: Database, now: datetime) -> dict[str, Any]:
    """What of evaluations waits to be drawn, and what will never be."""
    from metricwatch.store.figures import Figures

    if not db.has("figures"):
        return {"undrawn": [], "not_drawn": []}
    found = Figures(db)
    return {
        "undrawn": [
            {
                "run": item.run,
                "pending": item.pending,
                "oldest_pending_seconds": max(0.0, (now - item.oldest).total_seconds()),
                "reason": item.reason,
            }
            for item in found.backlog()
        ],
        "not_drawn": [
            {"run": item.run, "step": item.step, "figure": item.kind, "reason": item.reason} for item in found.failed()
        ],
    }


def _alert(alert: Alert, now: datetime) -> dict[str, Any]:
    return {
        "run": alert.run,
        "rule": alert.rule,
        "kind": alert.kind,
        "metric": alert.metric,
        "state": alert.state.value,
        "severity": alert.severity,
        "direction": alert.direction,
        "labels": dict(alert.labels),
        "change": alert.change,
        "what": alert.what,
        "detail": alert.detail,
        "fired_step": alert.fired_step,
        "fired_at": alert.fired_at.isoformat() if alert.fired_at else None,
        "age_seconds": max(0.0, (now - alert.fired_at).total_seconds()) if alert.fired_at else None,
        "resolved_step": alert.resolved_step,
        "resolved_at": alert.resolved_at.isoformat() if alert.resolved_at else None,
        "reason": alert.reason,
        "window": [{"step": point.step, "value": point.value, "stderr": point.stderr} for point in alert.window],
    }


# --- for people ----------------------------------------------------------------------------------------------


def rule_lines(states: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, rule in states.items():
        yield from _wrapped(f"rule {name}: {rule['state']} at step {rule['step']}", rule["note"])


def alert_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The alerts, those that fire with how long they have, and the pages that could not show them."""
    names = {run["key"]: run["name"] for run in document["runs"]}
    for alert in document["alerts"]:
        if alert["state"] == "firing":
            where = f"since step {alert['fired_step']}"
            where += f", for {_span(alert['age_seconds'])}" if alert["age_seconds"] is not None else ""
        else:
            end = "" if alert["resolved_step"] is None else f" to {alert['resolved_step']}"
            where = f"step {alert['fired_step']}{end}"
        what = f"{alert['metric']} {alert['what'] or format(alert['change'], '+.1%')}".strip()
        told = [what, alert["detail"], "" if alert["state"] == "firing" else alert["reason"]]
        head = f"alert {alert['rule']} of {names[alert['run']]}: {alert['state']} ({alert['severity']}) {where}"
        yield from _wrapped(head, "; ".join(filter(None, told)))
    for page in document["pages"]:
        yield from _wrapped(
            f"page {page['page']} of {names[page['run']]} at {page['sink']} is not up to date", page["reason"]
        )


def figure_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The figures that wait, and those that were given up."""
    names = {run["key"]: run["name"] for run in document["runs"]}
    for item in document["undrawn"]:
        reason = item["reason"] or "on their way"
        waits = f"{item['pending']} figures of {names[item['run']]} wait to be drawn"
        yield f"{waits}, the oldest for {_span(item['oldest_pending_seconds'])}: {reason}"
    for item in document["not_drawn"]:
        yield f"not drawn: {item['figure']} of {names[item['run']]} step {item['step']}: {item['reason']}"


def message_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Who is not told of what, and why."""
    for silence in document["silences"]:
        what = " ".join(silence["matchers"]) or "everything"
        ends = datetime.fromisoformat(silence["ends_at"])
        left = _span(silence["ends_in_seconds"])
        head = f"silence {silence['id']}: {what}, until {ends:%Y-%m-%d %H:%M} UTC (for {left})"
        yield from _wrapped(f"{head}, by {silence['author']}", silence["comment"])
    for item in document["held"]:
        yield from _wrapped(f"not told: {item['rule']} of {item['run']} to {item['receiver']}", item["reason"])
    for item in document["receivers"]:
        if item["pending"]:
            count, age = _messages(item["pending"], "waits", "wait"), _span(item["oldest_pending_seconds"])
            yield from _wrapped(
                f"receiver {item['receiver']}: {count}, the oldest for {age}", item["reason"] or "not tried yet"
            )
        if item["failed"]:
            count = _messages(item["failed"], "failed", "failed")
            yield from _wrapped(f"receiver {item['receiver']}: {count}, the last", item["last_failure"])
    for item in document["notifications"]:
        note = f" ({item['note']})" if item["note"] else ""
        about = f"{item['event']} of {item['alerts']} to {item['receiver']}{note}"
        if item["state"] != "sent":
            yield from _wrapped(f"notification {item['state']}: {about}", item["reason"] or "not tried yet")
        elif note:
            yield f"notification sent: {about}"


def _messages(count: int, one: str, many: str) -> str:
    return f"1 message {one}" if count == 1 else f"{count} messages {many}"


def _wrapped(head: str, more: str) -> Iterator[str]:
    """On one line what fits on one, else what explains it below, set in."""
    if not more:
        yield head
    elif len(head) + len(more) + 2 <= _WIDE:
        yield f"{head}: {more}"
    else:
        yield f"{head}:"
        yield f"  {more}"


def _span(seconds: float) -> str:
    """1:02:03, or 4 days."""
    span = timedelta(seconds=round(seconds))
    return f"{span.days} days" if span.days > 1 else str(span)
