"""The alerts stage: hand each event to its receivers once, and try until it has arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import structlog

from metricwatch import faults
from metricwatch.alerts.message import Event, compose
from metricwatch.api import Notifier
from metricwatch.clock import LONGEST_WAIT, Clock, backoff, from_ms
from metricwatch.config.rules import Rule
from metricwatch.errors import LedgerError, PermanentError, TemporaryError
from metricwatch.records import Alert, Notification
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.store.notifications import NotificationLog, PendingNotification
from metricwatch.store.retries import Retries

log = structlog.get_logger(__name__)

_FIRST_RETRY = timedelta(seconds=2)
_MOST_RETRY = timedelta(minutes=5)
_MOST_AGE = timedelta(hours=24)


class AlertDispatcher:
    """The only writer of the notification log.

    An event is logged before it is sent and marked after, so a crash between the two sends it again: at least
    once, since neither Slack nor e-mail lets a sender ask whether a message has arrived.
    """

    def __init__(
        self,
        db: Database,
        rules: Sequence[Rule],
        notifiers: Mapping[str, Notifier],
        sink: str,
        clock: Clock,
    ) -> None:
        self._db = db
        self._receivers = {rule.name: rule.receivers for rule in rules}
        self._ledger = Ledger(db)
        self._notifiers = notifiers
        self._sink = sink
        self._clock = clock
        self._log = NotificationLog(db)
        self._deliveries = Deliveries(db)
        self._retries = Retries(db)
        # By notifier: a message that has arrived and is not marked so, because the ledger could not be written.
        self._unmarked: dict[str, PendingNotification] = {}

    def start(self) -> None:
        """Set aside what waits for notifiers that are gone."""
        gone = self._log.fail_unknown(self._notifiers)
        if gone:
            log.warning("notifications.abandoned", count=gone, reason="their notifiers are no longer configured")

    def tick(self) -> int:
        """Announce new events, then send at most one message to each notifier; returns the work done."""
        work = self.take_requests() + self._announce()
        return work + sum(self._send(name, notifier) for name, notifier in self._notifiers.items())

    def take_requests(self) -> int:
        """Queue again what a person wants sent again."""
        notifications = self._retries.requested("notification")
        for notification in notifications:
            with self._db.transaction("retry-notification"):
                self._log.put_back(notification, self._clock.now())
                self._retries.done("notification", notification)
                self._log.fail_unknown(self._notifiers)
        return len(notifications)

    def _announce(self) -> int:
        events = self._log.unannounced()
        if not events:
            return 0
        with self._db.transaction("announce"):
            for alert, event in events:
                chosen = self._receivers.get(alert.rule)
                names = list(self._notifiers) if chosen is None else list(chosen)
                self._log.announce(alert, event, names, self._clock.now())
        for alert, event in events:
            say = log.warning if (event, alert.severity) == ("firing", "critical") else log.info
            say(
                f"alert.{event}",
                run=self._name(alert),
                step=alert.fired_step if event == "firing" else alert.resolved_step,
                rule=alert.rule,
                metric=alert.metric,
                what=alert.what or f"{alert.change:+.1%}",
                severity=alert.severity,
            )
        return len(events)

    def _send(self, name: str, notifier: Notifier) -> int:
        if (arrived := self._unmarked.get(name)) is not None:
            self._mark(arrived)
        pending = self._log.next(name, self._clock.now())
        if pending is None:
            return 0
        try:
            faults.reached("notification:unsent")
            notifier.send(self._compose(pending))
            faults.reached("notification:unmarked")
        except LedgerError:
            # Ours, not the notifier's: the message still waits.
            raise
        except TemporaryError as error:
            self._postpone(pending, error)
        except PermanentError as error:
            self._log.fail(pending.id, str(error))
            log.error("notification.failed", notifier=name, rule=pending.alert.rule, reason=str(error))
        except Exception as error:
            # A plugin that breaks its contract must not stop the others' messages.
            reason = f"{type(error).__name__}: the notifier failed in a way it should not"
            self._log.fail(pending.id, reason)
            log.exception("notification.failed", notifier=name, rule=pending.alert.rule)
        else:
            self._unmarked[name] = pending
            self._mark(pending)
        return 1

    def _mark(self, arrived: PendingNotification) -> None:
        """Write down that a message has arrived. Until that succeeds it is neither forgotten nor sent again."""
        self._log.sent(arrived.id, self._clock.now())
        del self._unmarked[arrived.notifier]
        log.info("notification.sent", notifier=arrived.notifier, rule=arrived.alert.rule, event_kind=arrived.event)

    def _postpone(self, pending: PendingNotification, error: TemporaryError) -> None:
        now = self._clock.now()
        if now - from_ms(pending.created_ms) > _MOST_AGE:
            # Those behind it are fresher news.
            self._log.fail(pending.id, f"given up after {_MOST_AGE}: {error}")
            log.error("notification.failed", notifier=pending.notifier, rule=pending.alert.rule, reason=str(error))
            return
        wait = error.retry_after or backoff(pending.attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY)
        # Those behind it wait as well.
        wait = min(wait, LONGEST_WAIT)
        self._log.postpone(pending.id, str(error), now + wait)
        seconds = wait.total_seconds()
        log.warning("notification.postponed", notifier=pending.notifier, reason=str(error), seconds=seconds)

    def _compose(self, pending: PendingNotification) -> Notification:
        alert = pending.alert
        remote = self._deliveries.remote_run(self._sink, alert.run)
        event: Event = "firing" if pending.event == "firing" else "resolved"
        return compose(
            number=pending.id,
            event=event,
            alert=alert,
            run_name=self._name(alert),
            run_url=remote.url if remote else None,
            created_at=from_ms(pending.created_ms),
        )

    def _name(self, alert: Alert) -> str:
        return self._ledger.run(alert.run).name
