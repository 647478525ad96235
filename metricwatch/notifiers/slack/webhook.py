"""Posts to an incoming webhook."""

from __future__ import annotations

from metricwatch.api import MetricwatchError, Secret
from metricwatch.notifiers.redaction import secret_parts
from metricwatch.notifiers.slack.answers import OK, no_answer, webhook_refusal
from metricwatch.notifiers.slack.blocks import Block
from metricwatch.notifiers.slack.silence import silent_logger


class Webhook:
    """One webhook, whose address is a secret."""

    def __init__(self, url: Secret, *, timeout: float) -> None:
        self._url = url
        self._timeout = timeout

    def post(self, text: str, blocks: list[Block]) -> None:
        """Post a message once. Raises as SlackNotifier.send() does."""
        failure = self._attempt(text, blocks)
        # Raised where no other error is at hand: a library's may name the address.
        if failure is not None:
            raise failure

    def _attempt(self, text: str, blocks: list[Block]) -> MetricwatchError | None:
        from slack_sdk.webhook import WebhookClient

        # No retries of its own: the outbox retries, and a request that died on the way back would be posted twice
        # without anyone knowing.
        client = WebhookClient(
            self._url.reveal(),
            timeout=self._timeout,  # type: ignore[arg-type]  # a socket timeout takes fractions
            logger=silent_logger(),
            retry_handlers=[],
        )
        # urllib reads the proxy variables itself, and NO_PROXY with them, which slack_sdk's own reading ignores.
        client.proxy = None
        try:
            answer = client.send(text=text, blocks=blocks, unfurl_links=False)
        except Exception as error:  # noqa: BLE001 - urllib, http.client, ssl and socket errors alike
            return no_answer(error)
        if answer.status_code == OK and answer.body.strip() == "ok":
            return None
        return webhook_refusal(answer.status_code, answer.headers, answer.body, secret_parts(self._url.reveal()))


__all__ = ["Webhook"]
