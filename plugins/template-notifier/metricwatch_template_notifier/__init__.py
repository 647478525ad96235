"""A notifier that posts each message as a JSON object to an address of the web."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import timedelta

from metricwatch.api import (
    ConfigError,
    MetricwatchError,
    Notice,
    Notification,
    Notifier,
    PermanentError,
    Secret,
    TemporaryError,
)

# The receiver may take the same message later.
_TRY_LATER = frozenset({408, 425, 429})
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateNotifierOptions:
    """url is a secret, as those who know it can write to it; timeout is in seconds."""

    url: Secret
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError, without the address, where it cannot be one."""
        if not re.fullmatch(r"https?://[^\s/?#]\S*", self.url.reveal()):
            raise ConfigError("url must begin with http:// or https:// and have no white space")
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be above 0 seconds, not {self.timeout:g}")


class TemplateNotifier(Notifier):
    """One POST for each message, taken when the answer is 2xx. A message whose answer was lost may arrive twice."""

    Options = TemplateNotifierOptions

    def __init__(self, options: TemplateNotifierOptions) -> None:
        self._options = options

    def send(self, notification: Notification) -> None:
        """Raises TemporaryError on 408, 425, 429, 5xx and lost connections, PermanentError on other refusals."""
        request = urllib.request.Request(  # noqa: S310 - the options are http(s) alone
            self._options.url.reveal(),
            data=json.dumps(_message(notification)).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "metricwatch"},
        )
        failure: MetricwatchError | None = None
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=self._options.timeout) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            failure = _refusal(error.code, error.headers.get("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            failure = TemporaryError(f"no answer from the receiver ({type(error).__name__})")
        if failure is not None:
            # Raised here, without a chain: the library's error knows the address.
            raise failure


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected becomes a GET: the answer would be 200 and the message lost."""

    def redirect_request(self, *_: object) -> None:
        """Follow none, which leaves the 3xx as a refusal."""


def _refusal(status: int, wish: str | None) -> MetricwatchError:
    """wish: the header Retry-After, here in seconds alone."""
    if status in _TRY_LATER or status >= _SERVER_ERROR:
        wait = timedelta(seconds=int(wish)) if wish and re.fullmatch(r"[0-9]{1,6}", wish) else None
        return TemporaryError(f"the receiver answers HTTP {status}", retry_after=wait)
    return PermanentError(f"the receiver answers HTTP {status}")


def _message(notification: Notification) -> dict[str, object]:
    """A message tells of one alert or of several: a group of a run's, or all that a night held back."""
    return {
        "id": notification.id,  # by which a receiver can drop what arrives twice
        "event": notification.event,
        "title": notification.title,
        "summary": notification.summary,
        "note": notification.note,  # about the message itself: that its template failed, say
        "created_at": notification.created_at.isoformat(),
        "alerts": [_alert(notice) for notice in notification.notices],
    }


def _alert(notice: Notice) -> dict[str, object]:
    alert = notice.alert
    return {
        "event": notice.event,
        "title": notice.title,
        "run": notice.run_name,
        "url": notice.run_url,
        "rule": alert.rule,
        "metric": alert.metric,
        "severity": alert.severity,
        "step": alert.fired_step,
        "resolved_step": alert.resolved_step,
        "labels": dict(notice.labels),
    }


__all__ = ["TemplateNotifier", "TemplateNotifierOptions"]
