"""The PagerDuty notifier: an event of the Events API v2 for each alert.

https://developer.pagerduty.com/docs/events-api-v2 describes it. An event carries a dedup_key, so one that arrives twice
changes nothing: PagerDuty adds it to the same incident.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metricwatch.api import ConfigError, Notice, Notification, Notifier, PermanentError, Secret, WindowPoint

from .facts import change, episode, is_over, labels, measured, numbers, web_link
from .http import Poster, check_address, check_timeout

ENQUEUE = "https://events.pagerduty.com/v2/enqueue"
SUMMARY_LIMIT = 1024
_DETAIL_LIMIT = 2000
# An event may have 512 KiB in all.
_MOST_POINTS = 60
_MOST_LABELS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class PagerDutyOptions:
    """routing_key is the integration key of a service or an event orchestration: 32 letters and digits.

    url is another for accounts in the EU: https://events.eu.pagerduty.com/v2/enqueue. severities are those that are
    sent; an alert of another one is told nobody here. ca_file replaces the system's certificate authorities. timeout is
    in seconds, for each step of the conversation.
    """

    routing_key: Secret
    url: str = ENQUEUE
    severities: tuple[Literal["critical", "warning", "info"], ...] = ("critical", "warning", "info")
    ca_file: Path | None = None
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError where the options cannot work. Quotes no key and no address."""
        if not re.fullmatch(r"[A-Za-z0-9]{32}", self.routing_key.reveal()):
            raise ConfigError(
                "routing_key is not 32 letters and digits; copy the integration key of the service's integration"
                ' "Events API V2"'
            )
        check_address("url", self.url, ENQUEUE)
        if not self.severities:
            raise ConfigError("severities is empty: nothing would ever be sent; leave it out for all")
        if self.ca_file is not None and not self.url.lower().startswith("https:"):
            raise ConfigError("ca_file is for https:// addresses, and url is http://; keep one of the two")
        check_timeout(self.timeout)


class PagerDutyNotifier(Notifier):
    """Triggers an incident when an alert fires and resolves it when it is over, a request for each alert of a message.

    A reminder triggers again, which adds to the incident and pages nobody anew. A digest resolves what is over by
    then; PagerDuty ignores that where it never heard of it. A test triggers an incident of severity info and resolves
    it at once, since nothing else ever would.
    """

    Options = PagerDutyOptions

    def __init__(self, options: PagerDutyOptions) -> None:
        self._key = options.routing_key
        self._severities = frozenset(options.severities)
        self._poster = Poster(
            "pagerduty",
            options.url,
            timeout=options.timeout,
            secrets=[options.routing_key.reveal()],
            ca_file=options.ca_file,
        )

    def send(self, notification: Notification) -> None:
        """Post an event for each alert whose severity is among those to be sent, a test's whatever it is.

        Errors as Poster.post(), PermanentError also where PagerDuty does not say "success". What it refuses for ever
        holds up no other alert of the message; after a TemporaryError all of them are sent again.
        """
        refused: list[str] = []
        events = self._events(notification)
        for event in events:
            try:
                self._post(event)
            except PermanentError as error:
                refused.append(str(error))
        if refused:
            count = f" ({len(refused)} of {len(events)} events were refused)" if len(events) > 1 else ""
            raise PermanentError(f"{refused[0]}{count}")

    def _events(self, notification: Notification) -> list[dict[str, Any]]:
        if notification.event == "test":
            notice = notification.notices[0]
            moment = notification.created_at.isoformat()
            key = f"metricwatch-test/{episode(notice.alert)}/{notification.id}/{moment}"
            return [
                _event(notification, notice, action=action, key=key, severity="info")
                for action in ("trigger", "resolve")
            ]
        return [
            _event(
                notification,
                notice,
                action="resolve" if is_over(notification, notice) else "trigger",
                key=f"metricwatch/{episode(notice.alert)}",
                severity=notice.alert.severity,
            )
            for notice in notification.notices
            if notice.alert.severity in self._severities
        ]

    def _post(self, event: dict[str, Any]) -> None:
        answer = self._poster.post({"routing_key": self._key.reveal(), **event})
        said = answer.json()
        if not isinstance(said, dict) or said.get("status") != "success":
            raise self._poster.refused(answer)


# --- the event ---------------------------------------------------------------------------------------------


def _event(notification: Notification, notice: Notice, *, action: str, key: str, severity: str) -> dict[str, Any]:
    """An event of https://developer.pagerduty.com/docs/send-alert-event, without the routing key."""
    alert = notice.alert
    over = is_over(notification, notice)
    moment = (alert.resolved_at if over else alert.fired_at) or notification.created_at
    payload = {
        "summary": _cut(notice.title, SUMMARY_LIMIT) or f"{alert.rule} on {notice.run_name}",
        "source": _cut(notice.run_name, SUMMARY_LIMIT) or alert.run,
        "severity": severity,
        "timestamp": moment.isoformat(timespec="milliseconds"),
        "component": _cut(alert.metric, SUMMARY_LIMIT),
        "class": _cut(alert.rule, SUMMARY_LIMIT),
        "custom_details": _details(notification, notice, over=over),
    }
    event: dict[str, Any] = {
        "event_action": action,
        "dedup_key": key,
        "payload": {name: value for name, value in payload.items() if value},
        "client": "metricwatch",
    }
    if url := web_link(notice.run_url):
        event["client_url"] = url
        event["links"] = [{"href": url, "text": "Open the run in MLflow"}]
    return event


def _details(notification: Notification, notice: Notice, *, over: bool) -> dict[str, Any]:
    alert = notice.alert
    details = {
        "summary": _cut(notice.summary, _DETAIL_LIMIT),
        **numbers(alert, over=over),
        "change": _cut(change(alert), _DETAIL_LIMIT),
        "direction": alert.direction,
        "detail": _cut(alert.detail, _DETAIL_LIMIT),
        "reason": _cut(alert.reason, _DETAIL_LIMIT),
        "note": _cut(notification.note, _DETAIL_LIMIT),
        "labels": {
            _cut(name, SUMMARY_LIMIT): _cut(value, SUMMARY_LIMIT)
            for name, value in list(labels(notice).items())[:_MOST_LABELS]
        },
        "window": _window(alert.window),
    }
    return {name: value for name, value in details.items() if value}


def _window(points: Sequence[WindowPoint]) -> dict[str, str]:
    """Value by step. A long window loses its middle."""
    half = _MOST_POINTS // 2
    if len(points) <= _MOST_POINTS:
        return {str(point.step): measured(point) for point in points}
    return {**_window(points[:half]), "…": f"{len(points) - 2 * half} more", **_window(points[-half:])}


def _cut(text: str, limit: int) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


__all__ = ["ENQUEUE", "SUMMARY_LIMIT", "PagerDutyNotifier", "PagerDutyOptions"]
