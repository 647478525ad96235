"""The Slack notifier: one Block Kit message to an incoming webhook.

Slack offers no idempotency key: a message whose answer was lost may arrive twice.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from metricwatch.api import (
    Alert,
    ConfigError,
    MetricwatchError,
    Notification,
    Notifier,
    PermanentError,
    Secret,
    TemporaryError,
    WindowPoint,
)

# https://docs.slack.dev/reference/block-kit/blocks: characters, after escaping.
HEADER_LIMIT = 150
SECTION_LIMIT = 3000
FIELD_LIMIT = 2000

_OK = 200
_TRY_LATER = frozenset({408, 425, 429})
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKS = {"firing": "●", "resolved": "✓", "test": "○"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackOptions:
    """webhook_url is the whole secret address Slack gave; timeout is in seconds."""

    webhook_url: Secret
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError, without the address, where it cannot be one."""
        url = self.webhook_url.reveal()
        if re.search(r"[\x00-\x20\x7f]", url) or not re.match(r"https?://[^/?#]", url, re.IGNORECASE):
            raise ConfigError(
                "webhook_url is not an http(s):// address; copy it from Slack's Incoming Webhooks page:"
                " https://hooks.slack.com/services/…"
            )
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be above 0 seconds, not {self.timeout:g}")


class SlackNotifier(Notifier):
    """Posts to an incoming webhook. The webhook's address appears in no error and no log line."""

    Options = SlackOptions

    def __init__(self, options: SlackOptions) -> None:
        self._options = options

    def send(self, notification: Notification) -> None:
        """Post one message. Raises TemporaryError on 408, 429 (with Slack's Retry-After), 5xx and lost connections,
        PermanentError with the start of Slack's answer on anything else that is not "ok".
        """
        from slack_sdk.webhook import WebhookClient

        # A logger of nobody: slack_sdk logs the address at DEBUG. No retries of its own: the outbox retries, and a
        # request that died on the way back would be posted twice without anyone knowing.
        silent = logging.Logger("slack", level=logging.CRITICAL + 1)  # noqa: LOG001 - outside the tree
        client = WebhookClient(
            self._options.webhook_url.reveal(),
            timeout=self._options.timeout,  # type: ignore[arg-type]  # a socket timeout takes fractions
            logger=silent,
            retry_handlers=[],
        )
        # urllib reads the proxy variables itself, and NO_PROXY with them, which slack_sdk's own reading ignores.
        client.proxy = None
        text = _cut(f"{notification.title} — {notification.summary}", SECTION_LIMIT)
        try:
            response = client.send(text=text, blocks=_blocks(notification), unfurl_links=False)
        except Exception as error:  # noqa: BLE001 - urllib, http.client, ssl and socket errors alike
            # Not chained: a library's text may name the address.
            raise TemporaryError(f"slack: {_reason(error)}") from None
        body = " ".join(response.body.split())
        if response.status_code != _OK or body != "ok":
            raise self._refusal(response.status_code, response.headers, body)

    def _refusal(self, status: int, headers: Any, body: str) -> MetricwatchError:
        url = self._options.webhook_url.reveal()
        for secret in (url, urlsplit(url).path.strip("/")):
            body = body.replace(secret, "******") if secret else body
        told = f": {body[:200]}" if body else ""
        if status in _TRY_LATER or status >= 500:  # noqa: PLR2004
            return TemporaryError(f"slack: HTTP {status}{told}", retry_after=_retry_after(headers))
        if status == _OK:
            return PermanentError(f'slack: answered something other than "ok"{told}; is webhook_url a Slack webhook?')
        return PermanentError(f"slack: HTTP {status}{told}")


# --- the message -------------------------------------------------------------------------------------------


def _blocks(notification: Notification) -> list[dict[str, Any]]:
    alert = notification.alert
    fields = {
        "Run": notification.run_name,
        "Metric": alert.metric,
        "Rule": alert.rule,
        **_what(alert),
        "Direction": f"{alert.direction} ({alert.severity})",
        "Step": str(alert.fired_step if alert.resolved_step is None else alert.resolved_step),
    }
    header = f"{_MARKS[notification.event]} {' '.join(notification.title.split())}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": header[:HEADER_LIMIT], "emoji": False}},
        _section(_cut(notification.summary or notification.title, SECTION_LIMIT)),
        {
            "type": "section",
            "fields": [
                {"type": "mrkdwn", "text": f"*{name}*\n{_cut(value or '-', FIELD_LIMIT - 20)}"}
                for name, value in fields.items()
            ],
        },
    ]
    if alert.window:
        blocks.append(_section(f"```{_table(alert.metric, alert.window)}```"))
    if link := _link(notification.run_url):
        blocks.append(_section(link))
    moment = notification.created_at
    written = f"{moment:%Y-%m-%d %H:%M %Z}".strip()
    when = f"<!date^{int(moment.timestamp())}^{{date_short_pretty}} {{time}}|{written}>"
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"metricwatch · {when}"}]})
    return blocks


def _what(alert: Alert) -> dict[str, str]:
    if alert.what:
        return {"What": alert.what}
    return {"Change": f"{_percent(alert.change)} (threshold {_percent(alert.threshold).lstrip('+')})"}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _table(metric: str, window: Sequence[WindowPoint]) -> str:
    """Steps and values in columns. A window too long for one section loses its middle."""
    rows = [("step", metric[:60])]
    for point in window:
        noise = "" if point.stderr is None else f" ± {point.stderr:.2g}"
        rows.append((str(point.step), f"{point.value:.6g}{noise}"))
    width = max(len(step) for step, _ in rows)
    lines = [_escape(f"{step:>{width}}  {value}") for step, value in rows]
    most = (SECTION_LIMIT - 200) // max(len(line) + 1 for line in lines)
    if len(lines) > most:
        lines = [*lines[: most // 2], f"{'…':>{width}}", *lines[-(most // 2) :]]
    return "\n".join(lines)


def _link(url: str | None) -> str | None:
    if url is None or not url.startswith(("http://", "https://")):
        return None
    # `|` and `>` would end the link; a percent sign that is there already stays.
    address = quote(url, safe=":/?#[]@!$&'()*+,;=%~")
    return None if len(address) > FIELD_LIMIT else f"<{_escape(address)}|Open the run in MLflow>"


def _percent(fraction: float) -> str:
    return f"{fraction * 100:+.3g}%"


def _escape(text: str) -> str:
    """The three characters Slack reads as control, and no others."""
    return re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], text)


def _cut(text: str, limit: int) -> str:
    """Escaped text of at most limit characters, never cut inside an entity."""
    escaped = _escape(text)
    if len(escaped) <= limit:
        return escaped
    return re.sub(r"&[a-z]*$", "", escaped[: limit - 1]) + "…"


# --- errors ------------------------------------------------------------------------------------------------


def _reason(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "no answer in time; the message may have arrived"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.strerror:
        return f"no connection ({cause.strerror})"
    return f"the connection broke ({type(cause).__name__}); the message may have arrived"


def _retry_after(headers: Any) -> timedelta | None:
    """Slack's own wish, in seconds; a date, which Slack never sends, is left to the outbox."""
    value = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    seconds = value.strip()
    return timedelta(seconds=int(seconds)) if re.fullmatch(r"\d{1,6}", seconds) else None


__all__ = ["SlackNotifier", "SlackOptions"]
