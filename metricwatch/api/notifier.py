"""Notifiers: how people hear of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from metricwatch.records import Notification


class Notifier(ABC):
    """Tells people. Errors as for Sink; a send that may or may not have arrived raises TemporaryError.

    Options is a frozen dataclass whose fields are the keys a user may write beside `use:`; a field of type
    Secret may also be given as `<field>_file`.
    """

    Options: ClassVar[type[Any]]

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Keep the options; raise ConfigError when they contradict each other. No network traffic yet."""

    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Send one message and return when the other side has taken it."""

    def close(self) -> None:
        """Drop connections."""
