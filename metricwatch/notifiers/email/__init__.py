"""The e-mail notifier: one message with a text and an HTML form, through an SMTP server.

SMTP has no idempotency key: a message whose answer was lost may arrive twice. Both copies carry the same
Message-ID, by which most mail programs show one.
"""

from __future__ import annotations

from metricwatch.notifiers.email.notifier import EmailNotifier
from metricwatch.notifiers.email.options import EmailOptions

__all__ = ["EmailNotifier", "EmailOptions"]
