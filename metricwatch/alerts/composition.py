"""Makes the message that a row of the notification log stands for: words, templates, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from metricwatch.alerts.message import Words, gather, words_of
from metricwatch.alerts.routing import labels_of
from metricwatch.clock import from_ms
from metricwatch.config.rules import Message, Rule
from metricwatch.drawing import process
from metricwatch.drawing.curve import Curve, Span
from metricwatch.errors import ConfigError
from metricwatch.records import Alert, Notice, Notification, WindowPoint
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.store.notifications import Item, PendingNotification
from metricwatch.store.scores import Scores

log = structlog.get_logger(__name__)

MOST_PICTURES = 5
_MOST_POINTS = 200
_BOUNDED = ("above", "below")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A message, and by the position of a notice the curve that is still to be drawn for it."""

    notification: Notification
    curves: Mapping[int, Curve]


class Composer:
    """Composes messages from the ledger, by the rules as they are configured."""

    def __init__(self, db: Database, rules: Sequence[Rule], sink: str) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._sink = sink
        self._ledger = Ledger(db)
        self._deliveries = Deliveries(db)
        self._scores = Scores(db)
        # Rules whose template failed: that is logged once, and said in every message.
        self._failed_templates: set[str] = set()
        # By message, until it has arrived: what was drawn is not drawn again for every attempt.
        self._drawn: dict[int, Mapping[int, bytes]] = {}

    def rule_for(self, rule: str, run_name: str) -> Rule | None:
        """The rule of this name as it is for a run, None where it is gone or off."""
        found = self._rules.get(rule)
        return found.for_run(run_name) if found is not None else None

    def draft(self, pending: PendingNotification, *, pictures: bool) -> Draft:
        """The message as the ledger tells it now. Reads the ledger; draws nothing yet."""
        notes = [pending.note] if pending.note else []
        notices = [self._notice(pending, item, notes) for item in pending.items]
        notification = gather(
            number=pending.id,
            event=pending.event,
            notices=notices,
            created_at=from_ms(pending.created_ms),
            receiver=pending.receiver,
            group=pending.group,
            note="; ".join(dict.fromkeys(notes)),
        )
        curves: dict[int, Curve] = {}
        if pictures and pending.id not in self._drawn:
            for position, notice in enumerate(notification.notices):
                if len(curves) < MOST_PICTURES and (curve := self._curve(notice)) is not None:
                    curves[position] = curve
        return Draft(notification=notification, curves=curves)

    def with_pictures(self, draft: Draft) -> Notification:
        """The message with its curves drawn, as far as they can be. Takes seconds; may run in a thread of its own."""
        notification = draft.notification
        if draft.curves:
            try:
                drawn = process.draw(list(draft.curves.values()))
            except Exception as error:  # noqa: BLE001 - whatever it is, it costs the picture and never the message
                log.warning("notification.not_drawn", reason=str(error) or type(error).__name__)
                drawn = []
            self._drawn[notification.id] = dict(zip(draft.curves, drawn, strict=False))
        pictures = self._drawn.get(notification.id, {})
        notices = tuple(replace(n, picture=pictures.get(position)) for position, n in enumerate(notification.notices))
        return replace(notification, notices=notices)

    def forget(self, notification: int) -> None:
        """Let go of the pictures of a message that needs them no more."""
        self._drawn.pop(notification, None)

    def _notice(self, pending: PendingNotification, item: Item, notes: list[str]) -> Notice:
        alert = item.alert
        run_name = self._ledger.run(alert.run).name
        remote = self._deliveries.remote_run(self._sink, alert.run)
        words = words_of(item.event, alert, run_name, from_ms(pending.created_ms), first=item.first)
        notice = Notice(
            event=item.event,
            alert=alert,
            run_name=run_name,
            run_url=remote.url if remote else None,
            title=words.title,
            summary=words.summary,
            labels=labels_of(alert, run_name),
        )
        rule = self.rule_for(alert.rule, run_name)
        if rule is None or rule.message == Message():
            return notice
        try:
            own = _rendered(rule.message, notice)
        except ConfigError as error:
            # Better in our words than not at all.
            notes.append(f"the template of rule {rule.name} failed: {error}")
            if rule.name not in self._failed_templates:
                self._failed_templates.add(rule.name)
                log.warning("template.failed", rule=rule.name, reason=str(error), consequence="plain words were sent")
            return notice
        return replace(notice, title=own.title, summary=own.summary)

    def _curve(self, notice: Notice) -> Curve | None:
        alert = notice.alert
        if not alert.metric:
            return None
        series = self._scores.series(alert.run, alert.metric)[-_MOST_POINTS:]
        points = tuple(
            WindowPoint(step=point.step, value=point.score.value, stderr=point.score.stderr)
            for point in series
            if point.score.value is not None
        )
        if not points:
            return None
        return Curve(
            title=f"{alert.metric} of {notice.run_name}",
            key=alert.metric,
            points=points,
            spans=(span_of(alert),),
            bounds=(alert.threshold,) if alert.kind in _BOUNDED else (),
            gaps=tuple(point.step for point in series if point.score.value is None),
        )


def span_of(alert: Alert) -> Span:
    """The alert as it is marked on a curve."""
    return Span(
        rule=alert.rule,
        severity=alert.severity,
        direction=alert.direction,
        fired=alert.fired_step,
        until=alert.resolved_step,
        window=alert.window,
    )


def _rendered(message: Message, notice: Notice) -> Words:
    """The rule's own words. Raises ConfigError where a template fails."""
    from metricwatch.config.templates import render

    alert = notice.alert
    last = alert.window[-1].value if alert.window else None
    resolved = notice.event == "resolved"
    variables = {
        "alert": alert,
        "run": notice.run_name,
        "run_url": notice.run_url or "",
        "labels": dict(notice.labels),
        "event": notice.event,
        "title": notice.title,
        "text": notice.summary,
        "metric": alert.metric,
        "rule": alert.rule,
        "severity": alert.severity,
        "direction": alert.direction,
        "step": alert.resolved_step if resolved and alert.resolved_step is not None else alert.fired_step,
        "value": alert.resolved_value if resolved else last,
        "change": alert.change,
        "threshold": alert.threshold,
        "window": alert.window,
    }
    title = notice.title if message.title is None else " ".join(render(message.title, variables).split())
    text = notice.summary if message.text is None else render(message.text, variables).strip()
    if not title or not text:
        raise ConfigError("it gives no text")
    return Words(title=title, summary=text)
