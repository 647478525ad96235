"""The words of an alert, the same through every notifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from metricwatch.alerts.routing import labels_of
from metricwatch.records import Alert, AlertEvent, AlertState, Notice, Notification

Event = Literal["firing", "resolved", "reminder", "test"]
MessageEvent = Literal["firing", "resolved", "reminder", "digest", "test"]

# In the title of a message about several alerts.
_MOST_NAMED = 3
_RANKS = {"critical": 0, "warning": 1, "info": 2}
_EVENT_RANKS = {"firing": 0, "reminder": 1, "resolved": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What is said of one alert: one line, and one or two sentences."""

    title: str
    summary: str


def compose(
    *,
    number: int,
    event: Event,
    alert: Alert,
    run_name: str,
    run_url: str | None,
    created_at: datetime,
    picture: bytes | None = None,
    receiver: str = "",
) -> Notification:
    """The message about a single event of a single alert; number identifies it in the notification log."""
    told: AlertEvent = "firing" if event == "test" else event
    words = words_of(event, alert, run_name, created_at)
    notice = Notice(
        event=told,
        alert=alert,
        run_name=run_name,
        run_url=run_url,
        title=words.title,
        summary=words.summary,
        labels=labels_of(alert, run_name),
        picture=picture,
    )
    return gather(number=number, event=event, notices=[notice], created_at=created_at, receiver=receiver)


def words_of(event: Event, alert: Alert, run_name: str, at: datetime, *, first: bool = False) -> Words:
    """Our words for an event of an alert, told at a time. first: its receiver has not heard of it before."""
    return Words(title=_title(event, alert, run_name, at), summary=_summary(event, alert, at, first=first))


def gather(
    *,
    number: int,
    event: MessageEvent,
    notices: Sequence[Notice],
    created_at: datetime,
    receiver: str = "",
    group: Mapping[str, str] | None = None,
    note: str = "",
) -> Notification:
    """One message of several notices, the gravest first. Of a single one it has the title and the summary."""
    ordered = sorted(notices, key=lambda notice: (_EVENT_RANKS[notice.event], _RANKS[notice.alert.severity]))
    single = len(ordered) == 1 and event != "digest"
    return Notification(
        id=number,
        event=event,
        notices=tuple(ordered),
        created_at=created_at,
        title=ordered[0].title if single else _title_of_all(event, ordered),
        summary=ordered[0].summary if single else "\n".join(map(_line, ordered)),
        receiver=receiver,
        group=group or {},
        note=note,
    )


def event_of(events: Sequence[AlertEvent]) -> AlertEvent:
    """What a message with these events reports as a whole."""
    return min(events, key=_EVENT_RANKS.__getitem__)


def phrase(alert: Alert) -> str:
    """What happened, short: fid rose 17.0%; had no evaluation for 2h."""
    return f"{alert.metric} {alert.what or _moved(alert)}".strip()


def duration(span: timedelta) -> str:
    """A time span as people say it, to the minute: 4 h 10 min."""
    minutes = max(0, round(span.total_seconds() / 60))
    parts = [(minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count) or "less than a minute"


def _title(event: Event, alert: Alert, run_name: str, at: datetime) -> str:
    if event == "resolved":
        about = alert.metric or phrase(alert)
        return f"[resolved] {run_name}: {about} ({alert.rule}, was {alert.severity})"
    kind = "test" if event == "test" else alert.severity
    still = f"still, for {_lasts(alert, at)}: " if event == "reminder" and alert.fired_at else ""
    return f"[{kind}] {run_name}: {still}{phrase(alert)} ({alert.rule})"


def _title_of_all(event: MessageEvent, notices: Sequence[Notice]) -> str:
    count = f"{len(notices)} alert{'' if len(notices) == 1 else 's'}"
    if event == "digest":
        return f"[digest] {count} during quiet hours"
    runs = list(dict.fromkeys(notice.run_name for notice in notices))
    where = ", ".join(runs) if len(runs) <= _MOST_NAMED else f"{len(runs)} runs"
    fires = [notice.alert for notice in notices if notice.event != "resolved"]
    over = len(notices) - len(fires)
    if not fires:
        return f"[resolved] {where}: {count}: {_some([n.alert.metric or n.alert.rule for n in notices])}"
    still = "still, " if event == "reminder" else ""
    ended = f"; {over} over" if over else ""
    return f"[{fires[0].severity}] {where}: {still}{count}: {_some([phrase(alert) for alert in fires])}{ended}"


def _some(phrases: Sequence[str]) -> str:
    named = list(dict.fromkeys(phrases))
    return ", ".join(named[:_MOST_NAMED]) + (", …" if len(named) > _MOST_NAMED else "")


def _line(notice: Notice) -> str:
    """One line of a message about many. The steps tell alerts of one rule apart."""
    alert = notice.alert
    if notice.event != "resolved":
        return f"{notice.title}, since step {alert.fired_step}"
    steps = f"fired at step {alert.fired_step}"
    if alert.resolved_step is not None:
        steps += f", over at step {alert.resolved_step}"
    return f"[resolved] {notice.run_name}: {phrase(alert)} ({alert.rule}, was {alert.severity}), {steps}"


def _moved(alert: Alert) -> str:
    return f"{'rose' if alert.change > 0 else 'fell'} {abs(alert.change):.1%}"


def _summary(event: Event, alert: Alert, at: datetime, *, first: bool) -> str:
    if event == "resolved":
        text = _resolution(alert)
        if first and alert.fired_at is not None:
            text += f" Nothing was said of it before: it began on {alert.fired_at:%Y-%m-%d at %H:%M} UTC."
        return text
    if alert.what:
        text = f"{_happened(alert)} {_when(alert)}".strip()
    else:
        text = f"{_movement(alert)} That is {alert.direction}. The rule allows {_percent(alert.threshold)}."
    if event == "test":
        return f"This is a test; nothing happened. A real alert would say: {text}"
    if event == "reminder":
        lasts = f", for {_lasts(alert, at)}" if alert.fired_at else ""
        text = f"Still firing{lasts}, since step {alert.fired_step}. {text}"
    if alert.state is AlertState.RESOLVED:
        # The message could not be delivered for so long; the next one says how it ended.
        text += " It is over by now."
    return text


def _lasts(alert: Alert, at: datetime) -> str:
    return duration(at - alert.fired_at) if alert.fired_at else ""


def _happened(alert: Alert) -> str:
    """A sentence: fid has no value: collapsed — all 64 images have the same features on 'inception-v3'."""
    detail = f" — {alert.detail}" if alert.detail else ""
    text = f"{phrase(alert)}{detail}."
    return text if alert.metric else text[:1].upper() + text[1:]


def _when(alert: Alert) -> str:
    if alert.metric:
        return f"The alert fired at step {alert.fired_step}."
    return f"The newest step was {alert.fired_step}." if alert.fired_step else ""


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
    why = f": {alert.reason}" if alert.reason else ""
    now = "" if alert.resolved_value is None else f" It is {alert.resolved_value:.5g} now."
    if not alert.metric:
        return f"The alert is over{at}{why}.{now} It had fired after step {alert.fired_step}: {_happened(alert)}"
    if alert.what:
        return (
            f"The alert about {alert.metric} is over{at}{why}.{now} "
            f"It had fired at step {alert.fired_step}: {_happened(alert)}"
        )
    return (
        f"The movement of {alert.metric} for the {alert.direction} is over{at}{why}.{now} "
        f"It had fired at step {alert.fired_step}, when {alert.metric} {_moved(alert)} to {alert.moved[-1].value:.5g}."
    )


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
