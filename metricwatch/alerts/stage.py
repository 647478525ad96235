"""The alerts stage: tell each receiver what it should know by now, once, and try until it has arrived."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from traceback import extract_tb

import structlog

from metricwatch import faults
from metricwatch.alerts.composition import Composer
from metricwatch.alerts.due import Look, Plan, Telling
from metricwatch.alerts.holding import silenced_by
from metricwatch.alerts.routing import labels_of, receivers_of
from metricwatch.alerts.sending import Senders, Sending
from metricwatch.api import Notifier
from metricwatch.clock import LONGEST_WAIT, Clock, backoff, from_ms
from metricwatch.config.routing import Inhibition, QuietHours, Routing
from metricwatch.config.rules import Rule
from metricwatch.errors import PermanentError, TemporaryError
from metricwatch.records import AlertState
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger
from metricwatch.store.notifications import NotificationLog, PendingNotification
from metricwatch.store.retries import Retries
from metricwatch.store.silences import Silence, Silences
from metricwatch.store.told import AlertReceivers, Event, Subject, Told

log = structlog.get_logger(__name__)

_FIRST_RETRY = timedelta(seconds=2)
_MOST_RETRY = timedelta(minutes=5)
_MOST_AGE = timedelta(hours=24)
# While nothing ran nobody tried.
_LEAST_TRYING = timedelta(hours=1)
_TO_ALL_AT_ONCE = Routing(group_wait=timedelta(0), group_interval=timedelta(0))
_LAST_WORDS = timedelta(seconds=3)


class AlertDispatcher:
    """The only writer of the notification log and of what receivers were told.

    What was told is compared with what is, for each alert and receiver; the difference becomes messages. Each is
    logged before it is sent and marked after, so a crash between the two sends it again: at least once, since neither
    Slack nor e-mail lets a sender ask whether a message has arrived.
    """

    def __init__(
        self,
        db: Database,
        rules: Sequence[Rule],
        notifiers: Mapping[str, Notifier],
        sink: str,
        clock: Clock,
        *,
        routing: Routing = _TO_ALL_AT_ONCE,
        inhibit: Sequence[Inhibition] = (),
        quiet_hours: Sequence[QuietHours] = (),
        runs: Collection[str] | None = None,
        patience: timedelta | None = None,
    ) -> None:
        """Without routing everybody is told at once. runs are the keys of those that are watched, None: all.

        patience is how long a tick waits for messages on their way, None: until they have all arrived or failed.
        """
        self._db = db
        self._notifiers = notifiers
        self._clock = clock
        self._routing = routing
        self._patience = patience
        self._log = NotificationLog(db)
        self._ledger = Ledger(db)
        self._told = AlertReceivers(db)
        self._silences = Silences(db)
        self._retries = Retries(db)
        self._composer = Composer(db, rules, sink)
        self._senders = Senders(notifiers, self._log)
        self._plan = Plan(routing, inhibit, quiet_hours, runs)
        # True: nothing waits for others of its group, so that nothing is left unsaid in the end.
        self.at_once = False
        self._started = clock.now()

    def start(self) -> None:
        """Set aside what waits for receivers that are gone."""
        gone = self._log.fail_unknown(self._notifiers)
        self._told.close_unknown(self._notifiers)
        self._senders.recall()
        if gone:
            log.warning("notifications.abandoned", count=gone, reason="their receivers are no longer configured")

    def tick(self) -> int:
        """Make messages of what is due, and send at most one to each receiver; returns the work done."""
        work = self._settle() + self.take_requests() + self._announce() + self._send()
        self._senders.wait(self._patience)
        return work + self._settle()

    def close(self) -> None:
        """Wait a moment for what is on its way: what has arrived should be marked so. A notifier may hang for ever."""
        self._senders.wait(_LAST_WORDS)
        self._settle()

    def take_requests(self) -> int:
        """Queue again what a person wants sent again."""
        notifications = self._retries.requested("notification")
        for notification in notifications:
            with self._db.transaction("retry-notification"):
                self._log.put_back(notification, self._clock.now())
                self._retries.done("notification", notification)
                self._log.fail_unknown(self._notifiers)
        return len(notifications)

    # --- what is due ---------------------------------------------------------------------------------------

    def _announce(self) -> int:
        """Compare what was told with what is, and log messages about the difference."""
        now = self._clock.now()
        unseen, ended = self._told.unseen(), self._told.ended()
        rows = self._told.open()
        fresh = [(subject, told) for subject in unseen for told in self._fresh(subject)]
        if not (unseen or ended or rows):
            return 0
        look = Look(
            now=now,
            at_once=self.at_once,
            silences=self._silences.active(now),
            firing=self._told.firing(),
            group_state=self._log.group_state,
        )
        tellings, changed = self._plan.of([*rows, *fresh], look)
        if unseen or ended or tellings or changed:
            with self._db.transaction("announce"):
                self._told.seen([*unseen, *ended])
                self._told.write([*(told for _, told in fresh), *changed])
                for telling in tellings:
                    self._add(telling)
        for subject in (*unseen, *ended):
            self._say(subject)
        return len(unseen) + len(ended) + len(tellings)

    def _fresh(self, subject: Subject) -> Iterator[Told]:
        """Those who hear of it from now on. Where it is routed anew, some may know of it already."""
        known = self._told.of(subject.id)
        for name in self._hear(subject):
            told = known.get(name)
            if told is None:
                yield Told(alert=subject.id, receiver=name)
            elif told.closed and told.told != "resolved":
                # It was gone, and is back.
                yield replace(told, closed=False)

    def _hear(self, subject: Subject) -> Sequence[str]:
        rule = self._composer.rule_for(subject.rule, subject.labels["run"])
        names = receivers_of(self._routing, rule, subject.labels, self._notifiers)
        return [name for name in names if name in self._notifiers]

    def _add(self, telling: Telling) -> None:
        self._log.add(telling.receiver, telling.event, telling.alerts, group=telling.group, now=self._clock.now())

    @staticmethod
    def _say(subject: Subject) -> None:
        if not subject.news:
            return
        resolved = subject.state is AlertState.RESOLVED
        say = log.info if resolved or subject.severity != "critical" else log.warning
        say(
            f"alert.{subject.state.value}",
            run=subject.labels["run"],
            step=subject.resolved_step if resolved else subject.fired_step,
            rule=subject.rule,
            metric=subject.metric,
            what=subject.what or f"{subject.change:+.1%}",
            severity=subject.severity,
        )

    # --- sending -------------------------------------------------------------------------------------------

    def _send(self) -> int:
        """Start what is due, the oldest first: of several receivers with one address only one is free."""
        now = self._clock.now()
        due = [pending for name in self._notifiers if (pending := self._log.next(name, now)) is not None]
        silences = self._silences.active(now) if due else []
        started = 0
        for pending in sorted(due, key=lambda item: item.id):
            name = pending.receiver
            if not self._senders.free(name, now):
                continue
            if silences and (silence := self._silence_over(pending, silences)) and self._withdraw(pending, silence):
                started += 1
                continue
            draft = self._composer.draft(pending, pictures=self._notifiers[name].takes_pictures)
            faults.reached("notification:unsent")
            self._senders.start(
                name,
                pending,
                draft.notification.note,
                lambda draft=draft: self._composer.with_pictures(draft),  # type: ignore[misc]
            )
            started += 1
        return started

    def _silence_over(self, pending: PendingNotification, silences: Sequence[Silence]) -> str:
        """The silence that covers the alerts of a message by now, in words; "" where one of them is not covered."""
        held = ""
        for item in pending.items:
            held = silenced_by(silences, labels_of(item.alert, self._ledger.run(item.alert.run).name))
            if not held:
                return ""
        return held

    def _withdraw(self, pending: PendingNotification, why: str) -> bool:
        """Make what a message tells due again, for when it is silenced no more. False where it cannot be."""
        first = {item.alert.id for item in pending.items if item.first}
        with self._db.transaction("withdraw"):
            events = _events(pending)
            if not self._told.take_back(pending.receiver, events, first=first, made_ms=pending.created_ms):
                return False
            self._log.withdraw(pending.id, why)
        self._composer.forget(pending.id)
        log.info("notification.withdrawn", notifier=pending.receiver, rule=_rules(pending), reason=why)
        return True

    def _settle(self) -> int:
        """Write down what became of messages. Until that succeeds they are neither forgotten nor sent again."""
        over = self._senders.over()
        for name, sending in over:
            self._judge(sending)
            self._senders.settle(name, self._clock.now())
        return len(over)

    def _judge(self, sending: Sending) -> None:
        pending, error = sending.pending, sending.error
        if error is None:
            faults.reached("notification:unmarked")
            self._log.sent(pending.id, sending.note, self._clock.now())
            self._composer.forget(pending.id)
            log.info("notification.sent", notifier=pending.receiver, rule=_rules(pending), event_kind=pending.event)
        elif isinstance(error, TemporaryError):
            self._postpone(pending, error)
        elif isinstance(error, PermanentError):
            self._fail(pending, str(error))
        else:
            # A plugin that breaks its contract must not stop the others' messages.
            self._fail(pending, f"{type(error).__name__}: the notifier failed in a way it should not", error)

    def _postpone(self, pending: PendingNotification, error: TemporaryError) -> None:
        now = self._clock.now()
        if now - from_ms(pending.created_ms) > _MOST_AGE and now - self._started > _LEAST_TRYING:
            # Those behind it are fresher news.
            self._fail(pending, f"given up after {_MOST_AGE}: {error}")
            return
        wait = error.retry_after or backoff(pending.attempts + 1, first=_FIRST_RETRY, most=_MOST_RETRY)
        # Those behind it wait as well.
        wait = min(wait, LONGEST_WAIT)
        self._log.postpone(pending.id, str(error), now + wait)
        seconds = wait.total_seconds()
        log.warning("notification.postponed", notifier=pending.receiver, reason=str(error), seconds=seconds)

    def _fail(self, pending: PendingNotification, reason: str, cause: BaseException | None = None) -> None:
        """Set a message aside for good, and hand it to the receiver that stands in, if there is one."""
        stand_in = self._stand_in_for(pending)
        with self._db.transaction("notification-failed"):
            self._log.fail(pending.id, reason)
            events = self._told.take_over(stand_in, _events(pending), self._clock.now()) if stand_in else []
            if stand_in is not None and events:
                self._log.add(
                    stand_in,
                    pending.event,
                    events,
                    group=pending.group,
                    now=self._clock.now(),
                    note=f"sent in place of {pending.receiver}, which refused it: {reason}",
                    instead_of=pending.id,
                )
        self._composer.forget(pending.id)
        more = {"instead": stand_in} if stand_in and events else {}
        if cause is not None:
            # Not what it says, which may be the address: where it came from.
            more["where"] = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(extract_tb(cause.__traceback__)))
        log.error(
            "notification.failed",
            notifier=pending.receiver,
            rule=_rules(pending),
            reason=reason,
            **more,
        )

    def _stand_in_for(self, pending: PendingNotification) -> str | None:
        """Who gets a message in its receiver's place: once, and never in a circle."""
        stand_in = self._routing.fallback
        if stand_in not in self._notifiers or stand_in == pending.receiver or pending.instead_of is not None:
            return None
        return None if self._log.stood_in_for(pending.id) else stand_in


def _events(pending: PendingNotification) -> list[Event]:
    return [(item.alert.id, item.event) for item in pending.items]


def _rules(pending: PendingNotification) -> str:
    return ", ".join(dict.fromkeys(item.alert.rule for item in pending.items))
