"""The webhook notifier: JSON in the form that Prometheus' Alertmanager posts, so that its receivers understand it.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config describes it, as version 4. A message whose
answer was lost may arrive twice, with the same fingerprints.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from metricwatch.api import ConfigError, Notice, Notification, Notifier, Secret

from .facts import episode, is_over, labels, numbers, web_link
from .http import Poster, check_address, check_timeout

# The moment zero of Go's time, with which Alertmanager says that an alert has not ended.
_NOT_ENDED = "0001-01-01T00:00:00Z"
_FINGERPRINT = 16
# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
# These follow from the message itself.
_RESERVED = frozenset({"content-type", "content-length", "host", "transfer-encoding", "connection"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """Where to post, and how to log in: with a bearer token, or with a user name and password, or neither.

    headers are sent with every message; their values are kept as secrets. max_alerts is the most alerts that one
    message names, 0: all; those left out are counted. ca_file replaces the system's certificate authorities. timeout is
    in seconds, for each step of the conversation.
    """

    url: Secret
    bearer_token: Secret | None = None
    username: str | None = None
    password: Secret | None = None
    headers: Mapping[str, Secret] = field(default_factory=dict)
    ca_file: Path | None = None
    max_alerts: int = 0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError where the options contradict each other. Quotes no value."""
        check_address("url", self.url.reveal(), "https://receiver.example.org/alerts")
        if (self.username is None) != (self.password is None):
            raise ConfigError("username and password go together: give both or neither")
        if self.username is not None and self.bearer_token is not None:
            raise ConfigError("bearer_token and username exclude each other: both are sent as the header Authorization")
        if self.username is not None and ":" in self.username:
            raise ConfigError("username holds a colon, with which the password would begin")
        if self.bearer_token is not None and not re.fullmatch(r"[!-~]+", self.bearer_token.reveal()):
            raise ConfigError("bearer_token is empty, or holds white space or letters that a header cannot carry")
        self._check_headers()
        if self.ca_file is not None and not self.url.reveal().lower().startswith("https:"):
            raise ConfigError("ca_file is for https:// addresses, and url is http://; keep one of the two")
        if self.max_alerts < 0:
            raise ConfigError(f"max_alerts must be 0 (all) or more, not {self.max_alerts}")
        check_timeout(self.timeout)

    def _check_headers(self) -> None:
        seen: set[str] = set()
        for position, (name, value) in enumerate(self.headers.items()):
            if not _TOKEN.fullmatch(name):
                # Not quoted: what is no name may be a secret in the wrong place.
                raise ConfigError(f"headers: the name of number {position + 1} is not one of a header")
            if name.lower() in _RESERVED:
                raise ConfigError(f"headers: {name} follows from the message; leave it out")
            if name.lower() in seen:
                raise ConfigError(f"headers: {name} is given twice, in different cases")
            if not _VALUE.fullmatch(value.reveal()):
                raise ConfigError(f"headers: the value of {name} holds line breaks or letters that are not ASCII")
            seen.add(name.lower())
        login = "bearer_token" if self.bearer_token is not None else "username" if self.username is not None else None
        if login is not None and "authorization" in seen:
            raise ConfigError(f"headers: Authorization and {login} exclude each other; keep one of the two")


class WebhookNotifier(Notifier):
    """One POST for each message, whatever the number of its alerts. The address and the login appear in no error.

    A reminder is a firing alert sent again, as Alertmanager does. The annotation `event` tells them apart, and shows
    what is only a test: that alert is sent as firing, and never resolved.
    """

    Options = WebhookOptions

    def __init__(self, options: WebhookOptions) -> None:
        self._max_alerts = options.max_alerts
        headers = {name: value.reveal() for name, value in options.headers.items()}
        secrets: list[str] = []
        if options.bearer_token is not None:
            headers["Authorization"] = f"Bearer {options.bearer_token.reveal()}"
        if options.username is not None and options.password is not None:
            secrets.append(options.password.reveal())
            login = f"{options.username}:{options.password.reveal()}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"
        self._poster = Poster(
            "webhook",
            options.url.reveal(),
            timeout=options.timeout,
            headers=headers,
            secrets=secrets,
            ca_file=options.ca_file,
        )

    def send(self, notification: Notification) -> None:
        """Post one message. Errors as Poster.post(); PermanentError also on a 2xx answer that reports an error."""
        answer = self._poster.post(_message(notification, self._max_alerts))
        if _reports_error(answer.json()):
            raise self._poster.refused(answer)


def _reports_error(said: Any) -> bool:
    """True for {"ok": false}, {"success": false}, {"status": "error"} and anything under "error" or "errors"."""
    if not isinstance(said, dict):
        return False
    return (
        said.get("ok") is False
        or said.get("success") is False
        or str(said.get("status")).lower() == "error"
        or bool(said.get("error"))
        or bool(said.get("errors"))
    )


# --- the message -------------------------------------------------------------------------------------------


def _message(notification: Notification, most: int) -> dict[str, Any]:
    told = notification.notices[:most] if most else notification.notices
    alerts = [_alert(notification, notice) for notice in told]
    group = dict(sorted(notification.group.items()))
    return {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f"{name}={json.dumps(value)}" for name, value in group.items()) + "}",
        "truncatedAlerts": len(notification.notices) - len(told),
        "status": "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved",
        "receiver": notification.receiver,
        "groupLabels": group,
        "commonLabels": _common([alert["labels"] for alert in alerts]),
        "commonAnnotations": _common([alert["annotations"] for alert in alerts]),
        "externalURL": web_link(notification.run_url),
        "alerts": alerts,
    }


def _alert(notification: Notification, notice: Notice) -> dict[str, Any]:
    over = is_over(notification, notice)
    alert = notice.alert
    annotations = {
        "summary": notice.title,
        "description": notice.summary,
        **numbers(alert, over=over),
        "event": notification.event if notification.event in {"test", "digest"} else notice.event,
        "note": notification.note,
    }
    return {
        "status": "resolved" if over else "firing",
        "labels": labels(notice),
        "annotations": {name: text for name, text in annotations.items() if text},
        "startsAt": _written(alert.fired_at or notification.created_at),
        "endsAt": _written(alert.resolved_at or notification.created_at) if over else _NOT_ENDED,
        "generatorURL": web_link(notice.run_url),
        "fingerprint": episode(alert)[:_FINGERPRINT],
    }


def _common(mappings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all of them say alike."""
    first, *others = mappings
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _written(moment: datetime) -> str:
    """RFC 3339, which is stricter than ISO 8601."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


__all__ = ["WebhookNotifier", "WebhookOptions"]
