"""Sends to Slack by one of its two ways."""

from __future__ import annotations

from datetime import timedelta

import structlog

from metricwatch.api import MetricwatchError, Notification, Notifier
from metricwatch.notifiers.slack.blocks import blocks_of, fallback
from metricwatch.notifiers.slack.bot import Bot, Posted
from metricwatch.notifiers.slack.curves import curves_of
from metricwatch.notifiers.slack.options import SlackOptions
from metricwatch.notifiers.slack.webhook import Webhook

log = structlog.get_logger(__name__)


class SlackNotifier(Notifier):
    """Posts to an incoming webhook, or as a bot. The webhook's address and the token appear in no error and no log."""

    Options = SlackOptions
    # https://docs.slack.dev/apis/web-api/rate-limits: one message a second to a webhook, and to a channel.
    pause = timedelta(seconds=1)

    def __init__(self, options: SlackOptions) -> None:
        self._webhook: Webhook | None = None
        self._bot: Bot | None = None
        if options.webhook_url is not None:
            self._webhook = Webhook(options.webhook_url, timeout=options.timeout)
            self._address = options.webhook_url.reveal()
        elif options.bot_token is not None:
            channel = options.channel or ""
            self._bot = Bot(options.bot_token, channel, api_url=options.api_url, timeout=options.timeout)
            self._address = f"{options.api_url} {options.bot_token.reveal()} {channel.removeprefix('#')}"
        # A webhook takes no files.
        self.takes_pictures = self._bot is not None  # type: ignore[misc]  # of one notifier, not of all

    def send(self, notification: Notification) -> None:
        """Post one message, as a bot then the curves into its thread.

        Raises TemporaryError on 408, 425, 429 (with Slack's Retry-After), 5xx, lost connections and what the Web API
        calls a passing error; PermanentError with the start of Slack's answer on anything else that is not "ok", and
        where the server's certificate is not trusted. A message that is posted stays so: curves that cannot be
        uploaded are said to be missing in the message itself, and logged.
        """
        if self._webhook is not None:
            self._webhook.post(fallback(notification), blocks_of(notification))
        elif self._bot is not None:
            chosen = curves_of(notification)
            notes = [chosen.note] if chosen.note else []
            posted = self._bot.post(fallback(notification), blocks_of(notification, notes))
            if chosen.files:
                try:
                    self._bot.upload(posted, chosen.files)
                except MetricwatchError as error:
                    self._tell(
                        self._bot, posted, notification, [*notes, f"The curve could not be uploaded: {_reason(error)}"]
                    )

    def address(self) -> str | None:
        """The webhook's address, or the API's with the token and the channel."""
        return self._address

    def _tell(self, bot: Bot, posted: Posted, notification: Notification, notes: list[str]) -> None:
        """The message has arrived: nothing that happens here may have it sent again."""
        log.warning("slack.picture_missing", notification=notification.id, reason=notes[-1])
        try:
            bot.rewrite(posted, fallback(notification), blocks_of(notification, notes))
        except MetricwatchError as error:
            log.warning("slack.note_missing", notification=notification.id, reason=str(error))


def _reason(error: MetricwatchError) -> str:
    """What is said of a message that did not arrive, said of a curve below one that did."""
    return str(error).removeprefix("slack: ").removesuffix("; the message may have arrived")


__all__ = ["SlackNotifier"]
