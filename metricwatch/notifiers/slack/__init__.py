"""The Slack notifier: Block Kit messages to an incoming webhook, or as a bot, which can show the curve too.

Slack offers no idempotency key: a message whose answer was lost may arrive twice.
"""

from __future__ import annotations

from metricwatch.notifiers.slack.notifier import SlackNotifier
from metricwatch.notifiers.slack.options import SlackOptions

__all__ = ["SlackNotifier", "SlackOptions"]
