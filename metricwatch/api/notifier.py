"""Notifiers: how people hear of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any, ClassVar

from metricwatch.records import Notification


class Notifier(ABC):
    """Tells people. Errors as for Sink; a send that may or may not have arrived raises TemporaryError.

    Options is a frozen dataclass whose fields are the keys a user may write beside `use:`; a field of type
    Secret may also be given as `<field>_file`.
    """

    Options: ClassVar[type[Any]]
    # True for a notifier that shows Notice.picture: for others no curve is drawn.
    takes_pictures: ClassVar[bool] = False
    # The least time between two messages to one address, and to whatever else address() says is the same.
    pause: ClassVar[timedelta] = timedelta(0)

    @abstractmethod
    def __init__(self, options: Any) -> None:
        """Keep the options; raise ConfigError when they contradict each other. No network traffic yet."""

    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Send one message and return when the other side has taken it."""

    def address(self) -> str | None:
        """What names the place that messages go to, so that receivers with the same one keep the pause together.

        None: a place of its own. It is kept in memory alone and never shown, so may be a secret.
        """
        return None

    def close(self) -> None:
        """Drop connections."""
