"""Posts to an incoming webhook."""

from __future__ import annotations

from metricwatch.api import PermanentError, Secret
from metricwatch.notifiers.http import Poster
from metricwatch.notifiers.slack.blocks import Block


class Webhook:
    """One webhook, whose address is a secret.

    Not through slack_sdk: it follows redirects with a GET, reads answers of any length, and decodes them before it
    looks at their status.
    """

    def __init__(self, url: Secret, *, timeout: float) -> None:
        self._poster = Poster("slack", url.reveal(), timeout=timeout, trust="the environment variable SSL_CERT_FILE")

    def post(self, text: str, blocks: list[Block]) -> None:
        """Post a message once. Raises as SlackNotifier.send() does."""
        answer = self._poster.post({"text": text, "blocks": blocks, "unfurl_links": False})
        if answer.body.strip() != "ok":
            raise PermanentError(f"{self._poster.refused(answer)}; is webhook_url a Slack webhook?")


__all__ = ["Webhook"]
