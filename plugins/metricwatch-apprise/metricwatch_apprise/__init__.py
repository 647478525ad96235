"""A notifier that hands each message to apprise, which knows more than a hundred services."""

from __future__ import annotations

from metricwatch_apprise.notifier import AppriseNotifier, AppriseOptions

__all__ = ["AppriseNotifier", "AppriseOptions"]
