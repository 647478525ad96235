"""How to reach Slack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from metricwatch.api import ConfigError, Secret

_LOOPBACK = re.compile(r"localhost|127(?:\.\d+){3}|::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackOptions:
    """Either webhook_url, the whole secret address Slack gave, or bot_token and channel: a bot also shows the curve.

    channel is its ID, or its name. api_url is for GovSlack (https://slack-gov.com/api/). timeout is in seconds.
    """

    webhook_url: Secret | None = None
    bot_token: Secret | None = None
    channel: str | None = None
    api_url: str = "https://slack.com/api/"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError where it cannot work. Quotes nothing: any of it may be a secret in the wrong place."""
        if self.webhook_url is None and self.bot_token is None:
            raise ConfigError("webhook_url is missing; give it, or bot_token and channel")
        if self.webhook_url is not None and (self.bot_token is not None or self.channel is not None):
            raise ConfigError(
                "webhook_url goes to the channel it was made for: keep it alone, or keep bot_token and channel"
            )
        if self.webhook_url is not None:
            _check_webhook(self.webhook_url.reveal())
        if self.bot_token is not None:
            _check_token(self.bot_token.reveal())
            _check_channel(self.channel)
        _check_api(self.api_url)
        if self.timeout <= 0:
            raise ConfigError(f"timeout must be above 0 seconds, not {self.timeout:g}")


def _check_webhook(url: str) -> None:
    if re.search(r"[\x00-\x20\x7f]", url) or not re.match(r"https?://[^/?#]", url, re.IGNORECASE):
        raise ConfigError(
            "webhook_url is not an http(s):// address; copy it from Slack's Incoming Webhooks page:"
            " https://hooks.slack.com/services/…"
        )


def _check_token(token: str) -> None:
    if not re.fullmatch(r"[\x21-\x7e]+", token) or token.startswith(("xapp-", "http")):
        raise ConfigError(
            "bot_token is not a bot's token; copy the Bot User OAuth Token (xoxb-…) from the app's page"
            " OAuth & Permissions"
        )


def _check_channel(channel: str | None) -> None:
    if channel is None:
        raise ConfigError("channel is missing: bot_token needs the channel to write to, its ID or its name")
    if not re.fullmatch(r"#?[^\s#:/,@]{1,80}", channel):
        raise ConfigError("channel is not one channel; write its ID, such as C0123456789, or its name")


def _check_api(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise ConfigError("api_url is not an address; leave it out for https://slack.com/api/") from None
    plain = (
        not re.search(r"[\x00-\x20\x7f]", url) and "@" not in parts.netloc and not parts.query and not parts.fragment
    )
    if parts.scheme not in {"http", "https"} or not host or not plain:
        raise ConfigError("api_url is not the address of Slack's Web API; leave it out for https://slack.com/api/")
    if parts.scheme == "http" and not _LOOPBACK.fullmatch(host):
        raise ConfigError("api_url without TLS would send the token in the clear: begin it with https://")


__all__ = ["SlackOptions"]
