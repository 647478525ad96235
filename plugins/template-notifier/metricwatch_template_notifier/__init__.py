"""A notifier that posts each message as a JSON object to an address of the web."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass

from metricwatch.api import ConfigError, Notification, Notifier, PermanentError, Secret, TemporaryError

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
        try:
            with urllib.request.urlopen(request, timeout=self._options.timeout) as answer:  # noqa: S310
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            kind = TemporaryError if error.code in _TRY_LATER or error.code >= _SERVER_ERROR else PermanentError
            raise kind(f"the receiver answers HTTP {error.code}") from None
        except (OSError, http.client.HTTPException) as error:
            # Not chained: the library's text may name the address.
            raise TemporaryError(f"no answer from the receiver ({type(error).__name__})") from None


def _message(notification: Notification) -> dict[str, object]:
    alert = notification.alert
    return {
        "id": notification.id,  # by which a receiver can drop what arrives twice
        "event": notification.event,
        "title": notification.title,
        "summary": notification.summary,
        "run": notification.run_name,
        "url": notification.run_url,
        "rule": alert.rule,
        "metric": alert.metric,
        "severity": alert.severity,
        "step": alert.fired_step,
        "resolved_step": alert.resolved_step,
        "created_at": notification.created_at.isoformat(),
    }


__all__ = ["TemplateNotifier", "TemplateNotifierOptions"]
