"""Sends to several receivers at once, so that a slow one delays no other, at the pace that each place asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from metricwatch.api import Notifier
from metricwatch.clock import from_ms
from metricwatch.records import Notification
from metricwatch.store.notifications import NotificationLog, PendingNotification

log = structlog.get_logger(__name__)

_SLOW_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class Sending:
    """One message on its way. error is None when it has arrived; both it and note count once `over` is set."""

    pending: PendingNotification
    note: str
    over: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    begun: float = field(default_factory=time.monotonic)
    called_slow: bool = False


class Senders:
    """At most one message at a time to each address. Used by the stage's own thread alone."""

    def __init__(self, notifiers: Mapping[str, Notifier], notifications: NotificationLog) -> None:
        self._notifiers = notifiers
        self._log = notifications
        self._addresses = {name: _address(name, notifier) for name, notifier in notifiers.items()}
        self._sendings: dict[str, Sending] = {}
        # By address, when something was last sent there; the ledger knows it of the time before this process.
        self._last: dict[tuple[str, str], datetime] = {}

    def recall(self) -> None:
        """Read from the ledger when each place got its last message."""
        for name, address in self._addresses.items():
            sent = self._log.last_sent_ms(name)
            if sent is not None:
                moment = from_ms(sent)
                self._last[address] = max(moment, self._last.get(address, moment))

    def free(self, name: str, now: datetime) -> bool:
        """True when nothing is on its way to the receiver's address, and the pause after the last message is over."""
        address = self._addresses[name]
        if any(self._addresses[other] == address for other in self._sendings):
            return False
        last = self._last.get(address)
        return last is None or now >= last + self._notifiers[name].pause

    def start(self, name: str, pending: PendingNotification, note: str, make: Callable[[], Notification]) -> None:
        """Send what make() gives, in a thread of its own."""
        sending = Sending(pending=pending, note=note)
        self._sendings[name] = sending
        notifier = self._notifiers[name]

        def send() -> None:
            try:
                notifier.send(make())
            except BaseException as error:  # noqa: BLE001 - told to the stage, which judges it
                sending.error = error
            finally:
                sending.over.set()

        # A daemon thread: a notifier that hangs for ever must not keep the process from ending.
        threading.Thread(target=send, name=f"send-{name}", daemon=True).start()

    def wait(self, patience: timedelta | None) -> None:
        """Wait until everything under way is over, or for as long as patience says; None: however long it takes."""
        end = None if patience is None else time.monotonic() + patience.total_seconds()
        for sending in list(self._sendings.values()):
            sending.over.wait(None if end is None else max(0.0, end - time.monotonic()))

    def over(self) -> list[tuple[str, Sending]]:
        """What has ended and was not settled yet, by receiver."""
        for name, sending in self._sendings.items():
            if not sending.called_slow and time.monotonic() - sending.begun > _SLOW_SECONDS:
                sending.called_slow = True
                log.warning("notification.slow", notifier=name, seconds=round(time.monotonic() - sending.begun))
        return [(name, sending) for name, sending in self._sendings.items() if sending.over.is_set()]

    def settle(self, name: str, now: datetime) -> None:
        """The ledger has what became of the receiver's message: it may be sent the next one."""
        del self._sendings[name]
        self._last[self._addresses[name]] = now


def _address(name: str, notifier: Notifier) -> tuple[str, str]:
    """Where messages go. A plugin that cannot say it has a place of its own."""
    try:
        address = notifier.address()
    except Exception:  # noqa: BLE001 - a plugin may raise anything, and its message may hold the address
        log.warning("notifier.no_address", notifier=name)
        address = None
    return ("receiver", name) if address is None else ("address", address)
